import pytest

from models import elastic_design
from models.elastic import Shape
from strategies.levels import plan_levels
from strategies.submodels.variants import VARIANTS, LevelPlan
from tests.strategies.sides import CLASSES
from tests.strategies.submodels.exchange import CNN, IMAGES, submodel_settings

WHOLE = Shape(1.0, (8,))


def plan_of(strategy):
    return LevelPlan.of(VARIANTS[strategy], submodel_settings(strategy), IMAGES, CLASSES)


def test_scalefl_cuts_width_and_depth():
    plan = plan_of("scalefl")
    assert plan.shapes == CNN.preset
    assert plan.whole == CNN.preset[-1]


@pytest.mark.parametrize("strategy", ["heterofl", "fedrolex", "federated-dropout"])
def test_those_that_cut_the_width_keep_every_block_and_one_exit(strategy):
    plan = plan_of(strategy)
    widths = [shape.width for shape in plan.shapes]
    assert {shape.exits for shape in plan.shapes} == {(8,)}
    assert widths == sorted(set(widths))
    assert plan.whole == WHOLE


def test_depthfl_keeps_the_whole_width():
    plan = plan_of("depthfl")
    assert {shape.width for shape in plan.shapes} == {1.0}
    assert [len(shape.exits) for shape in plan.shapes] == [1, 2, 3, 4]
    assert plan.whole.depth == 8


def test_at_one_end_everybody_trains_the_smallest_submodel():
    plan = plan_of("fedavg-smallest")
    assert set(plan.shapes) == {plan.whole} == {CNN.preset[0]}
    assert plan.distinct() == [(1, plan.whole)]
    assert all(plan.trains(level) for level in (1, 2, 3, 4))


def test_at_the_other_end_only_the_largest_level_takes_part():
    plan = plan_of("fedavg-largest")
    assert plan.distinct() == [(4, WHOLE)]
    assert [plan.trains(level) for level in (1, 2, 3, 4)] == [False, False, False, True]


@pytest.mark.parametrize("level", [-1, 0, 5])
def test_a_level_that_does_not_exist_takes_no_part(level):
    assert not plan_of("scalefl").trains(level)


@pytest.mark.parametrize("strategy", ["heterofl", "depthfl"])
def test_relatives_are_cut_for_the_devices_of_the_same_levels(strategy):
    settings = submodel_settings(strategy)
    cut = VARIANTS[strategy].cut
    assert plan_of(strategy).shapes == plan_levels(
        settings.levels, elastic_design("elastic-cnn"), IMAGES, CLASSES, cut
    )
