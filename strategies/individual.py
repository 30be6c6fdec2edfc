"""Individual training: every client learns from its own samples only; a lower bound to compare with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flwr.app import RecordDict
from torch import Tensor

from data import Samples
from protocol.messages import EvaluatedReply, HelloReply, RoundRequest
from strategies.method import Exchanges, Incoming, Method, MethodState, Outgoing
from strategies.sides import ClientSide, ServerSide
from strategies.state import ClientState


@dataclass(frozen=True)
class LocalRequest(RoundRequest):
    """A request to train on the client's own data only."""


@dataclass(frozen=True)
class LocalReply(EvaluatedReply):
    """The evaluation of a client that trained alone."""


class IndividualServer:
    """The server half: it asks clients to train and collects their evaluations; it has no model."""

    final_exchange = False

    def __init__(self, server: ServerSide, experiment: str) -> None:
        self._server = server
        self._experiment = experiment

    def begin(self, round: int, clients: Sequence[str], final: bool) -> dict[str, Outgoing]:
        """Ask each client to train."""
        request = LocalRequest(self._experiment, round)
        return {client: Outgoing(request.to_record(), paper_down=0) for client in clients}

    def accept(self, client: str, round: int, content: RecordDict) -> Incoming:
        """Take a client's evaluation."""
        return Incoming(self._server.evaluation_of(LocalReply.from_record(content)), paper_up=0)

    def finish(self, round: int) -> None:
        """Do nothing: there is nothing to aggregate."""

    def greet(self, hello: HelloReply) -> str:
        """Return no remark: every node can join."""
        return ""

    def candidates(self, clients: Sequence[str]) -> list[str]:
        """Return all clients."""
        return list(clients)

    def weights(self) -> Mapping[str, Tensor]:
        """Return nothing: there is no server model."""
        return {}

    def score(self, test: Samples) -> None:
        """Return None: there is no server model."""

    def state(self) -> MethodState:
        """Return nothing: there is no server model."""
        return MethodState()

    def load_state(self, state: MethodState, weights: Mapping[str, Tensor]) -> None:
        """Do nothing: there is no state."""


class IndividualClient:
    """The client half: keeps its own model and trains it in every round."""

    def __init__(self, client: ClientSide) -> None:
        self._client = client

    def answer(self, content: RecordDict) -> RecordDict:
        """Train from the state before the round, evaluate, and save the state."""
        request = LocalRequest.from_record(content)
        client = self._client
        states = client.store.before(request.round)
        learner = client.learner_after(states[0] if states else None)
        learner.train(client.data.train, request.round)
        result = learner.evaluate(client.data.test)
        client.store.save(ClientState(request.round, client.architecture, learner.state()))
        return LocalReply(**vars(result)).to_record()

    def state_digests(self) -> list[bytes]:
        """Return nothing: no state is shared with the server."""
        return []


INDIVIDUAL = Method("individual", Exchanges.NOTHING, IndividualServer, IndividualClient)
