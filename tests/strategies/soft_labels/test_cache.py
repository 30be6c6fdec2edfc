import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.soft_labels.cache import NOT_STORED, CachePolicy, LabelCache, LabelsInUse, Versions
from tests.strategies.soft_labels.recorded import RECORDED

EXPIRIES = ["refresh", "evict"]
WIDTH = 6

patterns = st.lists(st.booleans(), min_size=1, max_size=25)
"""Whether any prediction arrived, by round."""


@st.composite
def policies(draw, durations=(0, 6)):
    pool_size = draw(st.integers(1, 12))
    subset_size = draw(st.integers(1, pool_size))
    expiry = draw(st.sampled_from(EXPIRIES))
    return CachePolicy(
        draw(st.integers(0, 99)), pool_size, subset_size, draw(st.integers(*durations)), expiry
    )


def rounds(policy, answered):
    """Play rounds; yield each plan and the versions after it."""
    versions = Versions(policy)
    for arrived in answered:
        plan = versions.plan()
        versions.advance(plan, arrived or len(plan.requested) == 0)
        yield plan, versions


def used(versions):
    return dict(zip(versions.in_use.indices.tolist(), versions.in_use.versions.tolist(), strict=True))


def kept(versions):
    return {index: int(version) for index, version in enumerate(versions.stored) if version}


def assert_same_versions(got, expected):
    assert got.round == expected.round
    assert np.array_equal(got.stored, expected.stored)
    assert used(got) == used(expected)


# --- which labels are asked for, used and stored -------------------------------------------------


@pytest.mark.parametrize("expiry", EXPIRIES)
@pytest.mark.parametrize("duration", [0, 1, 2, 3])
def test_one_sample_drawn_every_round_follows_the_recorded_trace(expiry, duration):
    trace = RECORDED["single_sample"][expiry][str(duration)]
    policy = CachePolicy(0, 1, 1, duration, expiry)

    for (plan, versions), (requested, used_round, stored_round) in zip(
        rounds(policy, [True] * len(trace)), trace, strict=True
    ):
        assert plan.requested.tolist() == [0] * requested
        assert used(versions) == {0: used_round + 1}
        assert kept(versions) == ({} if stored_round is None else {0: stored_round + 1})


def by_the_book(policy, subset, stored, round, answered):
    """Follow the specification sample by sample; return what is requested, used and stored."""
    requested, in_use = [], {}
    for sample in subset:
        if sample in stored and round - stored[sample] <= policy.duration:
            in_use[sample] = stored[sample]
            continue
        requested.append(sample)
        if not answered:
            continue
        in_use[sample] = round
        if policy.expiry == "evict" and sample in stored:
            del stored[sample]
        else:
            stored[sample] = round
    return requested, in_use


@given(policies(), patterns)
def test_requested_used_and_stored_labels_follow_the_specification(policy, answered):
    stored = {}
    for (plan, versions), arrived in zip(rounds(policy, answered), answered, strict=True):
        requested, in_use = by_the_book(policy, plan.subset.tolist(), stored, plan.round, arrived)
        assert plan.requested.tolist() == requested
        assert used(versions) == in_use
        assert kept(versions) == stored


@given(policies(), patterns)
def test_no_label_in_use_is_older_than_the_cache_duration(policy, answered):
    for plan, versions in rounds(policy, answered):
        ages = plan.round - versions.in_use.versions
        assert ((ages >= 0) & (ages <= policy.duration)).all()


@given(policies(), patterns)
def test_every_sample_drawn_has_a_label_unless_it_was_requested_in_vain(policy, answered):
    for (plan, versions), arrived in zip(rounds(policy, answered), answered, strict=True):
        in_vain = [] if arrived else plan.requested
        assert versions.in_use.indices.tolist() == np.setdiff1d(plan.subset, in_vain).tolist()


@given(policies(durations=(0, 0)), patterns)
def test_without_duration_the_whole_subset_is_requested_every_round(policy, answered):
    for plan, _ in rounds(policy, answered):
        assert np.array_equal(plan.requested, plan.subset)


@pytest.mark.parametrize(("drawn", "duration"), [(100, 1), (100, 4), (50, 3), (25, 8), (10, 20)])
@pytest.mark.parametrize(("expiry", "requests"), [("refresh", 1), ("evict", 2)])
def test_requested_share_tends_to_the_closed_formula(drawn, duration, expiry, requests):
    """1/(1 + qD) for refresh, 2/(2 + qD) for evict, within 4 %: q = m/|P|, over 50 cache cycles."""
    policy = CachePolicy(0, 100, drawn, duration, expiry)
    cycle = round(duration + 2 / (drawn / 100))

    requested = sum(len(plan.requested) for plan, _ in rounds(policy, [True] * (50 * cycle)))

    share = requested / (50 * cycle * drawn)
    assert share == pytest.approx(requests / (requests + drawn / 100 * duration), rel=0.04)


def test_the_final_exchange_works_on_the_subset_but_requests_nothing():
    plan = Versions(CachePolicy(0, 8, 4, 2, "refresh")).plan()

    assert np.array_equal(plan.without_request().subset, plan.subset)
    assert plan.without_request().requested.tolist() == []


# --- every machine derives the same --------------------------------------------------------------


@given(policies(), patterns, st.data())
def test_replaying_with_the_silent_rounds_gives_what_was_followed_round_by_round(policy, answered, data):
    begun = data.draw(st.integers(0, len(answered) - 1), label="rounds known before")
    remembered, silent = Versions(policy), []
    for plan, versions in rounds(policy, answered):
        if plan.round <= begun:
            remembered = Versions(policy, plan.round, versions.stored.copy())
        if not answered[plan.round - 1] and len(plan.requested):
            silent.append(plan.round)

    for replayed in (Versions(policy), remembered):
        replayed.catch_up(len(answered), np.array(silent, dtype=np.int64))
        assert_same_versions(replayed, versions)


@given(policies(), patterns)
def test_digest_agrees_where_versions_agree_and_not_where_a_silent_round_is_unknown(policy, answered):
    *_, (_, versions) = rounds(policy, [*answered, False])
    unaware, silent = Versions(policy), [t for t, arrived in enumerate([*answered, False], 1) if not arrived]
    aware = Versions(policy)
    unaware.catch_up(versions.round, np.array(silent[:-1], dtype=np.int64))
    aware.catch_up(versions.round, np.array(silent, dtype=np.int64))

    assert aware.digest(aware.plan()) == versions.digest(versions.plan())
    same = used(unaware) == used(versions) and np.array_equal(unaware.stored, versions.stored)
    assert (unaware.digest(unaware.plan()) == versions.digest(versions.plan())) == same


def test_digest_covers_the_request():
    versions = Versions(CachePolicy(0, 8, 4, 2, "refresh"))
    plan = versions.plan()

    assert versions.digest(plan) != versions.digest(plan.without_request())


@pytest.mark.parametrize("drawn", [True, False])
def test_digest_covers_what_is_stored_of_samples_drawn_or_not(drawn):
    versions = Versions(CachePolicy(0, 8, 4, 2, "refresh"))
    plan = versions.plan()
    before = versions.digest(plan)

    versions.stored[plan.subset[0] if drawn else np.setdiff1d(range(8), plan.subset)[0]] = 1

    assert versions.digest(plan) != before


# --- the labels themselves -----------------------------------------------------------------------


def labels(indices, seed=0):
    """Return versions and rows of some samples."""
    generator = np.random.default_rng(seed)
    versions = generator.integers(1, 9, len(indices)).astype(np.int32)
    return np.array(indices), versions, generator.integers(0, 256, (len(indices), WIDTH)).astype(np.uint8)


def cache_of(pool_size, *puts):
    cache = LabelCache(pool_size, WIDTH)
    for put in puts:
        cache.put(*put)
    return cache


def test_a_cache_holds_a_label_in_exactly_its_version():
    indices, versions, rows = labels([1, 3, 4])
    cache = cache_of(6, (indices, versions, rows))

    assert cache.holds(LabelsInUse(indices, versions)).tolist() == [True] * 3
    assert cache.holds(LabelsInUse(indices, versions + np.array([0, 1, 0], np.int32))).tolist() == [
        True,
        False,
        True,
    ]
    assert cache.holds(LabelsInUse(np.array([0, 4]), versions[[0, 2]])).tolist() == [False, True]
    assert cache.held().tolist() == [1, 3, 4]
    assert np.array_equal(cache.rows[indices], rows)


def test_a_label_replaces_the_older_one_of_its_sample():
    old, new = labels([2], seed=1), labels([2], seed=2)
    cache = cache_of(4, old, new)

    assert cache.holds(LabelsInUse(new[0], new[1])).all()
    assert np.array_equal(cache.rows[2], new[2][0])
    assert cache.digest() == cache_of(4, new).digest()


def test_keep_only_drops_what_is_not_the_stored_version():
    indices, versions, rows = labels([0, 1, 2, 3])
    cache = cache_of(5, (indices, versions, rows))
    stored = np.array([versions[0], NOT_STORED, versions[2] + 1, versions[3], 7], dtype=np.int32)

    cache.keep_only(stored)

    assert cache.held().tolist() == [0, 3]
    remaining = [0, 3]
    assert cache.digest() == cache_of(5, (indices[remaining], versions[remaining], rows[remaining])).digest()


def test_the_digest_of_an_empty_cache_is_zero():
    assert cache_of(5).digest() == bytes(8)


@given(st.permutations(range(6)), st.integers(1, 5))
def test_the_digest_does_not_depend_on_the_order_in_which_labels_came(order, cut):
    indices, versions, rows = labels(list(range(6)))
    parts = [(indices[part], versions[part], rows[part]) for part in (order[:cut], order[cut:])]

    assert cache_of(6, *parts).digest() == cache_of(6, (indices, versions, rows)).digest()


@pytest.mark.parametrize("changed", ["index", "version", "row"])
def test_the_digest_tells_apart_caches_that_differ_in_one(changed):
    indices, versions, rows = labels([1, 3, 4])
    before = cache_of(6, (indices.copy(), versions.copy(), rows.copy())).digest()
    {"index": indices, "version": versions, "row": rows[:, 0]}[changed][2] += 1

    assert cache_of(6, (indices, versions, rows)).digest() != before
