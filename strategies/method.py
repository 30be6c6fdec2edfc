"""The two halves of a method: what the server does in a round, and what a client does.

A method knows nothing of Flower's grid, of nodes or of time: it turns clients' names into payloads
and payloads into a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from flwr.app import RecordDict
from numpy.typing import NDArray
from torch import Tensor, nn

from data import ClientData, Inputs, PublicPool, Samples
from learning.local import LossOfBatch, cross_entropy, train_locally
from learning.metrics import MetricName
from learning.precision import Arithmetic
from learning.training import evaluate
from models import build_elastic, build_model, elastic_design, load_learned_state
from models.registry import require_inputs
from protocol.errors import SettingsError
from protocol.messages import Evaluation, HelloReply
from protocol.randomness import derive_seed, torch_generator
from protocol.settings import RunSettings
from strategies.levels import level_shape, plan_levels
from strategies.state import ClientState, StateStore


@dataclass(frozen=True)
class Outgoing:
    """One client's payload of a round, and what it costs by the paper's formula."""

    content: RecordDict
    paper_down: int


@dataclass(frozen=True)
class Incoming:
    """What the server took from one accepted reply."""

    evaluation: Evaluation
    paper_up: int
    notes: str = ""
    """Anything about the exchange that a person should know."""


@dataclass(frozen=True)
class MethodState:
    """A server half's state in a checkpoint: arrays, and whatever JSON can hold."""

    arrays: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """How the server's model does, and whatever else the method has to tell of it."""

    evaluation: Evaluation
    details: Mapping[str, Any] = field(default_factory=dict)
    """For the round's line: scalars, lists and mappings, as JSON holds them."""


class ServerMethod(Protocol):
    """The server half of a method."""

    final_exchange: bool
    """Whether one more exchange follows the last round."""

    def begin(self, round: int, clients: Sequence[str], final: bool) -> dict[str, Outgoing]:
        """Return each client's payload for a round."""

    def accept(self, client: str, round: int, content: RecordDict) -> Incoming:
        """Take one client's reply; raise ``MessageError`` to refuse it whole, leaving no trace.

        A reply to an earlier round is late: it counts for what the client holds, not for the round.
        """

    def finish(self, round: int) -> None:
        """End the round: aggregate what was accepted, in an order that does not depend on arrival."""

    def greet(self, hello: HelloReply) -> str:
        """Take note of a node that says hello; return a remark for the log, or nothing.

        Raise ``MessageError`` to refuse the node.
        """

    def candidates(self, clients: Sequence[str]) -> list[str]:
        """Return those of the clients that can be asked to train, in the same order."""

    def model(self) -> nn.Module | None:
        """Return the server's model, or None if the method has none."""

    def score(self, test: Samples) -> Score | None:
        """Score the server's model on held-out samples, or return None if there is nothing to score."""

    def state(self) -> MethodState:
        """Return what a checkpoint must hold beside the model."""

    def load_state(self, state: MethodState, weights: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint."""


class ClientMethod(Protocol):
    """The client half of a method."""

    def answer(self, content: RecordDict) -> RecordDict:
        """Do a round's work on this node and return the reply's payload."""

    def state_digests(self) -> list[bytes]:
        """Return the digest of what each kept state shares with the server, newest first."""


@dataclass(frozen=True)
class ServerSide:
    """What the server half of a method works with."""

    settings: RunSettings
    pool: PublicPool
    input_shape: tuple[int, ...]
    num_classes: int
    device: torch.device
    calibration: Inputs | None = None
    """Inputs on which norms are calibrated before a submodel is scored; None: there are none."""

    def __post_init__(self) -> None:
        """Refuse what no round can be played with."""
        _ = self.arithmetic
        augmentation = self.settings.train.augmentation
        if augmentation != "none" and len(self.input_shape) != 3:
            raise SettingsError(
                f'train.augmentation = "{augmentation}": changes images, but the data are none; '
                'allowed is "none"'
            )

    @property
    def arithmetic(self) -> Arithmetic:
        """How networks compute here."""
        return Arithmetic(self.settings.precision, self.device)

    @property
    def metric(self) -> MetricName:
        """The figure beside accuracy and loss."""
        return self.settings.data.metric

    def new_model(self) -> nn.Module:
        """Build the server's model with the initial weights that belong to the run's seed."""
        seed = derive_seed(self.settings.seed, "model", client="server")
        model = build_model(self.settings.model, self.input_shape, self.num_classes, seed, self.settings)
        return model.to(self.device)

    def evaluate(self, model: nn.Module, test: Samples) -> Evaluation:
        """Score a model on held-out samples."""
        return evaluate(model, test, self.metric, self.arithmetic)


@dataclass(frozen=True)
class ClientSide:
    """What the client half of a method works with."""

    settings: RunSettings
    name: str
    model_name: str
    data: ClientData
    pool: PublicPool
    store: StateStore
    device: torch.device
    level: int | None = None
    """The level of its elastic network; None with other networks."""

    def __post_init__(self) -> None:
        """Refuse a precision that the device does not compute in, before anything is trained."""
        _ = self.arithmetic

    @property
    def arithmetic(self) -> Arithmetic:
        """How networks compute here."""
        return Arithmetic(self.settings.precision, self.device)

    def new_model(self) -> nn.Module:
        """Build this client's model with the initial weights that belong to its name.

        Of an elastic network that is the submodel of the client's level, with its exits.
        """
        seed = derive_seed(self.settings.seed, "model", client=self.name)
        input_shape, classes = self.data.train.input_shape, self.data.num_classes
        if self.level is None:
            return build_model(self.model_name, input_shape, classes, seed, self.settings).to(self.device)
        require_inputs(self.model_name, input_shape, self.settings)
        design = elastic_design(self.model_name, self.settings)
        levels = plan_levels(self.settings.levels, design, input_shape, classes)
        model = build_elastic(design, input_shape, classes, seed, level_shape(levels, self.level))
        return model.to(self.device)

    @property
    def architecture(self) -> str:
        """The network's name, with the level if it has one: what a kept state must be of."""
        return self.model_name if self.level is None else f"{self.model_name} level {self.level}"

    def model_after(self, state: ClientState | None) -> nn.Module:
        """Build this client's model with the weights of a state, or new if there is none.

        Raises
        ------
        SettingsError
            If the state is of another network than the node trains now.
        """
        model = self.new_model()
        if state is None:
            return model
        if state.model != self.architecture:
            raise SettingsError(
                f"model = {self.architecture!r}: client {self.name!r} has trained {state.model!r} in this "
                "experiment; set it back, or give the node another client-name"
            )
        load_learned_state(model, state.weights)
        return model

    def generator(self, purpose: str, round: int) -> torch.Generator:
        """Return the generator of one purpose of this client in one round."""
        return torch_generator(self.settings.seed, purpose, round, self.name)

    def train(self, model: nn.Module, round: int, loss: LossOfBatch = cross_entropy) -> None:
        """Train a network in place on this client's own training part."""
        train_locally(model, self.data.train, self.settings, self.name, round, self.arithmetic, loss)

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Score a model on this client's own test part."""
        return evaluate(model, self.data.test, self.settings.data.metric, self.arithmetic)
