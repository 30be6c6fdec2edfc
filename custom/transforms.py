"""An uplink transform: an update is clipped and noise is added, as in DP-FedAvg (McMahan et al. 2018).

uplink = "custom.transforms:noise"

It shows where differential privacy would be implemented; it does not track a privacy budget.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from learning.uplink import Update, for_weights
from protocol.tables import Table
from protocol.values import NonNegative, Positive


class NoiseSettings(Table):
    """The settings under ``[tool.flwr.app.config.custom.noise]``."""

    place: ClassVar[str] = "custom.noise"
    clip: Positive = Field(10.0, description="largest norm of a client's update")
    deviation: NonNegative = Field(0.001, description="standard deviation of the noise on each weight")


@for_weights
def noise(update: Update) -> Mapping[str, Tensor]:
    """Return the weights received plus the update, clipped and with Gaussian noise; buffers as they are."""
    table = update.settings.of(NoiseSettings)
    floats = [name for name, tensor in update.tensors.items() if tensor.is_floating_point()]
    changes = {name: update.tensors[name].cpu() - update.received[name].cpu() for name in floats}
    norm = torch.stack([change.norm() for change in changes.values()]).norm()
    scale = min(1.0, table.clip / max(float(norm), 1e-12))
    noisy = dict(update.tensors)
    for name, change in changes.items():
        drawn = torch.randn(change.shape, generator=update.generator) * table.deviation
        noisy[name] = update.received[name].cpu() + scale * change + drawn
    return noisy
