"""The one training loop and the one evaluation loop: a method differs in its loss, not in its loop."""

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
"""Of a network that does not say."""
_REMEDY = "try a smaller learning-rate"

T = TypeVar("T")


class FitSettings(Protocol):
    """What the loop needs to know; ``TrainSettings`` and ``DistillationSettings`` provide it."""

    @property
    def epochs(self) -> int:
        """Passes over the samples."""

    @property
    def batch_size(self) -> int:
        """Samples a step."""


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

    A step for which memory is too small is done again in micro-batches of half the size, and so are the
    steps after it. Their gradients sum to that of the batch's mean loss. Three things then differ from a
    step in one piece. Batch norms that use a batch's own statistics use a micro-batch's, and running ones
    are moved by each, and by the attempt that failed. No micro-batch of a network with batch norms has
    fewer than two samples. Dropout draws anew.

    Parameters
    ----------
    batch_loss : callable
        The mean loss of a batch's samples, each with the same weight, given what ``draw`` makes of it:
        the samples' indices, int64 of shape (batch,), if nothing else is said.
    samples : int
        How many samples there are; with none, nothing happens.
    settings : FitSettings
        Epochs and batch size.
    generator : torch.Generator
        Shuffles the samples.
    optimizer : callable
        Makes the optimizer, of the parameters that learn; it remembers nothing from one call to the next.
    arithmetic : Arithmetic
        Of the layers; weights and gradients are float32.
    draw : callable, optional
        Makes tensors with a row a sample of a batch's indices, once a step even if that is done again:
        the place for random changes of inputs.

    Raises
    ------
    SettingsError
        If batches of one sample meet batch norms.
    TrainingError
        If the loss or a weight is not finite at the end; the model is then of no use.
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
                del gradients  # else they would take memory while the next ones are found
    finite = all(bool(parameter.isfinite().all()) for parameter in parameters)
    if not (finite and math.isfinite(loss.item())):
        raise TrainingError(f"training diverged: last loss = {loss.item()}, {_REMEDY}")


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
    logits = model.exits(inputs) if isinstance(model, ExitNetwork) else [model(inputs)]
    return [z.float() for z in logits]


def with_own_loss(model: nn.Module, loss: Tensor) -> Tensor:
    """Add to a batch's loss what the network itself has to add, see ``ExitNetwork.own_loss``."""
    own = model.own_loss() if isinstance(model, ExitNetwork) else None
    return loss if own is None else loss + own


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
    parts = _answers(model, inputs, arithmetic, partial(all_exits, model))
    return [torch.cat(of_exit) for of_exit in zip(*parts, strict=True)]


@torch.no_grad()
def evaluate(
    model: nn.Module, samples: Samples, metric: Metric | None = None, arithmetic: Arithmetic = FLOAT32
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
    return torch.cat(_answers(model, inputs, arithmetic, model)).float()


def _answers(
    model: nn.Module, inputs: Inputs, arithmetic: Arithmetic, answer: Callable[[Tensor], T]
) -> list[T]:
    """Return a network's answers batch by batch, in eval mode; in smaller batches where memory is short."""
    halving = Halving(model.answers_at_once if isinstance(model, ExitNetwork) else EVALUATION_BATCH)

    def all_answers(size: int) -> list[T]:
        return [answer(batch) for batch in in_batches(inputs, size)]

    explained = shortage_explained(model, partial(halving.size, len(inputs)))
    with explained, _eval_mode(model), arithmetic.autocast():
        return halving(all_answers, len(inputs))


def score_logits(logits: Tensor, targets: Tensor, metric: Metric | None = None) -> Evaluation:
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
    figure = None if metric is None else metric(torch.softmax(logits.double(), dim=1), targets)
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
