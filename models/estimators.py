"""Estimators: scikit-learn's classifiers by name, and a user's own with ``fit`` and ``predict_proba``."""

import difflib
import inspect
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from models.network import Estimator
from models.parameters import require_known, split_call
from models.skops_format import dump, load
from protocol.errors import SettingsError
from protocol.references import open_packages

_PLACES = (
    "ensemble",
    "linear_model",
    "neural_network",
    "tree",
    "naive_bayes",
    "calibration",
    "dummy",
)
"""Packages of scikit-learn that have classifiers which can take part; to import all of it takes seconds."""
_SET_BY_THE_RUN = ("random_state", "n_jobs")
_SEEDS = 2**32
"""How many seeds scikit-learn and XGBoost take."""
_NOTHING: Mapping[str, Any] = {}


def find(name: str, setting: str) -> Estimator:
    """Return scikit-learn's classifier of a name, as ``RandomForestClassifier(n_estimators=300)``.

    Parameters
    ----------
    name
        Of `sklearn.utils.all_estimators`, perhaps with parameters, which are literals.
    setting
        The key that names it.

    Raises
    ------
    SettingsError
        If there is no such classifier, or it cannot learn from weighted rows, answers no probabilities or
        has no such parameters.
    """
    try:
        kind_name, parameters = split_call(name)
        return estimator_of(f"sklearn:{name}", _classifier(kind_name), parameters, dump, load)
    except ValueError as error:
        raise SettingsError(f'{setting} = "sklearn:{name}": {error}') from error


def estimator_of(
    name: str,
    kind: Callable[..., Any],
    parameters: Mapping[str, Any],
    write: Callable[[Any], bytes],
    read: Callable[[bytes], Any],
    fixed: Mapping[str, Any] = _NOTHING,
) -> Estimator:
    """Return what makes estimators of a class that follows scikit-learn's rules.

    Parameters
    ----------
    name
        As the settings have it.
    kind
        The class.
    parameters
        With which it is made, beside the seed and the number of threads.
    write, read
        See `Estimator`: its ``dump`` and ``load``.
    fixed
        Parameters that all have.

    Raises
    ------
    ValueError
        If it cannot be made with these parameters, or cannot take part.
    """
    if own := sorted(set(parameters) & set(_SET_BY_THE_RUN)):
        raise ValueError(f"{', '.join(own)}: is set by the run: a seed that follows from its own, one thread")
    made = _made(kind)
    known = made.get_params(deep=False)
    require_known(parameters, known.keys() - set(_SET_BY_THE_RUN))
    # "auto" would withhold some of a large client's samples
    whole = {"early_stopping": False} if "early_stopping" in known else {}

    def make(seed: int) -> Any:  # noqa: ANN401
        seeded = {"random_state": seed % _SEEDS} if "random_state" in known else {}
        return kind(**{**whole, **parameters, **fixed, **seeded})

    require_able(make(0))
    return Estimator(name, make, write, read)


def own_estimator(reference: str, found: object) -> Estimator:
    """Return what makes estimators of a user's own class.

    It is made without arguments, or with ``random_state`` if it takes that. What it has learned is kept by
    skops, so its attributes are numbers, texts, arrays, lists, dicts, estimators of scikit-learn, and objects
    of the user's own classes.

    Parameters
    ----------
    reference
        That names it.
    found
        The class.

    Raises
    ------
    TypeError
        If it is none, or cannot take part.
    """
    if not inspect.isclass(found):
        raise TypeError("must be an estimator's class, not an object of it")
    kind: Callable[..., Any] = found
    seeded = "random_state" in inspect.signature(kind).parameters

    def make(seed: int) -> Any:  # noqa: ANN401
        return kind(random_state=seed % _SEEDS) if seeded else kind()

    try:
        require_able(make(0))
    except ValueError as error:
        raise TypeError(str(error)) from error
    return Estimator(reference, make, dump, lambda data: load(data, open_packages()))


def require_able(estimator: Any) -> None:  # noqa: ANN401
    """Raise ``ValueError`` if an estimator cannot take part, or its parameters have values that cannot be."""
    takes = inspect.signature(estimator.fit).parameters
    if "sample_weight" not in takes:
        raise ValueError("its fit takes no sample_weight, by which it would learn from soft labels")
    if not hasattr(estimator, "predict_proba"):
        raise ValueError("it has no predict_proba with these parameters, so it cannot give soft labels")
    if hasattr(estimator, "_parameter_constraints"):  # scikit-learn's own; of others fit finds it
        estimator._validate_params()


def _made(kind: Callable[..., Any]) -> Any:  # noqa: ANN401
    try:
        return kind()
    except TypeError as error:
        raise ValueError(
            f"cannot be made from a name ({error}); make one of your own of it, in a class without parameters"
        ) from error


def _classifier(name: str) -> Callable[..., Any]:
    """Return the class of a public classifier."""
    from sklearn.base import ClassifierMixin
    from sklearn.utils import all_estimators

    for place in _PLACES:
        package = import_module(f"sklearn.{place}")
        kind = getattr(package, name, None) if name in getattr(package, "__all__", [name]) else None
        if inspect.isclass(kind) and issubclass(kind, ClassifierMixin):
            return kind
    kinds: dict[str, Callable[..., Any]] = dict(all_estimators("classifier"))
    if name in kinds:
        return kinds[name]
    near = difflib.get_close_matches(name, kinds, n=3)
    hint = f", did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(
        f"scikit-learn has no such classifier{hint}; those that can take part are {', '.join(able(kinds))}"
    )


def able(kinds: Mapping[str, Callable[..., Any]]) -> list[str]:
    """Return the names of the classifiers that can take part as they are."""
    names = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of those that scikit-learn is about to drop
        for name, kind in kinds.items():
            try:
                require_able(_made(kind))
            except ValueError:
                continue
            names.append(name)
    return names
