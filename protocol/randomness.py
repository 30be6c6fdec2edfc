"""Reproducible randomness: each generator is derived from (seed, purpose, round, client)."""

import hashlib
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

_MASK_64 = 2**64 - 1


def derive_seed(seed: int, purpose: str, round: int = 0, client: str = "") -> int:
    """Return a 63-bit seed for one purpose of one client in one round.

    Parameters
    ----------
    seed
        The run's seed.
    purpose
        What the numbers are drawn for, for example ``"train"``; unequal purposes give independent seeds.
    round
        From 1; 0 for what belongs to no round.
    client
        The client's name; empty for what belongs to no client.
    """
    text = f"{seed}/{purpose}/{round}/{client}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def torch_generator(seed: int, purpose: str, round: int = 0, client: str = "") -> torch.Generator:
    """Return a CPU generator seeded by :func:`derive_seed`.

    Parameters
    ----------
    seed, purpose, round, client
        As in :func:`derive_seed`.
    """
    return torch.Generator().manual_seed(derive_seed(seed, purpose, round, client))


@lru_cache(maxsize=64)
def draw_subset(seed: int, round: int, pool_size: int, subset_size: int) -> NDArray[np.int64]:
    """Draw the subset P^t of the public pool that is used in one round.

    Every machine must draw the same subset, whatever the versions of its libraries. A library's
    permutation may change between versions, so the subset is found from the raw output of the counter-based
    generator Philox, keyed by seed and round: the positions of the ``subset_size`` smallest of ``pool_size``
    64-bit values (of equal values, the first).

    Parameters
    ----------
    seed
        The run's seed, or one derived from it.
    round
        From 1.
    pool_size
        Samples to draw from.
    subset_size
        Samples to draw, from 1 to ``pool_size``.

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
