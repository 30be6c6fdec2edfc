"""Learning from soft labels, which clients and server do alike."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from data import PublicPool
from learning.precision import FLOAT32, Arithmetic
from learning.training import fit, mean_over_exits
from protocol.settings import DistillationSettings


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
    pool: PublicPool,
    indices: NDArray[np.int64],
    labels: Tensor,
    settings: DistillationSettings,
    generator: torch.Generator,
    arithmetic: Arithmetic = FLOAT32,
) -> None:
    """Train a model in place towards the labels of some public samples.

    Parameters
    ----------
    indices : NDArray[np.int64]
        The samples' places in the pool, shape (n,); with none, nothing happens.
    labels : Tensor
        Probabilities, shape (n, classes).
    """
    rows = torch.tensor(indices)
    labels = labels.to(pool.inputs.device)

    def loss(batch: Tensor) -> Tensor:
        inputs = pool.inputs[rows[batch]]
        return mean_over_exits(model, inputs, lambda logits: distillation_loss(logits, labels[batch]))

    fit(
        model,
        loss,
        len(indices),
        settings,
        generator,
        arithmetic=arithmetic,
        optimizer=settings.optimizer,
    )
