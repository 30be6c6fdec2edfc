"""How soft labels and sets of indices are written as bytes.

A soft label is a row of class probabilities. Every encoding states its worst error, and those that
quantise restore the row's sum to 1 when it is read.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from protocol.errors import MessageError

LabelEncoding = Literal["float32", "float16", "uint8"]

_DTYPES: dict[LabelEncoding, np.dtype[np.generic]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "uint8": np.dtype("u1"),
}
_LEVELS = 255
_SUM_TOLERANCE: dict[LabelEncoding, float] = {"float32": 1e-4, "float16": 2e-3, "uint8": 0.0}

Rows = NDArray[np.uint8]
"""Labels as they travel: one row of bytes a sample, shape (n, :func:`row_bytes`)."""


def row_bytes(classes: int, encoding: LabelEncoding) -> int:
    """Return the bytes that one soft label over ``classes`` classes takes."""
    return classes * _DTYPES[encoding].itemsize


def worst_error(encoding: LabelEncoding) -> float:
    """Return the bound on ``|decoded - original|`` for one probability of a row that sums to 1.

    float32 rounds to 24 significant bits, and what is float32 already stays as it is. float16 rounds
    to 11, an error of p·2^-11 at most; dividing by the sum, which is off by the sum of the errors,
    leaves p(1 - p)·2^-10 at most and room for what is lost of probabilities too small for float16.
    uint8 shares out 255 units, so no class is off by a whole unit.
    """
    return {"float32": 2.0**-25, "float16": 2.0**-11, "uint8": 1.0 / _LEVELS}[encoding]


def encode_labels(labels: Tensor, encoding: LabelEncoding) -> Rows:
    """Write soft labels as bytes.

    Parameters
    ----------
    labels : Tensor
        Probabilities, shape (n, classes); each row sums to 1.
    encoding : {"float32", "float16", "uint8"}
        ``uint8`` shares out 255 units among the classes by largest remainder.

    Returns
    -------
    Rows
        Shape (n, :func:`row_bytes`).
    """
    values = labels.detach().cpu().numpy()
    if encoding == "uint8":
        values = _share_out(values.astype(np.float64))
    encoded = np.ascontiguousarray(values.astype(_DTYPES[encoding])).view(np.uint8)
    return encoded.reshape(len(values), row_bytes(values.shape[1], encoding))


def decode_labels(rows: Rows, classes: int, encoding: LabelEncoding) -> Tensor:
    """Read soft labels back, checking each row; the quantised encodings get their sum of 1 back.

    Returns
    -------
    Tensor
        Probabilities, float32, shape (n, classes).

    Raises
    ------
    MessageError
        If a value is not finite or negative, or a row does not sum to 1.
    """
    values = np.ascontiguousarray(rows).view(_DTYPES[encoding]).reshape(len(rows), classes)
    scale = _LEVELS if encoding == "uint8" else 1
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise MessageError("labels: not all values are finite")
    if (values < 0).any():
        raise MessageError("labels: negative probabilities")
    sums = values.sum(axis=1, keepdims=True)
    if (np.abs(sums / scale - 1) > _SUM_TOLERANCE[encoding]).any():
        raise MessageError(f"labels: rows must sum to 1 within {_SUM_TOLERANCE[encoding]}")
    if encoding == "float32":
        return torch.from_numpy(values.astype(np.float32))
    return torch.from_numpy((values / sums).astype(np.float32))


def parse_rows(data: bytes, count: int, classes: int, encoding: LabelEncoding) -> Rows:
    """Cut bytes into the rows of ``count`` labels.

    Raises
    ------
    MessageError
        If the length does not fit.
    """
    width = row_bytes(classes, encoding)
    if len(data) != count * width:
        raise MessageError(
            f"labels: {len(data)} bytes, expected {count} labels of {classes} classes "
            f"in {encoding} = {count * width} bytes"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(count, width)


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


def _share_out(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round 255·p to integers that sum to 255: the largest remainders are rounded up."""
    units = values / values.sum(axis=1, keepdims=True) * _LEVELS
    whole = np.floor(units)
    missing = np.rint(_LEVELS - whole.sum(axis=1, keepdims=True))
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
