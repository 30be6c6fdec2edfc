"""Reads the rows of a data set from a function or class of the user, which a setting names by reference."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from data.pairs import read_pairs
from data.reading import Rows, one_split
from data.rows import pixels_of
from protocol.errors import DataError, MotleyError
from protocol.references import resolve
from protocol.settings import RunSettings
from protocol.values import split_source

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame

_SETTINGS, _SPLIT = "settings", "split"
"""The parameters that a source may have."""
_TRAIN = "train"
_ALLOWED = "a datasets.Dataset, a pandas DataFrame, or a torch Dataset of (input, label) pairs"


def read_own_rows(setting: str, source: str, run: RunSettings, labelled: bool, most: int) -> Rows:
    """Call a function or class of the user and return its rows.

    It is called by name with those of these arguments that it has as parameters: ``settings``, the run's, and
    ``split``, the text after ``#`` in the reference (without one its default, or ``train``). Every process of
    every party calls it, and it must return the same rows each time: no unseeded draws, no augmentation.

    Parameters
    ----------
    setting
        The setting that names it, for messages.
    source
        ``custom.module:attribute``, perhaps with ``#split``.
    run
        The run's settings.
    labelled
        Whether labels are used.
    most
        How many items of a torch ``Dataset`` to read, from the first; 0: all.

    Raises
    ------
    SettingsError
        If the reference cannot be resolved.
    DataError
        If it cannot be called so, raises an error, or returns anything but rows.
    """
    import datasets
    from pandas import DataFrame

    datasets.disable_progress_bars()
    place, split = split_source(source)
    where = f'{setting} = "{source}"'
    make = resolve(setting, place)
    if not callable(make):
        raise DataError(
            f"{where}: is a {type(make).__name__}; must be a function or class that returns {_ALLOWED}"
        )
    found = _called(make, run, split, where)
    if _SPLIT in _parameters(make) and not isinstance(found, datasets.DatasetDict):
        split = ""  # already taken into account
    if isinstance(found, DataFrame):
        found = _from_frame(found, where)
    elif _is_torch_dataset(found):
        if split:
            raise DataError(f"{where}: has no parameter {_SPLIT}, so no split can be named after #")
        return read_pairs(found, labelled, most, where)
    elif not isinstance(found, datasets.Dataset | datasets.DatasetDict):
        raise DataError(f"{where}: returned a value of type {type(found).__name__}; allowed are {_ALLOWED}")
    return Rows(_unformatted(one_split(found, split, where), where), folder=Path("/"), own=True)


def _is_torch_dataset(found: object) -> bool:
    """Tell whether an object is a torch ``Dataset`` with numbered items."""
    from torch.utils.data import Dataset, IterableDataset

    return isinstance(found, Dataset) and not isinstance(found, IterableDataset)


def _parameters(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function or class that can be given by name."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(make).parameters
    return {name: parameter for name, parameter in found.items() if parameter.kind in by_name}


def _called(make: Callable[..., Any], run: RunSettings, split: str, where: str) -> Any:  # noqa: ANN401
    parameters = _parameters(make)
    required = [name for name, one in parameters.items() if one.default is inspect.Parameter.empty]
    if unknown := [name for name in required if name not in (_SETTINGS, _SPLIT)]:
        raise DataError(
            f"{where}: has the parameters {', '.join(unknown)} without a default; a source is given "
            f"{_SETTINGS} and {_SPLIT} only"
        )
    arguments: dict[str, Any] = {_SETTINGS: run} if _SETTINGS in parameters else {}
    if _SPLIT in required or (_SPLIT in parameters and split):
        arguments[_SPLIT] = split or _TRAIN
    try:
        return make(**arguments)
    except MotleyError:
        raise
    except Exception as error:  # user code may raise anything
        raise DataError(f"{where}: raised {type(error).__name__}: {error}") from error


def _from_frame(frame: "DataFrame", where: str) -> "Dataset":
    """Return a DataFrame as a table, without its index."""
    from datasets import Dataset
    from pandas.api.types import is_object_dtype

    names = list(frame.columns)
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise DataError(f"{where}: the names of columns must be texts without repeats; they are {names}")
    objects = [name for name in names if is_object_dtype(frame[name])]
    try:
        columns = {name: frame[name].map(_storable, na_action="ignore") for name in objects}
        return Dataset.from_pandas(frame.assign(**columns), preserve_index=False)
    except Exception as error:  # pyarrow raises many kinds of errors on cells that it cannot convert
        raise DataError(f"{where}: the DataFrame cannot be converted to a table: {error}") from error


def _storable(cell: Any) -> Any:  # noqa: ANN401
    """Return a cell as Arrow can store it: an image as bytes, an array as lists, anything else unchanged."""
    from PIL import Image

    if isinstance(cell, Image.Image):
        return {"bytes": pixels_of(cell), "path": None}
    return cell.tolist() if isinstance(cell, np.ndarray | Tensor) else cell


def _unformatted(table: "Dataset", where: str) -> "Dataset":
    """Return a table whose cells are read as they are stored, and not as tensors or arrays."""
    if table.format["type"] == "custom":
        raise DataError(
            f"{where}: the Dataset has a transform, which is not applied here; apply it with map, or return "
            "a torch Dataset"
        )
    return table.with_format(None)
