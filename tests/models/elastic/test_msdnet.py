import pytest
import torch
from torch import nn

from models import count_parameters
from models.elastic.channels import scaled
from models.elastic.msdnet import EXIT_CHANNELS, MSDNET24
from models.elastic.network import Shape
from tests.support.elastic import (
    TINY_MSDNET,
    levels,
    multiply_adds,
    outputs_of,
)

IMAGE = (3, 32, 32)
TINY = TINY_MSDNET.design


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_classes", "counts"),
    [(10, [279_370, 643_099, 1_380_319, 2_646_556]), (100, [286_930, 659_299, 1_409_749, 2_692_996])],
)
def test_levels_have_as_many_parameters_as_the_official_code_trains(num_classes, counts):
    assert [count_parameters(network) for network in levels(MSDNET24, IMAGE, num_classes)] == counts


@pytest.mark.slow
def test_levels_cost_what_was_recorded_from_the_official_code():
    """It counts each number that a ReLU or a linear layer puts out, or that an exit averages, as one more.

    At the first level it also counts what no exit depends on, and we leave out: the finer scale of the
    last layer, a bottleneck of 66, 12 and 6 channels at 16x16 positions.
    """
    left_out = 16 * 16 * (66 * 12 + 12 * 6 * 9 + 12 + 6)
    costs = []
    for shape, network in zip(MSDNET24.preset, levels(MSDNET24, IMAGE, 100), strict=True):
        averaged = len(shape.exits) * 2 * 2 * scaled(EXIT_CHANNELS, shape.width)
        others = outputs_of((nn.ReLU, nn.Linear), network, IMAGE)
        costs.append(multiply_adds(network, IMAGE) + others + averaged)

    assert costs == [15_844_444 - left_out, 32_778_056, 59_710_684, 102_011_792]


@pytest.mark.parametrize("depth", range(1, 10))
def test_every_parameter_serves_an_exit_at_any_depth(depth):
    network = TINY.build(IMAGE, 10, Shape(0.5, (depth,)))

    network(torch.randn(2, *IMAGE)).sum().backward()

    assert all(parameter.grad is not None for parameter in network.parameters())


def test_images_of_odd_sides_are_answered():
    network = TINY.build((1, 29, 35), 10, TINY.preset[-1])

    assert [logits.shape for logits in network.exits(torch.zeros(2, 1, 29, 35))] == [(2, 10)] * 4
