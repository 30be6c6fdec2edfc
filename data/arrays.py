"""Arrays of float32, for example series and signals: all of the same shape, and never normalised."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.inputs import TensorInputs
from protocol.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

_NO_LIST = -1


@dataclass(frozen=True)
class ArrayForm:
    """How arrays become a network's input: unchanged.

    ``data.normalisation`` does not apply, because each channel needs its own scale and a shape does not say
    which axis the channels are. Whoever writes a source knows, and scales there by constants: the same for
    every party, and not computed from its rows.

    Parameters
    ----------
    shape
        Shape of one array.
    """

    shape: tuple[int, ...]

    def facts(self) -> dict[str, Any]:
        """Return the form as JSON holds it."""
        return {"shape": list(self.shape), "values": "as the source returns them"}


@dataclass(frozen=True, eq=False)
class Arrays:
    """Arrays of the same shape.

    Parameters
    ----------
    values
        Float32 of shape (N, *shape), all finite.
    """

    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one array."""
        return self.values.shape[1:]

    def digest(self, rows: Tensor) -> str:
        """Fingerprint some arrays, their shape and their order: 32 hexadecimal digits."""
        fingerprint = hashlib.blake2b(f"{self.shape}\0".encode(), digest_size=16)
        for row in rows.tolist():
            fingerprint.update(self.values[row].astype("<f4").tobytes())
        return fingerprint.hexdigest()

    def fit(self) -> ArrayForm:
        """Return how these arrays become inputs."""
        return ArrayForm(self.shape)

    def inputs(self, rows: Tensor) -> TensorInputs:
        """Return some arrays as a network's inputs."""
        return TensorInputs(torch.from_numpy(self.values[rows.numpy()]), arrays=True)


def stacked(arrays: Sequence[NDArray[Any]], where: str) -> NDArray[np.float32]:
    """Stack arrays and convert them to float32.

    Parameters
    ----------
    arrays
        Row by row, at least one.
    where
        The setting and its value, for messages.

    Returns
    -------
    NDArray[np.float32]
        Of shape (N, *shape).

    Raises
    ------
    DataError
        Naming the first row of another shape than the first one, or with a number that is not finite.
    """
    require_one_shape(arrays, where)
    with np.errstate(over="ignore"):
        values = np.stack(arrays).astype(np.float32, copy=False)
    _require_finite(values, where)
    return values


def require_one_shape(arrays: Sequence[NDArray[Any]], where: str) -> None:
    """Raise ``DataError`` if a row has another shape than the first one, naming row and shapes."""
    for row, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise DataError(
                f"{where}, row {row}: has the shape {array.shape}, the first one {arrays[0].shape}; all must "
                "have the same shape"
            )


def _require_finite(values: NDArray[np.float32], where: str) -> None:
    """Refuse NaN and infinity; a number that float32 cannot hold has become infinite."""
    bad = np.argwhere(~np.isfinite(values))
    if bad.size:
        row, *place = bad[0].tolist()
        raise DataError(
            f"{where}, row {row}: has the shape {values.shape[1:]} and holds {values[tuple(bad[0])]} at "
            f"{place}; all numbers must be finite in float32"
        )


def is_array_column(table: "Dataset", column: str) -> bool:
    """Tell whether each cell of a column is an array of numbers, or a list of numbers or such lists."""
    import datasets

    kind = table.features[column]
    deep = (datasets.List, datasets.LargeList)
    fixed = (datasets.Array2D, datasets.Array3D, datasets.Array4D, datasets.Array5D)
    if isinstance(kind, fixed):
        return True
    if not isinstance(kind, deep):
        return False
    while isinstance(kind, deep):
        kind = kind.feature
    return isinstance(kind, datasets.Value) and kind.dtype.startswith(("float", "int", "uint"))


def arrays_of_column(table: "Dataset", column: str, where: str) -> Arrays:
    """Read a column of arrays (see `is_array_column`).

    Parameters
    ----------
    table, column
        Where the arrays are.
    where
        The setting and its value, for messages.

    Raises
    ------
    DataError
        Naming the first row without an array, with one of another shape than the first, or with a number
        that is not finite.
    """
    stored = table.select_columns([column]).with_format("arrow")[:][column].combine_chunks()
    shape = [len(stored)]
    while True:
        stored = getattr(stored, "storage", stored)  # of the array types of datasets
        if not _is_list(stored):
            break
        shape.append(_common_length(stored, shape, f"{where}, column {column!r}"))
        stored = stored.flatten()
    with np.errstate(over="ignore"):
        values = stored.to_numpy(zero_copy_only=False).astype(np.float32).reshape(shape)  # null becomes NaN
    _require_finite(values, f"{where}, column {column!r}")
    return Arrays(values)


def _is_list(stored: Any) -> bool:  # noqa: ANN401
    from pyarrow import types

    kinds = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    return any(is_kind(stored.type) for is_kind in kinds)


def _common_length(lists: Any, shape: Sequence[int], where: str) -> int:  # noqa: ANN401
    """Return the length of Arrow lists, one for each index of ``shape``; raise if they differ."""
    from pyarrow import compute

    lengths = compute.fill_null(compute.list_value_length(lists), _NO_LIST).to_numpy()
    for other in np.flatnonzero((lengths != lengths[0]) | (lengths <= 0))[:1]:
        row, length = int(other) // math.prod(shape[1:]), int(lengths[other])
        unequal = f"a list of length {length}, the first one {lengths[0]}"
        found = {_NO_LIST: "no array", 0: "an empty array"}.get(length, unequal)
        raise DataError(f"{where}, row {row}: holds {found}; all must be arrays of the same shape")
    return int(lengths[0])
