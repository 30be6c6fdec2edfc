"""The one training loop and the one evaluation loop: a method differs in its loss, not in its loop."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.sgd import sgd

from data import Inputs, Samples, batches, in_batches
from models.elastic import ElasticNetwork
from protocol.errors import TrainingError
from protocol.messages import Evaluation
from protocol.settings import TrainSettings
from protocol.values import numbers
from strategies.metrics import MetricName, score
from strategies.precision import FLOAT32, Arithmetic

EVALUATION_BATCH = 500
_REMEDY = "try a smaller learning-rate"


class FitSettings(Protocol):
    """What the loop needs to know; ``TrainSettings`` and ``DistillationSettings`` provide it."""

    @property
    def epochs(self) -> int:
        """Passes over the samples."""

    @property
    def batch_size(self) -> int:
        """Samples a step."""

    @property
    def learning_rate(self) -> float:
        """SGD's learning rate."""


def fit(
    model: nn.Module,
    batch_loss: Callable[[Tensor], Tensor],
    samples: int,
    settings: FitSettings,
    generator: torch.Generator,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    learning_rate: float | None = None,
    arithmetic: Arithmetic = FLOAT32,
) -> None:
    """Train a model in place by plain SGD.

    Parameters
    ----------
    batch_loss : callable
        The mean loss of the samples at the given indices, int64 of shape (batch,).
    samples : int
        How many samples there are; with none, nothing happens.
    learning_rate : float, optional
        In place of the settings'.
    arithmetic : Arithmetic
        Of the layers; weights and gradients are float32.

    Raises
    ------
    TrainingError
        If the loss or a weight is not finite at the end; the model is then of no use.
    """
    if samples == 0:
        return
    parameters: list[Tensor] = [parameter for parameter in model.parameters() if parameter.requires_grad]
    velocities: list[Tensor | None] = [None] * len(parameters)
    rate = settings.learning_rate if learning_rate is None else learning_rate
    find_gradients = arithmetic.gradients()
    model.train()
    for _ in range(settings.epochs):
        for indices in batches(samples, settings.batch_size, generator):
            with arithmetic.autocast():
                loss = batch_loss(indices)
            if (gradients := find_gradients(loss, parameters)) is not None:
                _sgd_step(parameters, gradients, velocities, rate, momentum, weight_decay)
    finite = all(bool(parameter.isfinite().all()) for parameter in parameters)
    if not (finite and math.isfinite(loss.item())):
        raise TrainingError(f"training diverged: last loss = {loss.item()}, {_REMEDY}")


@torch.no_grad()
def _sgd_step(
    parameters: list[Tensor],
    gradients: list[Tensor],
    velocities: list[Tensor | None],
    learning_rate: float,
    momentum: float,
    weight_decay: float,
) -> None:
    """Take one step of torch's SGD by its functional form.

    The class ``torch.optim.SGD`` imports torch's compiler when it is made, which takes a node's process
    about four seconds, and a real node has a fresh process for each message.
    """
    sgd(
        parameters,
        gradients,
        velocities,
        weight_decay=weight_decay,
        momentum=momentum,
        lr=learning_rate,
        dampening=0.0,
        nesterov=False,
        maximize=False,
    )


def learning_rate(settings: TrainSettings, round: int) -> float:
    """Return the learning rate of a round, counted from 1.

    With ``train.milestones`` it is multiplied by ``train.decay`` after each of those rounds, without them
    after every round.
    """
    milestones = numbers(settings.milestones)
    drops = sum(round > milestone for milestone in milestones) if milestones else round - 1
    return settings.learning_rate * settings.decay**drops


def all_exits(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Return the logits of each exit of a network, the shallowest first; most networks have one.

    They are float32 whatever precision the network computes in, and so is every loss of them.
    """
    logits = model.exits(inputs) if isinstance(model, ElasticNetwork) else [model(inputs)]
    return [z.float() for z in logits]


def mean_over_exits(model: nn.Module, inputs: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the mean of the exits' losses, the j-th of l with weight 2j/(l(l+1)) as in ScaleFL.

    So a network with early exits can stand wherever one without can.
    """
    logits = all_exits(model, inputs)
    if len(logits) == 1:
        return loss(logits[0])
    weighted = torch.stack([number * loss(z) for number, z in enumerate(logits, start=1)])
    return 2 * weighted.sum() / (len(logits) * (len(logits) + 1))


@torch.no_grad()
def predict(model: nn.Module, inputs: Inputs, arithmetic: Arithmetic = FLOAT32) -> Tensor:
    """Return class probabilities, float32 of shape (n, classes), network in eval mode."""
    return torch.softmax(_logits(model, inputs, arithmetic), dim=1)


@torch.no_grad()
def exit_logits(model: nn.Module, inputs: Inputs, arithmetic: Arithmetic = FLOAT32) -> list[Tensor]:
    """Return the logits of each exit, float32 of shape (n, classes), network in eval mode."""
    with _eval_mode(model), arithmetic.autocast():
        parts = [all_exits(model, batch) for batch in in_batches(inputs, EVALUATION_BATCH)]
    return [torch.cat(of_exit) for of_exit in zip(*parts, strict=True)]


@torch.no_grad()
def evaluate(
    model: nn.Module, samples: Samples, metric: MetricName = "none", arithmetic: Arithmetic = FLOAT32
) -> Evaluation:
    """Score a model on held-out samples: accuracy in [0, 1], mean cross-entropy, and a metric.

    Raises
    ------
    TrainingError
        If the loss is not finite.
    """
    return score_logits(_logits(model, samples.inputs, arithmetic), samples.targets, metric)


def _logits(model: nn.Module, inputs: Inputs, arithmetic: Arithmetic) -> Tensor:
    """Return the last exit's logits, float32 of shape (n, classes), network in eval mode."""
    with _eval_mode(model), arithmetic.autocast():
        parts = [model(batch) for batch in in_batches(inputs, EVALUATION_BATCH)]
    return torch.cat(parts).float()


def score_logits(logits: Tensor, targets: Tensor, metric: MetricName = "none") -> Evaluation:
    """Score answers, logits of shape (n, classes), to samples whose classes are known.

    Raises
    ------
    TrainingError
        If the loss is not finite.
    """
    correct = int((logits.argmax(dim=1) == targets).sum())
    loss = F.cross_entropy(logits, targets).item()
    if not math.isfinite(loss):
        raise TrainingError(f"the model has diverged: loss = {loss} on held-out samples, {_REMEDY}")
    figure = score(metric, torch.softmax(logits.double(), dim=1), targets)
    return Evaluation(correct / len(targets), loss, len(targets), figure)


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout and batch statistics off, and back to what they were."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
