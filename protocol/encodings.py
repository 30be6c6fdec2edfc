"""Encodings of soft labels and of sets of indices as bytes.

A soft label is a row of class probabilities. Every encoding states its worst error, and those that
quantise normalise the decoded row to a sum of 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from protocol.errors import MessageError
from protocol.references import Registry
from protocol.settings import RunSettings

Rows = NDArray[np.uint8]
"""Encoded labels: one row of bytes per sample, uint8 of shape (n, row_bytes)."""

_UNITS = 255
_SUM_TOLERANCE = 2e-3
"""How far the sum of a decoded label may be from 1, whatever its encoding."""


class LabelEncoding(Protocol):
    """An encoding of soft labels: each becomes a row of bytes, all of the same length."""

    def row_bytes(self, classes: int) -> int:
        """Return the bytes that one label over ``classes`` classes takes."""

    def encode(self, labels: Tensor) -> Rows:
        """Write probabilities, shape (n, classes), whose rows sum to 1, as shape (n, row_bytes)."""

    def decode(self, rows: Rows, classes: int) -> Tensor:
        """Decode labels to probabilities, float32, shape (n, classes); raise ``ValueError`` if impossible."""

    def worst_error(self, classes: int) -> float:
        """Return the bound on ``|decoded - original|`` for one probability."""


@dataclass(frozen=True)
class FloatEncoding:
    """Probabilities as floating-point numbers.

    Parameters
    ----------
    dtype
        NumPy's name for the type of the encoded numbers.
    error
        Bound on ``|decoded - original|``.
    restores_sum
        Whether a decoded row is normalised to a sum of 1.
    sum_tolerance
        How far the sum of an encoded row may be from 1.
    """

    dtype: str
    error: float
    restores_sum: bool
    sum_tolerance: float

    def row_bytes(self, classes: int) -> int:
        """Return the bytes that one label takes."""
        return classes * np.dtype(self.dtype).itemsize

    def encode(self, labels: Tensor) -> Rows:
        """Write labels, shape (n, classes), as shape (n, row_bytes)."""
        return _as_rows(labels.detach().cpu().numpy(), self.dtype)

    def decode(self, rows: Rows, classes: int) -> Tensor:
        """Read labels back, float32, shape (n, classes)."""
        values = _values(rows, self.dtype, classes)
        sums = require_probabilities(values, 1.0, self.sum_tolerance)
        return torch.from_numpy((values / sums if self.restores_sum else values).astype(np.float32))

    def worst_error(self, classes: int) -> float:
        """Return the bound on the error of one probability."""
        return self.error


class UnitEncoding:
    """255 units, divided among the classes by largest remainder: one byte per class."""

    def row_bytes(self, classes: int) -> int:
        """Return the bytes that one label takes."""
        return classes

    def encode(self, labels: Tensor) -> Rows:
        """Write labels, shape (n, classes), as shape (n, classes)."""
        return _as_rows(_share_out(labels.detach().cpu().numpy().astype(np.float64)), "u1")

    def decode(self, rows: Rows, classes: int) -> Tensor:
        """Read labels back, float32, shape (n, classes)."""
        values = _values(rows, "u1", classes)
        return torch.from_numpy((values / require_probabilities(values, _UNITS, 0.0)).astype(np.float32))

    def worst_error(self, classes: int) -> float:
        """Return the bound on the error: no class is off by a whole unit."""
        return 1.0 / _UNITS


ENCODINGS: Mapping[str, LabelEncoding] = {
    # Rounds to 24 significant bits; what is float32 already stays as it is.
    "float32": FloatEncoding("<f4", 2.0**-25, restores_sum=False, sum_tolerance=1e-4),
    # Rounds to 11 bits, an error of p·2^-11 at most; dividing by the sum, which is off by the sum of the
    # errors, leaves p(1 - p)·2^-10 at most and room for what is lost of probabilities too small for float16.
    "float16": FloatEncoding("<f2", 2.0**-11, restores_sum=True, sum_tolerance=2e-3),
    "uint8": UnitEncoding(),
}
"""Ours, by the name that ``distillation.labels`` has."""

EncodingMaker = Callable[[RunSettings], LabelEncoding]


def _maker(found: object, reference: str) -> EncodingMaker:
    if isinstance(found, type):
        return cast("EncodingMaker", found)
    if hasattr(found, "decode"):
        return lambda settings: cast("LabelEncoding", found)
    raise TypeError(
        "must be a label encoding: a class that is made with the run's settings, or an object, with "
        "row_bytes, encode, decode and worst_error"
    )


def _own(encoding: LabelEncoding) -> EncodingMaker:
    return lambda settings: encoding


ENCODING_MAKERS: Registry[EncodingMaker] = Registry(
    "distillation.labels", {name: _own(encoding) for name, encoding in ENCODINGS.items()}, _maker
)


def encoding_of(settings: RunSettings) -> LabelEncoding:
    """Return the encoding of a run's soft labels.

    Raises
    ------
    SettingsError
        If ``distillation.labels`` names none.
    """
    return ENCODING_MAKERS.find(settings.distillation.labels)(settings)


def encode_labels(labels: Tensor, encoding: LabelEncoding) -> Rows:
    """Write soft labels as bytes.

    Parameters
    ----------
    labels
        Probabilities, shape (n, classes); each row sums to 1.
    encoding
        The run's encoding.

    Returns
    -------
    Rows
        Shape (n, row_bytes).

    Raises
    ------
    ValueError
        If the encoding does not make rows of the length it states.
    """
    rows = encoding.encode(labels)
    expected = (len(labels), encoding.row_bytes(labels.shape[1]))
    if rows.shape != expected or rows.dtype != np.uint8:
        raise ValueError(
            f"{type(encoding).__name__}.encode made {rows.dtype} of shape {rows.shape}; its row_bytes says "
            f"uint8 of shape {expected}"
        )
    return rows


def decode_labels(rows: Rows, classes: int, encoding: LabelEncoding) -> Tensor:
    """Decode soft labels, and check each row, whatever the encoding.

    Parameters
    ----------
    rows
        Shape (n, row_bytes).
    classes
        Number of classes.
    encoding
        The encoding of the rows.

    Returns
    -------
    Tensor
        Probabilities, float32, shape (n, classes).

    Raises
    ------
    MessageError
        If a value is not finite or negative, or a row does not sum to 1.
    """
    try:
        labels = encoding.decode(rows, classes)
    except (ValueError, IndexError, OverflowError) as error:
        raise MessageError(f"labels: {error}") from error
    if tuple(labels.shape) != (len(rows), classes):
        raise MessageError(f"labels: shape {tuple(labels.shape)}, expected {(len(rows), classes)}")
    require_probabilities(labels.double().numpy(), 1.0, _SUM_TOLERANCE)
    return labels


def parse_rows(data: bytes, count: int, classes: int, encoding: LabelEncoding) -> Rows:
    """Divide received bytes into encoded labels.

    Parameters
    ----------
    data
        The bytes of a message.
    count
        Number of labels expected.
    classes
        Number of classes.
    encoding
        The encoding of the labels.

    Raises
    ------
    MessageError
        If there are too many or too few bytes.
    """
    width = encoding.row_bytes(classes)
    if len(data) != count * width:
        raise MessageError(
            f"labels: {len(data)} bytes, expected {count} labels of {classes} classes "
            f"in {width} bytes each = {count * width} bytes"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(count, width)


def require_probabilities(values: NDArray[np.float64], total: float, tolerance: float) -> NDArray[np.float64]:
    """Check rows of probabilities and return their sums, shape (n, 1).

    Parameters
    ----------
    values
        Shape (n, classes), in units of which ``total`` stand for a probability of 1.
    total
        The expected sum of a row.
    tolerance
        How far a row's sum may be from it, relative to ``total``.

    Raises
    ------
    MessageError
        If a value is not finite or negative, or a row does not sum to 1.
    """
    if not np.isfinite(values).all():
        raise MessageError("labels: not all values are finite")
    if (values < 0).any():
        raise MessageError("labels: negative probabilities")
    sums = values.sum(axis=1, keepdims=True)
    if (np.abs(sums / total - 1) > tolerance).any():
        raise MessageError(f"labels: rows must sum to 1 within {tolerance}")
    return np.asarray(sums, dtype=np.float64)


def encode_indices(indices: NDArray[np.int64], pool_size: int) -> bytes:
    """Write ascending, unique indices below ``pool_size`` as deltas or as a bitmap.

    The smaller one is taken, named by the first byte: ``d`` (distances to the index before, minus
    one, as little-endian base-128 numbers) or ``b`` (one bit a sample, the first sample first).
    """
    deltas = b"d" + _write_base_128(np.diff(indices, prepend=-1) - 1)
    if len(deltas) <= 1 + (pool_size + 7) // 8:
        return deltas
    members = np.zeros(pool_size, dtype=bool)
    members[indices] = True
    return b"b" + np.packbits(members).tobytes()


def decode_indices(data: bytes, pool_size: int) -> NDArray[np.int64]:
    """Read indices written by :func:`encode_indices`, shape (n,).

    Raises
    ------
    MessageError
        If the bytes are neither form, or name an index outside the pool.
    """
    kind, body = data[:1], np.frombuffer(data[1:], dtype=np.uint8)
    if kind == b"b" and len(body) == (pool_size + 7) // 8:
        indices = np.flatnonzero(np.unpackbits(body))
    elif kind == b"d":
        indices = np.cumsum(_read_base_128(body) + 1) - 1
    else:
        raise MessageError(f"indices: {len(data)} bytes of unknown form for a pool of {pool_size}")
    if len(indices) and not 0 <= indices.min() <= indices.max() < pool_size:
        raise MessageError(f"indices: must be below the pool's size {pool_size}")
    return indices.astype(np.int64)


def _as_rows(values: NDArray[np.floating], dtype: str) -> Rows:
    encoded = np.ascontiguousarray(values.astype(dtype)).view(np.uint8)
    return encoded.reshape(len(values), values.shape[1] * np.dtype(dtype).itemsize)


def _values(rows: Rows, dtype: str, classes: int) -> NDArray[np.float64]:
    values = np.ascontiguousarray(rows).view(dtype).reshape(len(rows), classes)
    return np.asarray(values, dtype=np.float64)


def _share_out(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round 255·p to integers that sum to 255: the largest remainders are rounded up."""
    units = values / values.sum(axis=1, keepdims=True) * _UNITS
    whole = np.floor(units)
    missing = np.rint(_UNITS - whole.sum(axis=1, keepdims=True))
    rank = np.argsort(np.argsort(whole - units, axis=1, kind="stable"), axis=1, kind="stable")
    return np.asarray(whole + (rank < missing), dtype=np.float64)


def _write_base_128(numbers: NDArray[np.int64]) -> bytes:
    shifts = 7 * np.arange(9)
    groups = (numbers[:, None] >> shifts) & 127
    more = (numbers[:, None] >> (shifts + 7)) > 0
    used = np.concatenate([np.ones((len(numbers), 1), dtype=bool), more[:, :-1]], axis=1)
    return bytes((groups | (more << 7))[used].astype(np.uint8))


def _read_base_128(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    if len(data) == 0:
        return np.zeros(0, dtype=np.int64)
    last = data < 128
    if not last[-1]:
        raise MessageError("indices: the last number is cut off")
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    lengths = np.diff(np.append(starts, len(data)))
    if lengths.max() > 9:
        raise MessageError("indices: a number is too long")
    places = np.arange(len(data)) - np.repeat(starts, lengths)
    return np.asarray(np.add.reduceat((data & 127).astype(np.int64) << (7 * places), starts), dtype=np.int64)
