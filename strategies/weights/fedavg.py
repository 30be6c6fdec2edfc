"""FedAvg (McMahan et al. 2017): weights are averaged, weighted by the samples they were trained on."""

from collections.abc import Mapping, Sequence

from flwr.app import RecordDict
from torch import Tensor, nn

from data import Samples
from models import WeightedMean, corruption, count_parameters, learned_state, load_learned_state
from protocol.errors import MessageError
from protocol.messages import HelloReply, WeightsReply, WeightsRequest
from strategies.method import ClientSide, Incoming, MethodState, Outgoing, Score, ServerSide

_BYTES_PER_WEIGHT = 4


class FedAvgServer:
    """The server half: sends the global model, averages what comes back, one reply at a time."""

    final_exchange = False

    def __init__(self, server: ServerSide, experiment: str) -> None:
        self._server = server
        self._experiment = experiment
        self._model = server.new_model()
        self._mean = WeightedMean(learned_state(self._model))
        self._round = 0

    def begin(self, round: int, clients: Sequence[str], final: bool) -> dict[str, Outgoing]:
        """Send the global model to each client."""
        weights = learned_state(self._model)
        self._round = round
        self._mean = WeightedMean(weights)
        content = WeightsRequest(self._experiment, round, weights).to_record()
        return {client: Outgoing(content, self._paper_bytes()) for client in clients}

    def accept(self, client: str, round: int, content: RecordDict) -> Incoming:
        """Add a client's weights to the running mean."""
        reply = WeightsReply.from_record(content)
        evaluation = reply.evaluation
        if found := corruption(reply.weights):
            raise MessageError(found)
        if round == self._round:
            try:
                self._mean.add(reply.weights, reply.trained_on)
            except ValueError as error:
                raise MessageError(str(error)) from error
        return Incoming(evaluation, self._paper_bytes())

    def finish(self, round: int) -> None:
        """Make the mean the global model; without any reply it stays as it is."""
        if self._mean.total_weight:
            load_learned_state(self._model, self._mean.mean())

    def greet(self, hello: HelloReply) -> str:
        """Nothing to note: every client gets the whole model."""
        return ""

    def candidates(self, clients: Sequence[str]) -> list[str]:
        """Ask anyone."""
        return list(clients)

    def model(self) -> nn.Module:
        """Return the global model."""
        return self._model

    def score(self, test: Samples) -> Score:
        """Score the global model."""
        return Score(self._server.evaluate(self._model, test))

    def state(self) -> MethodState:
        """Return nothing: the model is all there is."""
        return MethodState()

    def load_state(self, state: MethodState, weights: Mapping[str, Tensor]) -> None:
        """Take up the global model."""
        load_learned_state(self._model, weights)

    def _paper_bytes(self) -> int:
        return _BYTES_PER_WEIGHT * count_parameters(self._model)


class FedAvgClient:
    """The client half: scores the received model, trains it, sends it back; it remembers nothing."""

    def __init__(self, client: ClientSide) -> None:
        self._client = client

    def answer(self, content: RecordDict) -> RecordDict:
        """Evaluate the global model on the client's test part, then train it."""
        request = WeightsRequest.from_record(content)
        model = self._client.new_model()
        load_learned_state(model, request.weights)
        before = self._client.evaluate(model)
        self._client.train(model, request.round)
        return WeightsReply(
            **vars(before), trained_on=len(self._client.data.train), weights=learned_state(model)
        ).to_record()

    def state_digests(self) -> list[bytes]:
        """Return nothing: no state outlives a round."""
        return []
