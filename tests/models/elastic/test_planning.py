from functools import lru_cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.elastic.channels import scaled
from models.elastic.cnn import CNN
from models.elastic.cost import parameters_of
from models.elastic.network import ElasticDesign, Shape, nested
from models.elastic.planning import reshaped, search
from models.elastic.resnet import RESNET110, STAGE_WIDTHS, build_resnet

SHARES = (0.125, 0.25, 0.5, 1.0)
IMAGE = (1, 8, 8)


def norm_and_convolution(inputs, outputs, kernel=3):
    return kernel**2 * inputs * outputs + 2 * outputs


def resnet110_without_exits(width, exit_):
    """Count the parameters of stem, blocks and one linear layer of ten classes."""
    channels = [scaled(size, width) for size in STAGE_WIDTHS for _ in range(18)]
    count = norm_and_convolution(3, channels[0]) + channels[exit_ - 1] * 10 + 10
    for before, after in pairwise([channels[0], *channels[:exit_]]):
        count += norm_and_convolution(before, after) + norm_and_convolution(after, after)
        if before != after:
            count += norm_and_convolution(before, after, kernel=1)
    return count


@lru_cache
def cnn_cost(width, exit_):
    return parameters_of(CNN, IMAGE, 10, Shape(width, (exit_,)))


def shares(levels, cost, depth):
    return [cost(level.width, level.depth) / cost(1.0, depth) for level in levels]


# --- recorded ----------------------------------------------------------------------------------------


def test_the_formula_counts_what_the_whole_resnet_110_holds():
    whole = RESNET110.on_meta((3, 32, 32), 10, RESNET110.whole())

    assert resnet110_without_exits(1.0, 54) == sum(p.numel() for p in whole.parameters()) == 1_730_714


def test_levels_of_resnet_110_are_those_found_before():
    levels = search(resnet110_without_exits, RESNET110, SHARES)

    assert [(level.depth, level.width) for level in levels] == [(37, 0.7), (41, 0.75), (46, 0.85), (54, 1.0)]
    found = shares(levels, resnet110_without_exits, 54)
    assert found == pytest.approx([0.1298, 0.2506, 0.4664, 1], abs=5e-5)


def test_the_cnns_preset_is_what_the_search_finds_for_it():
    assert search(cnn_cost, CNN, SHARES) == CNN.preset


# --- cuts --------------------------------------------------------------------------------------------


def test_cut_both_ways_each_level_has_the_exits_of_the_one_before_and_one_more():
    levels = search(cnn_cost, CNN, SHARES)

    for smaller, larger in pairwise(levels):
        assert larger.exits[:-1] == smaller.exits
    assert len(levels[0].exits) == 1


def test_cut_in_width_every_level_has_all_blocks_and_one_exit():
    levels = search(cnn_cost, CNN, SHARES, "width")

    assert [level.exits for level in levels] == [(8,)] * 4
    widths = [level.width for level in levels]
    assert widths == sorted(set(widths))
    assert shares(levels, cnn_cost, 8) == pytest.approx(SHARES, rel=0.1)


def test_cut_in_depth_every_level_has_all_channels():
    levels = search(cnn_cost, CNN, SHARES, "depth")

    assert [level.width for level in levels] == [1.0] * 4
    assert [len(level.exits) for level in levels] == [1, 2, 3, 4]
    assert levels[-1].depth == 8


def test_levels_are_not_reshaped_when_both_are_cut():
    levels = nested((0.2, 0.9, 1.0), (6, 7, 8))  # no search would find these

    assert reshaped(levels, cnn_cost, CNN, "both") == levels


def test_levels_reshaped_to_width_alone_cost_what_they_did():
    levels = reshaped(CNN.preset, cnn_cost, CNN, "width")

    assert all(level.exits == (8,) for level in levels)
    assert shares(levels, cnn_cost, 8) == pytest.approx(shares(CNN.preset, cnn_cost, 8), rel=0.1)


def test_levels_reshaped_to_depth_alone_take_the_exit_of_the_nearest_cost():
    """Only the second level has an exit within a tenth of its cost."""
    levels = reshaped(CNN.preset, cnn_cost, CNN, "depth")

    assert all(level.width == 1.0 for level in levels)
    wanted = [cnn_cost(level.width, level.depth) for level in CNN.preset]
    nearest = [min(range(1, 9), key=lambda exit_: abs(cnn_cost(1.0, exit_) - cost)) for cost in wanted]
    assert [level.depth for level in levels] == nearest


# --- refusals and edges ------------------------------------------------------------------------------


def test_more_levels_than_exits_are_refused():
    budgets = [*(level / 9 for level in range(1, 9)), 1.0]

    with pytest.raises(ValueError, match="9 levels: the network has 8 exits"):
        search(cnn_cost, CNN, budgets)


def test_as_many_levels_as_exits_take_them_all():
    design = ElasticDesign(build_resnet, 4, (), first_exit=2)

    levels = search(lambda width, exit_: width**2 * exit_, design, (0.3, 0.6, 1.0))

    assert levels[-1].exits == (2, 3, 4)


def test_no_exit_comes_before_the_first_that_can_be_one():
    design = ElasticDesign(build_resnet, 20, (), first_exit=15)

    levels = search(lambda width, exit_: width**2 * exit_, design, (0.01, 0.02, 1.0))

    assert levels[0].depth >= 15


def test_widths_do_not_descend_even_where_a_narrower_network_would_fit_better():
    design = ElasticDesign(build_resnet, 20, ())

    levels = search(lambda width, exit_: width**2 * exit_, design, (0.3, 0.301, 0.302, 0.303, 1.0))

    assert [(level.depth, level.width) for level in levels[2:4]] == [(15, 0.65), (16, 0.65)]  # not (16, 0.6)


def test_a_budget_of_everything_is_the_whole_network():
    assert search(cnn_cost, CNN, (1.0,)) == (CNN.whole(),)


# --- any network -------------------------------------------------------------------------------------


@st.composite
def searches(draw):
    """Draw a design, a cost that ascends with width and exit, and ascending budgets that end in 1."""
    depth = draw(st.integers(4, 60))
    design = ElasticDesign(build_resnet, depth, (), first_exit=draw(st.integers(1, depth - 3)))
    stem, power = draw(st.floats(0, 5)), draw(st.floats(1.5, 2))
    steps = draw(st.lists(st.floats(0.1, 10), min_size=depth, max_size=depth))

    def cost(width, exit_):
        return (stem + sum(steps[:exit_])) * width**power

    budgets = sorted(draw(st.sets(st.integers(2, 98), max_size=3)))
    return cost, design, [*(budget / 100 for budget in budgets), 1.0]


@given(searches(), st.sampled_from(["both", "width", "depth"]))
def test_levels_nest_and_end_in_the_whole_network(search_, cut):
    cost, design, budgets = search_

    levels = search(cost, design, budgets, cut)

    assert len(levels) == len(budgets)
    assert levels[-1].width == 1.0
    assert levels[-1].depth == design.depth
    for smaller, larger in pairwise(levels):
        assert smaller.width <= larger.width
        assert larger.exits == smaller.exits or larger.exits[:-1] == smaller.exits
    assert all(level.exits[0] >= design.first_exit for level in levels)


@settings(max_examples=60)
@given(searches())
def test_each_level_is_the_most_balanced_that_fits_or_else_the_nearest(search_):
    """Compared with all exits and widths that the levels before leave."""
    cost, design, budgets = search_
    widths = [number / 20 for number in range(1, 21)]

    levels = search(cost, design, budgets)

    exit_, width = design.first_exit - 1, 0.0
    for number, (level, budget) in enumerate(zip(levels[:-1], budgets, strict=False), start=1):
        candidates = [
            (abs(cost(w, e) / (budget * cost(1.0, design.depth)) - 1), abs(e / design.depth - w))
            for e in range(exit_ + 1, design.depth - len(budgets) + number + 1)
            for w in widths
            if w >= width
        ]
        exit_, width = level.depth, level.width
        error = abs(cost(width, exit_) / (budget * cost(1.0, design.depth)) - 1)
        fitting = [imbalance for off, imbalance in candidates if off <= 0.1]
        if fitting:
            assert error <= 0.1
            assert abs(exit_ / design.depth - width) == pytest.approx(min(fitting))
        else:
            assert error == pytest.approx(min(off for off, _ in candidates))
