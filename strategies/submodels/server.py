"""The server half of ScaleFL and its relatives: send each level its submodel, merge the trained submodels."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import RecordDict
from torch import Tensor

from data import Samples
from learning.memory import leave_device
from learning.metrics import figures
from models import corruption, learned_state, load_learned_state
from models.aggregation import WeightAggregator
from models.elastic import SliceMap, has_norms
from protocol.errors import MessageError
from protocol.messages import Evaluation, HelloReply
from strategies.aggregation import weight_aggregator
from strategies.method import Incoming, MethodState, Outgoing, Score
from strategies.sides import ServerSide
from strategies.submodels.evaluation import mean_evaluation, score_exits
from strategies.submodels.lora_merging import merging_of
from strategies.submodels.messages import SliceReply, SliceRequest
from strategies.submodels.submodels import Submodels
from strategies.submodels.variants import Variant

log = logging.getLogger("flwr")

_BYTES_PER_WEIGHT = 4


class SubmodelServer:
    """Keeps the whole network, the clients' levels, and the running mean of the round's submodels.

    Parameters
    ----------
    variant
        How submodels are cut, trained and assigned.
    server
        The server's settings and data.
    experiment
        The experiment's id.
    """

    final_exchange = False

    def __init__(self, variant: Variant, server: ServerSide, experiment: str) -> None:
        self._server = server
        self._experiment = experiment
        self._submodels = Submodels(
            variant, server.settings, server.input_shape, server.num_classes, server.pool.inputs.kind
        )
        self._model = self._submodels.build(self._submodels.plan.whole)
        self._levels: dict[str, int] = {}
        self._round = 0
        self._merging = self._new_merging(self.weights(), 0)
        self._asked: dict[str, tuple[int, SliceMap]] = {}
        self._log_levels()

    # --- a round -------------------------------------------------------------------------------

    def begin(self, round: int, clients: Sequence[str], final: bool) -> dict[str, Outgoing]:
        """Send each client the submodel of its level."""
        self._round = round
        weights = self.weights()
        self._merging = self._new_merging(weights, round)
        self._asked = {}
        written: dict[int, Outgoing] = {}
        for client in clients:
            level = self._levels[client]
            where = self._submodels.map(level, round, client)
            self._asked[client] = (level, where)
            if id(where) not in written:  # one record for all clients with the same submodel
                part = where.extract(weights)
                request = SliceRequest(self._experiment, round, level, part)
                written[id(where)] = Outgoing(request.to_record(), _bytes(part))
        return {client: written[id(where)] for client, (_, where) in self._asked.items()}

    def accept(self, client: str, round: int, content: RecordDict) -> Incoming:
        """Add a client's submodel to the running mean."""
        reply = SliceReply.from_record(content)
        evaluation = self._server.evaluation_of(reply)
        if found := corruption(reply.weights):
            raise MessageError(found)
        if round == self._round:
            self._add(client, reply)
        return Incoming(evaluation, _bytes(reply.weights))

    def finish(self, round: int) -> None:
        """Make the mean the network; parameters that no client sent keep their values."""
        load_learned_state(self._model, self._merging.merged())

    def greet(self, hello: HelloReply) -> str:
        """Record a node's level; it is kept for the client's name until the node reports another one."""
        level, count = hello.level, len(self._submodels.plan.shapes)
        if level is None or not 1 <= level <= count:
            raise MessageError(f"level = {level}: there are levels 1 to {count}")
        before = self._levels.get(hello.client, level)
        self._levels[hello.client] = level
        replanned = f" in place of {before}" if before != level else ""
        return f"level {level}{replanned}, {hello.level_reason or 'no reason given'}"

    def candidates(self, clients: Sequence[str]) -> list[str]:
        """Return the clients whose level is trained."""
        return [client for client in clients if self._submodels.plan.trains(self._levels.get(client, 0))]

    # --- the network ---------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """Return the whole network's weights on the CPU, without norms' statistics."""
        return {name: tensor.cpu() for name, tensor in learned_state(self._model).items()}

    def score(self, test: Samples) -> Score | None:
        """Score each level's submodel (last exit and ensemble), and all exits of the whole network.

        The evaluation is the unweighted mean over the levels' last exits.
        """
        calibration, plan, metric = self._server.calibration, self._submodels.plan, self._server.metric
        if calibration is None and has_norms(self._model):
            return None
        results: list[Evaluation] = []
        levels: list[dict[str, Any]] = []
        details: dict[str, Any] = {"levels": levels}
        weights = self.weights()
        for level, shape in plan.distinct():
            submodel = self._submodels.calibrated(level, self._round, weights, calibration).to(
                self._server.device
            )
            macs = self._submodels.cost(level).macs
            scores = score_exits(submodel, test, macs, metric, self._server.arithmetic)
            results.append(scores.last)
            numbers = {"examples": scores.last.examples, "ensemble": scores.ensemble}
            levels.append(
                {"level": level, **figures(scores.last, metric), **numbers, **scores.grades_of_last()}
            )
            if shape == plan.whole and len(shape.exits) > 1:
                details |= scores.as_details()
            leave_device(submodel)
        return Score(mean_evaluation(results), details)

    # --- checkpoints ---------------------------------------------------------------------------

    def state(self) -> MethodState:
        """Return the clients' levels."""
        return MethodState(facts={"levels": self._levels})

    def load_state(self, state: MethodState, weights: Mapping[str, Tensor]) -> None:
        """Restore the network and the levels."""
        load_learned_state(self._model, weights)
        self._levels = dict(state.facts["levels"])

    # --- parts ---------------------------------------------------------------------------------

    def _add(self, client: str, reply: SliceReply) -> None:
        level, where = self._asked[client]
        if reply.level != level:
            raise MessageError(f"level = {reply.level}: it was sent level {level}")
        by_examples = self._server.settings.scalefl.weighting == "examples"
        try:
            self._merging.add(reply.weights, where, reply.trained_on if by_examples else 1, client)
        except ValueError as error:
            raise MessageError(f"level {level}: {error}") from error

    def _new_merging(self, weights: Mapping[str, Tensor], round: int) -> WeightAggregator:
        return weight_aggregator(merging_of, weights, self._server.settings, round)

    def _log_levels(self) -> None:
        for level, shape in self._submodels.plan.distinct():
            exits = " ".join(map(str, shape.exits))
            parameters = self._submodels.cost(level).parameters
            log.info(
                "Level %d: width %g, exits after blocks %s, %s parameters, %.2f MB each way",
                level,
                shape.width,
                exits,
                f"{parameters:,}",
                _BYTES_PER_WEIGHT * parameters / 1e6,
            )
        if self._server.calibration is None and has_norms(self._model):
            log.warning(
                'The server evaluates nothing: with scalefl.calibration = "none" norms have no statistics'
            )


def _bytes(weights: Mapping[str, Tensor]) -> int:
    return _BYTES_PER_WEIGHT * sum(tensor.numel() for tensor in weights.values())
