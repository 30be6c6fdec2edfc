"""Arrays of float32, as series and signals: all of one shape, and never changed."""

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
    """How arrays become a network's input: as they are.

    ``data.normalisation`` does not apply: a shape does not say which axis counts channels, and channels of
    unlike units would need a scale each. Whoever writes a source knows the axes and the units, and scales
    there by constants that are the same for everyone.

    Parameters
    ----------
    shape
        Of one array.
    """

    shape: tuple[int, ...]

    def facts(self) -> dict[str, Any]:
        """Return the form as JSON holds it."""
        return {"shape": list(self.shape), "values": "as the source has them"}


@dataclass(frozen=True, eq=False)
class Arrays:
    """Arrays of one shape.

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


def stacked(cells: Sequence[NDArray[Any]], where: str, gaps: bool = False) -> NDArray[np.float32]:
    """Put arrays of numbers into one of float32.

    Parameters
    ----------
    cells
        Row by row, at least one.
    where
        The setting and its value, for messages.
    gaps
        Whether numbers may be NaN, which stands for a gap, or infinite.

    Returns
    -------
    NDArray[np.float32]
        Of shape (N, *shape).

    Raises
    ------
    DataError
        Naming the first row whose shape is not the first's, or that holds a number that is not finite.
    """
    for row, cell in enumerate(cells):
        if cell.shape != cells[0].shape:
            raise DataError(
                f"{where}, row {row}: is of shape {cell.shape}, the first is of {cells[0].shape}; all must "
                "be of one shape"
            )
    with np.errstate(over="ignore"):
        values = np.stack(cells).astype(np.float32, copy=False)
    if not gaps:
        _require_finite(values, where)
    return values


def _require_finite(values: NDArray[np.float32], where: str) -> None:
    """Refuse NaN and infinity; a number too large for float32 has become infinite."""
    bad = np.argwhere(~np.isfinite(values))
    if bad.size:
        row, *place = bad[0].tolist()
        raise DataError(
            f"{where}, row {row}: is of shape {values.shape[1:]} and holds {values[tuple(bad[0])]} at {place}"
            "; all numbers must be finite in float32"
        )


def is_array_column(table: "Dataset", column: str) -> bool:
    """Tell whether each cell of a column is a list of numbers, of whatever depth."""
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
    """Read a column for which `is_array_column` holds.

    Parameters
    ----------
    table, column
        Where the arrays are.
    where
        The setting and its value, for messages.

    Raises
    ------
    DataError
        Naming the first row that holds no array, one of another shape than the first, or a number that is
        not finite.
    """
    stored = table.select_columns([column]).with_format("arrow")[:][column].combine_chunks()
    shape = [len(stored)]
    while True:
        stored = getattr(stored, "storage", stored)  # of the types that datasets adds to Arrow's
        if not _is_list(stored):
            break
        shape.append(_common_length(stored, shape, f"{where}, column {column!r}"))
        stored = stored.flatten()
    with np.errstate(over="ignore"):
        values = stored.to_numpy(zero_copy_only=False).astype(np.float32).reshape(shape)  # a gap becomes NaN
    _require_finite(values, f"{where}, column {column!r}")
    return Arrays(values)


def _is_list(stored: Any) -> bool:  # noqa: ANN401
    from pyarrow import types

    kinds = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    return any(is_kind(stored.type) for is_kind in kinds)


def _common_length(lists: Any, shape: Sequence[int], where: str) -> int:  # noqa: ANN401
    """Return the length of Arrow's lists, of which there are as many as the product of the shape."""
    from pyarrow import compute

    lengths = compute.fill_null(compute.list_value_length(lists), _NO_LIST).to_numpy()
    for other in np.flatnonzero((lengths != lengths[0]) | (lengths <= 0))[:1]:
        row, length = int(other) // math.prod(shape[1:]), int(lengths[other])
        unequal = f"a list of length {length}, the first of {lengths[0]}"
        found = {_NO_LIST: "no array", 0: "an empty array"}.get(length, unequal)
        raise DataError(f"{where}, row {row}: holds {found}; all must be arrays of one shape")
    return int(lengths[0])
