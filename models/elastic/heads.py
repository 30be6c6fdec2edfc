"""Heads that several networks use: a linear classifier, optionally after convolutions."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from models.elastic.channels import Channels
from models.elastic.layers import ElasticLinear, convolution
from models.elastic.network import class_outputs


class LinearHead(nn.Module):
    """Global average pooling, then a fully connected layer: a residual network's usual head."""

    def __init__(self, inputs: Channels, num_classes: int) -> None:
        super().__init__()
        self.linear = ElasticLinear(inputs, class_outputs(num_classes))

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, inputs, height, width)`` to logits ``(batch, classes)``."""
        logits: Tensor = self.linear(features.mean(dim=(2, 3)))
        return logits


class ExitHead(nn.Module):
    """An early exit: 3x3 convolutions, then a linear head.

    Early features are too local for a linear classifier; the convolutions give the exit a wider view.

    Parameters
    ----------
    inputs
        Input channels.
    sizes
        Output channels of each convolution, already scaled by the width.
    num_classes
        Width of the output.
    name
        Prefix of the names of its channels.
    width
        The network's width.
    stride
        Stride of each convolution.
    """

    def __init__(
        self,
        inputs: Channels,
        sizes: Sequence[int],
        num_classes: int,
        name: str,
        *,
        width: float,
        stride: int = 1,
    ) -> None:
        super().__init__()
        channels = [inputs, *(Channels.of(f"{name}.{number}", size) for number, size in enumerate(sizes))]
        self.convolutions = nn.Sequential(
            *(convolution(before, after, stride=stride, width=width) for before, after in pairwise(channels))
        )
        self.head = LinearHead(channels[-1], num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, inputs, height, width)`` to logits ``(batch, classes)``."""
        logits: Tensor = self.head(self.convolutions(features))
        return logits
