"""What the server knows of each client's cache: only what that client has acknowledged."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.digests import digest_of_hashes
from strategies.soft_labels.cache import NOT_STORED, Indices, LabelCache, LabelsInUse, VersionArray


@dataclass(frozen=True)
class _Holding:
    """Labels of one client, by sample: versions (int32) and hashes (uint64), shape (pool_size,)."""

    versions: VersionArray
    hashes: NDArray[np.uint64]

    def digest(self) -> bytes:
        return digest_of_hashes(self.hashes)

    def with_labels(self, labels: LabelsInUse, cache: LabelCache, stored: VersionArray) -> "_Holding":
        """Return what a client holds that also got these labels and dropped what is not stored."""
        versions, hashes = self.versions.copy(), self.hashes.copy()
        versions[labels.indices] = labels.versions
        hashes[labels.indices] = cache.hashes[labels.indices]
        stale = versions != stored
        versions[stale], hashes[stale] = NOT_STORED, 0
        return _Holding(versions, hashes)


@dataclass(frozen=True)
class Delivery:
    """What one client needs in one exchange."""

    sent: Indices
    """Positions within the labels in use that the client lacks, ascending."""
    base: bytes
    """Digest of what the client is believed to hold now."""
    explicit: bool
    """Whether the client is reset: it forgets its labels and gets all of them with explicit positions."""


class Acknowledgements:
    """For each client, by its lasting name: the labels that it has acknowledged.

    A downlink carries a label only where the acknowledged version differs from the one in use. That
    one rule is the normal update, the catch-up after missed rounds, the late join and the recovery
    after a lost cache. Beliefs change through the client's own replies alone.
    """

    def __init__(self, pool_size: int) -> None:
        self.pool_size = pool_size
        self._held: dict[str, _Holding] = {}
        self._forgotten: set[str] = set()
        self._expected: dict[str, tuple[int, _Holding]] = {}
        """Round of each client's last message, and what the client should hold after it."""

    def deliver(
        self, client: str, round: int, labels: LabelsInUse, cache: LabelCache, stored: VersionArray
    ) -> Delivery:
        """Decide what to send to a client, and remember what it should hold once it has it."""
        held = self._holding(client)
        lacking = held.versions[labels.indices] != labels.versions
        self._expected[client] = (round, held.with_labels(labels, cache, stored))
        return Delivery(np.flatnonzero(lacking), held.digest(), client in self._forgotten)

    def acknowledge(self, client: str, round: int, digest: bytes, lost: bool) -> bool:
        """Record what a client says it holds after an exchange; False if that is not as expected.

        Nor is a client as expected that was ``lost``, whatever it holds: it could not tell what the
        labels were that it was sent.

        Only the client's last message counts. A reply to an earlier one, a second reply, or one to a
        message from before the client was forgotten is ignored.
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
        """Compare what a client kept (newest first) with what is believed; False if nothing fits."""
        if self._holding(client).digest() in digests:
            return True
        self.forget(client)
        return False

    def forget(self, client: str) -> None:
        """Forget what a client acknowledged: the next exchange resends all labels."""
        self._held.pop(client, None)
        self._expected.pop(client, None)
        self._forgotten.add(client)

    def state(self) -> tuple[dict[str, NDArray[np.generic]], dict[str, list[str]]]:
        """Return the beliefs as arrays and names, for a checkpoint."""
        names = sorted(self._held)
        arrays: dict[str, NDArray[np.generic]] = {
            "versions": np.array([self._held[name].versions for name in names], dtype=np.int32),
            "hashes": np.array([self._held[name].hashes for name in names], dtype=np.uint64),
        }
        return arrays, {"held": names, "forgotten": sorted(self._forgotten)}

    def load_state(self, arrays: dict[str, NDArray[np.generic]], names: dict[str, list[str]]) -> None:
        """Take up the beliefs of a checkpoint."""
        rows = zip(names["held"], arrays["versions"], arrays["hashes"], strict=True)
        self._held = {name: _Holding(versions, hashes) for name, versions, hashes in rows}
        self._forgotten = set(names["forgotten"])

    def _holding(self, client: str) -> _Holding:
        if client in self._held:
            return self._held[client]
        size = self.pool_size
        return _Holding(np.zeros(size, dtype=np.int32), np.zeros(size, dtype=np.uint64))
