"""The convolution that images meet first, and what it becomes for images of other channels."""

import torch
from torch import Tensor, nn


def first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """Return the name and the module of a network's first convolution over images; None if it has none."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            return name, module
    return None


def for_channels(kernel: Tensor, channels: int) -> Tensor:
    """Return a kernel for images of other channels.

    For grey images it is the sum over the channels: what the kernel answers to the same picture in all of
    them. For more channels its own are repeated in turn, at a scale that keeps the size of the answers.

    Parameters
    ----------
    kernel
        Shape (outputs, inputs, height, width).
    channels
        Of the images, from 1.

    Returns
    -------
    Tensor
        Shape (outputs, channels, height, width).
    """
    own = kernel.shape[1]
    if channels == own:
        return kernel
    if channels == 1:
        return kernel.sum(dim=1, keepdim=True)
    repeated = kernel.repeat(1, -(-channels // own), 1, 1)
    return repeated[:, :channels] * (own / channels)


def fit_channels(model: nn.Module, channels: int) -> None:
    """Let a network that was built for colour images take images of other channels, in place.

    Raises
    ------
    ValueError
        If it has no convolution, or its first one treats channels apart.
    """
    found = first_convolution(model)
    if found is None:
        raise ValueError(f"it has no convolution that could take {channels} channels")
    name, old = found
    if old.in_channels == channels:
        return
    if old.groups != 1:
        raise ValueError(f"its first convolution {name} treats {old.in_channels} channels apart")
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
    )
    with torch.no_grad():
        new.weight.copy_(for_channels(old.weight, channels))
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    model.set_submodule(name, new)
