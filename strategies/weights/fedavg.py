"""FedAvg (McMahan et al. 2017): weights are averaged, weighted by the samples they were trained on."""

from collections.abc import Mapping, Sequence

from flwr.app import RecordDict
from torch import Tensor, nn

from data import Samples
from learning.local import LossOfBatch
from models import corruption, count_parameters, learned_state, load_learned_state
from models.aggregation import Everywhere, WeightAggregator
from protocol.errors import MessageError
from protocol.messages import HelloReply
from strategies.aggregation import WholeMean, weight_aggregator
from strategies.method import Exchanges, Incoming, Method, MethodState, Outgoing, Score
from strategies.sides import ClientSide, ServerSide
from strategies.weights.messages import WeightsReply, WeightsRequest

_BYTES_PER_WEIGHT = 4


class FedAvgServer:
    """The server half: sends the global model and averages the clients' weights, one reply at a time."""

    final_exchange = False

    def __init__(self, server: ServerSide, experiment: str) -> None:
        self._server = server
        self._experiment = experiment
        self._model = server.new_model()
        self._round = 0
        self._merging = self._new_merging(0)

    def begin(self, round: int, clients: Sequence[str], final: bool) -> dict[str, Outgoing]:
        """Send the global model to each client."""
        self._round = round
        self._merging = self._new_merging(round)
        content = WeightsRequest(self._experiment, round, learned_state(self._model)).to_record()
        return {client: Outgoing(content, self._paper_bytes()) for client in clients}

    def accept(self, client: str, round: int, content: RecordDict) -> Incoming:
        """Add a client's weights to the running mean."""
        reply = WeightsReply.from_record(content)
        evaluation = self._server.evaluation_of(reply)
        if found := corruption(reply.weights):
            raise MessageError(found)
        if round == self._round:
            try:
                self._merging.add(reply.weights, Everywhere(reply.weights), reply.trained_on, client)
            except ValueError as error:
                raise MessageError(str(error)) from error
        return Incoming(evaluation, self._paper_bytes())

    def finish(self, round: int) -> None:
        """Make the mean the global model; without replies it stays unchanged."""
        load_learned_state(self._model, self._merging.merged())

    def greet(self, hello: HelloReply) -> str:
        """Return no remark: every client gets the whole model."""
        return ""

    def candidates(self, clients: Sequence[str]) -> list[str]:
        """Return all clients."""
        return list(clients)

    def weights(self) -> Mapping[str, Tensor]:
        """Return the global model's weights."""
        return learned_state(self._model)

    def score(self, test: Samples) -> Score:
        """Score the global model."""
        return Score(self._server.evaluate(self._model, test))

    def state(self) -> MethodState:
        """Return nothing: the weights are the only state."""
        return MethodState()

    def load_state(self, state: MethodState, weights: Mapping[str, Tensor]) -> None:
        """Restore the global model."""
        load_learned_state(self._model, weights)

    def _new_merging(self, round: int) -> WeightAggregator:
        weights = {name: tensor.cpu() for name, tensor in learned_state(self._model).items()}
        return weight_aggregator(WholeMean, weights, self._server.settings, round)

    def _paper_bytes(self) -> int:
        return _BYTES_PER_WEIGHT * count_parameters(self._model)


class FedAvgClient:
    """The client half: scores the received model, trains it and sends it back; it keeps no state.

    A method that only differs from FedAvg in the clients' loss overrides `loss`.
    """

    def __init__(self, client: ClientSide) -> None:
        self.client = client

    def answer(self, content: RecordDict) -> RecordDict:
        """Evaluate the global model on the client's test part, then train it."""
        request = WeightsRequest.from_record(content)
        client, model = self.client, self.client.new_model()
        load_learned_state(model, request.weights)
        before = client.evaluate(model)
        client.train(model, request.round, self.loss(model))
        weights = client.to_send(learned_state(model), request.round, request.weights)
        return WeightsReply(**vars(before), trained_on=len(client.data.train), weights=weights).to_record()

    def loss(self, received: nn.Module) -> LossOfBatch | None:
        """Return the loss of a batch, given the global model before it is trained; None: the run's own."""
        return None

    def state_digests(self) -> list[bytes]:
        """Return nothing: no state outlives a round."""
        return []


FEDAVG = Method("fedavg", Exchanges.WEIGHTS, FedAvgServer, FedAvgClient)
