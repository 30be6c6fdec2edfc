"""In which precision networks compute; weights, losses and what travels are float32 whatever it is.

Norms are calibrated in float32 too, so that an export does not depend on it.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from protocol.errors import SettingsError, TrainingError

Precision = Literal["fp32", "bf16", "fp16"]

Gradients = Callable[[Tensor, Sequence[Tensor]], list[Tensor] | None]
"""Maps a loss and the parameters to the loss's gradients, float32; None: they overflowed, find them again."""

_FIRST_SCALE = 2.0**16
_GOOD_STEPS = 2000


@dataclass(frozen=True)
class Arithmetic:
    """How a network's layers compute.

    Parameters
    ----------
    precision
        ``bf16`` and ``fp16`` are torch's autocast: matrix products and convolutions in 16 bits, sums and
        norms in float32. ``fp32`` leaves torch as it is.
    device
        Where the network is.

    Raises
    ------
    SettingsError
        If the device does not compute in this precision.
    """

    precision: Precision
    device: torch.device

    def __post_init__(self) -> None:
        """Refuse float16 on a CPU, which is slower there than float32."""
        if self.precision == "fp16" and self.device.type != "cuda":
            raise SettingsError(
                f'precision = "fp16": needs a GPU, this is a {self.device.type}; allowed are fp32, bf16'
            )

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context to compute in."""
        match self.precision:
            case "fp32":
                return nullcontext()
            case "bf16":
                return torch.autocast(self.device.type, torch.bfloat16)
            case "fp16":
                return torch.autocast(self.device.type, torch.float16)

    def gradients(self) -> Gradients:
        """Return how gradients are found in one training."""
        return ScaledGradients() if self.precision == "fp16" else plain_gradients


FLOAT32 = Arithmetic("fp32", torch.device("cpu"))
"""Torch as it is, on any device."""


def usable_precision(wanted: Precision, device: torch.device) -> tuple[Precision, str]:
    """Return the precision a device computes in: the one wanted, or ``fp32`` and a note that says why.

    So nodes of unequal hardware take part in one run: weights are float32 everywhere, and merge.
    """
    if lack := _lack(wanted, device):
        return "fp32", f'precision = "{wanted}": {lack}, computing in fp32'
    return wanted, ""


def _lack(wanted: Precision, device: torch.device) -> str:
    """Say what a device lacks to compute in a precision, or nothing."""
    match wanted, device.type:
        case ("fp16", "cpu"):
            return "a CPU computes it more slowly than fp32"
        case ("bf16", "cpu") if not _cpu_has_bfloat16():
            return "this CPU does not have it"
        case ("bf16", "cuda"):
            with torch.cuda.device(device):
                if not torch.cuda.is_bf16_supported(including_emulation=False):
                    major, minor = torch.cuda.get_device_capability()
                    name = torch.cuda.get_device_name()
                    return f"{name} (compute capability {major}.{minor}, needed is 8.0) does not have it"
    return ""


def _cpu_has_bfloat16() -> bool:
    """Tell whether products of matrices in bfloat16 are more than a slow imitation here."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def plain_gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients of a loss; those of parameters that had no part in it are 0.

    Networks of libraries have such parameters, as a pooler that a head passes by.
    """
    return list(torch.autograd.grad(loss, parameters, materialize_grads=True))


class ScaledGradients:
    """Gradients of the loss times a scale, divided by it again: float16 would round small ones to 0.

    A gradient that is not finite halves the scale, and must be found again; 2,000 good ones in a row double
    it (Micikevicius et al. 2018, section 3.2). Torch's ``GradScaler`` does so too, but it wants a
    ``torch.optim.Optimizer``, see ``learning.training``.
    """

    def __init__(self) -> None:
        self.scale = _FIRST_SCALE
        self._good = 0

    def __call__(self, loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor] | None:
        """Return the gradients, or None if one is not finite.

        Raises
        ------
        TrainingError
            If they are not finite even without a scale.
        """
        scaled = plain_gradients(loss * self.scale, parameters)
        gradients = [gradient / self.scale for gradient in scaled]
        finite = bool(torch.stack([gradient.isfinite().all() for gradient in gradients]).all())
        self._adapt(finite)
        return gradients if finite else None

    def _adapt(self, finite: bool) -> None:
        self._good = self._good + 1 if finite else 0
        if not finite:
            self.scale /= 2
        elif self._good % _GOOD_STEPS == 0:
            self.scale *= 2
        if self.scale < 1:
            raise TrainingError("training diverged: gradients are not finite, try a smaller learning-rate")
