"""A small elastic convolutional network for digits and Fashion-MNIST: milliseconds a step on a CPU."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from models.elastic.channels import Channels, scaled
from models.elastic.layers import ElasticLinear, convolution
from models.elastic.network import (
    ElasticDesign,
    ElasticNetwork,
    Shape,
    class_outputs,
    image_channels,
    nested,
)

STEM_WIDTH = 8
BLOCK_WIDTHS = (8, 8, 16, 16, 16, 32, 32, 32)
LARGE_IMAGE = 16
SMALLEST_IMAGE = 8


class QuadrantHead(nn.Module):
    """The mean over each quadrant of the image, then a fully connected layer.

    An early exit sees small parts of the image only; the mean over all of it would leave too little.
    """

    def __init__(self, inputs: Channels, num_classes: int) -> None:
        super().__init__()
        self.linear = ElasticLinear(inputs + inputs + inputs + inputs, class_outputs(num_classes))

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, inputs, height, width)`` to logits ``(batch, classes)``."""
        strides = [side // 2 for side in features.shape[2:]]
        kernel = [side - stride for side, stride in zip(features.shape[2:], strides, strict=True)]
        quadrants = F.avg_pool2d(features, kernel, strides).flatten(2)
        logits: Tensor = self.linear(quadrants.transpose(1, 2).flatten(1))  # a quadrant's channels together
        return logits


def build_cnn(image_shape: tuple[int, ...], num_classes: int, shape: Shape) -> ElasticNetwork:
    """Build a network of a stem and eight 3x3 convolutions with batch norm, of which two halve the image.

    Images of which both sides are above 16 pixels are halved by the stem already.

    Parameters
    ----------
    image_shape
        Channels, height and width; each side at least 8.
    num_classes
        Number of classes.
    shape
        Width and exits of the submodel.

    Raises
    ------
    ValueError
        If the images are too small.
    """
    sides = image_shape[1:]
    if min(sides) < SMALLEST_IMAGE:
        raise ValueError(f"images of {sides[0]}x{sides[1]}: each side must be at least {SMALLEST_IMAGE}")
    width = shape.width
    channels = [Channels.of("stem", scaled(STEM_WIDTH, width))]
    channels += [Channels.of(f"block{i}", scaled(size, width)) for i, size in enumerate(BLOCK_WIDTHS, 1)]
    strides = [1 if before == after else 2 for before, after in pairwise((STEM_WIDTH, *BLOCK_WIDTHS))]
    blocks = [
        convolution(channels[number - 1], channels[number], stride=strides[number - 1], width=width)
        for number in range(1, shape.depth + 1)
    ]
    heads = {number: QuadrantHead(channels[number], num_classes) for number in shape.exits}
    stem_stride = 2 if min(sides) > LARGE_IMAGE else 1
    stem = convolution(image_channels(image_shape), channels[0], stride=stem_stride, width=width)
    return ElasticNetwork(stem, blocks, heads)


CNN = ElasticDesign(build_cnn, 8, nested((0.7, 0.75, 0.85, 1.0), (5, 6, 7, 8)))
"""The widths and exits that the search finds for 1/8, 1/4, 1/2 and all of its parameters."""
