from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.elastic.channels import Channels, axes_of
from models.elastic.cnn import CNN
from models.elastic.network import nested
from models.elastic.slicing import SliceMap, index_policy
from tests.support.elastic import TINY_MSDNET, TINY_RESNET

IMAGES = {CNN: (1, 8, 8), TINY_RESNET.design: (3, 32, 32), TINY_MSDNET.design: (3, 32, 32)}
CLASSES = 10


@lru_cache
def network(design, shape):
    return design.on_meta(IMAGES[design], CLASSES, shape)


@lru_cache
def axes_at(design, shape):
    return axes_of(network(design, shape))


@lru_cache
def shapes_at(design, shape):
    return {name: tuple(parameter.shape) for name, parameter in network(design, shape).named_parameters()}


def flat_indices(shapes):
    """Return tensors whose values are their own places in memory."""
    return {name: torch.arange(int(np.prod(shape))).reshape(shape) for name, shape in shapes.items()}


def masks(where, shapes):
    """Return, of each parameter of the whole, which of its coordinates the part covers."""
    covered = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in shapes.items()}
    for name in where:
        covered[name][where.places(name)] = True
    return covered


# --- slices of the official code ---------------------------------------------------------------------


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("recording", [TINY_RESNET, TINY_MSDNET], ids=["resnet", "msdnet"])
def test_a_levels_part_is_what_the_official_code_sends_it(recording, level):
    shape = recording.design.preset[-1]
    whole = flat_indices(shapes_at(recording.design, shape))

    part = SliceMap(axes_at(recording.design, shape), recording.axes(level)).extract(whole)

    assert part.keys() == recording.tensors.keys()
    for name in part:
        kept = [np.r_[tuple(slice(*at) for at in ranges)] for ranges in recording.slices(name, level)]
        assert np.array_equal(part[name].numpy(), whole[name].numpy()[np.ix_(*kept)]), name


# --- policies ----------------------------------------------------------------------------------------


def test_leading_channels_are_kept_in_their_order():
    assert index_policy("leading", 0, 5, "client-0001")("group", 8, 3).tolist() == [0, 1, 2]


def test_a_rolling_window_moves_on_by_one_channel_a_round():
    windows = [index_policy("rolling", 0, round, "client-0001")("group", 8, 3).tolist() for round in (1, 2)]

    assert windows == [[1, 2, 3], [2, 3, 4]]


def test_a_rolling_window_wraps_around_at_the_last_channel():
    assert index_policy("rolling", 0, 7, "client-0001")("group", 8, 3).tolist() == [7, 0, 1]


@given(st.integers(1, 40), st.data())
def test_a_rolling_window_keeps_every_channel_equally_often_in_as_many_rounds_as_channels(whole, data):
    kept, first = data.draw(st.integers(1, whole)), data.draw(st.integers(0, 1000))
    windows = [index_policy("rolling", 0, first + i, "")("group", whole, kept) for i in range(whole)]

    assert torch.cat(windows).bincount(minlength=whole).tolist() == [kept] * whole


def test_random_channels_follow_from_seed_round_client_and_group_alone():
    def drawn():
        return index_policy("random", 3, 1, "client-0001")("group", 64, 32).tolist()

    first = drawn()
    torch.manual_seed(1)

    assert drawn() == first


@pytest.mark.parametrize(
    ("seed", "round", "client", "group"),
    [
        (4, 1, "client-0001", "group"),
        (3, 2, "client-0001", "group"),
        (3, 1, "client-0002", "group"),
        (3, 1, "client-0001", "other"),
    ],
)
def test_another_seed_round_client_or_group_draws_other_channels(seed, round, client, group):
    drawn = index_policy("random", seed, round, client)(group, 64, 32)

    assert drawn.tolist() != index_policy("random", 3, 1, "client-0001")("group", 64, 32).tolist()


@given(st.integers(1, 60), st.data())
def test_random_channels_ascend_within_the_group(whole, data):
    kept = data.draw(st.integers(1, whole))

    drawn = index_policy("random", data.draw(st.integers(0, 99)), 0, "client-0001")("group", whole, kept)

    assert len(drawn) == kept
    assert drawn.dtype == torch.int64
    assert drawn[0] >= 0
    assert drawn[-1] < whole
    assert (drawn.diff() > 0).all()


def test_random_channels_are_kept_about_equally_often():
    draws = [index_policy("random", 0, round, "client-0001")("group", 10, 5) for round in range(400)]

    often = torch.cat(draws).bincount(minlength=10)

    assert (often - 200).abs().max() < 50  # five standard deviations of a fair draw


# --- one policy, all parameters ----------------------------------------------------------------------


def kept_of_groups(whole, part, where):
    """Return what the axes keep of each group: a set of tuples of channels, by the group's name.

    Each axis is looked at by itself, in a parameter whose values are their channels' places in the group.
    """
    kept = {}
    for name, axes in part.items():
        for dimension, axis in enumerate(axes):
            if axis is None:
                continue
            marks = torch.cat([torch.arange(size) for _, size in whole[name][dimension].groups])
            marks = marks.reshape([-1 if at == dimension else 1 for at in range(len(axes))])
            marked = marks.expand([1 if other is None else len(other) for other in whole[name]])
            lines = marked[where.places(name)].movedim(dimension, 0).reshape(len(axis), -1)
            assert (lines == lines[:, :1]).all(), name
            line = lines[:, 0].tolist()
            for group, size in axis.groups:
                kept.setdefault(group, set()).add(tuple(line[:size]))
                line = line[size:]
    return kept


POLICIES = {
    "leading": index_policy("leading", 0, 1, "client-0001"),
    "rolling": index_policy("rolling", 0, 13, "client-0001"),
    "random": index_policy("random", 0, 1, "client-0001"),
}
every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
every_design = pytest.mark.parametrize("design", IMAGES, ids=["cnn", "resnet", "msdnet"])


@every_policy
@every_design
def test_a_group_keeps_the_same_channels_in_every_parameter_that_has_it(design, policy):
    whole, part = (axes_at(design, design.preset[level]) for level in (-1, 1))

    kept = kept_of_groups(whole, part, SliceMap(whole, part, policy))

    assert {group: len(ways) for group, ways in kept.items()} == dict.fromkeys(kept, 1)
    cut = [group for group, (channels,) in kept.items() if group not in ("image", "classes")]
    sizes = dict(group for axes in whole.values() for axis in axes if axis for group in axis.groups)
    assert all(len(next(iter(kept[group]))) < sizes[group] for group in cut)


@every_policy
@every_design
def test_images_and_classes_are_neither_cut_nor_permuted(design, policy):
    whole, part = (axes_at(design, design.preset[level]) for level in (-1, 0))

    kept = kept_of_groups(whole, part, SliceMap(whole, part, policy))

    assert kept["image"] == {tuple(range(IMAGES[design][0]))}
    assert kept["classes"] == {tuple(range(CLASSES))}


@pytest.mark.parametrize("kind", ["rolling", "random"])
def test_groups_of_one_axis_are_cut_by_themselves(kind):
    policy = index_policy(kind, 0, 3, "client-0001")
    whole = {"weight": (Channels((("a", 6), ("b", 8))), None)}
    part = {"weight": (Channels((("a", 4), ("b", 5))), None)}

    kept = SliceMap(whole, part, policy).extract({"weight": torch.arange(14).reshape(14, 1)})["weight"]

    assert kept.flatten().tolist() == [*policy("a", 6, 4).tolist(), *(policy("b", 8, 5) + 6).tolist()]


def test_a_policy_is_asked_once_for_each_group_that_is_cut():
    asked = []

    def policy(group, whole, kept):
        asked.append(group)
        return torch.arange(kept)

    SliceMap(axes_at(CNN, CNN.preset[-1]), axes_at(CNN, CNN.preset[0]), policy)

    assert sorted(asked) == ["block1", "block2", "block3", "block4", "block5", "stem"]


# --- index maps --------------------------------------------------------------------------------------


def test_a_map_knows_its_parts_parameters():
    part = axes_at(CNN, CNN.preset[0])
    where = SliceMap(axes_at(CNN, CNN.preset[-1]), part)

    assert list(where) == list(part)
    assert "heads.5.linear.weight" in where
    assert "heads.8.linear.weight" not in where


@every_policy
def test_a_part_is_not_a_view_of_the_whole(policy):
    shape = CNN.preset[-1]
    whole = {name: torch.zeros(size) for name, size in shapes_at(CNN, shape).items()}

    part = SliceMap(axes_at(CNN, shape), axes_at(CNN, CNN.preset[0]), policy).extract(whole)
    for tensor in part.values():
        tensor.fill_(1)

    assert all((tensor == 0).all() for tensor in whole.values())


@every_policy
def test_places_are_a_view_where_indexing_with_them_shares_memory(policy):
    shape = CNN.preset[-1]
    whole = flat_indices(shapes_at(CNN, shape))
    where = SliceMap(axes_at(CNN, shape), axes_at(CNN, CNN.preset[1]), policy)

    for name in where:
        shares = whole[name][where.places(name)].data_ptr() in _addresses(whole[name])
        assert where.is_view(name) is shares, name


def _addresses(tensor):
    return range(tensor.data_ptr(), tensor.data_ptr() + tensor.untyped_storage().nbytes())


A, B = Channels.of("a", 4), Channels.of("b", 4)
MISFITS = {
    "unknown": ({"v": (A, None)}, "'v' is not in the whole network"),
    "other group": ({"w": (B, None)}, "'w': .* is no part of"),
    "other order": ({"w": (A, None), "u": (B + A,)}, "'u': .* is no part of"),
    "too large": ({"w": (Channels.of("a", 5), None)}, "'w': .* is no part of"),
    "one group too large": ({"u": (Channels((("a", 5), ("b", 2))),)}, "'u': .* is no part of"),
    "missing group": ({"u": (A,)}, "'u': .* is no part of"),
    "surplus group": ({"w": (Channels((("a", 2), ("b", 2))), None)}, "'w': .* is no part of"),
    "channels for none": ({"w": (A, A)}, "'w': .* is no part of"),
    "none for channels": ({"w": (None, None)}, "'w': .* is no part of"),
    "fewer dimensions": ({"w": (A,)}, "'w': 1 dimensions of 2"),
}


@pytest.mark.parametrize(("part", "message"), MISFITS.values(), ids=MISFITS)
def test_a_part_that_does_not_fit_is_refused(part, message):
    with pytest.raises(ValueError, match=message):
        SliceMap({"w": (A, None), "u": (A + B,)}, part)


# --- any levels, any policy --------------------------------------------------------------------------

policies = st.builds(
    index_policy,
    st.sampled_from(["leading", "rolling", "random"]),
    st.integers(0, 9),
    st.integers(0, 99),
    st.just("client-0001"),
)


@st.composite
def ladders(draw):
    """Draw a design and nested levels of it, of which the last is the whole."""
    design = draw(st.sampled_from([CNN, TINY_RESNET.design]))
    exits = draw(st.sets(st.integers(1, design.depth - 1), max_size=3))
    widths = draw(st.lists(st.integers(1, 100), min_size=len(exits), max_size=len(exits)))
    return design, nested([*sorted(width / 100 for width in widths), 1.0], [*sorted(exits), design.depth])


@pytest.mark.slow
@settings(max_examples=40)
@given(ladders(), policies)
def test_the_last_level_is_the_whole_network_under_every_policy(ladder, policy):
    design, levels = ladder
    whole = flat_indices(shapes_at(design, levels[-1]))

    part = SliceMap(axes_at(design, levels[-1]), axes_at(design, levels[-1]), policy).extract(whole)

    assert part.keys() == whole.keys()
    assert all(torch.equal(part[name], whole[name]) for name in whole)


@pytest.mark.slow
@settings(max_examples=40)
@given(ladders())
def test_what_a_level_covers_the_next_level_covers_under_the_leading_policy(ladder):
    design, levels = ladder
    whole, shapes = axes_at(design, levels[-1]), shapes_at(design, levels[-1])

    covered = [masks(SliceMap(whole, axes_at(design, level)), shapes) for level in levels]

    for smaller, larger in pairwise(covered):
        assert all((~smaller[name] | larger[name]).all() for name in shapes)


@pytest.mark.slow
@settings(max_examples=40)
@given(ladders(), policies)
def test_a_part_has_the_shapes_of_its_level_and_no_coordinate_twice(ladder, policy):
    design, levels = ladder
    whole = flat_indices(shapes_at(design, levels[-1]))

    part = SliceMap(axes_at(design, levels[-1]), axes_at(design, levels[0]), policy).extract(whole)

    assert {name: tuple(tensor.shape) for name, tensor in part.items()} == shapes_at(design, levels[0])
    assert all(len(tensor.unique()) == tensor.numel() for tensor in part.values())


@pytest.mark.slow
@settings(max_examples=40)
@given(ladders(), policies)
def test_a_changed_part_put_back_changes_its_own_coordinates_alone(ladder, policy):
    design, levels = ladder
    whole, shapes = flat_indices(shapes_at(design, levels[-1])), shapes_at(design, levels[-1])
    where = SliceMap(axes_at(design, levels[-1]), axes_at(design, levels[0]), policy)
    part = where.extract(whole)
    changed = {name: tensor.clone() for name, tensor in whole.items()}

    for name, tensor in part.items():
        changed[name][where.places(name)] = -1 - tensor

    for name, covered in masks(where, shapes).items():
        assert torch.equal(changed[name], torch.where(covered, -1 - whole[name], whole[name])), name
