"""The precision in which networks compute; weights, losses and messages are always float32.

Norms are calibrated in float32 too, so that an export does not depend on the precision.
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
"""Maps a loss and the parameters to its gradients, float32; None: they overflowed, compute them again."""

_FIRST_SCALE = 2.0**16
_GOOD_STEPS = 2000


@dataclass(frozen=True)
class Arithmetic:
    """The precision and device in which a network's layers compute.

    Parameters
    ----------
    precision
        ``bf16`` and ``fp16`` are torch's autocast: matrix products and convolutions in 16 bits, sums and
        norms in float32. ``fp32`` leaves torch as it is.
    device
        The device of the network.

    Raises
    ------
    SettingsError
        If the device does not support this precision.
    """

    precision: Precision
    device: torch.device

    def __post_init__(self) -> None:
        """Refuse float16 on a CPU, which is slower there than float32."""
        if self.precision == "fp16" and self.device.type != "cuda":
            raise SettingsError(
                f'precision = "fp16": needs a GPU, the device is a {self.device.type}; allowed are fp32, bf16'
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
        """Return the function that computes gradients, for one call of training."""
        return ScaledGradients() if self.precision == "fp16" else plain_gradients


FLOAT32 = Arithmetic("fp32", torch.device("cpu"))
"""Float32, on any device."""


def usable_precision(wanted: Precision, device: torch.device) -> tuple[Precision, str]:
    """Return the precision to use on a device: the wanted one, or ``fp32`` and a note that says why.

    Nodes of unequal hardware can thus join one run: weights are float32 everywhere, so they can be averaged.
    """
    if lack := _lack(wanted, device):
        return "fp32", f'precision = "{wanted}": {lack}, computing in fp32'
    return wanted, ""


def _lack(wanted: Precision, device: torch.device) -> str:
    """Return why a device does not support a precision; empty if it does."""
    match wanted, device.type:
        case ("fp16", "cpu"):
            return "it is slower than fp32 on a CPU"
        case ("bf16", "cpu") if not _cpu_has_bfloat16():
            return "this CPU does not support it"
        case ("bf16", "cuda"):
            with torch.cuda.device(device):
                if not torch.cuda.is_bf16_supported(including_emulation=False):
                    major, minor = torch.cuda.get_device_capability()
                    name = torch.cuda.get_device_name()
                    return f"{name} (compute capability {major}.{minor}, needed is 8.0) does not support it"
    return ""


def _cpu_has_bfloat16() -> bool:
    """Tell whether this CPU has instructions for bfloat16, and does not emulate them slowly."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def plain_gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients of a loss; those of parameters that had no part in it are 0.

    Networks of libraries have such parameters, as a pooler that a head passes by.
    """
    return list(torch.autograd.grad(loss, parameters, materialize_grads=True))


class ScaledGradients:
    """Loss scaling: gradients of the scaled loss, divided by the scale, as float16 rounds small ones to 0.

    If a gradient is not finite the scale is halved and gradients must be recomputed; after 2,000 finite ones
    in a row it is doubled (Micikevicius et al. 2018, section 3.2). Torch's ``GradScaler`` works the same way
    but needs a ``torch.optim.Optimizer``, see ``learning.optimizers``.
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
