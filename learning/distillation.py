"""Distillation: learning from soft labels, on clients and on the server."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import Inputs
from learning.optimizers import OptimizerOptions, optimizer_maker
from learning.precision import FLOAT32, Arithmetic
from learning.training import fit, mean_over_exits
from protocol.settings import RunSettings


def distillation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return KL(ẑ ‖ softmax f(x)) in nats, mean over samples, temperature 1, no cross-entropy mixed in.

    Parameters
    ----------
    logits, labels : Tensor
        Shape (batch, classes); each row of ``labels`` sums to 1.
    """
    return F.kl_div(F.log_softmax(logits, dim=1), labels, reduction="batchmean")


def distil(
    model: nn.Module,
    inputs: Inputs,
    labels: Tensor,
    settings: RunSettings,
    generator: torch.Generator,
    arithmetic: Arithmetic = FLOAT32,
) -> None:
    """Train a model in place on soft labels of public samples, with the settings of ``distillation``.

    Parameters
    ----------
    model
        On the inputs' device.
    inputs
        n samples; with n = 0, nothing happens.
    labels
        Probabilities, shape (n, classes).
    settings
        Of the run.
    generator
        Shuffles the samples.
    arithmetic
        Precision of the network's layers.
    """
    labels = labels.to(inputs.device)
    table = settings.distillation

    def loss(batch: Tensor) -> Tensor:
        wanted = labels[batch.to(labels.device)]
        return mean_over_exits(model, inputs[batch], lambda logits: distillation_loss(logits, wanted))

    optimizer = optimizer_maker(table.optimizer, OptimizerOptions(table.learning_rate), settings)
    fit(model, loss, len(inputs), table, generator, optimizer, arithmetic)
