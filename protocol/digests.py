"""Digests with which server and clients check that they hold the same code, pool and labels."""

import hashlib
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protocol.encodings import Rows
from protocol.references import PACKAGES, open_packages

DIGEST_BYTES = 8
"""Length of a cache's digest."""


def code_digest() -> str:
    """Return the digest of the source code that this process runs.

    It covers the packages as they are imported here, not as they were sent, so that it reveals a folder of
    the same name that comes first on the path (Ray's workers start in the SuperLink's folder). It includes
    the user's own code in ``custom/``, and the package of another Flower project that composes our apps.
    """
    return digest_of_packages(tuple(sorted({*PACKAGES, *open_packages()})))


@cache
def digest_of_packages(packages: tuple[str, ...]) -> str:
    """Return the digest of the source files of some packages, as they are imported here."""
    digest = hashlib.blake2b(digest_size=16)
    for package in packages:
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            for file in sorted(Path(folder).rglob("*.py")):
                digest.update(f"{package}/{file.relative_to(folder).as_posix()}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()


def label_hashes(indices: NDArray[np.int64], versions: NDArray[np.int32], rows: Rows) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each cached label: of its index, its version and its wire bytes.

    The digest of a cache is the sum of its labels' hashes modulo 2^64, so that the server can
    follow the digest of every client's cache without holding every client's labels.

    Parameters
    ----------
    indices
        The samples' indices in the public pool, shape (n,).
    versions
        The labels' versions, shape (n,).
    rows
        The labels as they are sent, uint8 of shape (n, bytes per label).

    Returns
    -------
    NDArray[np.uint64]
        Shape (n,).
    """
    keys = np.stack([indices.astype("<i8"), versions.astype("<i8")], axis=1).view(np.uint8)
    entries = np.concatenate([keys.reshape(len(indices), 16), rows], axis=1)
    hashes = b"".join(hashlib.blake2b(entry, digest_size=8).digest() for entry in entries)
    return np.frombuffer(hashes, dtype="<u8").astype(np.uint64)


def digest_of_hashes(hashes: NDArray[np.uint64]) -> bytes:
    """Return the digest of a cache (8 bytes) whose labels have these hashes; 0 stands for no label."""
    return int(np.sum(hashes, dtype=np.uint64)).to_bytes(DIGEST_BYTES, "big")


def digest_of_arrays(*arrays: NDArray[np.int64] | NDArray[np.int32]) -> bytes:
    """Return a digest (8 bytes) of integer arrays, of their lengths and their values."""
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(len(array).to_bytes(8, "big"))
        digest.update(array.astype("<i8").tobytes())
    return digest.digest()
