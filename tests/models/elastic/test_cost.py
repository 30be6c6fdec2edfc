import pytest
import torch

from models.elastic.cnn import CNN
from models.elastic.cost import Cost, cost_of, macs_of, parameters_of
from models.elastic.network import Shape
from tests.support.elastic import TINY_MSDNET, TINY_RESNET

IMAGE = (1, 8, 8)
LEVEL = Shape(0.75, (5, 6))
"""Channels 6 (stem, blocks 1 and 2), 12 (blocks 3 to 5) and 24; blocks 3 and 6 halve the image."""


def convolution(inputs, outputs):
    """Return the parameters of a 3x3 convolution and its norm, and its MACs per position."""
    return 9 * inputs * outputs + 2 * outputs, 9 * inputs * outputs


# Inputs, outputs and positions of every convolution.
UP_TO_BLOCK5 = [(1, 6, 64), (6, 6, 64), (6, 6, 64), (6, 12, 16), (12, 12, 16), (12, 12, 16)]
BLOCK6 = (12, 24, 4)


def test_parameters_are_those_of_all_blocks_and_heads():
    blocks = sum(convolution(a, b)[0] for a, b, _ in [*UP_TO_BLOCK5, BLOCK6])
    heads = (4 * 12 * 10 + 10) + (4 * 24 * 10 + 10)

    assert parameters_of(CNN, IMAGE, 10, LEVEL) == blocks + heads == 8_150


def test_multiply_adds_up_to_an_exit_count_its_head_and_those_before():
    shallow = sum(convolution(a, b)[1] * positions for a, b, positions in UP_TO_BLOCK5) + 4 * 12 * 10
    deep = shallow + convolution(12, 24)[1] * 4 + 4 * 24 * 10

    assert cost_of(CNN, IMAGE, 10, LEVEL).macs == (shallow, deep) == (97_248, 108_576)


def test_the_cost_counts_the_parameters_of_the_shape():
    assert cost_of(CNN, IMAGE, 10, LEVEL).parameters == parameters_of(CNN, IMAGE, 10, LEVEL)


@pytest.mark.parametrize("shape", [*CNN.preset, *TINY_RESNET.design.preset])
def test_what_is_counted_on_the_meta_device_is_what_a_built_network_holds(shape):
    design, image = (CNN, IMAGE) if shape in CNN.preset else (TINY_RESNET.design, (3, 32, 32))

    built = design.build(image, 10, shape)

    assert parameters_of(design, image, 10, shape) == sum(p.numel() for p in built.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    "design", [CNN, TINY_RESNET.design, TINY_MSDNET.design], ids=["cnn", "resnet", "msdnet"]
)
def test_multiply_adds_ascend_by_exit_and_by_level(design):
    macs = [cost_of(design, (3, 32, 32), 10, shape).macs for shape in design.preset]

    for level in macs:
        assert sorted(set(level)) == list(level)
    assert macs == sorted(macs, key=lambda level: level[-1])
    assert [len(level) for level in macs] == [1, 2, 3, 4]


def test_larger_images_cost_more_multiply_adds_and_no_more_parameters():
    small, large = (cost_of(CNN, (1, side, side), 10, LEVEL) for side in (8, 16))

    assert large.parameters == small.parameters
    assert 3.9 < large.macs[-1] / small.macs[-1] < 4


def test_counting_draws_no_random_weights():
    """As a network that takes memory would."""
    state = torch.random.get_rng_state()

    macs_of(CNN, (1, 64, 64), 10, shape := Shape(0.95, (7,)))
    parameters_of(CNN, (1, 64, 64), 10, shape)

    assert torch.equal(torch.random.get_rng_state(), state)


def test_weights_take_four_bytes_a_parameter():
    assert Cost(parameters=7, macs=(1,)).bytes == 28
