import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.tables import Table
from protocol.errors import DataError

NAN = math.nan


def table(categorical=(), **columns):
    return Table(pd.DataFrame(columns), categorical)


def rows_of(one):
    return torch.arange(len(one))


def scaled(fitted, other=None):
    """Return a table's inputs by the form that is found on another."""
    other = other or fitted
    return other.inputs(rows_of(other), fitted.fit(rows_of(fitted)))[rows_of(other)]


# --- numbers -------------------------------------------------------------------------------------


def test_numbers_are_less_the_mean_by_the_deviation():
    values = scaled(table(age=[20, 40, 60], weight=[0.5, 0.5, 2.0]))
    deviations = [np.std([20, 40, 60]), np.std([0.5, 0.5, 2.0])]
    expected = [
        [-20 / deviations[0], -0.5 / deviations[1], 0, 0],
        [0, -0.5 / deviations[1], 0, 0],
        [20 / deviations[0], 1.0 / deviations[1], 0, 0],
    ]
    assert values.dtype == torch.float32
    assert torch.allclose(values, torch.tensor(expected, dtype=torch.float32))


def test_a_gap_is_filled_with_the_median_and_marked():
    pool = table(age=[1.0, 2.0, 9.0])
    values = scaled(pool, table(age=[NAN, 2.0, 9.0]))
    assert values[0, 0] == values[1, 0] != values[2, 0]
    assert values[:, 1].tolist() == [1.0, 0.0, 0.0]


def test_median_mean_and_deviation_are_those_of_the_rows_fitted():
    one = table(age=[1.0, 2.0, NAN, 9.0, 1000.0])
    facts = one.fit(torch.tensor([0, 1, 2, 3])).facts()
    filled = [1.0, 2.0, 2.0, 9.0]
    assert facts["medians"] == {"age": 2.0}
    assert facts["means"] == {"age": pytest.approx(np.mean(filled))}
    assert facts["deviations"] == {"age": pytest.approx(np.std(filled))}


@pytest.mark.slow
@given(st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_inputs_are_finite_whatever_is_missing(cells):
    assert scaled(table(age=pd.Series(cells, dtype="float64"))).isfinite().all()


@pytest.mark.parametrize("dtype", ["float64", "object"])
def test_a_column_that_is_all_gaps_in_the_pool_tells_nothing(dtype):
    pool = table(age=[1.0, 2.0], empty=pd.Series([None, None], dtype=dtype))
    values = scaled(pool)
    assert values.isfinite().all()
    assert torch.equal(values[0, 1:], values[1, 1:])


def test_a_column_that_is_all_gaps_at_a_site_is_filled_and_marked():
    pool, site = table(age=[1.0, 2.0, 9.0]), table(age=pd.Series([None, None], dtype="object"))
    assert scaled(pool, site)[:, 1].tolist() == [1.0, 1.0]
    assert torch.equal(scaled(pool, site)[:, 0], scaled(pool)[[1, 1], 0])


def test_a_column_that_never_changes_is_only_shifted():
    assert scaled(table(age=[5, 5]), table(age=[5, 7]))[:, 0].tolist() == [0.0, 2.0]


def test_an_infinite_number_is_refused_by_its_column():
    with pytest.raises(DataError, match="column 'age' holds an infinite number"):
        scaled(table(age=[1.0, math.inf]))


# --- categories ----------------------------------------------------------------------------------


def test_a_category_becomes_as_many_numbers_as_it_had_values():
    assert scaled(table(sex=["m", "f", "m", "x"])).tolist() == [
        [0.0, 1.0, 0.0],
        [1.0, 0.0, 0.0],
        [0.0, 1.0, 0.0],
        [0.0, 0.0, 1.0],
    ]


def test_a_category_that_the_pool_had_not_is_all_zeros():
    assert scaled(table(sex=["m", "f"]), table(sex=["x", "m"])).tolist() == [[0.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("gap", [None, NAN])
def test_a_gap_among_categories_is_a_category(gap):
    values = scaled(table(sex=["m", gap, "f"]))
    assert values.shape == (3, 3)
    assert torch.equal(values.sum(dim=0), torch.ones(3))
    assert torch.equal(values, scaled(table(sex=["m", gap, "f"]), table(sex=["m", None, "f"])))


def test_truth_values_are_categories_with_and_without_gaps():
    whole, gappy = table(smokes=[True, False, True]), table(smokes=[True, None, False])
    assert scaled(whole).tolist() == [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    assert scaled(whole, gappy).tolist() == [[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]


def test_numbers_that_are_codes_are_categories_if_named():
    assert scaled(table(("cp",), cp=[3, 1, 3])).tolist() == [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("codes", [[3.0, 1.0], ["3", "1"], [3, 1]])
def test_a_code_is_the_same_whatever_type_a_gap_elsewhere_makes_it(codes):
    pool = table(("cp",), cp=[1, 3])
    assert scaled(pool, table(("cp",), cp=codes)).tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_what_are_categories_is_as_in_the_pool():
    pool, site = table(("cp",), cp=[1, 3]), table(cp=[3, 2])
    assert scaled(pool, site).tolist() == [[0.0, 1.0], [0.0, 0.0]]


def test_a_named_category_that_is_no_column_is_refused():
    with pytest.raises(DataError, match=r'data\.categorical = "thal": the columns are age, sex'):
        scaled(table(("thal",), age=[1, 2], sex=["m", "f"]))


# --- whole rows ----------------------------------------------------------------------------------

MIXED = {"sex": ["m", None, "f"], "age": [1.0, NAN, 9.0], "cp": [1, 2, 2], "smokes": [True, False, True]}


def test_numbers_come_first_then_categories_then_marks_of_gaps():
    values = scaled(table(("cp",), **MIXED))
    assert values.shape == (3, 1 + 3 + 2 + 2 + 1)
    assert values[:, 1:].tolist() == [
        [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0],  # "(none)" comes before letters
        [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0],
        [0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0],
    ]


def test_the_form_knows_its_shape():
    one = table(("cp",), **MIXED)
    assert one.fit(rows_of(one)).shape == (9,)
    assert one.inputs(rows_of(one), one.fit(rows_of(one))).shape == (9,)


def test_rows_are_taken_in_the_order_asked_for():
    one = table(("cp",), **MIXED)
    form = one.fit(rows_of(one))
    asked = torch.tensor([2, 0, 2])
    assert torch.equal(one.inputs(asked, form).values, one.inputs(rows_of(one), form).values[asked])


def test_a_sites_columns_may_be_in_another_order_and_be_more():
    pool = table(("cp",), **MIXED)
    shuffled = Table(pool.frame[["smokes", "cp", "age", "sex"]].assign(other=1))
    assert torch.equal(scaled(pool, shuffled), scaled(pool))


def test_a_column_that_a_site_lacks_is_refused_by_its_name():
    with pytest.raises(DataError, match="there is no column 'age', which the public pool has; there are sex"):
        scaled(table(age=[1, 2]), table(sex=["m", "f"]))


def test_text_where_the_pool_has_numbers_is_refused_by_its_column():
    with pytest.raises(DataError, match=r"column 'age' must hold numbers, as in the public pool: .*'\?'"):
        scaled(table(age=[1, 2]), table(age=["5", "?"]))


def test_numbers_written_as_text_are_numbers_where_the_pool_has_them():
    assert torch.equal(scaled(table(age=[1, 2]), table(age=["1", "2"])), scaled(table(age=[1, 2])))


# --- facts and digests ---------------------------------------------------------------------------


def test_the_form_is_json():
    one = table(("cp",), **MIXED, empty=[NAN] * 3)
    facts = json.loads(json.dumps(one.fit(rows_of(one)).facts(), allow_nan=False))
    assert facts["shape"] == [11]
    assert facts["medians"]["age"] == 5.0
    assert facts["categories"] == {
        "sex": ["(none)", "f", "m"],
        "cp": ["1", "2"],
        "smokes": ["False", "True"],
    }


def test_forms_of_numbers_or_of_categories_alone_have_facts():
    for one in (table(age=[1, 2]), table(sex=["m", "f"])):
        assert json.loads(json.dumps(one.fit(rows_of(one)).facts()))["shape"] == [2]


def test_the_digest_is_32_hexadecimal_digits_and_the_same_on_every_machine():
    one = table(age=[1.5, NAN], sex=["m", None])
    assert one.digest(rows_of(one)) == "4aa67e5cdbb781d077fd45637eb3cb86"


@pytest.mark.parametrize("rows", [[1, 0, 2], [0, 1], [0, 1, 2, 2]])
def test_the_digest_changes_with_order_and_number(rows):
    one = table(**MIXED)
    assert one.digest(torch.tensor(rows)) != one.digest(rows_of(one))


@pytest.mark.parametrize(
    ("column", "value"), [("sex", "f"), ("age", 1.0000001), ("cp", 3), ("smokes", False)]
)
def test_the_digest_changes_with_a_cell(column, value):
    one, other = table(**MIXED), table(**MIXED)
    other.frame.loc[0, column] = value
    assert other.digest(rows_of(one)) != one.digest(rows_of(one))


def test_the_digest_changes_with_a_columns_name():
    assert table(a=[1]).digest(torch.tensor([0])) != table(b=[1]).digest(torch.tensor([0]))
