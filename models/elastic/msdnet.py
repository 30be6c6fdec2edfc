"""Multi-scale dense networks for CIFAR's images (Huang et al. 2018) with exits, as ScaleFL trains them.

Every layer computes features at three scales; an exit reads the coarsest. Features at the finer scales are
only used by later layers, so a network that ends early omits some of them.
"""

import math
from collections.abc import Mapping
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.elastic.channels import Channels, scaled
from models.elastic.heads import ExitHead
from models.elastic.layers import convolution
from models.elastic.network import ElasticDesign, ElasticNetwork, Shape, image_channels, nested

BASE = 16
GROWTH = 6
SCALE_FACTORS = (1, 2, 4)
"""Factor on ``BASE`` and ``GROWTH`` at each scale, from the finest, and on a bottleneck's width."""
EXIT_CHANNELS = 128
_EXIT_CONVOLUTIONS = 2
_COARSEST = len(SCALE_FACTORS) - 1


class Stem(nn.Module):
    """The first features at each scale, each computed from the next finer one.

    Parameters
    ----------
    channels
        Output channels, by scale.
    images
        Channels of the images.
    width
        The network's width.
    """

    def __init__(self, channels: Mapping[int, Channels], images: Channels, width: float) -> None:
        super().__init__()
        between = pairwise([images, *channels.values()])
        self.convolutions = nn.ModuleList(
            convolution(before, after, stride=1 if before == images else 2, width=width)
            for before, after in between
        )

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Map ``(batch, channels, height, width)`` to the features at each scale, by its number."""
        features, by_scale = images, {}
        for scale, layer in enumerate(self.convolutions):
            features = layer(features)
            by_scale[scale] = features
        return by_scale


class ScaleGrowth(nn.Module):
    """The new channels of one layer at one scale, computed from that scale and from the next finer one.

    One half comes from each; without a finer scale, all come from the scale itself.

    Parameters
    ----------
    name
        Prefix of the names of the new channels.
    scale
        The scale, 0 being the finest.
    inputs
        Input channels, by scale.
    growth
        New channels at scale 0.
    width
        The network's width.
    """

    def __init__(
        self, name: str, scale: int, inputs: Mapping[int, Channels], growth: int, width: float
    ) -> None:
        super().__init__()
        self.scale = scale
        finer = inputs.get(scale - 1)
        size = SCALE_FACTORS[scale] * growth // (1 if finer is None else 2)
        same = Channels.of(f"{name}.same", size)
        self.same = _bottleneck(inputs[scale], same, SCALE_FACTORS[scale], 1, width)
        self.outputs = inputs[scale]
        self.down: nn.Sequential | None = None
        if finer is not None:
            down = Channels.of(f"{name}.down", size)
            self.down = _bottleneck(finer, down, SCALE_FACTORS[scale - 1], 2, width)
            self.outputs += down
        self.outputs += same

    def forward(self, features: Mapping[int, Tensor]) -> Tensor:
        """Return the scale's features with the new ones after them."""
        parts = [features[self.scale]]
        if self.down is not None:
            parts.append(self.down(features[self.scale - 1]))
        parts.append(self.same(features[self.scale]))
        return torch.cat(parts, dim=1)


def _bottleneck(inputs: Channels, outputs: Channels, factor: int, stride: int, width: float) -> nn.Sequential:
    (name, size), *_ = outputs.groups
    inner = Channels.of(f"{name}.bottleneck", min(len(inputs), factor * size))
    return nn.Sequential(
        convolution(inputs, inner, 1, width=width), convolution(inner, outputs, stride=stride, width=width)
    )


class DenseLayer(nn.Module):
    """One layer at all remaining scales, followed by a transition if the finest scale was dropped.

    Parameters
    ----------
    name
        Prefix of the names of its channels.
    inputs
        Input channels, by scale.
    finest
        The finest scale that it outputs.
    growth
        New channels at scale 0.
    transition
        Whether the channels of every scale are halved at the end.
    width
        The network's width.
    """

    def __init__(
        self,
        name: str,
        inputs: Mapping[int, Channels],
        finest: int,
        growth: int,
        transition: bool,
        width: float,
    ) -> None:
        super().__init__()
        growths, transitions = {}, {}
        self.outputs: dict[int, Channels] = {}
        for scale in range(finest, _COARSEST + 1):
            grown = ScaleGrowth(f"{name}.scale{scale}", scale, inputs, growth, width)
            growths[str(scale)] = grown
            self.outputs[scale] = grown.outputs
            if transition:
                factor = SCALE_FACTORS[scale]
                halved = factor * (len(grown.outputs) // factor // 2)
                self.outputs[scale] = Channels.of(f"{name}.scale{scale}.transition", halved)
                transitions[str(scale)] = convolution(grown.outputs, self.outputs[scale], 1, width=width)
        self.growths = nn.ModuleDict(growths)
        self.transitions = nn.ModuleDict(transitions)

    def forward(self, features: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Map the features at each scale to those at the scales that remain."""
        grown = {int(scale): growth(features) for scale, growth in self.growths.items()}
        return grown | {
            int(scale): transition(grown[int(scale)]) for scale, transition in self.transitions.items()
        }


class CoarsestExit(ExitHead):
    """An exit: two 3x3 convolutions of stride 2 on the coarsest features, then a linear head."""

    def forward(self, features: Mapping[int, Tensor]) -> Tensor:  # type: ignore[override]
        """Map the features at each scale to logits ``(batch, classes)``."""
        return super().forward(features[_COARSEST])


def build_msdnet(layers: int, image_shape: tuple[int, ...], num_classes: int, shape: Shape) -> ElasticNetwork:
    """Build a multi-scale dense network, whose blocks are its layers.

    A scale that no exit depends on is left out.

    Parameters
    ----------
    layers
        Layers of the whole network after the stem. After each third of them the finest scale is dropped.
    image_shape
        Channels, height and width. The network fits any height and width.
    num_classes
        Number of classes.
    shape
        Width and exits of the submodel.
    """
    width = shape.width
    channels = {
        scale: Channels.of(f"stem.scale{scale}", factor * scaled(BASE, width))
        for scale, factor in enumerate(SCALE_FACTORS)
    }
    stem = Stem(channels, image_channels(image_shape), width)
    blocks: list[nn.Module] = []
    heads: dict[int, nn.Module] = {}
    for number in range(1, shape.depth + 1):
        finest = _finest_scale(number, layers)
        transition = finest > _finest_scale(number - 1, layers)
        # a layer's features go one scale down with every layer, so those too fine never reach the last exit
        needed = max(finest, _COARSEST - (shape.depth - number))
        layer = DenseLayer(f"layer{number}", channels, needed, scaled(GROWTH, width), transition, width)
        blocks.append(layer)
        channels = layer.outputs
        if number in shape.exits:
            sizes = [scaled(EXIT_CHANNELS, width)] * _EXIT_CONVOLUTIONS
            heads[number] = CoarsestExit(
                channels[_COARSEST], sizes, num_classes, f"exit{number}", width=width, stride=2
            )
    return ElasticNetwork(stem, blocks, heads)


def _finest_scale(layer: int, layers: int) -> int:
    """Return the finest scale that a layer of the whole network outputs; layer 0 is the stem."""
    return max(0, layer - 1) // math.ceil(layers / len(SCALE_FACTORS))


MSDNET24 = ElasticDesign(partial(build_msdnet, 24), 24, nested((0.65, 0.7, 0.85, 1.0), (15, 18, 21, 24)))
"""The levels of ScaleFL's own experiments."""
