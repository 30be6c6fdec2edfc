"""Running statistics of batch norms: dropped while submodels are trained, recomputed before they are used.

Statistics of activations cannot be averaged across widths, so methods that merge submodels never send them. A
network trains with the statistics of its batches. Before it is used in eval mode, its statistics are computed
from inputs that need no labels and are not its test data (static batch norm, Diao et al. 2021, section 3).
"""

from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

CALIBRATION_BATCH = 500
"""Largest batch for computing statistics."""


def has_norms(model: nn.Module) -> bool:
    """Tell whether a network has batch norms, and so needs statistics in eval mode."""
    return bool(_norms(model))


def forget_statistics(model: nn.Module) -> None:
    """Remove the running statistics, also from the state dict; every mode then uses the batch's own."""
    for norm in _norms(model):
        norm.track_running_stats = False
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None


def track_statistics(model: nn.Module) -> None:
    """Give every norm running statistics, as a new network's: mean 0, variance 1."""
    for norm in _norms(model):
        norm.track_running_stats = True
        norm.running_mean = torch.zeros_like(norm.weight)
        norm.running_var = torch.ones_like(norm.weight)
        norm.num_batches_tracked = torch.tensor(0, device=norm.weight.device)


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running statistics to the unweighted mean over batches of inputs.

    A network without batch norms is left unchanged.

    Parameters
    ----------
    batches
        Batches of inputs, on the model's device. They should be of nearly equal size, as all have the same
        weight; the first must have at least two inputs.

    Raises
    ------
    ValueError
        With fewer than two inputs, which have no variance.
    """
    norms = _norms(model)
    if not norms:
        return
    batches = iter(batches)
    first = next(batches, torch.empty(0))
    if len(first) < 2:
        raise ValueError(f"{len(first)} inputs: batch norms need at least two to be calibrated on")
    track_statistics(model)
    momenta = [norm.momentum for norm in norms]
    was_training = model.training
    _set(norms, [None] * len(norms))  # a plain mean over the batches
    model.eval()  # as in evaluation, without dropout
    for norm in norms:
        norm.train()
    try:
        for batch in chain([first], batches):
            _answer(model, batch)
    finally:
        _set(norms, momenta)
        model.train(was_training)


def _answer(model: nn.Module, batch: Tensor) -> None:
    """Run a batch through the whole model: an elastic network's ``forward`` skips its early exits."""
    exits = getattr(model, "exits", model)
    exits(batch)


def _norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def _set(norms: list[_BatchNorm], momenta: list[float | None]) -> None:
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
