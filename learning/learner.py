"""Learners: what a party trains if soft labels or nothing are exchanged, a network or an estimator."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from data import Inputs, Samples
from learning.distillation import distil
from learning.local import train_locally
from learning.metrics import metric_of
from learning.precision import Arithmetic
from learning.training import evaluate, predict
from models import learned_state, load_learned_state
from protocol.messages import Evaluation
from protocol.randomness import torch_generator
from protocol.settings import RunSettings


class Learner(Protocol):
    """Learns from private samples and from the soft labels of public ones, and predicts."""

    @property
    def learns_anew(self) -> bool:
        """Whether what it learned from earlier rounds' soft labels is gone when it learns from new ones."""

    def distil(self, inputs: Inputs, labels: Tensor, round: int) -> None:
        """Learn from soft labels of public samples.

        Parameters
        ----------
        inputs
            n public inputs; n may be 0.
        labels
            Probabilities, shape (n, classes).
        round
            From 1.
        """

    def train(self, samples: Samples, round: int) -> None:
        """Learn from the party's own labelled samples."""

    def predict(self, inputs: Inputs) -> Tensor:
        """Return class probabilities, float32 of shape (n, classes)."""

    def evaluate(self, samples: Samples) -> Evaluation:
        """Score it on held-out samples."""

    def state(self) -> dict[str, Tensor]:
        """Return all that must be saved to continue later, by name, on any device."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned; raise ``RuntimeError`` if it belongs to another learner."""


@dataclass(frozen=True)
class TorchLearner:
    """A network of torch.

    Parameters
    ----------
    model
        The network, on the device of the samples.
    settings
        Of the run.
    name
        The party's name; every random draw is derived from it and the run's seed.
    arithmetic
        Precision of the network's layers.
    """

    model: nn.Module
    settings: RunSettings
    name: str
    arithmetic: Arithmetic

    @property
    def learns_anew(self) -> bool:
        """No: its weights go on from where they are."""
        return False

    def distil(self, inputs: Inputs, labels: Tensor, round: int) -> None:
        """Learn from soft labels, as the table ``distillation`` says."""
        generator = torch_generator(self.settings.seed, "distil", round, self.name)
        distil(self.model, inputs, labels, self.settings, generator, self.arithmetic)

    def train(self, samples: Samples, round: int) -> None:
        """Learn from labelled samples, as the table ``train`` says."""
        train_locally(self.model, samples, self.settings, self.name, round, self.arithmetic)

    def predict(self, inputs: Inputs) -> Tensor:
        """Return class probabilities, float32 of shape (n, classes)."""
        return predict(self.model, inputs, self.arithmetic)

    def evaluate(self, samples: Samples) -> Evaluation:
        """Score the network on held-out samples."""
        return evaluate(self.model, samples, metric_of(self.settings.data.metric), self.arithmetic)

    def state(self) -> dict[str, Tensor]:
        """Return the network's weights, without frozen ones."""
        return learned_state(self.model)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore weights."""
        load_learned_state(self.model, state)
