"""The registry of models: from a name to a network or an estimator."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from typing import TypeVar, cast

import torch
from torch import nn

from models.cnn import SmallCNN
from models.elastic import ElasticDesign, ExitNetwork, Shape, SliceMap, axes_of
from models.elastic.cnn import CNN
from models.elastic.efficientnet import EFFICIENTNET_B4
from models.elastic.msdnet import MSDNET24
from models.elastic.resnet import RESNET20, RESNET56, RESNET110
from models.mlp import MLP
from models.network import ANYTHING, Estimator, InputKind, Network, elastic
from models.pretrained import load_pretrained
from models.resnet_cifar import CifarResNet
from models.torchvision_models import resnet18
from protocol.errors import MotleyError, SettingsError
from protocol.references import Registry
from protocol.settings import DEFAULTS, RunSettings

_IMAGES: frozenset[InputKind] = frozenset({"images"})


def _bert(settings: RunSettings) -> ElasticDesign:
    from models.elastic.bert import bert_design

    return bert_design(settings.pretrained)


def _bert_tiny(settings: RunSettings) -> ElasticDesign:
    from models.elastic.bert import BERT_TINY

    return BERT_TINY


def _vlm(settings: RunSettings) -> ElasticDesign:
    from models.vlm import vlm_design

    return vlm_design(settings)


def _plain(name: str, build: Callable[[tuple[int, ...], int], nn.Module], *reads: InputKind) -> Network:
    return Network(name, frozenset(reads), lambda shape, classes, _: build(shape, classes), tried=True)


def _designed(name: str, design: ElasticDesign) -> Network:
    return elastic(name, lambda _: design, design.reads)


def _cifar(depth: int) -> Callable[[tuple[int, ...], int], nn.Module]:
    return lambda shape, classes: CifarResNet(depth, shape, classes)


_OWN = (
    _plain("mlp", MLP, "numbers", "images", "arrays"),
    _plain("cnn", SmallCNN, "images"),
    _plain("resnet20", _cifar(20), "images"),
    _plain("resnet32", _cifar(32), "images"),
    _plain("resnet18", resnet18, "images"),
    _designed("elastic-cnn", CNN),
    _designed("elastic-resnet20", RESNET20),
    _designed("elastic-resnet56", RESNET56),
    _designed("elastic-resnet110", RESNET110),
    _designed("elastic-msdnet24", MSDNET24),
    _designed("elastic-efficientnet-b4", EFFICIENTNET_B4),
    elastic("elastic-bert", _bert, "texts", ("text",), pretrained=True),
    elastic("elastic-bert-tiny", _bert_tiny, "texts", ("text",)),
    elastic("elastic-vlm", _vlm, "images", ("lora", "vlm"), pretrained=True, generates_text=True),
)


def _accept(found: object, reference: str) -> Network | Estimator:
    """Make a network or an estimator of what a user's reference names."""
    if isinstance(found, Network | Estimator):
        return found
    if isinstance(found, ElasticDesign):
        return replace(_designed(reference, found), tried=False)
    if hasattr(found, "fit") and hasattr(found, "predict_proba"):
        return cast("Estimator", import_module("models.estimators").own_estimator(reference, found))
    if not callable(found):
        raise TypeError(
            "must be a network: a class or function of the inputs' shape and the number of classes, perhaps "
            "also of the run's settings; a models.network.Network; an ElasticDesign; or an estimator's class "
            "with fit and predict_proba"
        )
    build = cast("Callable[..., nn.Module]", found)
    with_settings = "settings" in inspect.signature(build).parameters

    def built(shape: tuple[int, ...], classes: int, settings: RunSettings) -> nn.Module:
        return build(shape, classes, settings=settings) if with_settings else build(shape, classes)

    return Network(reference, ANYTHING, built)


def _of_library(module: str) -> Callable[[str, str], Network | Estimator]:
    """Import the module for a library only when one of its models is named."""

    def find(name: str, setting: str) -> Network | Estimator:
        return cast("Network | Estimator", import_module(f"models.{module}").find(name, setting))

    return find


MODELS: Registry[Network | Estimator] = Registry(
    "model",
    {network.name: network for network in _OWN},
    _accept,
    {
        "torchvision": _of_library("torchvision_networks"),
        "timm": _of_library("timm_networks"),
        "transformers": _of_library("transformers_networks"),
        "sklearn": _of_library("estimators"),
        "xgboost": _of_library("xgboost_estimators"),
    },
)


def model_of(name: str, setting: str = "model") -> Network | Estimator:
    """Return the network or estimator of a name.

    Raises
    ------
    SettingsError
        If there is none, naming the setting that asked for it.
    """
    return MODELS.find(name, setting)


def network_of(name: str, setting: str = "model") -> Network:
    """Return the network of a name; raise ``SettingsError`` if there is none, or it is an estimator."""
    found = model_of(name, setting)
    if isinstance(found, Estimator):
        raise SettingsError(f'{setting} = "{name}": is an estimator and has no weights; a network is needed')
    return found


def elastic_names() -> list[str]:
    """Return the names of our networks that have submodels."""
    return [network.name for network in _OWN if network.is_elastic]


def build_model(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    seed: int,
    settings: RunSettings = DEFAULTS,
) -> nn.Module:
    """Build a network on the CPU; its initial weights are determined by the seed and the checkpoint.

    The state of the global random generators is not changed.

    Parameters
    ----------
    name
        Name of a network; an elastic one is built whole, with one exit.
    input_shape
        Channels, height and width of an image, (features,) of a table's row, or (length, vocabulary) of a
        text.
    num_classes
        Width of the output.
    seed
        From 0 to 2**64 - 1.
    settings
        Of the run: they name the checkpoint, if any.

    Returns
    -------
    nn.Module
        In training mode; maps a batch of inputs to logits ``(batch, num_classes)``.

    Raises
    ------
    SettingsError
        When there is no network of that name, or it cannot take such inputs.
    """
    network = network_of(name)
    require_inputs(name, input_shape, settings)
    if network.design is not None:
        return build_elastic(network.design(settings), input_shape, num_classes, seed, None)
    try:
        model = _seeded(lambda: network.build(input_shape, num_classes, settings), seed)
    except MotleyError:
        raise
    except Exception as error:  # a user's or a library's network may raise anything
        hint = network.remedy(input_shape, num_classes, settings)
        raise SettingsError(
            f'model = "{name}": cannot be built for inputs of shape {input_shape}: '
            f"{type(error).__name__}: {error}{f'; {hint}' if hint else ''}"
        ) from error
    if not isinstance(model, nn.Module):
        raise SettingsError(f'model = "{name}": must build a torch.nn.Module, got {type(model).__name__}')
    if settings.pretrained and not network.pretrained:
        load_pretrained(model, settings.pretrained, name, num_classes, network.published)
    return model


def build_elastic(
    design: ElasticDesign,
    input_shape: tuple[int, ...],
    num_classes: int,
    seed: int,
    shape: Shape | None,
    pretrained: bool = True,
) -> ExitNetwork:
    """Build an elastic network of a given shape on the CPU; its initial weights follow from the seed.

    Pretrained weights are cut like submodels: leading channels are kept.

    Parameters
    ----------
    design
        The elastic network.
    input_shape
        Shape of one input.
    num_classes
        Number of classes.
    seed
        From 0 to 2**64 - 1.
    shape
        Width and exits; None: the whole network without early exits.
    pretrained
        Whether trainable pretrained weights are read, if the design has any; if other weights replace them
        anyway, they need not be.

    Raises
    ------
    SettingsError
        If the network cannot take such inputs or shapes.
    """
    shape = shape or design.whole()
    try:
        model = _seeded(lambda: design.build(input_shape, num_classes, shape), seed)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    if pretrained and design.initial is not None:
        whole = axes_of(design.on_meta(input_shape, num_classes, design.preset[-1]))
        initial = design.initial()
        part = {name: axes for name, axes in axes_of(model).items() if name in initial}
        model.load_state_dict(SliceMap(whole, part).extract(initial), strict=False)
    return model


@lru_cache(maxsize=8)
def elastic_design(name: str, settings: RunSettings = DEFAULTS) -> ElasticDesign:
    """Return the elastic network of a name; with a checkpoint, its size is that of the checkpoint.

    Raises
    ------
    SettingsError
        When there is none, or its checkpoint cannot be used.
    """
    network = network_of(name)
    if network.design is None:
        raise SettingsError(
            f"model = {name!r}: has no submodels; those that have are {', '.join(elastic_names())}"
        )
    return network.design(settings)


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters; buffers and frozen parameters are not counted."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


_DIMENSIONS: Mapping[InputKind, int] = {"numbers": 1, "texts": 2, "images": 3}
"""Of an input's shape, see ``data.Inputs``; arrays may have any."""
_TITLES: Mapping[InputKind, str] = {
    "numbers": "a table's rows",
    "texts": "texts",
    "images": "images",
    "arrays": "arrays",
}


def kind_of(input_shape: tuple[int, ...]) -> InputKind:
    """Return the kind of inputs of a shape, as far as the shape determines it."""
    kinds: dict[int, InputKind] = {dimensions: kind for kind, dimensions in _DIMENSIONS.items()}
    return kinds.get(len(input_shape), "arrays")


def require_inputs(
    model: str,
    input_shape: tuple[int, ...],
    settings: RunSettings = DEFAULTS,
    kind: InputKind | None = None,
) -> None:
    """Refuse inputs of another kind than a network reads.

    Parameters
    ----------
    model
        The network's or estimator's name.
    input_shape
        Shape of one input.
    settings
        Of the run.
    kind
        The kind of the inputs; None: the one that their shape suggests.

    Raises
    ------
    SettingsError
        Naming the network, what it reads and what the data are.
    """
    found = model_of(model)
    reads: frozenset[InputKind] = frozenset({"images", "numbers", "arrays"})
    if isinstance(found, Network):
        reads = found.reads
    came = kind or kind_of(input_shape)
    if came in reads or (kind is None and "arrays" in reads):
        return
    allowed = ", ".join(f'"{name}"' for name in MODELS if came in network_of(name).reads) or "one of your own"
    hint = "; a column that names files of images is named in data.image" if came == "numbers" else ""
    raise SettingsError(
        f"model = {model!r}: reads {' and '.join(sorted(reads))}, but the data are {_TITLES[came]}; allowed "
        f"is {allowed}{hint if reads == _IMAGES else ''}"
    )


_M = TypeVar("_M", bound=nn.Module)


def _seeded(build: Callable[[], _M], seed: int) -> _M:
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed the CUDA generators too, and nothing would restore these.
        torch.default_generator.manual_seed(seed)
        return build()
