"""A user's elastic network of two blocks, and one of which an exit is wrong."""

from functools import partial

from torch import nn

from models.elastic.channels import Channels, scaled
from models.elastic.layers import ElasticLinear
from models.elastic.network import ElasticDesign, ElasticNetwork, class_outputs, nested


def _build(extra, input_shape, num_classes, shape):
    channels, height, width = input_shape
    pixels = Channels.of("pixels", channels * height * width)
    wide = [Channels.of(f"wide{number}", scaled(16, shape.width)) for number in (0, 1, 2)]
    stem = nn.Sequential(nn.Flatten(), ElasticLinear(pixels, wide[0]))
    blocks = [
        nn.Sequential(ElasticLinear(wide[number - 1], wide[number]), nn.ReLU())
        for number in range(1, shape.depth + 1)
    ]
    heads = {
        number: ElasticLinear(wide[number], class_outputs(num_classes + (extra if number == 2 else 0)))
        for number in shape.exits
    }
    return ElasticNetwork(stem, blocks, heads)


RIGHT = ElasticDesign(partial(_build, 0), 2, nested([0.5, 1.0], [1, 2]))
WRONG_AT_THE_SECOND_EXIT = ElasticDesign(partial(_build, 1), 2, nested([0.5, 1.0], [1, 2]))
