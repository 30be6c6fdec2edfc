"""The server half of SCARLET: request predictions, send labels, merge predictions into labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import RecordDict
from numpy.typing import NDArray
from torch import Tensor

from data import Samples
from learning.learner import Learner
from protocol.digests import DIGEST_BYTES
from protocol.encodings import (
    Rows,
    decode_indices,
    decode_labels,
    encode_indices,
    encode_labels,
    encoding_of,
    parse_rows,
)
from protocol.errors import MessageError
from protocol.ledger import soft_label_paper_up
from protocol.messages import HelloReply
from strategies.method import Incoming, MethodState, Outgoing, Score
from strategies.sides import ServerSide
from strategies.soft_labels.acknowledgements import Acknowledgements
from strategies.soft_labels.aggregation import Predictions, merge
from strategies.soft_labels.cache import CachePolicy, Indices, LabelCache, LabelsInUse, Plan, Versions
from strategies.soft_labels.messages import SoftLabelReply, SoftLabelRequest
from strategies.soft_labels.positions import Positions

_OUT_OF_STEP = "its cache is out of step: all labels are resent"

Sharpening = Callable[[Tensor], Tensor]
"""Maps the merged predictions z̄ to the labels ẑ that everyone distils on, both of shape (n, classes)."""


@dataclass(frozen=True)
class SentLabels:
    """Numbers of labels sent to and requested from one client, for the paper's formula."""

    requested: int
    sent: int
    caught_up: int
    """Labels sent that are older than the round before."""
    subset: int


class SoftLabelServer:
    """Shares soft labels through the synchronised cache; DS-FL is the same without a cache.

    Its state is the labels and their versions, what each client has acknowledged, the predictions of the
    current round, and the server's own model.

    Parameters
    ----------
    server
        The server's settings and data.
    experiment
        The experiment's id.
    policy
        The settings of the cache.
    sharpening
        Applied to the merged predictions.
    paper_down
        The paper's formula for the bytes of one client's message.
    """

    def __init__(
        self,
        server: ServerSide,
        experiment: str,
        policy: CachePolicy,
        sharpening: Sharpening,
        paper_down: Callable[[SentLabels], int],
    ) -> None:
        settings = server.settings.distillation
        self.final_exchange = settings.final_exchange
        self._server = server
        self._experiment = experiment
        self._sharpening = sharpening
        self._paper_down = paper_down
        self._encoding = encoding_of(server.settings)
        self._explicit = settings.indices == "explicit"
        self._learner = server.new_learner()
        self._versions = Versions(policy)
        self._cache = LabelCache(policy.pool_size, self._encoding.row_bytes(server.num_classes))
        self._acknowledged = Acknowledgements(policy.pool_size)
        self._silent_rounds: list[int] = []
        self._plan: Plan | None = None
        self._final = False
        self._asked_explicitly: set[str] = set()
        self._predictions: dict[str, Predictions] = {}

    # --- a round -------------------------------------------------------------------------------

    def begin(self, round: int, clients: Sequence[str], final: bool) -> dict[str, Outgoing]:
        """Plan the round and write each client's message: the labels that it lacks, and the request."""
        plan = self._versions.plan()
        if plan.round != round:
            raise ValueError(f"round {round} cannot follow round {self._versions.round}")
        self._plan = plan.without_request() if final else plan
        self._final = final
        self._predictions = {}
        self._asked_explicitly = set()
        digest = self._versions.digest(self._plan)
        silent = self._silent_field(round)
        return {client: self._message(client, self._plan, digest, silent, final) for client in clients}

    def accept(self, client: str, round: int, content: RecordDict) -> Incoming:
        """Check a reply as a whole, then keep its predictions and its acknowledgement."""
        reply = SoftLabelReply.from_record(content)
        evaluation = self._server.evaluation_of(reply)
        predictions = self._check(client, reply) if self._plan and round == self._plan.round else None
        if predictions is not None:
            self._predictions[client] = predictions
        in_step = self._acknowledged.acknowledge(client, round, reply.cache, bool(reply.lost))
        count = 0 if predictions is None else len(predictions.indices)
        notes = [] if in_step else [_OUT_OF_STEP]
        if reply.missing:
            notes.append(f"it lacked {reply.missing} labels")
        return Incoming(evaluation, soft_label_paper_up(count, self._server.num_classes), ", ".join(notes))

    def finish(self, round: int) -> None:
        """Merge the predictions into labels, update the cache and train the server's model.

        The final exchange changes nothing, so that a run that is resumed can repeat its round as an ordinary
        one.
        """
        plan = self._plan
        if plan is None or plan.round != round:
            raise ValueError(f"round {round} was not begun")
        self._plan = None
        if self._final:
            return
        answered = len(plan.requested) == 0 or bool(self._predictions)
        if self._predictions and len(plan.requested):
            labels = self._sharpening(merge(self._predictions, self._server.settings))
            versions = np.full(len(plan.requested), round, dtype=np.int32)
            self._cache.put(plan.requested, versions, encode_labels(labels, self._encoding))
        if not answered:
            self._silent_rounds.append(round)
        self._versions.advance(plan, answered)
        self._learn(round)

    def greet(self, hello: HelloReply) -> str:
        """Compare the node's saved labels with those that it has acknowledged."""
        kept = hello.state_digests
        starts = range(0, len(kept), DIGEST_BYTES)
        digests = [kept[start : start + DIGEST_BYTES] for start in starts] or [bytes(DIGEST_BYTES)]
        return "" if self._acknowledged.greet(hello.client, digests) else _OUT_OF_STEP

    def candidates(self, clients: Sequence[str]) -> list[str]:
        """Return all clients."""
        return list(clients)

    @property
    def learner(self) -> Learner:
        """The server's model, which learns from the soft labels alone."""
        return self._learner

    def weights(self) -> Mapping[str, Tensor]:
        """Return the weights or the state of the server's model."""
        return self._learner.state()

    def score(self, test: Samples) -> Score:
        """Score the server's model."""
        return Score(self._learner.evaluate(test))

    # --- checkpoints ---------------------------------------------------------------------------

    def state(self) -> MethodState:
        """Return the versions, the labels and the acknowledgements."""
        acknowledged, names = self._acknowledged.state()
        in_use = self._versions.in_use
        arrays: dict[str, NDArray[np.generic]] = {
            "stored": self._versions.stored,
            "in-use.indices": in_use.indices,
            "in-use.versions": in_use.versions,
            "cache.versions": self._cache.versions,
            "cache.rows": self._cache.rows,
            **{f"acknowledged.{name}": array for name, array in acknowledged.items()},
        }
        facts = {"round": self._versions.round, "silent-rounds": self._silent_rounds, "acknowledged": names}
        return MethodState(arrays, facts)

    def load_state(self, state: MethodState, weights: Mapping[str, Tensor]) -> None:
        """Restore the state of a checkpoint."""
        arrays, facts = dict(state.arrays), state.facts
        self._learner.load(weights)
        self._versions.round = facts["round"]
        self._versions.stored = np.asarray(arrays["stored"], dtype=np.int32)
        self._versions.in_use = LabelsInUse(
            np.asarray(arrays["in-use.indices"], dtype=np.int64),
            np.asarray(arrays["in-use.versions"], dtype=np.int32),
        )
        versions = np.asarray(arrays["cache.versions"], dtype=np.int32)
        held = np.flatnonzero(versions)
        self._cache.put(held, versions[held], np.asarray(arrays["cache.rows"], dtype=np.uint8)[held])
        self._silent_rounds = list(facts["silent-rounds"])
        prefix = "acknowledged."
        beliefs = {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
        self._acknowledged.load_state(beliefs, facts["acknowledged"])

    # --- parts ---------------------------------------------------------------------------------

    def _message(
        self, client: str, plan: Plan, digest: bytes, silent_rounds: bytes | None, final: bool
    ) -> Outgoing:
        in_use = self._versions.in_use
        delivery = self._acknowledged.deliver(client, plan.round, in_use, self._cache, self._versions.stored)
        sent = in_use.indices[delivery.sent]
        explicit: dict[str, bytes | None] = {}
        if delivery.explicit or self._explicit:
            positions = Positions(in_use, delivery.sent, plan.requested)
            explicit = positions.as_fields(self._versions.policy.pool_size)
            self._asked_explicitly.add(client)
        request = SoftLabelRequest(
            self._experiment,
            plan.round,
            self._cache.rows[sent].tobytes(),
            delivery.base,
            digest,
            final=final or None,
            silent_rounds=silent_rounds,
            reset=delivery.explicit or None,
            **explicit,
        )
        return Outgoing(request.to_record(), self._paper_down(self._count(plan, delivery.sent)))

    def _count(self, plan: Plan, sent: Indices) -> SentLabels:
        in_use = self._versions.in_use
        older = int((in_use.versions[sent] < plan.round - 1).sum())
        subset = self._versions.policy.subset_size if plan.round > 1 else 0
        return SentLabels(len(plan.requested), len(sent) - older, older, subset)

    def _check(self, client: str, reply: SoftLabelReply) -> Predictions | None:
        """Decode the predictions of a reply, or None if it has none."""
        assert self._plan is not None
        if reply.labels is None:
            return None
        requested = self._plan.requested
        if client in self._asked_explicitly:
            named = decode_indices(reply.indices or b"", self._versions.policy.pool_size)
            if not np.array_equal(named, requested):
                raise MessageError("indices: not the samples that were requested")
        rows: Rows = parse_rows(reply.labels, len(requested), self._server.num_classes, self._encoding)
        return Predictions(requested, decode_labels(rows, self._server.num_classes, self._encoding))

    def _learn(self, round: int) -> None:
        """Let the server's model learn from the labels in use, or from all if it would forget the others."""
        indices = self._cache.held() if self._learner.learns_anew else self._versions.in_use.indices
        labels = decode_labels(self._cache.rows[indices], self._server.num_classes, self._encoding)
        self._learner.distil(self._server.pool.inputs.take(torch.tensor(indices)), labels, round)

    def _silent_field(self, round: int) -> bytes | None:
        if not self._silent_rounds:
            return None
        return encode_indices(np.array(self._silent_rounds, dtype=np.int64), round)
