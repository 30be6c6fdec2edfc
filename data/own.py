"""Rows of the user's own: a function or class of their package, called for them by reference."""

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
_TRAIN = "train"
_ALLOWED = "a datasets.Dataset, a pandas DataFrame, or a torch Dataset of (input, label) pairs"


def read_own_rows(setting: str, source: str, run: RunSettings, labelled: bool, most: int) -> Rows:
    """Call a function or class of the user's for the rows of a data set.

    It is called with what it takes of ``settings``, those of the run, and ``split``, what stands after ``#``
    (``train`` if nothing does and it has no default), once in every process of every party: it must return
    the same rows each time, so no unseeded draws and no random changes of images.

    Parameters
    ----------
    setting
        The setting that names it, for messages.
    source
        ``custom.module:attribute``, perhaps with ``#split``.
    run
        The settings of the run.
    labelled
        Whether labels are used.
    most
        How many rows of a torch ``Dataset`` to read, from the first; 0 reads all.

    Raises
    ------
    SettingsError
        If there is no such function or class.
    DataError
        If it cannot be called, raises, or returns something else than rows.
    """
    from datasets import Dataset, DatasetDict
    from pandas import DataFrame

    place, split = split_source(source)
    where = f'{setting} = "{source}"'
    make = resolve(setting, place)
    if not callable(make):
        raise DataError(
            f"{where}: is a {type(make).__name__}; must be a function or class that returns {_ALLOWED}"
        )
    found = _called(make, run, split, where)
    if _SPLIT in _parameters(make) and not isinstance(found, DatasetDict):
        split = ""  # it was told
    if isinstance(found, DataFrame):
        found = _from_frame(found, where)
    elif _is_map_style(found):
        if split:
            raise DataError(f"{where}: {place} takes no {_SPLIT}, so none can be named after #")
        return read_pairs(found, labelled, most, where)
    elif not isinstance(found, Dataset | DatasetDict):
        raise DataError(f"{where}: returned a value of type {type(found).__name__}; allowed are {_ALLOWED}")
    return Rows(_plain(one_split(found, split, where), where), folder=Path("/"), own=True)


def _is_map_style(found: object) -> bool:
    """Tell whether something is a torch ``Dataset`` whose items have numbers."""
    from torch.utils.data import Dataset, IterableDataset

    return isinstance(found, Dataset) and not isinstance(found, IterableDataset)


def _parameters(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return what a function or class takes by name."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(make).parameters
    return {name: parameter for name, parameter in found.items() if parameter.kind in by_name}


def _called(make: Callable[..., Any], run: RunSettings, split: str, where: str) -> Any:  # noqa: ANN401
    parameters = _parameters(make)
    required = [name for name, one in parameters.items() if one.default is inspect.Parameter.empty]
    if unknown := [name for name in required if name not in (_SETTINGS, _SPLIT)]:
        raise DataError(
            f"{where}: takes {', '.join(unknown)}; a source is called with {_SETTINGS} and {_SPLIT}, as far "
            "as it takes them"
        )
    given: dict[str, Any] = {_SETTINGS: run} if _SETTINGS in parameters else {}
    if _SPLIT in required or (_SPLIT in parameters and split):
        given[_SPLIT] = split or _TRAIN
    try:
        return make(**given)
    except MotleyError:
        raise
    except Exception as error:  # of the user's own code, all sorts
        raise DataError(f"{where}: raised {type(error).__name__}: {error}") from error


def _from_frame(frame: "DataFrame", where: str) -> "Dataset":
    """Return a DataFrame as a table, without its index."""
    from datasets import Dataset
    from pandas.api.types import is_object_dtype

    names = list(frame.columns)
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise DataError(f"{where}: columns must have texts without repeats as names; they are {names}")
    objects = [name for name in names if is_object_dtype(frame[name])]
    try:
        columns = {name: frame[name].map(_storable, na_action="ignore") for name in objects}
        return Dataset.from_pandas(frame.assign(**columns), preserve_index=False)
    except Exception as error:  # as Pillow writes and pyarrow converts
        raise DataError(f"{where}: the DataFrame cannot be made a table: {error}") from error


def _storable(cell: Any) -> Any:  # noqa: ANN401
    """Return an image as a table holds it, an array as lists, anything else as it is."""
    from PIL import Image

    if isinstance(cell, Image.Image):
        return {"bytes": pixels_of(cell), "path": None}
    return cell.tolist() if isinstance(cell, np.ndarray | Tensor) else cell


def _plain(table: "Dataset", where: str) -> "Dataset":
    """Return a table whose cells come as they are kept, in whichever format its owner wants them."""
    if table.format["type"] == "custom":
        raise DataError(f"{where}: the Dataset has a transform; apply it by map, or return a torch Dataset")
    return table.with_format(None)
