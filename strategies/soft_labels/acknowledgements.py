"""The server's record of each client's cache: the labels that the client has acknowledged."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.digests import digest_of_hashes
from strategies.soft_labels.cache import NOT_STORED, Indices, LabelCache, LabelsInUse, VersionArray


@dataclass(frozen=True)
class _Holding:
    """The labels that one client holds: versions (int32) and hashes (uint64), shape (pool_size,)."""

    versions: VersionArray
    hashes: NDArray[np.uint64]

    def digest(self) -> bytes:
        return digest_of_hashes(self.hashes)

    def with_labels(self, labels: LabelsInUse, cache: LabelCache, stored: VersionArray) -> "_Holding":
        """Return what the client holds once it has these labels and dropped those not stored any more."""
        versions, hashes = self.versions.copy(), self.hashes.copy()
        versions[labels.indices] = labels.versions
        hashes[labels.indices] = cache.hashes[labels.indices]
        stale = versions != stored
        versions[stale], hashes[stale] = NOT_STORED, 0
        return _Holding(versions, hashes)


@dataclass(frozen=True)
class Delivery:
    """What one client is sent in one exchange."""

    sent: Indices
    """Positions, within the labels in use, of the labels that the client lacks, ascending."""
    base: bytes
    """Digest of the labels that the client has acknowledged."""
    explicit: bool
    """Whether the client is reset: it drops its labels and all are resent with explicit positions."""


class Acknowledgements:
    """The labels that each client, known by its name, has acknowledged.

    A message contains a label only if the acknowledged version differs from the one in use. This one rule
    covers the normal update, the catch-up after missed rounds, a late join and the recovery of a lost cache.
    The record of a client only changes with that client's own replies.
    """

    def __init__(self, pool_size: int) -> None:
        self.pool_size = pool_size
        self._held: dict[str, _Holding] = {}
        self._forgotten: set[str] = set()
        self._expected: dict[str, tuple[int, _Holding]] = {}
        """Round of each client's last message, and the labels that the client should hold after it."""

    def deliver(
        self, client: str, round: int, labels: LabelsInUse, cache: LabelCache, stored: VersionArray
    ) -> Delivery:
        """Decide which labels a client is sent, and record what it should hold afterwards.

        Parameters
        ----------
        client
            The client's name.
        round
            The round of the message.
        labels
            The labels in use.
        cache
            The server's labels.
        stored
            The stored version of each label, shape (pool_size,); others are dropped.
        """
        held = self._holding(client)
        lacking = held.versions[labels.indices] != labels.versions
        self._expected[client] = (round, held.with_labels(labels, cache, stored))
        return Delivery(np.flatnonzero(lacking), held.digest(), client in self._forgotten)

    def acknowledge(self, client: str, round: int, digest: bytes, lost: bool) -> bool:
        """Record what a client holds after an exchange; return False if its cache is out of step.

        Only the reply to the client's last message counts. Replies to earlier messages, repeated replies and
        replies to messages from before `forget` are ignored.

        Parameters
        ----------
        client
            The client's name.
        round
            The round that the reply answers.
        digest
            Digest of the client's cache.
        lost
            Whether the client could not interpret the labels it was sent. It is then out of step, whatever
            its digest.
        """
        asked_in, expected = self._expected.get(client, (None, None))
        if expected is None or asked_in != round:
            return True
        if lost or expected.digest() != digest:
            self.forget(client)
            return False
        self._held[client] = expected
        self._forgotten.discard(client)
        del self._expected[client]
        return True

    def greet(self, client: str, digests: Sequence[bytes]) -> bool:
        """Compare the digests of a client's saved caches with its record; False if none fits."""
        if self._holding(client).digest() in digests:
            return True
        self.forget(client)
        return False

    def forget(self, client: str) -> None:
        """Delete the record of a client: the next exchange resends all labels."""
        self._held.pop(client, None)
        self._expected.pop(client, None)
        self._forgotten.add(client)

    def state(self) -> tuple[dict[str, NDArray[np.generic]], dict[str, list[str]]]:
        """Return all records as arrays and names, for a checkpoint."""
        names = sorted(self._held)
        arrays: dict[str, NDArray[np.generic]] = {
            "versions": np.array([self._held[name].versions for name in names], dtype=np.int32),
            "hashes": np.array([self._held[name].hashes for name in names], dtype=np.uint64),
        }
        return arrays, {"held": names, "forgotten": sorted(self._forgotten)}

    def load_state(self, arrays: dict[str, NDArray[np.generic]], names: dict[str, list[str]]) -> None:
        """Restore the records of a checkpoint."""
        rows = zip(names["held"], arrays["versions"], arrays["hashes"], strict=True)
        self._held = {name: _Holding(versions, hashes) for name, versions, hashes in rows}
        self._forgotten = set(names["forgotten"])

    def _holding(self, client: str) -> _Holding:
        if client in self._held:
            return self._held[client]
        size = self.pool_size
        return _Holding(np.zeros(size, dtype=np.int32), np.zeros(size, dtype=np.uint64))
