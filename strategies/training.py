"""The one training loop and the one evaluation loop: a method differs in its loss, not in its loop."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.sgd import sgd

from data import Samples, batches
from protocol.errors import TrainingError
from protocol.messages import Evaluation

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
) -> None:
    """Train a model in place by plain SGD.

    Parameters
    ----------
    batch_loss : callable
        The mean loss of the samples at the given indices, int64 of shape (batch,).
    samples : int
        How many samples there are; with none, nothing happens.

    Raises
    ------
    TrainingError
        If the loss or a weight is not finite at the end; the model is then of no use.
    """
    if samples == 0:
        return
    parameters: list[Tensor] = [parameter for parameter in model.parameters() if parameter.requires_grad]
    velocities: list[Tensor | None] = [None] * len(parameters)
    model.train()
    for _ in range(settings.epochs):
        for indices in batches(samples, settings.batch_size, generator):
            loss = batch_loss(indices)
            gradients = list(torch.autograd.grad(loss, parameters))
            _sgd_step(parameters, gradients, velocities, settings.learning_rate, momentum, weight_decay)
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


@torch.no_grad()
def predict(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return class probabilities, float32 of shape (n, classes), network in eval mode."""
    with _eval_mode(model):
        logits = [model(part) for part in torch.split(inputs, EVALUATION_BATCH)]
    return torch.softmax(torch.cat(logits).float(), dim=1)


@torch.no_grad()
def evaluate(model: nn.Module, samples: Samples) -> Evaluation:
    """Score a model on held-out samples: accuracy in [0, 1] and mean cross-entropy.

    Raises
    ------
    TrainingError
        If the loss is not finite.
    """
    with _eval_mode(model):
        logits = torch.cat([model(part) for part in torch.split(samples.inputs, EVALUATION_BATCH)]).float()
    correct = int((logits.argmax(dim=1) == samples.targets).sum())
    loss = F.cross_entropy(logits, samples.targets).item()
    if not math.isfinite(loss):
        raise TrainingError(f"the model has diverged: loss = {loss} on held-out samples, {_REMEDY}")
    return Evaluation(correct / len(samples), loss, len(samples))


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout and batch statistics off, and back to what they were."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
