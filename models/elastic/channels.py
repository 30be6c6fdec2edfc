"""Named channels: they say what a width cuts, and what submodels of unequal width share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from torch import nn

_ROUNDING = 1e-9  # 0.29 · 100 is 28.999…96 in binary


@dataclass(frozen=True)
class Channels:
    """One dimension of a parameter: a sequence of named groups of channels.

    A group is cut as one: the same of its channels are kept in every parameter in which its name appears. The
    channels of concatenated features are the sum of their channels, so that each part is cut on its own.

    Parameters
    ----------
    groups
        Name and size of each group, at the width of this network.
    """

    groups: tuple[tuple[str, int], ...]

    def __len__(self) -> int:
        return sum(size for _, size in self.groups)

    def __add__(self, other: Self) -> Self:
        return type(self)(self.groups + other.groups)

    @classmethod
    def of(cls, name: str, size: int) -> Self:
        """Return a single group of a given name and size."""
        return cls(((name, size),))


def scaled(size: int, width: float) -> int:
    """Return ⌊size · width⌋, at least 1: the number of channels that a width keeps."""
    return max(1, math.floor(size * width + _ROUNDING))


Axes = tuple[Channels | None, ...]
"""A parameter's dimensions; ``None`` for one without channels, such as a kernel's height."""


def axes_of(model: nn.Module) -> dict[str, Axes]:
    """Return the axes of every trainable or carried parameter of an elastic network, by its name.

    Raises
    ------
    ValueError
        If a parameter has no axes, or axes that do not fit its shape. Layers of
        ``models.elastic.layers`` define theirs.
    """
    axes: dict[str, Axes] = {}
    for prefix, module in model.named_modules():
        stated: Mapping[str, Axes] = getattr(module, "axes", {})
        axes.update({f"{prefix}.{name}" if prefix else name: of for name, of in stated.items()})
    own = run_parameters(model)
    for name, parameter in own.items():
        if name not in axes:
            raise ValueError(f"parameter {name!r} has no axes; use the layers of models.elastic.layers")
        _require_fit(name, tuple(parameter.shape), axes[name])
    return {name: axes[name] for name in own}


def run_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that belong to a run, by name: the trainable and the carried ones.

    A module lists the latter in ``carried``: training does not change them, but the server does between
    rounds.
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
