"""The composition of a run: what its settings name is looked up and checked here, and only here."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from learning import losses, metrics, optimizers, uplink
from models.network import Estimator, Network
from models.registry import MODELS, elastic_names, model_of
from protocol import encodings
from protocol.errors import SettingsError
from protocol.references import Registry, is_reference, resolve, tables_beside
from protocol.settings import RunSettings
from protocol.tables import Table
from protocol.values import NODES, split_names, split_source
from strategies import aggregation
from strategies.idle import Reader, refuse_idle
from strategies.individual import INDIVIDUAL
from strategies.method import Exchanges, Method
from strategies.soft_labels import aggregation as label_aggregation
from strategies.soft_labels.dsfl import DSFL
from strategies.soft_labels.scarlet import SCARLET
from strategies.submodels.methods import SUBMODEL_METHODS
from strategies.weights.fedavg import FEDAVG

METHODS: Mapping[str, Method] = {
    method.name: method for method in (SCARLET, DSFL, FEDAVG, INDIVIDUAL, *SUBMODEL_METHODS.values())
}


def _accept(found: object, reference: str) -> Method:
    if not isinstance(found, Method):
        raise TypeError("must be a strategies.method.Method: name, exchanges, server, client, settings")
    return found


STRATEGIES: Registry[Method] = Registry("strategy", METHODS, _accept)


def method_of(settings: RunSettings) -> Method:
    """Return the method that a run's ``strategy`` names; raise ``SettingsError`` if there is none."""
    return STRATEGIES.find(settings.strategy)


@lru_cache(maxsize=16)
def compose(settings: RunSettings, simulation: bool = True) -> Method:
    """Look up all that a run's settings name, check that it fits together, and return the method.

    Parameters
    ----------
    settings
        Of the run.
    simulation
        Whether nodes are simulated; real nodes may name other models, which may read other settings.

    Raises
    ------
    SettingsError
        If a name does not exist, parts do not fit together, or a setting is not read by any of them.
    """
    method = method_of(settings)
    models = {name: model_of(name, setting) for setting, name in models_named(settings)}
    for registry, names in _others(settings):
        for name in names:
            registry.find(name)
    for setting, reference in _own_sources(settings):
        resolve(setting, reference)
    uplink.require_transforms(settings, method.exchanges is Exchanges.LABELS)
    _require_one_network(settings, method, models.values())
    for found in models.values():
        require_own_weights(settings.pretrained, found)
    _require_samples_for_early_stopping(settings, method)
    known = simulation or method.exchanges.averages
    refuse_idle(settings, _reader(settings, method, models.values()), _would_read(), known)
    return method


def models_named(settings: RunSettings) -> list[tuple[str, str]]:
    """Return the models that a run names, each after the key that names it."""
    return [("model", settings.model), *(("models", name) for name in split_names(settings.models))]


def _own_sources(settings: RunSettings) -> list[tuple[str, str]]:
    """Return the settings that name data of the user's own, and the references."""
    data, public = settings.data, settings.public
    named = {
        "data.source": data.source,
        "data.test-source": data.test_source,
        "public.source": public.source,
    }
    found = [(setting, split_source(place)[0]) for setting, place in named.items()]
    return [(setting, place) for setting, place in found if is_reference(place)]


def _others(settings: RunSettings) -> list[tuple[Registry[Any], list[str]]]:
    """Return the other registries, and the names that the settings contain for each."""
    metric = settings.data.metric
    return [
        (metrics.REGISTRY, [] if metric == metrics.NO_METRIC else [metric]),
        (losses.REGISTRY, [settings.train.loss]),
        (optimizers.REGISTRY, [settings.train.optimizer, settings.distillation.optimizer]),
        (encodings.ENCODING_MAKERS, [settings.distillation.labels]),
        (label_aggregation.REGISTRY, [settings.aggregation.labels]),
        (aggregation.REGISTRY, [settings.aggregation.weights]),
        (uplink.REGISTRY, split_names(settings.uplink)),
    ]


def _require_one_network(
    settings: RunSettings, method: Method, models: Iterable[Network | Estimator]
) -> None:
    """Refuse models that a method which averages weights cannot take."""
    if not method.exchanges.averages:
        return
    if set(split_names(settings.models)) - {settings.model}:
        raise SettingsError(
            f'models = "{settings.models}": strategy {method.name} averages weights, so every client must '
            f'run model = "{settings.model}"'
        )
    for found in models:
        if isinstance(found, Estimator):
            raise SettingsError(
                f'model = "{found.name}": strategy {method.name} averages weights, an estimator has none; '
                f"it can learn with {', '.join(_names(Exchanges.LABELS))}"
            )
        if method.exchanges is Exchanges.SUBMODELS and not found.is_elastic:
            raise SettingsError(
                f'model = "{found.name}": strategy {method.name} cuts submodels from an elastic network; '
                f"allowed are {', '.join(elastic_names())}"
            )


def require_own_weights(pretrained: str, found: Network | Estimator, setting: str = "model") -> None:
    """Refuse other weights for a network whose name says where its weights lie.

    Parameters
    ----------
    pretrained
        The run's.
    found
        A model of it.
    setting
        The key that names the model, for messages.

    Raises
    ------
    SettingsError
        If there are two places.
    """
    if pretrained and isinstance(found, Network) and found.checkpoint:
        raise SettingsError(
            f'pretrained = "{pretrained}": {setting} = "{found.name}" names its weights itself; where they '
            "lie elsewhere on a node, its model-path says so"
        )


def _require_samples_for_early_stopping(settings: RunSettings, method: Method) -> None:
    """Refuse early stopping on an accuracy that the server never measures."""
    stopping = settings.early_stopping
    if not stopping.patience or not stopping.metric.startswith("server-"):
        return
    why = ""
    if method.exchanges is Exchanges.NOTHING:
        why = f"strategy {method.name} has no server model"
    elif method.exchanges is Exchanges.SUBMODELS and settings.scalefl.calibration == "none":
        why = 'with scalefl.calibration = "none" the server evaluates nothing'
    elif settings.data.source == NODES and not settings.data.test_source:
        why = f'with data.source = "{NODES}" and no data.test-source the server has nothing to test on'
    if why:
        allowed = stopping.metric.replace("server-", "clients-")
        raise SettingsError(f'early-stopping.metric = "{stopping.metric}": {why}; allowed is "{allowed}"')


def _reader(settings: RunSettings, method: Method, models: Iterable[Network | Estimator]) -> Reader:
    """Return which settings the parts of a run read."""
    names = [settings.strategy, *(name for _, name in models_named(settings))]
    names += [reference for _, reference in _own_sources(settings)]
    names += [name for _, named in _others(settings) for name in named]
    own: list[type[Table]] = []
    for name in names:
        if is_reference(name):
            own += tables_beside(name)
    read = _read_by_method(method) | {key for found in models for key in _read_by_model(found, method)}
    return Reader(frozenset(read), tuple(own))


def _read_by_method(method: Method) -> set[str]:
    by_exchange = {Exchanges.LABELS: {"aggregation.labels", "uplink"}, Exchanges.NOTHING: set[str]()}
    return {*method.settings, *by_exchange.get(method.exchanges, {"aggregation.weights", "uplink"})}


def _read_by_model(found: Network | Estimator, method: Method) -> set[str]:
    """Return the settings a model reads; levels do not matter if whole networks are averaged."""
    if isinstance(found, Estimator):
        return set()
    read = set(found.settings)
    if method.exchanges is Exchanges.WEIGHTS:
        read.discard("levels")
    has_place = bool(found.checkpoint)
    if not has_place and (found.pretrained or not found.is_elastic or "texts" in found.reads):
        read.add("pretrained")
    if "lora" in read:  # lora.merge is read by the methods that average submodels
        read = (read - {"lora"}) | {f"lora.{key}" for key in ("rank", "scale", "targets")}
    return read | ({"text"} if "texts" in found.reads else set())


def _would_read() -> dict[str, list[str]]:
    """Return, by table or key, the names of our methods and models that read it."""
    readers: dict[str, list[str]] = {}
    for method in METHODS.values():
        for key in _read_by_method(method):
            readers.setdefault(key, []).append(f"strategy {method.name}")
    for name in MODELS:
        for key in _read_by_model(MODELS.find(name), SCARLET):
            readers.setdefault(key, []).append(f"model {name}")
    return readers


def _names(exchanges: Exchanges) -> list[str]:
    return [method.name for method in METHODS.values() if method.exchanges is exchanges]


__all__ = ["METHODS", "STRATEGIES", "compose", "method_of"]
