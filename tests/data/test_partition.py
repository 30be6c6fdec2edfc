import math
import random
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data.partition import MINIMUM_CLIENT_SAMPLES, natural, partition
from protocol.errors import DataError
from protocol.settings import DataSettings

EVEN = ["iid", "dirichlet", "dirichlet-unequal", "pathological", "shards"]  # a client needs four samples
SPLITS = [*EVEN, "linear", "exponential", "natural"]
CLASSES = 10
TARGETS = torch.randint(CLASSES, (897,), generator=torch.Generator().manual_seed(0))
SITES = [f"site-{number}" for number in range(12)]


def split(kind="dirichlet", clients=None, seed=0, targets=TARGETS, **others):
    clients = clients or (5 if kind == "exponential" else 10)
    site = {"keys": torch.arange(len(targets)) % len(SITES), "names": SITES} if kind == "natural" else {}
    return partition(targets, DataSettings(split=kind, **others), clients, seed, **site)


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


def seed_globals(state):
    random.seed(state)
    np.random.seed(state)
    torch.manual_seed(state)


def draw_from_globals():
    return random.random(), np.random.random(), torch.rand(1).item()


@pytest.mark.parametrize("kind", SPLITS)
def test_each_sample_is_used_once(kind):
    parts = split(kind)
    assert len(parts) == (5 if kind == "exponential" else 10)
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
    kind=st.sampled_from([*EVEN, "linear", "natural"]),
    samples=st.integers(150, 250),
    clients=st.integers(3, 8),
    seed=st.integers(0, 2**63 - 1),
)
def test_sizes_clients_and_seeds_do_not_lose_or_repeat_a_sample(kind, samples, clients, seed):
    targets = torch.arange(samples) % 3
    parts = split(kind, clients, seed, targets, alpha=10.0)
    assert len(parts) == clients
    assert_each_sample_used_once(parts, samples)


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(SPLITS),
    samples=st.integers(1, 250),
    classes=st.integers(1, 5),
    clients=st.integers(1, 12),
    others=st.fixed_dictionaries(
        {
            "alpha": st.sampled_from([0.1, 1.0, 100.0]),
            "classes_per_client": st.integers(1, 5),
            "shards_per_client": st.integers(1, 12),
        }
    ),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_split_is_whole_with_enough_for_each_client_and_from_the_seed_alone_or_refused(
    kind, samples, classes, clients, others, seed
):
    targets = torch.randint(classes, (samples,), generator=torch.Generator().manual_seed(seed))
    results = []
    for state in (1, 2):
        seed_globals(state)
        try:
            results.append(as_lists(split(kind, clients, seed, targets, **others)))
        except DataError as error:
            results.append(str(error))
        after = draw_from_globals()
        seed_globals(state)
        assert after == draw_from_globals()
    assert results[0] == results[1]
    if not isinstance(results[0], str):
        assert sorted(index for part in results[0] for index in part) == list(range(samples))
        assert len(results[0]) == clients
        assert min(map(len, results[0])) >= MINIMUM_CLIENT_SAMPLES


def test_classes_without_a_sample_do_not_matter():
    targets = torch.tensor([3, 7, 9]).repeat(20)
    for kind in SPLITS:
        assert_each_sample_used_once(split(kind, 3, targets=targets, alpha=1.0), 60)


@pytest.mark.parametrize("kind", SPLITS)
def test_the_split_follows_from_the_seed(kind):
    assert as_lists(split(kind, seed=1)) == as_lists(split(kind, seed=1))
    assert as_lists(split(kind, seed=1)) != as_lists(split(kind, seed=2))


@pytest.mark.parametrize("kind", ["dirichlet", "dirichlet-unequal", "pathological", "shards"])
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
        assert len(part) < 20 or 0.2 < rises < 0.8
        if len(part) >= 20 and len(TARGETS[part].unique()) > 1:
            assert not TARGETS[part].equal(TARGETS[part].sort().values)


@pytest.mark.parametrize("kind", SPLITS)
def test_global_generators_neither_matter_nor_change(kind):
    parts = []
    for state in (1, 2):
        seed_globals(state)
        parts.append(as_lists(split(kind)))
        after = draw_from_globals()
        seed_globals(state)
        assert after == draw_from_globals()
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


@pytest.mark.parametrize("kind", EVEN)
def test_too_many_clients_are_refused_with_how_many_are_possible(kind):
    with pytest.raises(DataError, match=r"num-partitions = 225: must be 1 to 224, .* 897 private samples"):
        split(kind, clients=225)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["iid", "shards"])
def test_as_many_clients_as_possible_get_four_samples_each(kind):
    assert {len(part) for part in split(kind, clients=224)} == {4, 5}


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


@settings(max_examples=50, deadline=None)
@given(samples=st.integers(4, 300), data=st.data())
def test_shards_give_equal_sizes_in_so_many_runs_of_the_samples_by_class(samples, data):
    clients = data.draw(st.integers(1, samples // 4))
    shards = data.draw(st.integers(1, samples // clients))
    # Each sample is a class of its own, so that its place in the order of classes is known.
    parts = split("shards", clients, targets=torch.arange(samples) * 3, shards_per_client=shards)
    assert_each_sample_used_once(parts, samples)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    runs = [1 + int((part.sort().values.diff() > 1).sum()) for part in parts]
    assert max(runs) <= shards


def test_shards_give_each_client_few_classes():
    parts = split("shards", 10, shards_per_client=2)
    assert max(len(TARGETS[part].unique()) for part in parts) <= 4  # a shard lies over two classes at most
    assert skew(parts) > 0.5


def test_shards_that_divide_the_classes_evenly_hold_one_class_each():
    parts = split("shards", 10, targets=torch.arange(CLASSES).repeat(80), shards_per_client=2)
    classes = [len((part % CLASSES).unique()) for part in parts]
    assert max(classes) == 2


def test_as_many_shards_as_samples_are_like_iid():
    assert skew(split("shards", 5, shards_per_client=897 // 5)) < 0.2


def test_more_shards_than_samples_are_refused():
    with pytest.raises(
        DataError,
        match=r"data\.shards-per-client = 90: must be 1 to 89 with 10 clients, .* 897 private samples",
    ):
        split("shards", shards_per_client=90)


def test_linear_gives_client_i_i_times_as_much_as_the_first():
    sizes = [len(part) for part in split("linear", targets=torch.zeros(5504, dtype=torch.int64))]
    assert sizes == [100, 200, 300, 400, 500, 600, 700, 800, 900, 1004]  # the last takes the rest


def test_exponential_gives_each_client_e_times_as_much_as_the_one_before():
    sizes = [len(part) for part in split("exponential", 6, targets=torch.zeros(20_000, dtype=torch.int64))]
    ratios = [larger / smaller for smaller, larger in pairwise(sizes)]
    assert ratios == pytest.approx([math.e] * 5, rel=0.02)


@pytest.mark.parametrize("kind", ["linear", "exponential"])
def test_unequal_sizes_hold_classes_at_random(kind):
    sorted_targets, _ = TARGETS.sort()
    parts = split(kind, 5, targets=sorted_targets)
    assert len(sorted_targets[parts[-1]].unique()) == CLASSES


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(["linear", "exponential"]), samples=st.integers(4, 2000))
def test_unequal_sizes_serve_as_many_clients_as_their_message_says(kind, samples):
    targets = torch.zeros(samples, dtype=torch.int64)
    with pytest.raises(DataError) as error:
        split(kind, samples, targets=targets)
    message = str(error.value)
    most = int(re.search(r"must be 1 to (\d+)", message).group(1))
    assert message == (
        f'num-partitions = {samples}: must be 1 to {most} with data.split = "{kind}", because there are '
        f"{samples} private samples and the smallest client needs 4"
    )
    assert min(len(part) for part in split(kind, most, targets=targets)) >= MINIMUM_CLIENT_SAMPLES
    with pytest.raises(DataError, match=f"num-partitions = {most + 1}: must be 1 to {most} "):
        split(kind, most + 1, targets=targets)


def test_messages_speak_of_groups_where_groups_are_split():
    targets, weights = torch.arange(12) % 2, torch.full((12,), 30)
    with pytest.raises(
        DataError, match=r"must be 1 to 3, because there are 12 private groups and a client needs 4"
    ):
        partition(targets, DataSettings(split="iid"), 4, 0, weights=weights)
    with pytest.raises(DataError, match="12 private samples"):
        partition(targets, DataSettings(split="iid"), 4, 0, weights=torch.ones(12, dtype=torch.int64))


BY_SITE = DataSettings(split="natural", site="site")


def sites_of(parts, keys):
    return [set(keys[part].tolist()) for part in parts]


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    groups=st.lists(st.tuples(st.integers(0, 7), st.integers(4, 40)), min_size=1, max_size=40),
    clients=st.integers(1, 8),
    seed=st.integers(0, 2**63 - 1),
)
def test_natural_divides_no_site_and_sizes_nearly_evenly(groups, clients, seed):
    keys, weights = torch.tensor(groups).unbind(1)
    names = list("hgfedcba")
    present = keys.unique().tolist()
    assume(clients <= len(present))
    parts = natural(keys, names, BY_SITE, clients, seed, weights)
    assert_each_sample_used_once(parts, len(keys))
    sites = sites_of(parts, keys)
    assert sum(map(len, sites)) == len(present)
    assert all(sites)
    held = [int(weights[part].sum()) for part in parts]
    site_sizes = {site: int(weights[keys == site].sum()) for site in present}
    # Dealt from the largest on, the largest client beats no other by more than its own smallest site.
    largest = max(range(clients), key=held.__getitem__)
    assert held[largest] - min(held) <= min(site_sizes[site] for site in sites[largest])
    first_names = [min(names[site] for site in hand) for hand in sites]
    assert first_names == sorted(first_names)
    assert partition(keys, BY_SITE, clients, seed, keys=keys, names=names, weights=weights)[0].equal(parts[0])


def test_natural_gives_each_client_one_site_in_order_of_names():
    names = ["wards 10", "wards 9", "unused", "annex"]
    keys = torch.tensor([0] * 40 + [1] * 4 + [3] * 9)
    assert sites_of(natural(keys, names, BY_SITE, 3, 0), keys) == [{3}, {1}, {0}]


def test_natural_deals_the_largest_sites_first():
    names = list("abcde")
    keys = torch.arange(5).repeat_interleave(torch.tensor([5, 50, 20, 25, 7]))
    # b; d, then c; then e to the smaller of 50 and 45, and a to the smaller of 50 and 52
    assert sites_of(natural(keys, names, BY_SITE, 2, 0), keys) == [{0, 1}, {2, 3, 4}]


def test_natural_weighs_groups_by_their_samples():
    keys, weights = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([4, 4, 4, 30, 20])
    parts = natural(keys, list("abc"), BY_SITE, 2, 0, weights)
    assert sites_of(parts, keys) == [{0, 2}, {1}]


def test_natural_draws_from_the_seed_only_the_order_within_a_client():
    keys = torch.randint(6, (300,), generator=torch.Generator().manual_seed(0))
    one, other = (natural(keys, list("abcdef"), BY_SITE, 3, seed) for seed in (1, 2))
    assert sites_of(one, keys) == sites_of(other, keys)
    assert as_lists(one) != as_lists(other)


def test_more_clients_than_sites_are_refused_with_the_sites():
    keys = torch.arange(40) % 4
    with pytest.raises(DataError) as error:
        natural(keys, ["d", "c", "b", "a"], BY_SITE, 5, 0)
    assert str(error.value) == (
        'num-partitions = 5: must be at most 4 with data.split = "natural", because data.site = "site" has '
        "4 values: a, b, c, d"
    )


def test_a_long_list_of_sites_is_cut():
    keys, by_patient = torch.arange(80) % 20, DataSettings(split="natural", group="patient")
    with pytest.raises(DataError, match=r'data\.group = "patient" has 20 values: 0, 1, .*, 8, 9, \.\.\.$'):
        natural(keys, [str(number) for number in range(20)], by_patient, 21, 0)


def test_a_site_too_small_for_a_client_is_refused_by_name():
    keys = torch.tensor([0] * 10 + [1] * 3)
    with pytest.raises(
        DataError,
        match=r"num-partitions = 2: .* 3 samples of tiny, and it needs 4; choose fewer clients or another",
    ):
        natural(keys, ["large", "tiny"], BY_SITE, 2, 0)
    assert_each_sample_used_once(natural(keys, ["large", "tiny"], BY_SITE, 1, 0), 13)


def test_natural_without_a_column_is_refused():
    with pytest.raises(DataError, match=r'data\.split = "natural": needs data\.site or data\.group'):
        partition(TARGETS, DataSettings(split="natural"), 2, 0)
