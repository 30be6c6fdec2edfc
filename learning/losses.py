"""The training loss on labelled samples (``train.loss``)."""

from collections.abc import Callable, Mapping
from typing import cast

import torch.nn.functional as F
from torch import Tensor

from protocol.references import Registry
from protocol.settings import RunSettings

ClassLoss = Callable[[Tensor, Tensor], Tensor]
"""Maps logits (batch, classes) and classes (batch,) to the mean loss over the batch, a scalar."""

Loss = Callable[[Tensor, Tensor, RunSettings], Tensor]
"""Like `ClassLoss`, with the settings of the run as a third argument."""


def cross_entropy(logits: Tensor, targets: Tensor, settings: RunSettings) -> Tensor:
    """Return the mean cross-entropy in nats.

    Parameters
    ----------
    logits
        Shape (batch, classes).
    targets
        Classes, int64 of shape (batch,).
    settings
        Of the run; not used.
    """
    return F.cross_entropy(logits, targets)


LOSSES: Mapping[str, Loss] = {"cross-entropy": cross_entropy}


def _accept(found: object, reference: str) -> Loss:
    if not callable(found):
        raise TypeError(
            "must be a function of logits (batch, classes), classes (batch,) and the run's settings"
        )
    return cast("Loss", found)


REGISTRY: Registry[Loss] = Registry("train.loss", LOSSES, _accept)


def class_loss_of(settings: RunSettings) -> ClassLoss:
    """Return a run's training loss on labelled samples.

    Raises
    ------
    SettingsError
        If ``train.loss`` names none.
    """
    found = REGISTRY.find(settings.train.loss)

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return found(logits, targets, settings)

    return loss
