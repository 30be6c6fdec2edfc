"""Losses of networks with several exits: the loss on the classes, and distillation between exits."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from learning.losses import ClassLoss

ExitWeights = Literal["linear", "equal", "full"]

ExitsLoss = Callable[[Sequence[Tensor], Tensor, float, float, ClassLoss], Tensor]
"""Maps the exits' logits, the targets, β, τ and the loss of one exit to the loss of all exits."""


def self_distillation_loss(
    logits: Sequence[Tensor],
    targets: Tensor,
    distillation: float,
    temperature: float,
    class_loss: ClassLoss = F.cross_entropy,
    weights: ExitWeights = "linear",
) -> Tensor:
    """Return ScaleFL's loss (equation 5), in which early exits learn from the last.

    1/(l(l+1)) · Σ_j j · (CE(z_j, y) + β τ² KL(softmax(z_l/τ) ‖ softmax(z_j/τ))), the teacher z_l detached
    and KL the mean over samples.

    Parameters
    ----------
    logits
        z_1 … z_l of the exits, the shallowest first; each of shape (batch, classes).
    targets
        Classes, int64 of shape (batch,).
    distillation
        β; 0 before the exits learn from each other.
    temperature
        τ.
    class_loss
        CE, or what takes its place.
    weights
        Of the exits: see `exit_weights`.
    """
    teacher = F.softmax(logits[-1].detach() / temperature, dim=1)
    total = torch.zeros((), device=targets.device)
    for z, weight in zip(logits, exit_weights(len(logits), weights), strict=True):
        loss = class_loss(z, targets)
        if distillation and z is not logits[-1]:  # the last exit is the teacher
            loss = loss + distillation * temperature**2 * _divergence(teacher, z, temperature)
        total = total + weight * loss
    return total


def exit_weights(count: int, kind: ExitWeights) -> list[float]:
    """Return the weights of l exits' losses, the shallowest first.

    ``linear``, as in the paper: j/(l(l+1)), which sum to 1/2. ``equal``: 1/(2l). ``full``: 1 each, so that
    an exit learns as fast in a deep submodel as in one that ends with it.
    """
    match kind:
        case "linear":
            return [number / (count * (count + 1)) for number in range(1, count + 1)]
        case "equal":
            return [1 / (2 * count)] * count
        case "full":
            return [1.0] * count


def official_loss(
    logits: Sequence[Tensor],
    targets: Tensor,
    distillation: float,
    temperature: float,
    class_loss: ClassLoss = F.cross_entropy,
) -> Tensor:
    """Return what ScaleFL's released code computes in place of `self_distillation_loss`.

    It is twice as large, its KL is also averaged over the classes, and gradients flow into the teacher.

    Parameters
    ----------
    logits, targets, distillation, temperature, class_loss
        As in `self_distillation_loss`.
    """
    teacher = F.softmax(logits[-1] / temperature, dim=1)
    classes = logits[-1].shape[1]
    total = torch.zeros((), device=targets.device)
    for number, z in enumerate(logits, start=1):
        loss = class_loss(z, targets)
        if distillation and number < len(logits):
            loss = loss + distillation * temperature**2 * _divergence(teacher, z, temperature) / classes
        total = total + number * loss
    return 2 * total / (len(logits) * (len(logits) + 1))


def mutual_loss(
    logits: Sequence[Tensor],
    targets: Tensor,
    distillation: float,
    temperature: float,
    class_loss: ClassLoss = F.cross_entropy,
) -> Tensor:
    """Return DepthFL's loss (Kim et al. 2023, equation 2), in which each exit learns from all others.

    Σ_j (CE(z_j, y) + β τ² / (l−1) · Σ_{k≠j} KL(softmax(z_k/τ) ‖ softmax(z_j/τ))), the teachers detached.
    The paper has β = τ = 1; β τ² is 0.9 with this project's defaults.

    Parameters
    ----------
    logits, targets, distillation, temperature, class_loss
        As in `self_distillation_loss`.
    """
    teachers = [F.softmax(z.detach() / temperature, dim=1) for z in logits]
    total = torch.zeros((), device=targets.device)
    for number, z in enumerate(logits):
        total = total + class_loss(z, targets)
        others = teachers[:number] + teachers[number + 1 :]
        if distillation and others:
            divergences = torch.stack([_divergence(teacher, z, temperature) for teacher in others])
            total = total + distillation * temperature**2 * divergences.mean()
    return total


def masked_loss(counts: Tensor, loss: ClassLoss = F.cross_entropy) -> ClassLoss:
    """Return a loss over those classes that a client has samples of.

    Logits of other classes get no gradient: a client without samples of a class would only learn to exclude
    it (Diao et al. 2021, section 3, "masking trick").

    Parameters
    ----------
    counts
        The client's samples of each class, shape (classes,).
    loss
        Of the adjusted logits against the classes.
    """
    return _adjusted(torch.where(counts > 0, 0.0, float("-inf")), loss)


def balanced_loss(counts: Tensor, loss: ClassLoss = F.cross_entropy) -> ClassLoss:
    """Return a loss of logits to which the log of each class's frequency is added.

    This keeps the client's class frequencies from being learned by the network (Ren et al. 2020, "Balanced
    Meta-Softmax"; Zhang et al. 2022, FedLC). Classes without samples are left out.

    Parameters
    ----------
    counts
        The client's samples of each class, shape (classes,).
    loss
        Of the adjusted logits against the classes.
    """
    return _adjusted((counts / counts.sum()).log(), loss)


def _adjusted(adjustment: Tensor, loss: ClassLoss) -> ClassLoss:
    def of_adjusted(logits: Tensor, targets: Tensor) -> Tensor:
        return loss(logits + adjustment, targets)

    return of_adjusted


def _divergence(teacher: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher ‖ softmax(logits/τ)) in nats, the mean over samples."""
    return F.kl_div(F.log_softmax(logits / temperature, dim=1), teacher, reduction="batchmean")
