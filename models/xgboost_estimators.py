"""XGBoost's classifiers by name, where XGBoost is installed."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from models.estimators import estimator_of
from models.network import Estimator
from models.parameters import split_call
from protocol.errors import SettingsError

_FORMAT = "json"
"""XGBoost's own: trees and parameters, no code. Its binary form ends the process that reads damaged bytes."""


def find(name: str, setting: str) -> Estimator:
    """Return ``XGBClassifier`` or ``XGBRFClassifier``, perhaps with parameters.

    Parameters
    ----------
    name
        As ``XGBClassifier(n_estimators=50, max_depth=3)``; the values are literals.
    setting
        The key that names it.

    Raises
    ------
    SettingsError
        If XGBoost is not installed, or has no such classifier or parameters.
    """
    try:
        import xgboost
    except ImportError as error:
        raise SettingsError(
            f'{setting} = "xgboost:{name}": {error}; `uv pip install xgboost-cpu`, or xgboost on a Mac'
        ) from error
    kinds = {kind.__name__: kind for kind in (xgboost.XGBClassifier, xgboost.XGBRFClassifier)}
    try:
        kind_name, parameters = split_call(name)
        if kind_name not in kinds:
            raise ValueError(f"must be one of {', '.join(kinds)}")
        kind = kinds[kind_name]

        load = partial(_load, kind)
        return estimator_of(f"xgboost:{name}", kind, parameters, _dump, load, {"n_jobs": 1})
    except ValueError as error:
        raise SettingsError(f'{setting} = "xgboost:{name}": {error}') from error


def _dump(fitted: Any) -> bytes:  # noqa: ANN401
    return bytes(fitted.get_booster().save_raw(_FORMAT))


def _load(kind: Callable[..., Any], data: bytes) -> Any:  # noqa: ANN401
    from xgboost.core import XGBoostError

    fitted = kind(n_jobs=1)
    try:
        json.loads(data)  # XGBoost ends the process at an empty file
        fitted.load_model(bytearray(data))
    except (ValueError, XGBoostError) as error:
        raise ValueError(f"holds no model of XGBoost that can be read ({error})") from error
    return fitted
