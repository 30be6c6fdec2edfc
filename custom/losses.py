"""A loss: focal loss (Lin et al. 2017), which gives confidently classified samples less weight.

train.loss = "custom.losses:focal"
"""

from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from protocol.settings import RunSettings
from protocol.tables import Table
from protocol.values import NonNegative


class FocalSettings(Table):
    """The settings under ``[tool.flwr.app.config.custom.focal]``."""

    place: ClassVar[str] = "custom.focal"
    gamma: NonNegative = Field(2.0, description="exponent γ; 0 is the cross-entropy")


def focal(logits: Tensor, targets: Tensor, settings: RunSettings) -> Tensor:
    """Return the mean of (1 − p)^γ · −log p over a batch, p the probability of the right class (equation 4).

    Parameters
    ----------
    logits
        Shape (batch, classes).
    targets
        Classes, int64 of shape (batch,).
    settings
        Of the run.
    """
    gamma = settings.of(FocalSettings).gamma
    surprise = F.cross_entropy(logits, targets, reduction="none")
    return ((1 - (-surprise).exp()) ** gamma * surprise).mean()
