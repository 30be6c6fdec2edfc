"""Random changes of training images, a whole batch at a time."""

from typing import Literal, assert_never

import torch
from torch import Tensor
from torch.nn import functional

MARGIN_SHARE = 8  # an image moves by at most 1/8 of its side: 4 pixels of 32, as is usual for CIFAR


def augment(
    inputs: Tensor, kind: Literal["none", "shift", "crop-flip"], generator: torch.Generator
) -> Tensor:
    """Change each image of a batch at random; ``inputs`` itself is not modified.

    Parameters
    ----------
    inputs
        Batch of shape (N, channels, height, width), on any device.
    kind
        ``none`` returns ``inputs`` itself. ``shift`` moves each image by whole pixels, at most 1/8
        of its side (at least 1), and fills with zeros. ``crop-flip`` also mirrors half of the
        images left to right; a random crop of the padded image is that same shift.
    generator
        CPU generator, so that the draws are the same whatever the device.

    Returns
    -------
    Tensor
        Batch of the same shape, dtype and device.
    """
    match kind:
        case "none":
            return inputs
        case "shift":
            return _shift(inputs, generator)
        case "crop-flip":
            return _flip(_shift(inputs, generator), generator)
        case _:
            assert_never(kind)


def _shift(inputs: Tensor, generator: torch.Generator) -> Tensor:
    count, _, height, width = inputs.shape
    vertical, horizontal = (max(1, side // MARGIN_SHARE) for side in (height, width))
    padded = functional.pad(inputs, (horizontal, horizontal, vertical, vertical))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (N, C, rows, columns, H, W)
    rows = torch.randint(2 * vertical + 1, (count,), generator=generator).to(inputs.device)
    columns = torch.randint(2 * horizontal + 1, (count,), generator=generator).to(inputs.device)
    return windows[torch.arange(count, device=inputs.device), :, rows, columns]


def _flip(inputs: Tensor, generator: torch.Generator) -> Tensor:
    mirrored = torch.randint(2, (len(inputs), 1, 1, 1), generator=generator).bool()
    return torch.where(mirrored.to(inputs.device), inputs.flip(-1), inputs)
