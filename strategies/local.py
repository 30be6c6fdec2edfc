"""Local training on a client's own labelled samples, as every method does it."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from data import augment
from strategies.method import ClientSide
from strategies.training import fit, learning_rate, mean_over_exits, with_own_loss

LossOfBatch = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Maps a model, inputs (batch, ...) and their classes (batch,) to the batch's loss."""


def cross_entropy(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy; that of all exits if the network has several."""
    loss = mean_over_exits(model, inputs, lambda logits: F.cross_entropy(logits, targets))
    return with_own_loss(model, loss)


def train_locally(
    model: nn.Module, client: ClientSide, round: int, loss: LossOfBatch = cross_entropy
) -> None:
    """Train on private data as the table ``train`` says."""
    settings = client.settings.train
    samples = client.data.train
    augmentation = client.generator("augmentation", round)

    def draw(indices: Tensor) -> tuple[Tensor, Tensor]:
        inputs = augment(samples.inputs[indices], settings.augmentation, augmentation)
        return inputs, samples.targets[indices]

    def batch_loss(inputs: Tensor, targets: Tensor) -> Tensor:
        return loss(model, inputs, targets)

    fit(
        model,
        batch_loss,
        len(samples),
        settings,
        client.generator("train", round),
        settings.momentum,
        settings.weight_decay,
        learning_rate(settings, round),
        client.arithmetic,
        draw,
        settings.optimizer,
    )
