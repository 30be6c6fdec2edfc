"""The client half of SCARLET: distil, train, predict, evaluate, save the state."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from flwr.app import RecordDict

from data import PublicPool
from learning.learner import Learner
from learning.uplink import LABELS
from protocol.encodings import (
    decode_indices,
    decode_labels,
    encode_indices,
    encode_labels,
    encoding_of,
    parse_rows,
)
from strategies.sides import ClientSide
from strategies.soft_labels.cache import CachePolicy, Indices, LabelCache, LabelsInUse, Versions
from strategies.soft_labels.messages import SoftLabelReply, SoftLabelRequest
from strategies.soft_labels.positions import Positions
from strategies.state import ClientState


@dataclass(frozen=True)
class Reading:
    """A message as interpreted by a client: the labels to distil on, and the samples to predict."""

    in_use: LabelsInUse
    requested: Indices | None
    """None if the client cannot derive which samples are requested."""
    lost: bool
    """Whether the labels could not be used, because the client's cache is out of step."""


class SoftLabelClient:
    """Learns from the client's own samples and from soft labels merged from all clients' predictions."""

    def __init__(self, client: ClientSide, policy: CachePolicy) -> None:
        self._client = client
        self._policy = policy
        self._encoding = encoding_of(client.settings)
        self._classes = client.data.num_classes

    def answer(self, content: RecordDict) -> RecordDict:
        """Distil on the labels in use, train, predict what is requested, evaluate."""
        request = SoftLabelRequest.from_record(content)
        states = self._client.store.before(request.round)
        versions = self._catch_up(states, request)
        cache = self._base(states, request)
        reading = self._read(request, versions, cache)

        learner = self._client.learner_after(states[0] if states else None)
        missing = self._distil(learner, cache, reading.in_use, request.round)
        labels = None
        if not request.final:
            learner.train(self._client.data.train, request.round)
            labels = self._predict(learner, reading.requested, request.round)
        result = learner.evaluate(self._client.data.test)

        cache.keep_only(versions.stored)
        self._client.store.save(self._remember(request.round, learner, cache, versions))
        named = None if request.requested is None or labels is None else reading.requested
        return SoftLabelReply(
            **vars(result),
            cache=cache.digest(),
            labels=labels,
            indices=None if named is None else encode_indices(named, self._policy.pool_size),
            missing=missing or None,
            lost=reading.lost or None,
        ).to_record()

    def state_digests(self) -> list[bytes]:
        """Return the digest of the cache in each kept state, newest first."""
        everything = 2**31
        return [self._cache(state).digest() for state in self._client.store.before(everything)]

    def _catch_up(self, states: list[ClientState], request: SoftLabelRequest) -> Versions:
        """Derive the versions before the request's round.

        A client that is reset derives them from the first round on, as a resumed server may have repeated
        rounds with another outcome than the client saved.
        """
        versions = Versions(self._policy)
        if states and not request.reset:
            stored = states[0].extra["versions.stored"].numpy().copy()
            versions = Versions(self._policy, int(states[0].facts["versions.round"]), stored)
        silent = decode_indices(request.silent_rounds or b"d", request.round)
        versions.catch_up(request.round - 1, silent)
        return versions

    def _base(self, states: list[ClientState], request: SoftLabelRequest) -> LabelCache:
        """Choose the cache that the server's message is based on.

        That is usually the newest. If a reply was lost it is the one before, as the server does not know that
        the labels of that message arrived. Before the first acknowledgement, or if no saved cache has the
        right digest, it is empty: saved labels may come from rounds that a server resumed from a checkpoint
        has repeated since.
        """
        kept = [] if request.reset else [self._cache(state) for state in states]
        return next((cache for cache in kept if cache.digest() == request.base), self._cache(None))

    def _read(self, request: SoftLabelRequest, versions: Versions, cache: LabelCache) -> Reading:
        """Put the received labels into the cache; return what to distil on and what to predict."""
        explicit = Positions.from_request(request, self._policy.pool_size)
        if explicit is not None:
            self._put(cache, explicit.in_use, explicit.sent, request.labels)
            return Reading(explicit.in_use, explicit.requested, lost=False)
        plan = versions.plan().without_request() if request.final else versions.plan()
        if versions.digest(plan) != request.versions:
            return Reading(LabelsInUse.none(), None, lost=True)
        if cache.digest() != request.base:
            return Reading(versions.in_use, plan.requested, lost=True)
        lacking = np.flatnonzero(~cache.holds(versions.in_use))
        self._put(cache, versions.in_use, lacking, request.labels)
        return Reading(versions.in_use, plan.requested, lost=False)

    def _put(self, cache: LabelCache, in_use: LabelsInUse, sent: Indices, labels: bytes) -> None:
        rows = parse_rows(labels, len(sent), self._classes, self._encoding)
        cache.put(in_use.indices[sent], in_use.versions[sent], rows)

    def _distil(self, learner: Learner, cache: LabelCache, in_use: LabelsInUse, round: int) -> int:
        """Distil on those labels in use that the cache has; return the number of missing ones."""
        held = cache.holds(in_use)
        indices = in_use.indices[held]
        labels = decode_labels(cache.rows[indices], self._classes, self._encoding)
        learner.distil(self._pool.inputs.take(torch.tensor(indices)), labels, round)
        return int((~held).sum())

    def _predict(self, learner: Learner, requested: Indices | None, round: int) -> bytes | None:
        if requested is None:
            return None
        if len(requested) == 0:
            return b""
        predictions = learner.predict(self._pool.inputs.take(torch.tensor(requested)))
        sent = self._client.to_send({LABELS: predictions}, round)[LABELS]
        return encode_labels(sent, self._encoding).tobytes()

    @cached_property
    def _pool(self) -> PublicPool:
        """The pool on the client's device; loaded on first use, as a hello does not need it."""
        return self._client.pool.to(self._client.device)

    def _cache(self, state: ClientState | None) -> LabelCache:
        cache = LabelCache(self._policy.pool_size, self._encoding.row_bytes(self._classes))
        if state is not None:
            held = (state.extra[f"cache.{part}"].numpy() for part in ("indices", "versions", "rows"))
            cache.put(*held)
        return cache

    def _remember(self, round: int, learner: Learner, cache: LabelCache, versions: Versions) -> ClientState:
        held = cache.held()
        extra = {
            "cache.indices": held,
            "cache.versions": cache.versions[held],
            "cache.rows": cache.rows[held],
            "versions.stored": versions.stored,
        }
        tensors = {name: torch.from_numpy(array) for name, array in extra.items()}
        facts = {"versions.round": str(versions.round)}
        return ClientState(round, self._client.architecture, learner.state(), tensors, facts)
