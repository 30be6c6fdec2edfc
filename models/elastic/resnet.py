"""CIFAR's residual networks (He et al. 2016, section 4.2) with exits, as ScaleFL trains them."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from models.elastic.channels import Channels, scaled
from models.elastic.heads import ExitHead, LinearHead
from models.elastic.layers import ElasticBatchNorm2d, ElasticConv2d, convolution
from models.elastic.network import (
    ElasticDesign,
    ElasticNetwork,
    Shape,
    image_channels,
    nested,
)

STAGE_WIDTHS = (16, 32, 64)
_EXIT_CONVOLUTIONS = 3


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a projection where the channels change (option B).

    Parameters
    ----------
    inputs, inner, outputs
        Channels before, between and after the convolutions.
    stride
        Stride of the first convolution.
    width
        The network's width.
    """

    def __init__(
        self, inputs: Channels, inner: Channels, outputs: Channels, stride: int, width: float
    ) -> None:
        super().__init__()
        self.conv1 = ElasticConv2d(inputs, inner, 3, stride, width=width)
        self.norm1 = ElasticBatchNorm2d(inner)
        self.conv2 = ElasticConv2d(inner, outputs, 3, width=width)
        self.norm2 = ElasticBatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            projection = ElasticConv2d(inputs, outputs, 1, stride, width=width)
            self.shortcut = nn.Sequential(projection, ElasticBatchNorm2d(outputs))

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, inputs, height, width)`` to ``(batch, outputs, height/stride, width/stride)``."""
        residual = F.relu(self.norm1(self.conv1(features)))
        residual = self.norm2(self.conv2(residual))
        return F.relu(residual + self.shortcut(features))


def build_resnet(
    blocks_a_stage: tuple[int, int, int], image_shape: tuple[int, ...], num_classes: int, shape: Shape
) -> ElasticNetwork:
    """Build a residual network of three stages with 16, 32 and 64 channels.

    Parameters
    ----------
    blocks_a_stage
        Residual blocks of each stage of the whole network; n each make 6n+2 layers.
    image_shape
        Channels, height and width. The network fits any height and width.
    num_classes
        Number of classes.
    shape
        Width and exits of the submodel.
    """
    stages = [Channels.of(f"stage{i}", scaled(size, shape.width)) for i, size in enumerate(STAGE_WIDTHS, 1)]
    outputs = [stage for stage, blocks in zip(stages, blocks_a_stage, strict=True) for _ in range(blocks)]
    inputs = [stages[0], *outputs]
    blocks: list[nn.Module] = []
    heads: dict[int, nn.Module] = {}
    for number in range(1, shape.depth + 1):
        before, after = inputs[number - 1], outputs[number - 1]
        inner = Channels.of(f"block{number}", len(after))
        stride = 1 if before == after else 2
        blocks.append(ResidualBlock(before, inner, after, stride, shape.width))
        if number == len(outputs):
            heads[number] = LinearHead(after, num_classes)
        elif number in shape.exits:
            sizes = [len(after)] * _EXIT_CONVOLUTIONS
            heads[number] = ExitHead(after, sizes, num_classes, f"exit{number}", width=shape.width)
    stem = convolution(image_channels(image_shape), stages[0], width=shape.width)
    return ElasticNetwork(stem, blocks, heads)


RESNET20 = ElasticDesign(partial(build_resnet, (3, 3, 3)), 9, nested((0.65, 0.65, 0.7, 1.0), (6, 7, 8, 9)))
RESNET56 = ElasticDesign(
    partial(build_resnet, (9, 9, 9)), 27, nested((0.7, 0.7, 0.85, 1.0), (18, 20, 22, 27))
)
"""The levels of these two are what the search finds for 1/8, 1/4, 1/2 and all of the parameters."""
RESNET110 = ElasticDesign(
    partial(build_resnet, (18, 18, 18)), 54, nested((0.7, 0.7, 0.75, 1.0), (30, 38, 46, 54))
)
"""The levels of ScaleFL's own experiments."""
