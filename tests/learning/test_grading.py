import json
from dataclasses import astuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, mean_absolute_error

from learning.grading import ExitGrades, Grades, grade

FIVE = 5
pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30)


def graded(said, right, classes=FIVE):
    return grade(torch.tensor(said), torch.tensor(right), classes)


# --- the figures ---------------------------------------------------------------------------------


def test_four_answers_worked_by_hand():
    """Class 0: one of two found, nothing else called it. Class 1: one found, one too many. Class 2: right."""
    grades = graded([0, 1, 1, 2], [0, 0, 1, 2], classes=3)
    assert grades.accuracy == 0.75
    assert grades.macro_f1 == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert grades.mean_absolute_error == 0.25
    assert grades.kappa == pytest.approx(1 - 0.25 / 1.25)


@given(pairs)
def test_the_figures_are_those_of_scikit_learn(cases):
    said, right = map(list, zip(*cases, strict=True))
    grades = graded(said, right)
    assert grades.accuracy == pytest.approx(accuracy_score(right, said))
    occurring = sorted({*said, *right})
    assert grades.macro_f1 == pytest.approx(f1_score(right, said, labels=occurring, average="macro"))
    assert grades.mean_absolute_error == pytest.approx(mean_absolute_error(right, said))
    if len(occurring) > 1:
        expected = cohen_kappa_score(right, said, labels=range(FIVE), weights="quadratic")
        assert grades.kappa == pytest.approx(expected)


@pytest.mark.slow
@given(pairs)
def test_the_figures_keep_their_range_whatever_is_answered(cases):
    said, right = map(list, zip(*cases, strict=True))
    grades = graded(said, right)
    assert 0 <= grades.accuracy <= 1
    assert 0 <= grades.macro_f1 <= 1
    assert 0 <= grades.mean_absolute_error <= FIVE - 1
    assert grades.kappa is None or -1 <= grades.kappa <= 1
    assert (grades.mean_absolute_error == 0) == (grades.accuracy == 1)


@pytest.mark.slow
@given(st.lists(st.integers(0, 4), min_size=2, max_size=20))
def test_right_answers_are_perfect_whichever_classes_occur(right):
    grades = graded(right, right)
    assert astuple(grades)[:3] == (1.0, 1.0, 0.0)
    assert grades.kappa == (1.0 if len(set(right)) > 1 else None)


def test_samples_and_answers_of_one_class_have_no_kappa():
    assert graded([2, 2, 2], [2, 2, 2]) == Grades(1.0, 1.0, 0.0, None)


def test_a_constant_answer_has_no_kappa_above_chance():
    grades = graded([2, 2, 2, 2], [2, 2, 1, 3])
    assert (grades.accuracy, grades.mean_absolute_error, grades.kappa) == (0.5, 0.5, 0.0)
    assert grades.macro_f1 == pytest.approx((2 * 2 / 6 + 0 + 0) / 3)


def test_samples_of_one_class_answered_by_another_are_wrong_by_their_distance():
    assert graded([4, 4], [1, 1]) == Grades(0.0, 0.0, 3.0, 0.0)


def test_a_single_sample_is_graded():
    assert graded([3], [3]) == Grades(1.0, 1.0, 0.0, None)
    assert graded([3], [0]) == Grades(0.0, 0.0, 3.0, 0.0)


def test_a_class_that_does_not_occur_has_no_f1_and_one_that_is_only_said_has_0():
    without, with_false_alarm = graded([0, 1], [0, 1]), graded([0, 1, 4], [0, 1, 1])
    assert without.macro_f1 == 1.0
    assert with_false_alarm.macro_f1 == pytest.approx((1 + 2 / 3 + 0) / 3)


# --- exits ---------------------------------------------------------------------------------------


def test_each_exit_is_graded_and_all_together_by_their_mean_probability():
    """The first exit is right on the first sample only, the second on the second, both by a hair."""
    first = torch.tensor([[0.6, 0.4, 0.0], [0.5, 0.4, 0.1]])
    second = torch.tensor([[0.4, 0.5, 0.1], [0.0, 0.9, 0.1]])
    grades = ExitGrades.of(torch.stack([first, second]), torch.tensor([0, 1]))
    assert [exit_.accuracy for exit_ in grades.exits] == [0.5, 0.5]
    assert grades.ensemble.accuracy == 1.0
    assert grades.ensemble == Grades(1.0, 1.0, 0.0, 1.0)


def test_the_details_are_json_and_name_each_figure():
    grades = ExitGrades.of(torch.tensor([[[0.9, 0.1]]]), torch.tensor([0]))
    figures = {"accuracy": 1.0, "macro_f1": 1.0, "mean_absolute_error": 0.0, "kappa": None}
    assert json.loads(json.dumps(grades.as_details())) == {"exits": [figures], "ensemble": figures}
