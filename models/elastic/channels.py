"""Named channels: what a width cuts, and what submodels of unequal width have in common."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from torch import nn

_ROUNDING = 1e-9  # 0.29 · 100 is 28.999…96 in binary


@dataclass(frozen=True)
class Channels:
    """One dimension of a parameter: a run of named groups of channels, in their order.

    A group is what is cut as one. Wherever its name appears, in whichever parameter, the same of its
    channels are kept. A concatenation of features is the sum of their channels, so that what is kept of
    it is what is kept of each part.

    Parameters
    ----------
    groups
        Name and size of each group, at the width of the network at hand.
    """

    groups: tuple[tuple[str, int], ...]

    def __len__(self) -> int:
        return sum(size for _, size in self.groups)

    def __add__(self, other: Self) -> Self:
        return type(self)(self.groups + other.groups)

    @classmethod
    def of(cls, name: str, size: int) -> Self:
        """Name one group of a size that no width changes, as the classes or an image's channels."""
        return cls(((name, size),))


def scaled(size: int, width: float) -> int:
    """Return ⌊size · width⌋, at least 1: how many of ``size`` channels a width keeps."""
    return max(1, math.floor(size * width + _ROUNDING))


Axes = tuple[Channels | None, ...]
"""A parameter's dimensions; ``None`` for one that has no channels, as a kernel's height."""


def axes_of(model: nn.Module) -> dict[str, Axes]:
    """Return the axes of every parameter that is an elastic network's own, by the parameter's name.

    Raises
    ------
    ValueError
        If a parameter has no axes, or axes that do not fit its shape. The layers of
        ``models.elastic.layers`` state theirs.
    """
    axes: dict[str, Axes] = {}
    for prefix, module in model.named_modules():
        stated: Mapping[str, Axes] = getattr(module, "axes", {})
        axes.update({f"{prefix}.{name}" if prefix else name: of for name, of in stated.items()})
    own = run_parameters(model)
    for name, parameter in own.items():
        if name not in axes:
            raise ValueError(f"parameter {name!r} states no axes; build it of models.elastic.layers")
        _require_fit(name, tuple(parameter.shape), axes[name])
    return {name: axes[name] for name in own}


def run_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that belong to a run, by name: those that learn, and those that it carries.

    A module names the latter in ``carried``: no step changes them, but the server does, between rounds.
    """
    carried = {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        for name in getattr(module, "carried", ())
    }
    named = model.named_parameters()
    return {name: parameter for name, parameter in named if parameter.requires_grad or name in carried}


def _require_fit(name: str, shape: tuple[int, ...], axes: Axes) -> None:
    stated = tuple(size if axis is None else len(axis) for size, axis in zip(shape, axes, strict=False))
    if len(axes) != len(shape) or stated != shape:
        raise ValueError(f"parameter {name!r} has shape {shape}, its axes say {stated}")
