"""Randomness that everyone can repeat: each generator follows from (seed, purpose, round, client)."""

import hashlib
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

_MASK_64 = 2**64 - 1


def derive_seed(seed: int, purpose: str, round: int = 0, client: str = "") -> int:
    """Return a 63-bit seed that belongs to one purpose of one client in one round."""
    text = f"{seed}/{purpose}/{round}/{client}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def torch_generator(seed: int, purpose: str, round: int = 0, client: str = "") -> torch.Generator:
    """Return a CPU generator seeded by :func:`derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, round, client))


@lru_cache(maxsize=64)
def draw_subset(seed: int, round: int, pool_size: int, subset_size: int) -> NDArray[np.int64]:
    """Draw the subset P^t of the public pool that one round works on.

    Every machine must draw the same subset, whatever its library versions. So it is not a
    library's permutation, which may change, but the raw output of the counter-based generator
    Philox keyed by seed and round: the positions of the ``subset_size`` smallest of ``pool_size``
    64-bit values (of equal values, the first).

    Returns
    -------
    NDArray[np.int64]
        Sample indices, shape (subset_size,), ascending; read-only.
    """
    key = np.array([seed & _MASK_64, round], dtype=np.uint64)
    draws = np.random.Philox(key=key).random_raw(pool_size)
    largest = np.partition(draws, subset_size - 1)[subset_size - 1]
    subset = np.concatenate([np.flatnonzero(draws < largest), np.flatnonzero(draws == largest)])
    subset = np.sort(subset[:subset_size])
    subset.setflags(write=False)
    return subset
