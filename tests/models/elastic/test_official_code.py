"""What the networks of the released ScaleFL code hold, and what ours do; slices and merges stand beside."""

import pytest
import torch

from models.elastic.msdnet import MSDNET24
from models.elastic.resnet import RESNET110
from tests.support.elastic import (
    TINY_MSDNET,
    TINY_RESNET,
    Recording,
    assert_groups_nest,
    levels,
    truncated_and_deep,
)

IMAGE = (3, 32, 32)


@pytest.fixture(params=[TINY_RESNET, TINY_MSDNET], ids=["resnet", "msdnet"])
def recording(request) -> Recording:
    return request.param


@pytest.mark.slow
@pytest.mark.parametrize("design", [RESNET110, MSDNET24, TINY_RESNET.design, TINY_MSDNET.design])
def test_channels_of_a_level_are_part_of_the_next_levels(design):
    assert_groups_nest(levels(design, IMAGE, 10))


def test_every_recorded_parameter_is_ours_and_of_the_same_shape(recording):
    design = recording.design
    parameters = dict(design.on_meta(IMAGE, 10, design.preset[-1]).named_parameters())

    shapes = {name: tuple(tensor["shape"]) for name, tensor in recording.tensors.items()}

    assert shapes == {name: tuple(parameter.shape) for name, parameter in parameters.items()}


def test_levels_hold_the_parameters_that_the_official_code_trains_there(recording):
    held = [set(dict(network.named_parameters())) for network in levels(recording.design, IMAGE, 10)]

    for name, tensor in recording.tensors.items():
        assert [level for level in range(4) if name in held[level]] == tensor["trained_by_levels"]


@pytest.mark.parametrize("level", range(4))
def test_truncated_network_answers_as_the_deep_one_does_at_that_exit(recording, level):
    truncated, deep = truncated_and_deep(recording.design, IMAGE, 10, level)
    images = torch.randn(2, *IMAGE)

    assert torch.equal(truncated.exits(images)[-1], deep.exits(images)[level])


def test_forward_answers_at_the_last_exit(recording):
    network = recording.design.build(IMAGE, 10, recording.design.preset[-1]).eval()
    images = torch.randn(2, *IMAGE)

    assert torch.equal(network(images), network.exits(images)[-1])
