"""Local training on a client's own labelled samples, as every method does it."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from data import Samples, augment
from learning.precision import FLOAT32, Arithmetic
from learning.training import fit, learning_rate, mean_over_exits, with_own_loss
from protocol.randomness import torch_generator
from protocol.settings import RunSettings

LossOfBatch = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Maps a model, inputs (batch, ...) and their classes (batch,) to the batch's loss."""


def cross_entropy(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy; that of all exits if the network has several."""
    loss = mean_over_exits(model, inputs, lambda logits: F.cross_entropy(logits, targets))
    return with_own_loss(model, loss)


def train_locally(
    model: nn.Module,
    samples: Samples,
    settings: RunSettings,
    client: str,
    round: int,
    arithmetic: Arithmetic = FLOAT32,
    loss: LossOfBatch = cross_entropy,
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
        The client's name: with the run's seed and the round it fixes every random draw.
    round
        From 1.
    arithmetic
        Of the network's layers.
    loss
        Of a batch; by default the cross-entropy.

    Raises
    ------
    TrainingError
        If the loss or a weight is not finite at the end.
    """
    augmentation = torch_generator(settings.seed, "augmentation", round, client)

    def draw(indices: Tensor) -> tuple[Tensor, Tensor]:
        inputs = augment(samples.inputs[indices], settings.train.augmentation, augmentation)
        return inputs, samples.targets[indices]

    def batch_loss(inputs: Tensor, targets: Tensor) -> Tensor:
        return loss(model, inputs, targets)

    fit(
        model,
        batch_loss,
        len(samples),
        settings.train,
        torch_generator(settings.seed, "train", round, client),
        settings.train.momentum,
        settings.train.weight_decay,
        learning_rate(settings.train, round),
        arithmetic,
        draw,
        settings.train.optimizer,
    )
