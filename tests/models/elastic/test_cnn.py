from itertools import product

import pytest
import torch

from models.elastic.channels import Channels, axes_of, scaled
from models.elastic.cnn import BLOCK_WIDTHS, CNN, STEM_WIDTH, QuadrantHead
from models.elastic.network import Shape
from models.elastic.slicing import SliceMap
from tests.support.elastic import assert_groups_nest, group_sizes, levels, truncated_and_deep

WHOLE = CNN.preset[-1]


@pytest.mark.parametrize("image", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 9, 15), (3, 31, 17)])
@pytest.mark.parametrize("shape", CNN.preset)
def test_every_exit_answers_with_logits_of_all_classes(image, shape):
    logits = CNN.build(image, 7, shape).exits(torch.randn(2, *image))

    assert [answer.shape for answer in logits] == [(2, 7)] * len(shape.exits)
    assert all(answer.isfinite().all() for answer in logits)


@pytest.mark.slow
def test_every_size_from_8_is_answered_at_every_block():
    every_exit = Shape(0.1, tuple(range(1, 9)))
    for sides in product((8, 9, 15, 16, 17, 18, 33), repeat=2):
        network = CNN.build((1, *sides), 10, every_exit)
        assert len(network.exits(torch.zeros(2, 1, *sides))) == 8, sides


@pytest.mark.parametrize("sides", [(7, 8), (8, 7), (1, 1)])
def test_images_too_small_are_refused(sides):
    with pytest.raises(ValueError, match=f"{sides[0]}x{sides[1]}.*at least 8"):
        CNN.build((1, *sides), 10, WHOLE)


@pytest.mark.parametrize("sides", [(8, 8), (9, 15), (32, 32)])
def test_the_parameters_do_not_depend_on_the_image_size(sides):
    state = CNN.on_meta((1, *sides), 10, WHOLE).state_dict()

    expected = CNN.on_meta((1, 28, 28), 10, WHOLE).state_dict()
    assert {name: t.shape for name, t in state.items()} == {name: t.shape for name, t in expected.items()}


def test_large_images_are_halved_by_the_stem():
    network = CNN.build((1, 17, 32), 10, WHOLE)

    assert network.stem(torch.zeros(1, 1, 17, 32)).shape[2:] == (9, 16)


def test_small_images_are_not_halved_by_the_stem():
    network = CNN.build((1, 16, 8), 10, WHOLE)

    assert network.stem(torch.zeros(1, 1, 16, 8)).shape[2:] == (16, 8)


@pytest.mark.parametrize("shape", CNN.preset)
def test_every_parameter_serves_an_exit(shape):
    network = CNN.build((1, 8, 8), 10, shape)

    sum(logits.square().sum() for logits in network.exits(torch.randn(4, 1, 8, 8))).backward()

    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_an_early_exit_tells_where_in_the_image_something_is():
    """The mean over the whole image would answer alike wherever it is."""
    torch.manual_seed(0)
    network = CNN.build((1, 16, 16), 10, Shape(1.0, (1,))).eval()
    images = torch.zeros(4, 1, 16, 16)
    for image, (row, column) in zip(images, product((2, 10), repeat=2), strict=True):
        image[:, row : row + 4, column : column + 4] = 1

    answers = network(images)

    assert torch.pdist(answers).min() > 0.01


def test_a_heads_part_reads_the_kept_channels_of_every_quadrant():
    whole = QuadrantHead(Channels.of("block1", 6), 10)
    part = QuadrantHead(Channels.of("block1", 4), 10)
    weights = {name: parameter.detach() for name, parameter in whole.named_parameters()}
    part.load_state_dict(SliceMap(axes_of(whole), axes_of(part)).extract(weights))
    features = torch.randn(2, 6, 5, 7)
    features[:, 4:] = 0

    torch.testing.assert_close(part(features[:, :4]), whole(features))


def test_a_width_scales_every_channel_but_images_and_classes():
    sizes = group_sizes(CNN.on_meta((3, 8, 8), 10, Shape(0.7, (8,))))

    blocks = {f"block{number}": scaled(size, 0.7) for number, size in enumerate(BLOCK_WIDTHS, start=1)}
    assert sizes == {"image": 3, "classes": 10, "stem": scaled(STEM_WIDTH, 0.7)} | blocks


def test_channels_of_a_level_are_part_of_the_next_levels():
    assert_groups_nest(levels(CNN, (1, 8, 8), 10))


@pytest.mark.parametrize("level", range(4))
def test_truncated_network_answers_as_the_deep_one_does_at_that_exit(level):
    truncated, deep = truncated_and_deep(CNN, (1, 8, 8), 10, level)
    images = torch.randn(2, 1, 8, 8)

    assert torch.equal(truncated.exits(images)[-1], deep.exits(images)[level])


def test_forward_answers_at_the_last_exit():
    network = CNN.build((1, 8, 8), 10, WHOLE).eval()
    images = torch.randn(2, 1, 8, 8)

    assert torch.equal(network(images), network.exits(images)[-1])
