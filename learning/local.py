"""Local training on a client's own labelled samples, as in every method."""

from collections.abc import Callable

from torch import Tensor, nn

from data import Samples, augment
from learning.losses import class_loss_of
from learning.optimizers import OptimizerOptions, optimizer_maker
from learning.precision import FLOAT32, Arithmetic
from learning.training import fit, learning_rate, mean_over_exits, with_own_loss
from protocol.randomness import torch_generator
from protocol.settings import RunSettings

LossOfBatch = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Maps a model, inputs (batch, ...) and their classes (batch,) to the batch's loss."""


def loss_of_batch(settings: RunSettings) -> LossOfBatch:
    """Return a run's loss of a batch (``train.loss``), averaged over the exits of a network with several."""
    class_loss = class_loss_of(settings)

    def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        learned = mean_over_exits(model, inputs, lambda logits: class_loss(logits, targets))
        return with_own_loss(model, learned)

    return loss


def train_locally(
    model: nn.Module,
    samples: Samples,
    settings: RunSettings,
    client: str,
    round: int,
    arithmetic: Arithmetic = FLOAT32,
    loss: LossOfBatch | None = None,
) -> None:
    """Train a network in place on a client's private samples, as the table ``train`` says.

    Parameters
    ----------
    model
        On the samples' device.
    samples
        The client's training part.
    settings
        Of the run.
    client
        The client's name; every random draw is derived from it, the run's seed and the round.
    round
        From 1.
    arithmetic
        Precision of the network's layers.
    loss
        Loss of a batch; by default the run's.

    Raises
    ------
    TrainingError
        If the loss or a weight is not finite at the end.
    """
    augmentation = torch_generator(settings.seed, "augmentation", round, client)

    def draw(indices: Tensor) -> tuple[Tensor, Tensor]:
        inputs = augment(samples.inputs[indices], settings.train.augmentation, augmentation)
        return inputs, samples.targets[indices]

    of_batch = loss or loss_of_batch(settings)

    def batch_loss(inputs: Tensor, targets: Tensor) -> Tensor:
        return of_batch(model, inputs, targets)

    train = settings.train
    options = OptimizerOptions(learning_rate(train, round), train.momentum, train.weight_decay)
    fit(
        model,
        batch_loss,
        len(samples),
        train,
        torch_generator(settings.seed, "train", round, client),
        optimizer_maker(train.optimizer, options, settings),
        arithmetic,
        draw,
    )
