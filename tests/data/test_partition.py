import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.partition import partition
from protocol.errors import DataError
from protocol.settings import DataSettings

SPLITS = ["iid", "dirichlet", "dirichlet-unequal", "pathological"]
CLASSES = 10
TARGETS = torch.randint(CLASSES, (897,), generator=torch.Generator().manual_seed(0))


def split(kind="dirichlet", clients=10, seed=0, targets=TARGETS, **others):
    return partition(targets, DataSettings(split=kind, **others), clients, seed)


def as_lists(parts):
    return [part.tolist() for part in parts]


def class_shares(targets):
    return torch.bincount(targets, minlength=CLASSES) / len(targets)


def skew(parts):
    """Mean total variation distance between a client's class shares and everyone's, 0 to 1."""
    distances = [(class_shares(TARGETS[part]) - class_shares(TARGETS)).abs().sum() / 2 for part in parts]
    return float(torch.stack(distances).mean())


def assert_each_sample_used_once(parts, samples):
    assert torch.cat(parts).sort().values.equal(torch.arange(samples))


@pytest.mark.parametrize("kind", SPLITS)
def test_each_sample_is_used_once(kind):
    parts = split(kind)
    assert len(parts) == 10
    assert all(part.dtype == torch.int64 for part in parts)
    assert_each_sample_used_once(parts, len(TARGETS))


@pytest.mark.parametrize(("alpha", "clients"), [(0.1, 10), (0.05, 100), (0.1, 2), (100.0, 7)])
def test_dirichlet_uses_each_sample_once_in_equal_sizes(alpha, clients):
    parts = split(alpha=alpha, clients=clients)
    sizes = [len(part) for part in parts]
    assert len(sizes) == clients
    assert max(sizes) - min(sizes) <= 1
    assert_each_sample_used_once(parts, len(TARGETS))


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(SPLITS),
    samples=st.integers(80, 200),
    clients=st.integers(3, 8),
    seed=st.integers(0, 2**63 - 1),
)
def test_sizes_clients_and_seeds_do_not_lose_or_repeat_a_sample(kind, samples, clients, seed):
    targets = torch.arange(samples) % 3
    parts = split(kind, clients, seed, targets, alpha=10.0)
    assert len(parts) == clients
    assert_each_sample_used_once(parts, samples)


def test_classes_without_a_sample_do_not_matter():
    targets = torch.tensor([3, 7, 9]).repeat(20)
    for kind in SPLITS:
        assert_each_sample_used_once(split(kind, 3, targets=targets, alpha=1.0), 60)


@pytest.mark.parametrize("kind", SPLITS)
def test_the_split_follows_from_the_seed(kind):
    assert as_lists(split(kind, seed=1)) == as_lists(split(kind, seed=1))
    assert as_lists(split(kind, seed=1)) != as_lists(split(kind, seed=2))


@pytest.mark.parametrize("kind", ["dirichlet", "dirichlet-unequal", "pathological"])
def test_another_seed_gives_clients_other_classes_and_not_only_other_samples(kind):
    one, other = (
        [torch.bincount(TARGETS[part], minlength=CLASSES).tolist() for part in split(kind, seed=seed)]
        for seed in (1, 2)
    )
    assert one != other


@pytest.mark.parametrize("kind", SPLITS)
def test_a_client_has_its_samples_in_random_order(kind):
    # Neither ascending nor class by class.
    for part in split(kind, classes_per_client=4):
        rises = (part.diff() > 0).float().mean()
        assert 0.2 < rises < 0.8
        if len(TARGETS[part].unique()) > 1:
            assert not TARGETS[part].equal(TARGETS[part].sort().values)


@pytest.mark.parametrize("kind", SPLITS)
def test_global_generators_neither_matter_nor_change(kind):
    parts = []
    for state in (1, 2):
        random.seed(state)
        np.random.seed(state)
        torch.manual_seed(state)
        parts.append(as_lists(split(kind)))
        after = random.random(), np.random.random(), torch.rand(1).item()
        random.seed(state)
        np.random.seed(state)
        torch.manual_seed(state)
        assert after == (random.random(), np.random.random(), torch.rand(1).item())
    assert parts[0] == parts[1]


@pytest.mark.parametrize("kind", ["dirichlet", "dirichlet-unequal"])
def test_a_small_alpha_skews_clients_and_a_large_one_does_not(kind):
    assert skew(split(kind, alpha=0.1)) > 0.5
    assert skew(split(kind, alpha=100.0)) < 0.2


def test_iid_is_not_skewed_even_if_the_samples_come_sorted_by_class():
    sorted_targets, _ = TARGETS.sort()
    parts = split("iid", targets=sorted_targets)
    assert all(len(sorted_targets[part].unique()) == CLASSES for part in parts)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_dirichlet_unequal_gives_sizes_that_differ():
    sizes = [len(part) for part in split("dirichlet-unequal")]
    assert max(sizes) > 2 * min(sizes)


@pytest.mark.parametrize(("classes", "clients"), [(1, 10), (2, 10), (3, 25), (6, 5), (10, 2)])
def test_pathological_gives_each_client_exactly_so_many_classes(classes, clients):
    parts = split("pathological", clients, classes_per_client=classes)
    assert [len(TARGETS[part].unique()) for part in parts] == [classes] * clients
    assert_each_sample_used_once(parts, len(TARGETS))


@pytest.mark.parametrize("kind", SPLITS)
def test_too_many_clients_are_refused_with_how_many_are_possible(kind):
    with pytest.raises(DataError, match=r"num-partitions = 225: must be 1 to 224, .* 897 private samples"):
        split(kind, clients=225)


def test_as_many_clients_as_possible_get_four_samples_each():
    assert {len(part) for part in split("iid", clients=224)} == {4, 5}


def test_more_classes_a_client_than_there_are_is_refused():
    with pytest.raises(DataError, match=r"data\.classes-per-client = 11: must be 1 to 10 with 10 clients"):
        split("pathological", classes_per_client=11)


def test_classes_that_no_client_would_hold_are_refused():
    with pytest.raises(DataError, match=r"data\.classes-per-client = 2: must be 6 to 10 with 5 clients"):
        split("pathological", clients=5, classes_per_client=2)


def test_a_class_with_fewer_samples_than_clients_that_hold_it_is_refused():
    targets = torch.tensor([0] * 98 + [1] * 2)
    with pytest.raises(DataError, match=r"data\.classes-per-client = 2: .* 5 clients 4 samples"):
        split("pathological", 5, targets=targets, classes_per_client=2)


def test_a_client_with_too_few_samples_is_refused():
    targets = torch.tensor([0] * 98 + [1] * 2)
    with pytest.raises(DataError, match=r"data\.classes-per-client = 1: .* 2 clients 4 samples"):
        split("pathological", 2, targets=targets, classes_per_client=1)


def test_an_alpha_with_which_no_split_is_found_is_refused():
    with pytest.raises(
        DataError, match=r'data\.alpha = 0.05: .* data\.split = "dirichlet-unequal" .* 100 .* a larger alpha'
    ):
        split("dirichlet-unequal", clients=100, alpha=0.05)
