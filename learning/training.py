"""The training loop and the evaluation loop of all methods, which differ in their losses only."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import Inputs, Samples, batches, in_batches
from learning.memory import Halving, shortage_explained
from learning.metrics import Metric
from learning.optimizers import OptimizerMaker
from learning.precision import FLOAT32, Arithmetic
from learning.step import Step, indices_alone
from models.elastic import ExitNetwork, has_norms
from protocol.errors import SettingsError, TrainingError
from protocol.messages import Evaluation
from protocol.settings import TrainSettings
from protocol.values import numbers

EVALUATION_BATCH = ExitNetwork.answers_at_once
"""Largest batch in evaluation, for networks that do not set their own."""
_REMEDY = "try a smaller learning-rate"

T = TypeVar("T")


class FitSettings(Protocol):
    """The settings that the loop needs, as in ``TrainSettings`` and ``DistillationSettings``."""

    @property
    def epochs(self) -> int:
        """Passes over the samples."""

    @property
    def batch_size(self) -> int:
        """Samples per step."""


def fit(
    model: nn.Module,
    batch_loss: Callable[..., Tensor],
    samples: int,
    settings: FitSettings,
    generator: torch.Generator,
    optimizer: OptimizerMaker,
    arithmetic: Arithmetic = FLOAT32,
    draw: Callable[[Tensor], tuple[Tensor, ...]] = indices_alone,
) -> None:
    """Train a model in place.

    A step that runs out of memory is repeated in micro-batches of half the size, and so are the steps after
    it. The gradients of the micro-batches sum to that of the batch's mean loss. Three things differ from a
    step on the whole batch. Batch norms use the statistics of micro-batches, and running statistics are
    updated by each of them and by the failed attempt. Micro-batches of a network with batch norms have at
    least two samples. Dropout draws new masks.

    Parameters
    ----------
    model
        The network, on its device.
    batch_loss
        Returns the unweighted mean loss of a batch's samples, given the tensors that ``draw`` returns; by
        default the samples' indices, int64 of shape (batch,).
    samples
        Number of samples; with 0, nothing happens.
    settings
        Epochs and batch size.
    generator
        Shuffles the samples.
    optimizer
        Makes the optimizer of the trainable parameters; no state is kept from one call to the next.
    arithmetic
        Precision of the layers; weights and gradients are float32.
    draw
        Maps a batch's indices to tensors with one row per sample. It is called once per step, even if the
        step is repeated, and may be random, for example for augmentation.

    Raises
    ------
    SettingsError
        If the batch size is 1 and the network has batch norms.
    TrainingError
        If the loss or a weight is not finite at the end; the model is then unusable.
    MemoryShortageError
        If memory is too small for the smallest micro-batch.
    """
    if samples == 0:
        return
    if settings.batch_size == 1 and has_norms(model):
        raise SettingsError("train.batch-size = 1: batch norms cannot train on one sample, take at least 2")
    parameters: list[Tensor] = [parameter for parameter in model.parameters() if parameter.requires_grad]
    stepper = optimizer(parameters)
    step = Step(model, batch_loss, draw, settings.batch_size, parameters, arithmetic)
    model.train()
    with shortage_explained(model, step.size):
        for _ in range(settings.epochs):
            for indices in batches(samples, settings.batch_size, generator):
                loss, gradients = step(indices)
                stepper.step(gradients)
                del gradients  # or they would take memory while the next ones are computed
    finite = all(bool(parameter.isfinite().all()) for parameter in parameters)
    if not (finite and math.isfinite(loss.item())):
        raise TrainingError(f"training diverged: last loss = {loss.item()}, {_REMEDY}")


def learning_rate(settings: TrainSettings, round: int) -> float:
    """Return the learning rate of a round, counted from 1.

    With ``train.milestones`` it is multiplied by ``train.decay`` after each of those rounds, otherwise after
    every round.
    """
    milestones = numbers(settings.milestones)
    drops = sum(round > milestone for milestone in milestones) if milestones else round - 1
    return settings.learning_rate * settings.decay**drops


def all_exits(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Return the logits of each exit of a network, the shallowest first; most networks have one exit.

    Logits, and so losses, are float32 in every precision.
    """
    logits = model.exits(inputs) if isinstance(model, ExitNetwork) else [model(inputs)]
    return [z.float() for z in logits]


def with_own_loss(model: nn.Module, loss: Tensor) -> Tensor:
    """Add the network's own loss term to a batch's loss, see ``ExitNetwork.own_loss``."""
    own = model.own_loss() if isinstance(model, ExitNetwork) else None
    return loss if own is None else loss + own


def mean_over_exits(model: nn.Module, inputs: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the mean of the exits' losses, the j-th of l with weight 2j/(l(l+1)) as in ScaleFL.

    A network with early exits can thus be trained wherever another network can.

    Parameters
    ----------
    model
        The network.
    inputs
        A batch, shape (batch, ...).
    loss
        Maps one exit's logits, shape (batch, classes), to its loss, a scalar.
    """
    logits = all_exits(model, inputs)
    if len(logits) == 1:
        return loss(logits[0])
    weighted = torch.stack([number * loss(z) for number, z in enumerate(logits, start=1)])
    return 2 * weighted.sum() / (len(logits) * (len(logits) + 1))


@torch.no_grad()
def predict(model: nn.Module, inputs: Inputs, arithmetic: Arithmetic = FLOAT32) -> Tensor:
    """Return class probabilities, float32 of shape (n, classes), computed in eval mode.

    Parameters
    ----------
    model
        The network, on the inputs' device.
    inputs
        n inputs.
    arithmetic
        Precision of the network's layers.
    """
    return torch.softmax(_logits(model, inputs, arithmetic), dim=1)


@torch.no_grad()
def exit_logits(model: nn.Module, inputs: Inputs, arithmetic: Arithmetic = FLOAT32) -> list[Tensor]:
    """Return the logits of each exit, float32 of shape (n, classes), computed in eval mode.

    Parameters
    ----------
    model
        The network, on the inputs' device.
    inputs
        n inputs.
    arithmetic
        Precision of the network's layers.
    """
    parts = _answers(model, inputs, arithmetic, partial(all_exits, model))
    return [torch.cat(of_exit) for of_exit in zip(*parts, strict=True)]


@torch.no_grad()
def evaluate(
    model: nn.Module, samples: Samples, metric: Metric | None = None, arithmetic: Arithmetic = FLOAT32
) -> Evaluation:
    """Score a model on held-out samples: accuracy in [0, 1], mean cross-entropy, and a metric.

    Parameters
    ----------
    model
        The network, on the samples' device.
    samples
        At least one.
    metric
        The run's metric, if it has one.
    arithmetic
        Precision of the network's layers.

    Raises
    ------
    TrainingError
        If the loss is not finite.
    """
    return score_logits(_logits(model, samples.inputs, arithmetic), samples.targets, metric)


def _logits(model: nn.Module, inputs: Inputs, arithmetic: Arithmetic) -> Tensor:
    """Return the last exit's logits, float32 of shape (n, classes), computed in eval mode."""
    return torch.cat(_answers(model, inputs, arithmetic, model)).float()


def _answers(
    model: nn.Module, inputs: Inputs, arithmetic: Arithmetic, answer: Callable[[Tensor], T]
) -> list[T]:
    """Return a network's outputs batch by batch, in eval mode; in smaller batches if memory is short."""
    halving = Halving(model.answers_at_once if isinstance(model, ExitNetwork) else EVALUATION_BATCH)

    def all_answers(size: int) -> list[T]:
        return [answer(batch) for batch in in_batches(inputs, size)]

    explained = shortage_explained(model, partial(halving.size, len(inputs)))
    with explained, _eval_mode(model), arithmetic.autocast():
        return halving(all_answers, len(inputs))


def score_logits(logits: Tensor, targets: Tensor, metric: Metric | None = None) -> Evaluation:
    """Score predictions for samples whose classes are known.

    Parameters
    ----------
    logits
        Shape (n, classes).
    targets
        Classes, int64 of shape (n,).
    metric
        The run's metric, if it has one.

    Raises
    ------
    TrainingError
        If the loss is not finite.
    """
    correct = int((logits.argmax(dim=1) == targets).sum())
    loss = F.cross_entropy(logits, targets).item()
    if not math.isfinite(loss):
        raise TrainingError(f"the model has diverged: loss = {loss} on held-out samples, {_REMEDY}")
    figure = None if metric is None else metric(torch.softmax(logits.double(), dim=1), targets)
    return Evaluation(correct / len(targets), loss, len(targets), figure)


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Set eval mode, and afterwards the mode before."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
