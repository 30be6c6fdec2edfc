"""The synchronised cache of soft labels, as server and clients both keep it.

A label stored in round r has age t − r in round t and is *fresh* while its age is at most D. In
round t predictions are requested only for the samples of the subset P^t whose label is not fresh. Which
samples these are, and which version of each label is in use, is determined by the seed and the rounds in
which no prediction arrived. Every machine therefore derives the same (:class:`Versions`), and only the
labels themselves are sent (:class:`LabelCache`).
"""

from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from protocol.digests import digest_of_arrays, digest_of_hashes, label_hashes
from protocol.encodings import Rows
from protocol.randomness import draw_subset

Indices = NDArray[np.int64]
VersionArray = NDArray[np.int32]

NOT_STORED = 0
"""Version of a sample without a label; rounds count from 1."""


@dataclass(frozen=True)
class CachePolicy:
    """What server and clients must agree on to derive the same versions."""

    seed: int
    pool_size: int
    subset_size: int
    duration: int
    """D, in rounds; with 0 no label is ever fresh, so nothing is reused."""
    expiry: Literal["refresh", "evict"]


@dataclass(frozen=True)
class Plan:
    """The samples of one round: the subset P^t, and the part of it that clients predict."""

    round: int
    subset: Indices
    requested: Indices

    def without_request(self) -> Self:
        """Return the plan of the final exchange, which asks for no predictions."""
        return replace(self, requested=self.requested[:0])


@dataclass(frozen=True)
class LabelsInUse:
    """The samples with a label to distil on, ascending, and the version of each label."""

    indices: Indices
    versions: VersionArray

    @classmethod
    def none(cls) -> Self:
        """Return no labels, as before the first round."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int32))


class Versions:
    """The round in which each sample's cached label was stored, without the labels.

    Parameters
    ----------
    policy
        The settings of the cache.
    round
        The last round that is included.
    stored
        The version of each label after that round, int32 of shape (pool_size,); None: no label is stored.
    """

    def __init__(self, policy: CachePolicy, round: int = 0, stored: VersionArray | None = None) -> None:
        self.policy = policy
        self.round = round
        self.stored = np.zeros(policy.pool_size, dtype=np.int32) if stored is None else stored
        self.in_use = LabelsInUse.none()

    def plan(self) -> Plan:
        """Plan the next round; only here is it decided whether a label is fresh."""
        round = self.round + 1
        policy = self.policy
        subset = draw_subset(policy.seed, round, policy.pool_size, policy.subset_size)
        stored = self.stored[subset]
        fresh = (stored != NOT_STORED) & (round - stored <= policy.duration)
        return Plan(round, subset, subset[~fresh])

    def advance(self, plan: Plan, answered: bool) -> None:
        """Update the versions after a planned round.

        ``answered`` tells whether any prediction arrived. If none did, the requested samples have no label in
        this round; their stored versions do not change and are too old to be used.
        """
        versions = self.stored[plan.subset]
        requested = np.isin(plan.subset, plan.requested, assume_unique=True)
        if answered:
            versions[requested] = plan.round
            self._store(plan)
            self.in_use = LabelsInUse(plan.subset, versions)
        else:
            self.in_use = LabelsInUse(plan.subset[~requested], versions[~requested])
        self.round = plan.round

    def _store(self, plan: Plan) -> None:
        if self.policy.expiry == "refresh":
            self.stored[plan.requested] = plan.round
        else:
            expired = self.stored[plan.requested] != NOT_STORED
            self.stored[plan.requested] = np.where(expired, NOT_STORED, plan.round)

    def catch_up(self, round: int, silent_rounds: Indices) -> None:
        """Replay the rounds up to and including ``round``; no predictions arrived in ``silent_rounds``."""
        silent = set(silent_rounds.tolist())
        while self.round < round:
            plan = self.plan()
            self.advance(plan, plan.round not in silent)

    def digest(self, plan: Plan) -> bytes:
        """Return a digest (8 bytes) of all that implied positions are derived from."""
        return digest_of_arrays(self.stored, self.in_use.indices, self.in_use.versions, plan.requested)


class LabelCache:
    """Encoded soft labels by sample, at most one version of each.

    It has ``versions`` (int32, shape (pool_size,)), ``rows`` (bytes, shape (pool_size, width)) and ``hashes``
    (uint64, shape (pool_size,)); a sample without a label has version 0 and hash 0.
    """

    def __init__(self, pool_size: int, width: int) -> None:
        self.versions = np.zeros(pool_size, dtype=np.int32)
        self.rows = np.zeros((pool_size, width), dtype=np.uint8)
        self.hashes = np.zeros(pool_size, dtype=np.uint64)

    def put(self, indices: Indices, versions: VersionArray, rows: Rows) -> None:
        """Store labels, replacing older ones of the same samples.

        Parameters
        ----------
        indices
            The samples, shape (n,).
        versions
            The labels' versions, shape (n,).
        rows
            The encoded labels, shape (n, width).
        """
        self.versions[indices] = versions
        self.rows[indices] = rows
        self.hashes[indices] = label_hashes(indices, versions, rows)

    def holds(self, labels: LabelsInUse) -> NDArray[np.bool_]:
        """Tell which labels are held in exactly this version, shape (n,)."""
        return np.asarray(self.versions[labels.indices] == labels.versions)

    def keep_only(self, stored: VersionArray) -> None:
        """Drop every label that is not of the stored version, as it will not be used again."""
        stale = self.versions != stored
        self.versions[stale] = NOT_STORED
        self.hashes[stale] = 0

    def held(self) -> Indices:
        """Return the samples that are held, ascending."""
        return np.flatnonzero(self.versions)

    def digest(self) -> bytes:
        """Return the digest of the held labels (8 bytes)."""
        return digest_of_hashes(self.hashes)
