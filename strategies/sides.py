"""What the two halves of a method get: settings, data, a model, and functions to train and score it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data import ClientData, Inputs, PublicPool, Samples
from learning.estimator_learner import EstimatorLearner
from learning.learner import Learner, TorchLearner
from learning.local import LossOfBatch, train_locally
from learning.metrics import Metric, metric_of
from learning.precision import Arithmetic
from learning.training import evaluate
from learning.uplink import transformed
from models import build_elastic, build_model, elastic_design
from models.network import Estimator
from models.registry import model_of, require_inputs
from protocol.errors import MessageError, SettingsError
from protocol.messages import EvaluatedReply, Evaluation
from protocol.randomness import derive_seed
from protocol.settings import RunSettings
from strategies.levels import architecture_of, level_shape, plan_levels
from strategies.state import ClientState, StateStore

SERVER = "server"
"""The server's name among the parties; its random draws are derived from it."""


@dataclass(frozen=True)
class ServerSide:
    """What the server half of a method gets."""

    settings: RunSettings
    pool: PublicPool
    input_shape: tuple[int, ...]
    num_classes: int
    device: torch.device
    calibration: Inputs | None = None
    """Inputs for calibrating batch norms before a submodel is scored; None if there are none."""

    def __post_init__(self) -> None:
        """Refuse settings that no round could use."""
        _ = self.arithmetic
        augmentation = self.settings.train.augmentation
        if augmentation != "none" and self.pool.inputs.kind != "images":
            raise SettingsError(
                f'train.augmentation = "{augmentation}": needs images, but the data are not images; '
                'allowed is "none"'
            )

    @property
    def arithmetic(self) -> Arithmetic:
        """The precision and device of networks."""
        return Arithmetic(self.settings.precision, self.device)

    @property
    def metric(self) -> Metric | None:
        """The metric beside accuracy and loss; None if the run has none."""
        return metric_of(self.settings.data.metric)

    def new_model(self) -> nn.Module:
        """Build the server's network; its initial weights are derived from the run's seed."""
        require_inputs(self.settings.model, self.input_shape, self.settings, self.pool.inputs.kind)
        seed = derive_seed(self.settings.seed, "model", client=SERVER)
        model = build_model(self.settings.model, self.input_shape, self.num_classes, seed, self.settings)
        return model.to(self.device)

    def new_learner(self) -> Learner:
        """Return the server's network, or an estimator, ready to learn from soft labels."""
        found = model_of(self.settings.model)
        if isinstance(found, Estimator):
            require_inputs(self.settings.model, self.input_shape, self.settings, self.pool.inputs.kind)
            return EstimatorLearner(found, self.settings, SERVER, self.num_classes)
        return TorchLearner(self.new_model(), self.settings, SERVER, self.arithmetic)

    def evaluate(self, model: nn.Module, test: Samples) -> Evaluation:
        """Score a network on held-out samples."""
        return evaluate(model, test, self.metric, self.arithmetic)

    def evaluation_of(self, reply: EvaluatedReply) -> Evaluation:
        """Return a client's evaluation; raise ``MessageError`` if a value is impossible."""
        evaluation, metric = reply.evaluation, self.metric
        if metric is not None and evaluation.metric is not None and not metric.allows(evaluation.metric):
            low, high = metric.bounds
            raise MessageError(
                f"metric = {evaluation.metric}: {metric.title} must be from {low:g} to {high:g}"
            )
        return evaluation


@dataclass(frozen=True)
class ClientSide:
    """What the client half of a method gets."""

    settings: RunSettings
    name: str
    model_name: str
    data: ClientData
    pool: PublicPool
    store: StateStore
    device: torch.device
    level: int | None = None
    """The level of the client's elastic network; None for other networks."""

    def __post_init__(self) -> None:
        """Refuse a precision that the device does not support, before anything is trained."""
        _ = self.arithmetic

    @property
    def arithmetic(self) -> Arithmetic:
        """The precision and device of networks."""
        return Arithmetic(self.settings.precision, self.device)

    @property
    def architecture(self) -> str:
        """The network's name, with its level if it has one; a saved state must belong to the same."""
        return architecture_of(self.model_name, self.level)

    def new_model(self) -> nn.Module:
        """Build this client's network; its initial weights are derived from the client's name.

        For an elastic network that is the submodel of the client's level, with its exits.
        """
        seed = derive_seed(self.settings.seed, "model", client=self.name)
        input_shape, classes = self.data.train.input_shape, self.data.num_classes
        require_inputs(self.model_name, input_shape, self.settings, self.data.train.inputs.kind)
        if self.level is None:
            return build_model(self.model_name, input_shape, classes, seed, self.settings).to(self.device)
        design = elastic_design(self.model_name, self.settings)
        levels = plan_levels(self.settings.levels, design, input_shape, classes)
        model = build_elastic(design, input_shape, classes, seed, level_shape(levels, self.level))
        return model.to(self.device)

    def new_learner(self) -> Learner:
        """Return this client's network or estimator, ready to learn."""
        found = model_of(self.model_name)
        if isinstance(found, Estimator):
            train = self.data.train
            require_inputs(self.model_name, train.input_shape, self.settings, train.inputs.kind)
            return EstimatorLearner(found, self.settings, self.name, self.data.num_classes, train)
        return TorchLearner(self.new_model(), self.settings, self.name, self.arithmetic)

    def learner_after(self, state: ClientState | None) -> Learner:
        """Return this client's learner with a saved state, or a new one if there is none.

        Raises
        ------
        SettingsError
            If the state is of another network or estimator than the node trains now.
        """
        learner = self.new_learner()
        if state is None:
            return learner
        if state.model != self.architecture:
            raise SettingsError(
                f"model = {self.architecture!r}: client {self.name!r} trained {state.model!r} before in this "
                "experiment; use that model again, or give the node another client-name"
            )
        learner.load(state.weights)
        return learner

    def train(self, model: nn.Module, round: int, loss: LossOfBatch | None = None) -> None:
        """Train a network in place on this client's training samples.

        Parameters
        ----------
        model
            The network, on the client's device.
        round
            From 1.
        loss
            Loss of a batch; by default the run's.
        """
        train_locally(model, self.data.train, self.settings, self.name, round, self.arithmetic, loss)

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Score a network on this client's test samples."""
        return evaluate(model, self.data.test, metric_of(self.settings.data.metric), self.arithmetic)

    def to_send(
        self, tensors: Mapping[str, Tensor], round: int, received: Mapping[str, Tensor] | None = None
    ) -> Mapping[str, Tensor]:
        """Apply the run's ``uplink`` transforms to trained weights or predictions, and return what is sent.

        Parameters
        ----------
        tensors
            Weights by name, or predictions under the name ``labels``.
        round
            From 1.
        received
            The weights received at the start of the round, if weights are sent.
        """
        return transformed(tensors, received or {}, self.name, round, self.settings)
