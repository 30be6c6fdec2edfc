import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import elastic_design
from models.elastic import Shape
from models.elastic.cost import macs_of, parameters_of
from models.elastic.planning import TOLERANCE
from protocol.errors import SettingsError
from protocol.settings import LevelsSettings
from protocol.values import numbers
from strategies.levels import assign_levels, level_shape, plan_levels

DIGITS, CLASSES = (1, 8, 8), 10
CNN = elastic_design("elastic-cnn")


def plan(model="elastic-cnn", cut="both", **settings):
    return plan_levels(LevelsSettings(**settings), elastic_design(model), DIGITS, CLASSES, cut)


# --- who gets which ------------------------------------------------------------------------------

parts = st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(any)
shares = parts.map(lambda counts: [count / sum(counts) for count in counts])


@given(shares, st.integers(1, 60), st.integers(0, 2**40))
def test_every_client_has_a_level_and_every_level_its_share(shares, clients, seed):
    assigned = assign_levels(shares, clients, seed)

    assert len(assigned) == clients
    for level, share in enumerate(shares, start=1):
        assert abs(assigned.count(level) - share * clients) < 1
    assert set(assigned) <= {level for level, share in enumerate(shares, start=1) if share}


def test_levels_are_dealt_by_the_seed():
    first, again, other = (assign_levels([0.25] * 4, 40, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first != sorted(first)


def test_whole_shares_are_dealt_exactly():
    assigned = assign_levels([0.1, 0.2, 0.7], 10, seed=0)
    assert [assigned.count(level) for level in (1, 2, 3)] == [1, 2, 7]


def test_a_client_left_over_goes_to_the_largest_remainder():
    assigned = assign_levels([0.3, 0.7], 4, seed=0)
    assert [assigned.count(level) for level in (1, 2)] == [1, 3]


# --- which there are -----------------------------------------------------------------------------


def test_the_preset_is_the_networks_own():
    assert plan(plan="preset") == CNN.preset


@pytest.mark.slow
@pytest.mark.parametrize(("unit", "count"), [("parameters", parameters_of), ("flops", macs_of)])
def test_searched_levels_cost_their_budgets(unit, count):
    shapes = plan(plan=unit, budgets="0.25,0.5,1", shares="0.2,0.3,0.5")

    costs = [count(CNN, DIGITS, CLASSES, Shape(shape.width, (shape.depth,))) for shape in shapes]
    assert shapes[-1].width == 1
    assert [cost / costs[-1] for cost in costs] == pytest.approx([0.25, 0.5, 1], rel=TOLERANCE)
    for smaller, larger in pairwise(shapes):
        assert smaller.width <= larger.width
        assert smaller.exits == larger.exits[: len(smaller.exits)]


@pytest.mark.slow
def test_a_search_by_flops_finds_other_levels_than_one_by_parameters():
    assert plan(plan="flops") != plan(plan="parameters")


def test_levels_that_are_spelled_out_are_taken_as_they_are():
    assert plan(widths="0.5,0.5,1", exits="2,4,8", shares="0.2,0.3,0.5") == (
        Shape(0.5, (2,)),
        Shape(0.5, (2, 4)),
        Shape(1.0, (2, 4, 8)),
    )


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["width", "depth"])
def test_levels_cut_in_one_direction_cost_what_the_planned_ones_cost(cut):
    model = "elastic-resnet56"
    shapes, planned, design = plan(model, cut), plan(model), elastic_design(model)

    assert all(shape.width == 1 if cut == "depth" else shape.exits == (design.depth,) for shape in shapes)
    costs, targets = (
        [parameters_of(design, DIGITS, CLASSES, Shape(shape.width, (shape.depth,))) for shape in each]
        for each in (shapes, planned)
    )
    assert costs == pytest.approx(targets, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shares": "0.5,0.5"}, 'levels.shares = "0.5,0.5": must be 4 numbers, one a level, not 2'),
        (
            {"widths": "0.5,1", "exits": "4,9", "shares": "0.5,0.5"},
            'levels.exits = "4,9": must lie from 1 to 8, the last being 8: this network has 8 blocks',
        ),
        (
            {"widths": "0.5,1", "exits": "4,7", "shares": "0.5,0.5"},
            'levels.exits = "4,7": must lie from 1 to 8, the last being 8',
        ),
        (
            {
                "plan": "parameters",
                "budgets": "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,1",
                "shares": ",".join(["0.1"] * 8 + ["0.2"]),
            },
            'levels.budgets = "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,1": 9 levels: the network has 8 exits',
        ),
        ({"model": "cnn"}, "model = 'cnn': has no submodels; those that have are elastic-cnn, "),
        ({"model": "vgg"}, 'model = "vgg": must be one of mlp, cnn, '),
    ],
)
def test_levels_that_cannot_be_are_refused_with_what_can(settings, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        plan(**settings)


@pytest.mark.parametrize("level", [-1, 0, 5])
def test_a_level_that_does_not_exist_is_refused(level):
    with pytest.raises(SettingsError, match=f"level = {level}: there are levels 1 to 4"):
        level_shape(plan(), level)


def test_levels_are_counted_from_one():
    assert [level_shape(plan(), level) for level in range(1, 5)] == list(CNN.preset)


def test_the_default_shares_fit_every_preset():
    for model in ("elastic-cnn", "elastic-resnet110", "elastic-msdnet24", "elastic-efficientnet-b4"):
        assert len(elastic_design(model).preset) == len(numbers(LevelsSettings().shares))
