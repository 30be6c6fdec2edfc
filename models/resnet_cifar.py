"""The residual networks for CIFAR of He et al. 2016, "Deep Residual Learning for Image Recognition"."""

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (16, 32, 64)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (section 3.3, option A).

    Where the block halves the image and widens the features, the shortcut takes every second pixel
    and fills the new channels with zeros.

    Parameters
    ----------
    inputs, outputs
        Input and output channels.
    stride
        2 halves the image's sides, 1 keeps them.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = outputs - inputs
        self.conv1 = _convolution(inputs, outputs, stride)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = _convolution(outputs, outputs, stride=1)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, inputs, height, width)`` to ``(batch, outputs, height/stride, width/stride)``."""
        residual = F.relu(self.norm1(self.conv1(x)))
        residual = self.norm2(self.conv2(residual))
        return F.relu(self._shortcut(x) + residual)

    def _shortcut(self, x: Tensor) -> Tensor:
        subsampled = x[:, :, :: self.stride, :: self.stride]
        return F.pad(subsampled, (0, 0, 0, 0, 0, self.new_channels))


class CifarResNet(nn.Module):
    """A residual network of 6n+2 layers (section 4.2).

    A 3x3 convolution; three stages of n residual blocks with 16, 32 and 64 channels, of which the
    second and the third halve the image; the mean over positions; a linear layer. Weights start as in
    section 3.4, after He et al. 2015.

    Parameters
    ----------
    depth
        6n+2: 20, 32, 44, ...
    image_shape
        Channels, height and width. The network fits any height and width.
    num_classes
        Number of classes.

    Raises
    ------
    ValueError
        When ``depth`` is not 6n+2.
    """

    def __init__(self, depth: int, image_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        blocks, remainder = divmod(depth - 2, 6)
        if blocks < 1 or remainder:
            raise ValueError(f"depth = {depth}: must be 6n+2, as 20 or 32")
        narrow, middle, wide = WIDTHS
        self.conv = _convolution(image_shape[0], narrow, stride=1)
        self.norm = nn.BatchNorm2d(narrow)
        self.stage1 = _stage(narrow, narrow, blocks, stride=1)
        self.stage2 = _stage(narrow, middle, blocks, stride=2)
        self.stage3 = _stage(middle, wide, blocks, stride=2)
        self.head = nn.Linear(wide, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, channels, height, width)`` to logits ``(batch, num_classes)``."""
        features = F.relu(self.norm(self.conv(images)))
        features = self.stage3(self.stage2(self.stage1(features)))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = ResidualBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(ResidualBlock(outputs, outputs, stride=1) for _ in range(blocks - 1)))


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return convolution
