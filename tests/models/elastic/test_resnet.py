import pytest

from models import count_parameters
from models.elastic.resnet import RESNET110
from tests.support.elastic import levels, multiply_adds

IMAGE = (3, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_classes", "counts"),
    [(10, [157_453, 325_631, 783_402, 1_982_136]), (100, [159_523, 331_751, 794_472, 2_002_656])],
)
def test_levels_have_as_many_parameters_as_the_official_code_trains(num_classes, counts):
    assert [count_parameters(network) for network in levels(RESNET110, IMAGE, num_classes)] == counts


@pytest.mark.slow
def test_levels_cost_what_was_recorded_from_the_official_code():
    """Its count includes some ReLUs and poolings, less than one part in a thousand."""
    cost = [multiply_adds(network, IMAGE) for network in levels(RESNET110, IMAGE, 10)]

    assert cost == pytest.approx([70_084_838, 90_788_520, 133_240_014, 274_450_664], rel=1e-3)
