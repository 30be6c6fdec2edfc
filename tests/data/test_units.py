import time
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.units import Units
from protocol.errors import DataError

ROWS = st.lists(st.integers(0, 6), min_size=1, max_size=60)


@st.composite
def grouped(draw):
    """Group numbers of some rows, with gaps, the units they make, and these units in random order."""
    groups = torch.tensor([number * 5 + 2 for number in draw(ROWS)])
    units = Units.of_groups(groups)
    return groups, units, torch.tensor(draw(st.permutations(range(len(units)))))


@settings(max_examples=100, deadline=None)
@given(grouped())
def test_every_row_is_in_one_unit_and_no_group_is_divided(case):
    groups, units, order = case
    members = [units.rows(unit.reshape(1)) for unit in torch.arange(len(units))]
    assert torch.cat(members).sort().values.equal(torch.arange(len(groups)))
    assert [len(rows) for rows in members] == units.sizes.tolist()
    for number, rows in zip(groups.unique(), members, strict=True):
        assert rows.tolist() == torch.nonzero(groups == number).flatten().tolist()
    assert units.rows(order).tolist() == [row for unit in order for row in members[unit].tolist()]


@settings(max_examples=100, deadline=None)
@given(grouped(), st.integers(0, 60))
def test_some_units_bring_all_their_rows_and_no_others(case, count):
    groups, units, order = case
    chosen = order[:count]
    numbers = groups.unique()[chosen].tolist()
    rows = units.rows(chosen)
    assert rows.dtype == torch.int64
    assert groups[rows].tolist() == [number for number in numbers for row in groups.tolist() if row == number]


def test_rows_of_units_lie_in_the_order_of_the_units():
    units = Units.of_groups(torch.tensor([9, 4, 9, 0, 4, 9]))
    assert units.sizes.tolist() == [1, 2, 3]
    assert units.rows(torch.tensor([2, 0])).tolist() == [0, 2, 5, 3]
    assert units.rows(torch.tensor([1])).tolist() == [1, 4]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 99), max_size=200), ROWS)
def test_without_groups_everything_stays_as_it_is(chosen, targets):
    chosen, targets = torch.tensor(chosen, dtype=torch.int64), torch.tensor(targets)
    units = Units.of_rows(100)
    assert len(units) == 100
    assert units.sizes.equal(torch.ones(100, dtype=torch.int64))
    assert units.rows(chosen).equal(chosen)
    assert units.first_with(chosen, len(chosen)) == len(chosen)
    units = Units.of_rows(len(targets))
    assert units.majority(targets).equal(targets)
    assert units.common(targets, "data.site").equal(targets)


def test_groups_of_one_row_each_are_like_no_groups():
    of_groups, of_rows = Units.of_groups(torch.arange(50) * 2), Units.of_rows(50)
    assert of_groups.members.equal(of_rows.members)
    assert of_groups.sizes.equal(of_rows.sizes)


def test_no_rows_make_no_units():
    nothing = torch.empty(0, dtype=torch.int64)
    for units in (Units.of_rows(0), Units.of_groups(nothing)):
        assert len(units) == 0
        for result in (units.rows(nothing), units.majority(nothing), units.common(nothing, "data.site")):
            assert result.equal(nothing)
        assert units.first_with(nothing, 0) == 0


@settings(max_examples=100, deadline=None)
@given(grouped(), st.data())
def test_the_majority_is_the_most_common_class_and_of_several_the_largest(case, data):
    groups, units, _ = case
    targets = (
        torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=len(groups), max_size=len(groups)))) * 4
    )
    expected = []
    for number in groups.unique():
        counts = Counter(targets[groups == number].tolist())
        expected.append(max(counts, key=lambda target: (counts[target], target)))
    assert units.majority(targets).tolist() == expected
    assert units.majority(targets).dtype == torch.int64


@settings(max_examples=50, deadline=None)
@given(grouped())
def test_what_all_rows_of_a_unit_share_is_found(case):
    groups, units, _ = case
    assert units.common(groups % 3, "data.site").equal(groups.unique() % 3)


def test_the_first_unit_with_two_values_is_refused_by_its_rows():
    units = Units.of_groups(torch.tensor([0, 3, 7, 3, 7, 0, 3]))
    with pytest.raises(DataError) as error:
        units.common(torch.tensor([1, 5, 0, 5, 9, 1, 6]), 'data.site = "hospital"')
    assert str(error.value) == (
        'data.site = "hospital": must be the same in all rows of a group, but rows 1, 3, 6 (from 0), which '
        "are one group, have 2 values"
    )


def test_many_rows_of_a_unit_with_two_values_are_cut():
    with pytest.raises(DataError, match=r"rows 0, 1, .*, 9, \.\.\. \(from 0\), which .* have 12 values"):
        Units.of_groups(torch.zeros(12, dtype=torch.int64)).common(torch.arange(12), "data.site")


@settings(max_examples=100, deadline=None)
@given(grouped(), st.data())
def test_first_with_takes_as_few_units_as_hold_the_size(case, data):
    groups, units, order = case
    size = data.draw(st.integers(0, len(groups)))
    needed = units.first_with(order, size)
    assert len(units.rows(order[:needed])) >= size
    assert needed == 0 or len(units.rows(order[: needed - 1])) < size


def test_more_rows_than_the_units_have_are_refused():
    units = Units.of_groups(torch.tensor([0, 0, 1]))
    with pytest.raises(ValueError, match="size = 3: the 1 units have only 2 rows"):
        units.first_with(torch.tensor([0]), 3)


def test_fifty_thousand_rows_take_no_loop():
    groups = torch.randint(20_000, (50_000,), generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    units = Units.of_groups(groups)
    rows = units.rows(torch.arange(len(units)).flip(0))
    units.majority(groups % 10)
    units.common(groups % 10, "data.site")
    assert time.perf_counter() - start < 0.5  # milliseconds; a loop over rows takes longer
    assert len(rows) == 50_000
