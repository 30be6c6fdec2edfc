import pytest
import torch

from models import count_parameters
from models.elastic.channels import axes_of
from models.elastic.resnet import RESNET110
from tests.support.elastic import (
    TINY_RESNET,
    assert_groups_nest,
    leading_slices,
    levels,
    multiply_adds,
    truncated_and_deep,
)

IMAGE = (3, 32, 32)
TINY = TINY_RESNET.design


@pytest.mark.parametrize(
    ("num_classes", "counts"),
    [(10, [157_453, 325_631, 783_402, 1_982_136]), (100, [159_523, 331_751, 794_472, 2_002_656])],
)
def test_levels_have_as_many_parameters_as_the_official_code_trains(num_classes, counts):
    assert [count_parameters(network) for network in levels(RESNET110, IMAGE, num_classes)] == counts


def test_levels_cost_what_was_recorded_from_the_official_code():
    """Its count includes some ReLUs and poolings, less than one part in a thousand."""
    cost = [multiply_adds(network, IMAGE) for network in levels(RESNET110, IMAGE, 10)]

    assert cost == pytest.approx([70_084_838, 90_788_520, 133_240_014, 274_450_664], rel=1e-3)


@pytest.mark.parametrize("design", [RESNET110, TINY])
def test_channels_of_a_level_are_part_of_the_next_levels(design):
    assert_groups_nest(levels(design, IMAGE, 10))


def test_every_recorded_parameter_is_ours_and_of_the_same_shape():
    parameters = dict(TINY.on_meta(IMAGE, 10, TINY.preset[-1]).named_parameters())

    shapes = {name: tuple(tensor["shape"]) for name, tensor in TINY_RESNET.tensors.items()}

    assert shapes == {name: tuple(parameter.shape) for name, parameter in parameters.items()}


def test_levels_hold_the_parameters_that_the_official_code_trains_there():
    held = [set(dict(network.named_parameters())) for network in levels(TINY, IMAGE, 10)]

    for name, tensor in TINY_RESNET.tensors.items():
        assert [level for level in range(4) if name in held[level]] == tensor["trained_by_levels"]


@pytest.mark.parametrize("level", range(4))
def test_leading_channels_of_each_group_are_the_recorded_slices(level):
    whole = TINY.on_meta(IMAGE, 10, TINY.preset[-1])
    kept = TINY_RESNET.axes(level)

    for name, axes in axes_of(whole).items():
        ours = leading_slices(axes, whole.get_parameter(name).shape, kept[name])
        assert ours == TINY_RESNET.slices(name, level), name


@pytest.mark.parametrize("level", range(4))
def test_truncated_network_answers_as_the_deep_one_does_at_that_exit(level):
    truncated, deep = truncated_and_deep(TINY, IMAGE, 10, level)
    images = torch.randn(2, *IMAGE)

    assert torch.equal(truncated.exits(images)[-1], deep.exits(images)[level])


def test_forward_answers_at_the_last_exit():
    network = TINY.build(IMAGE, 10, TINY.preset[-1]).eval()
    images = torch.randn(2, *IMAGE)

    assert torch.equal(network(images), network.exits(images)[-1])
