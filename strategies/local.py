"""Local training on a client's own labelled samples, as every method does it."""

import torch.nn.functional as F
from torch import Tensor, nn

from data import augment
from strategies.method import ClientSide
from strategies.training import fit


def train_locally(model: nn.Module, client: ClientSide, round: int) -> None:
    """Train on private data by cross-entropy, with the table ``train``'s plain SGD."""
    settings = client.settings.train
    samples = client.data.train
    augmentation = client.generator("augmentation", round)

    def cross_entropy(indices: Tensor) -> Tensor:
        inputs = augment(samples.inputs[indices], settings.augmentation, augmentation)
        return F.cross_entropy(model(inputs), samples.targets[indices])

    shuffle = client.generator("train", round)
    fit(model, cross_entropy, len(samples), settings, shuffle, settings.momentum, settings.weight_decay)
