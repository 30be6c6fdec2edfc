"""EfficientNet-B4 against torchvision's, and against numbers recorded from ScaleFL's official code.

Its recorded parameters, at 1000 classes, are explained to the last one by three differences from torchvision:

- the stem has 32 channels in place of 48;
- there is no 1x1 convolution to 1792 channels at the end, the last exit's linear layer reads the 448;
- it halves the images once more in the middle of torchvision's sixth stage, before our seventh, which leaves
  the parameters as they are but makes all that follows cheaper: so its costs agree with ours up to there.

The recorded early exits are three 3x3 convolutions, the first to a sixth of the channels, as ours are.
"""

import importlib
import sys

import pytest
import torch

from models import count_parameters
from models.elastic import efficientnet
from models.elastic.channels import axes_of, scaled
from models.elastic.efficientnet import EFFICIENTNET_B4
from models.elastic.network import Shape
from tests.support.elastic import (
    assert_groups_nest,
    levels,
    multiply_adds,
    take_statistics,
    truncated_and_deep,
)

IMAGE = (3, 224, 224)
SMALL_IMAGE = (3, 64, 64)


@pytest.fixture(scope="module")
def torchvision_network():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    network = torchvision.models.efficientnet_b4(weights=None)
    take_statistics(network, SMALL_IMAGE)
    return network


@pytest.fixture
def same_network(torchvision_network):
    """Ours with torchvision's weights: the layers stand in the same order."""
    network = EFFICIENTNET_B4.build(SMALL_IMAGE, 1000, EFFICIENTNET_B4.whole())
    theirs = torchvision_network.state_dict().values()
    network.load_state_dict(dict(zip(network.state_dict(), theirs, strict=True)))
    return network


def stem_and_first_block(channels, width):
    """Count the parameters that depend on the stem's channels."""
    channels, outputs = scaled(channels, width), scaled(24, width)
    squeezed = channels // 4
    stem = 3 * 9 * channels + 2 * channels
    depthwise = 9 * channels + 2 * channels
    squeeze_and_excitation = 2 * channels * squeezed + squeezed + channels
    return stem + depthwise + squeeze_and_excitation + channels * outputs


def last_head(inputs):
    return inputs * 1000 + 1000


@pytest.mark.parametrize(
    ("level", "count"), [(0, 1_619_850), (1, 3_427_512), (2, 8_619_079), (3, 17_652_056)]
)
def test_parameters_differ_from_the_recorded_ones_by_the_stem_and_the_last_convolution(level, count):
    shape = EFFICIENTNET_B4.preset[level]
    stem = stem_and_first_block(48, shape.width) - stem_and_first_block(32, shape.width)
    last_convolution = 448 * 1792 + 2 * 1792 + last_head(1792) - last_head(448) if level == 3 else 0

    ours = count_parameters(EFFICIENTNET_B4.on_meta(IMAGE, 1000, shape))

    assert ours - count == stem + last_convolution
    assert stem < 0.001 * count


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "exits", "cost"),
    [
        (0.65, (5,), 405_771_302),
        (0.65, (5, 6), 486_870_316),
        (0.82, (5,), 628_752_396),
        (0.82, (5, 6), 756_977_955),
        (1.0, (5,), 929_164_760),
        (1.0, (5, 6), 1_118_301_870),
    ],
)
def test_exits_before_the_images_are_halved_once_more_cost_what_was_recorded(width, exits, cost):
    """The recorded stem is cheaper by about as much as ReLUs and poolings, counted there, come to."""
    network = EFFICIENTNET_B4.on_meta(IMAGE, 1000, Shape(width, exits))

    assert multiply_adds(network, IMAGE) == pytest.approx(cost, rel=0.01)


@pytest.mark.slow
def test_whole_network_answers_as_torchvisions_does(torchvision_network, same_network):
    images = torch.randn(2, *SMALL_IMAGE)

    answers = same_network.eval()(images)

    assert answers.std() > 0.1
    torch.testing.assert_close(answers, torchvision_network.eval()(images))


@pytest.mark.slow
def test_training_drops_what_torchvisions_drops(torchvision_network, same_network):
    images = torch.randn(4, *SMALL_IMAGE)
    torch.manual_seed(1)
    answers = same_network.train()(images)
    torch.manual_seed(1)
    expected = torchvision_network.train()(images)

    torch.testing.assert_close(answers, expected)


def test_torchvision_is_not_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # makes every import of it fail

    design = importlib.reload(efficientnet).EFFICIENTNET_B4

    assert len(design.on_meta(IMAGE, 10, design.whole()).blocks) == 8


@pytest.mark.slow
def test_channels_of_a_level_are_part_of_the_next_levels():
    assert_groups_nest(levels(EFFICIENTNET_B4, IMAGE, 10))


def test_filters_of_single_channels_have_no_input_channels_to_cut():
    network = EFFICIENTNET_B4.on_meta(IMAGE, 10, EFFICIENTNET_B4.whole())

    outputs, *others = axes_of(network)["blocks.1.0.filter.0.weight"]

    assert outputs.groups == (("stage2.0.wide", 144),)
    assert others == [None, None, None]


def test_halves_of_the_sixth_stage_add_to_the_same_channels():
    axes = axes_of(EFFICIENTNET_B4.on_meta(IMAGE, 10, EFFICIENTNET_B4.whole()))

    assert axes["blocks.5.3.project.0.weight"][0] == axes["blocks.6.0.project.0.weight"][0]


@pytest.mark.slow
@pytest.mark.parametrize("level", range(3))
def test_truncated_network_answers_as_the_deep_one_does_at_that_exit(level):
    truncated, deep = truncated_and_deep(EFFICIENTNET_B4, SMALL_IMAGE, 10, level)
    images = torch.randn(2, *SMALL_IMAGE)

    assert torch.equal(truncated.exits(images)[-1], deep.exits(images)[level])


@pytest.mark.slow
def test_forward_answers_at_the_last_exit():
    network = EFFICIENTNET_B4.build(SMALL_IMAGE, 10, EFFICIENTNET_B4.preset[-1]).eval()
    images = torch.randn(2, *SMALL_IMAGE)

    assert torch.equal(network(images), network.exits(images)[-1])


def test_images_of_odd_sides_are_answered():
    network = EFFICIENTNET_B4.build((1, 37, 51), 10, EFFICIENTNET_B4.preset[-1]).eval()

    assert [logits.shape for logits in network.exits(torch.zeros(2, 1, 37, 51))] == [(2, 10)] * 4
