import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from protocol.randomness import derive_seed, draw_subset, torch_generator

# --- seeds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        (1, "train", 3, "client-0001"),
        (0, "split", 3, "client-0001"),
        (0, "train", 4, "client-0001"),
        (0, "train", 3, "client-0002"),
        (0, "train", 3),
        (0, "train"),
    ],
)
def test_another_seed_purpose_round_or_client_derives_another_seed(other):
    assert derive_seed(*other) != derive_seed(0, "train", 3, "client-0001")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((0, "train", 3, "client-0001"), 2039190620477194494), ((2**63 - 1, "model"), 2117221771873710576)],
)
def test_derived_seeds_are_the_same_on_every_machine(arguments, expected):
    assert derive_seed(*arguments) == expected


@given(st.integers(0, 2**63 - 1), st.text(), st.integers(0, 10**6), st.text())
def test_a_derived_seed_has_63_bits_as_torch_and_numpy_take_it(seed, purpose, round, client):
    assert 0 <= derive_seed(seed, purpose, round, client) < 2**63


def test_a_generator_starts_from_its_derived_seed():
    generator = torch_generator(5, "train", 2, "client-0001")
    assert generator.initial_seed() == derive_seed(5, "train", 2, "client-0001")


# --- subsets -----------------------------------------------------------------------------------------


@st.composite
def draws(draw):
    pool = draw(st.integers(1, 3000))
    return draw(st.integers(0, 2**64)), draw(st.integers(0, 10**6)), pool, draw(st.integers(1, pool))


@given(draws())
def test_a_subset_is_ascending_unique_and_within_the_pool(arguments):
    *_, pool, size = arguments
    subset = draw_subset(*arguments)
    assert subset.shape == (size,)
    assert (np.diff(subset) > 0).all()
    assert 0 <= subset[0] <= subset[-1] < pool


def test_a_subset_as_large_as_the_pool_is_the_pool():
    assert np.array_equal(draw_subset(0, 1, 50, 50), np.arange(50))


# Worked out with Philox4x64-10 written anew, without NumPy.
def test_a_subset_is_the_same_on_every_machine():
    assert draw_subset(7, 3, 100, 10).tolist() == [2, 18, 23, 26, 34, 35, 62, 65, 72, 77]


def test_a_subset_follows_from_its_arguments_alone():
    first = draw_subset(7, 3, 100, 10).copy()
    draw_subset.cache_clear()
    np.random.seed(1)
    torch.manual_seed(1)
    draw_subset(7, 4, 100, 10)
    assert np.array_equal(draw_subset(7, 3, 100, 10), first)


@pytest.mark.parametrize("other", [(8, 3), (7, 4), (3, 7)])
def test_another_seed_or_round_draws_another_subset(other):
    assert not np.array_equal(draw_subset(*other, 100, 10), draw_subset(7, 3, 100, 10))


def test_a_subset_is_shared_and_so_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        draw_subset(7, 3, 100, 10)[0] = 0


# Of 2,000 draws of 5 from 20 each sample is in 500; the sum is chi-square-like with mean 19, and above
# 45 in one of a thousand cases.
def test_over_many_rounds_each_sample_is_drawn_about_as_often():
    rounds, pool, size = 2000, 20, 5
    counts = np.zeros(pool)
    for round in range(1, rounds + 1):
        counts[draw_subset(0, round, pool, size)] += 1
    share = size / pool
    expected, variance = rounds * share, rounds * share * (1 - share)
    assert ((counts - expected) ** 2 / variance).sum() < 45


def test_nothing_touches_the_global_generators():
    draw_subset.cache_clear()
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()
    draw_subset(7, 3, 100, 10)
    torch.rand(3, generator=torch_generator(7, "train"))
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert torch.equal(torch.get_rng_state(), torch_before)
