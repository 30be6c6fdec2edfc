import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strategies.soft_labels.scarlet import enhanced_era
from tests.strategies.soft_labels.recorded import RECORDED

CASES = RECORDED["enhanced_era"]
betas = st.floats(0.05, 100)


@st.composite
def soft_labels(draw):
    """Rows of up to 20 classes that sum to 1, some classes with nothing."""
    classes, rows = draw(st.integers(2, 20)), draw(st.integers(1, 4))
    numbers = st.lists(st.integers(0, 1000), min_size=classes, max_size=classes).filter(any)
    counts = torch.tensor(draw(st.lists(numbers, min_size=rows, max_size=rows)), dtype=torch.float64)
    return (counts / counts.sum(dim=1, keepdim=True)).float()


def repeated(case, key):
    return torch.tensor(case[key] * case["times"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['name']}-{case['beta']:g}")
def test_enhanced_era_equals_the_reference_in_log_space(case):
    sharpened = enhanced_era(repeated(case, "mean")[None], case["beta"])[0]

    torch.testing.assert_close(sharpened, repeated(case, "reference"), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case["official"]], ids=lambda case: f"{case['name']}-{case['beta']:g}"
)
def test_enhanced_era_equals_the_official_code_where_that_gives_numbers(case):
    sharpened = enhanced_era(repeated(case, "mean")[None], case["beta"])[0]

    torch.testing.assert_close(sharpened, repeated(case, "official"), atol=1e-6, rtol=0)


def test_enhanced_era_of_the_anchor():
    expected = torch.tensor([[0.5547945, 0.3356164, 0.1095891]])

    torch.testing.assert_close(
        enhanced_era(torch.tensor([[0.45, 0.35, 0.2]]), 2), expected, atol=1e-7, rtol=0
    )


@pytest.mark.parametrize(("classes", "beta"), [(10, 50), (200, 20)])
def test_enhanced_era_of_a_uniform_mean_is_uniform_where_the_power_underflows(classes, beta):
    uniform = torch.full((2, classes), 1 / classes)

    assert torch.pow(uniform, beta).sum() < torch.finfo(torch.float32).tiny  # the official 0/0
    torch.testing.assert_close(enhanced_era(uniform, beta), uniform)


@pytest.mark.slow
@given(soft_labels())
def test_enhanced_era_with_beta_1_is_the_identity(labels):
    torch.testing.assert_close(enhanced_era(labels, 1), labels, atol=1e-7, rtol=1e-6)


@pytest.mark.slow
@given(soft_labels(), betas)
def test_enhanced_era_gives_probabilities(labels, beta):
    sharpened = enhanced_era(labels, beta)

    assert sharpened.dtype == torch.float32
    assert (sharpened >= 0).all()
    torch.testing.assert_close(sharpened.sum(dim=1), torch.ones(len(labels)))


@given(soft_labels(), betas)
def test_enhanced_era_lets_no_class_overtake_another(labels, beta):
    order = labels.argsort(dim=1, stable=True)

    assert (enhanced_era(labels, beta).gather(1, order).diff(dim=1) >= 0).all()


@pytest.mark.slow
@given(soft_labels(), betas)
def test_enhanced_era_sharpens_above_1_and_flattens_below(labels, beta):
    before, after = labels.amax(dim=1), enhanced_era(labels, beta).amax(dim=1)

    assert ((after - before) * (1 if beta > 1 else -1) >= -1e-6).all()


@pytest.mark.parametrize("beta", [0.0, -1.0])
def test_enhanced_era_refuses_a_beta_that_is_not_positive(beta):
    with pytest.raises(ValueError, match="beta"):
        enhanced_era(torch.tensor([[0.5, 0.5]]), beta)
