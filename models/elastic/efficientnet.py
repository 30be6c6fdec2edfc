"""EfficientNet-B4 (Tan and Le 2019) with exits, as ScaleFL trains it.

The whole network has torchvision's layers in torchvision's order, so that its weights fit; torchvision itself
is not needed.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.elastic.channels import Channels, scaled
from models.elastic.heads import ExitHead
from models.elastic.layers import ElasticBatchNorm2d, ElasticConv2d, ElasticLinear
from models.elastic.network import (
    ElasticDesign,
    ElasticNetwork,
    Shape,
    class_outputs,
    image_channels,
    nested,
)


@dataclass(frozen=True)
class Stage:
    """Residual blocks of one kind, of which the first has the stride."""

    expansion: int
    kernel_size: int
    stride: int
    channels: int
    blocks: int


STEM_CHANNELS = 48
STAGES = (
    Stage(1, 3, 1, 24, 2),
    Stage(6, 3, 2, 32, 4),
    Stage(6, 5, 2, 56, 4),
    Stage(6, 3, 2, 112, 6),
    Stage(6, 5, 1, 160, 6),
    Stage(6, 5, 2, 272, 4),
    Stage(6, 5, 1, 272, 4),
    Stage(6, 3, 1, 448, 2),
)
"""B4's stages. Its sixth, by far the largest, is split in two, so that an exit fits in its middle."""
LAST_CHANNELS = 1792
DROPOUT = 0.4
STOCHASTIC_DEPTH = 0.2
_SQUEEZE = 4
_EXIT_NARROWING = 6
_EXIT_CONVOLUTIONS = 3


def _convolution(
    inputs: Channels,
    outputs: Channels,
    kernel_size: int = 1,
    stride: int = 1,
    *,
    width: float,
    depthwise: bool = False,
) -> nn.Sequential:
    return nn.Sequential(
        ElasticConv2d(inputs, outputs, kernel_size, stride, width=width, depthwise=depthwise),
        ElasticBatchNorm2d(outputs),
        nn.SiLU(inplace=True),
    )


class SqueezeExcitation(nn.Module):
    """Squeeze-and-excitation: scale channels by a function of all channels' means (Hu et al. 2018).

    Parameters
    ----------
    channels
        Input and output channels.
    squeezed
        Channels of the bottleneck.
    width
        The network's width.
    """

    def __init__(self, channels: Channels, squeezed: Channels, width: float) -> None:
        super().__init__()
        self.squeeze = ElasticConv2d(channels, squeezed, 1, width=width, bias=True)
        self.excite = ElasticConv2d(squeezed, channels, 1, width=width, bias=True)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, channels, height, width)`` to the same shape."""
        means = F.adaptive_avg_pool2d(features, 1)
        return features * torch.sigmoid(self.excite(F.silu(self.squeeze(means))))


class StochasticDepth(nn.Module):
    """In training, drop the residual of some images at random and rescale the others (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.survival = 1 - rate

    def forward(self, residual: Tensor) -> Tensor:
        """Map ``(batch, channels, height, width)`` to the same shape."""
        if not self.training or self.survival == 1:
            return residual
        survives = residual.new_empty(len(residual), 1, 1, 1).bernoulli_(self.survival)
        return residual * survives.div_(self.survival)


class MobileBlock(nn.Module):
    """An inverted residual block: expansion, depthwise convolution, squeeze-and-excitation, projection.

    Parameters
    ----------
    inputs, outputs
        Input and output channels; if they are the same and the stride is 1, there is a residual connection.
    stage
        The stage that the block belongs to.
    stride
        The stage's, or 1.
    name
        Prefix of the names of the block's inner channels.
    drop_rate
        Probability with which training drops the block.
    width
        The network's width.
    """

    def __init__(
        self,
        inputs: Channels,
        outputs: Channels,
        stage: Stage,
        stride: int,
        name: str,
        drop_rate: float,
        width: float,
    ) -> None:
        super().__init__()
        wide = inputs
        self.expand: nn.Module = nn.Identity()
        if stage.expansion > 1:
            wide = Channels.of(f"{name}.wide", stage.expansion * len(inputs))
            self.expand = _convolution(inputs, wide, width=width)
        squeezed = Channels.of(f"{name}.squeezed", max(1, len(inputs) // _SQUEEZE))
        self.filter = _convolution(wide, wide, stage.kernel_size, stride, width=width, depthwise=True)
        self.weigh = SqueezeExcitation(wide, squeezed, width)
        self.project = nn.Sequential(
            ElasticConv2d(wide, outputs, 1, width=width), ElasticBatchNorm2d(outputs)
        )
        self.residual = stride == 1 and inputs == outputs
        self.stochastic_depth = StochasticDepth(drop_rate)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, inputs, height, width)`` to ``(batch, outputs, height/stride, width/stride)``."""
        result: Tensor = self.project(self.weigh(self.filter(self.expand(features))))
        return features + self.stochastic_depth(result) if self.residual else result


class LastHead(nn.Module):
    """B4's own head: a 1x1 convolution, global average pooling, dropout and a fully connected layer.

    Parameters
    ----------
    inputs
        Channels of the last block.
    num_classes
        Number of classes.
    width
        The network's width.
    """

    def __init__(self, inputs: Channels, num_classes: int, width: float) -> None:
        super().__init__()
        last = Channels.of("last", scaled(LAST_CHANNELS, width))
        self.convolution = _convolution(inputs, last, width=width)
        self.dropout = nn.Dropout(DROPOUT)
        self.linear = ElasticLinear(last, class_outputs(num_classes))

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, inputs, height, width)`` to logits ``(batch, classes)``."""
        means = F.adaptive_avg_pool2d(self.convolution(features), 1).flatten(1)
        logits: Tensor = self.linear(self.dropout(means))
        return logits


def build_efficientnet_b4(image_shape: tuple[int, ...], num_classes: int, shape: Shape) -> ElasticNetwork:
    """Build EfficientNet-B4, whose blocks are its eight stages.

    Parameters
    ----------
    image_shape
        Channels, height and width. The network fits any height and width.
    num_classes
        Number of classes.
    shape
        Width and exits of the submodel.
    """
    width = shape.width
    stem = Channels.of("stem", scaled(STEM_CHANNELS, width))
    stages: list[nn.Module] = []
    heads: dict[int, nn.Module] = {}
    inputs = stem
    for number in range(1, shape.depth + 1):
        size = STAGES[number - 1].channels
        outputs = Channels.of(f"trunk{size}", scaled(size, width))  # a split stage's halves share theirs
        stages.append(_build_stage(number, inputs, outputs, width))
        if number == len(STAGES):
            heads[number] = LastHead(outputs, num_classes, width)
        elif number in shape.exits:
            sizes = [max(1, len(outputs) // _EXIT_NARROWING)] * _EXIT_CONVOLUTIONS
            heads[number] = ExitHead(outputs, sizes, num_classes, f"exit{number}", width=width)
        inputs = outputs
    first = _convolution(image_channels(image_shape), stem, 3, 2, width=width)
    return ElasticNetwork(first, stages, heads)


def _build_stage(number: int, inputs: Channels, outputs: Channels, width: float) -> nn.Sequential:
    stage = STAGES[number - 1]
    blocks_before = sum(before.blocks for before in STAGES[: number - 1])
    blocks_in_all = sum(each.blocks for each in STAGES)
    blocks = []
    for index in range(stage.blocks):
        drop_rate = STOCHASTIC_DEPTH * (blocks_before + index) / blocks_in_all
        stride = 1 if index else stage.stride
        name = f"stage{number}.{index}"
        blocks.append(MobileBlock(inputs, outputs, stage, stride, name, drop_rate, width))
        inputs = outputs
    return nn.Sequential(*blocks)


EFFICIENTNET_B4 = ElasticDesign(build_efficientnet_b4, 8, nested((0.65, 0.65, 0.82, 1.0), (5, 6, 7, 8)))
"""The levels of ScaleFL's own experiments, on images of 224x224."""
