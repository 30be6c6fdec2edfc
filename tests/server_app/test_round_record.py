"""The record of a round: a line of ``rounds.jsonl``, typed."""

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learning.grading import ExitGrades, Grades
from learning.metrics import metric_of
from protocol.errors import FormatError
from protocol.ledger import Traffic
from protocol.messages import Evaluation
from server_app.round_record import EarlyExit, Figures, LevelClients, RoundRecord

WHERE = "rounds.jsonl, line 7"
GRADES = {"accuracy": 0.5, "macro_f1": 0.25, "mean_absolute_error": 1.5, "kappa": None}
SMALLEST: dict[str, Any] = {
    "format": 1,
    "round": 7,
    "nodes": {"asked": 2, "answered": 1, "failed": [{"client": "ada", "reason": "its node went offline"}]},
    "seconds": {"send": 0.25, "wait": 1.5},
    "bytes": {"paper_up": 1, "paper_down": 2, "wire_up": 3, "wire_down": 4},
    "server": {"accuracy": None, "loss": None},
    "clients": {"accuracy": 0.5, "loss": 1.25},
}
LARGEST: dict[str, Any] = {
    **SMALLEST,
    "levels": [{"level": 1, "accuracy": 0.5, "loss": 1.0, "metric": None, "examples": 9, "ensemble": 0.75}],
    "exits": [0.5, 0.75],
    "ensemble": 0.75,
    "early_exit": [{"threshold": 0.5, "accuracy": 0.5, "flops": 2e6}],
    "grades": {"exits": [GRADES, GRADES], "ensemble": GRADES},
    "clients_by_level": [{"level": 1, "clients": 2, "accuracy": 0.5, "loss": 1.0, "metric": 0.25}],
    "final": True,
}

numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 10**12)
json_values = st.recursive(
    st.none() | st.booleans() | counts | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
figures = st.fixed_dictionaries(
    {"accuracy": st.none() | numbers, "loss": st.none() | numbers}, optional={"metric": st.none() | numbers}
)
grades = st.fixed_dictionaries(dict.fromkeys(GRADES, numbers) | {"kappa": st.none() | numbers})
levels = st.fixed_dictionaries(
    {"level": counts, "accuracy": numbers, "loss": numbers, "examples": counts, "ensemble": numbers},
    optional={"metric": st.none() | numbers, "grades": grades, "of a stranger's": json_values},
)
failures = st.fixed_dictionaries({"client": st.text(max_size=5), "reason": st.text(max_size=5)})
lines = st.fixed_dictionaries(
    {
        "format": st.just(1),
        "round": counts,
        "nodes": st.fixed_dictionaries(
            {"asked": counts, "answered": counts, "failed": st.lists(failures, max_size=2)}
        ),
        "seconds": st.dictionaries(st.text(max_size=5), numbers, max_size=3),
        "bytes": st.fixed_dictionaries(dict.fromkeys(SMALLEST["bytes"], counts)),
        "server": figures,
        "clients": figures,
    },
    optional={
        "levels": st.lists(levels, max_size=2),
        "exits": st.lists(numbers, max_size=3),
        "ensemble": numbers,
        "early_exit": st.lists(
            st.fixed_dictionaries({"threshold": numbers, "accuracy": numbers, "flops": numbers}), max_size=2
        ),
        "grades": st.fixed_dictionaries({"exits": st.lists(grades, max_size=2), "ensemble": grades}),
        "final": st.booleans(),
        "of a stranger's": json_values,
    },
)


@given(lines)
def test_a_line_that_is_read_is_written_as_it_was(line: dict[str, Any]) -> None:
    written = json.loads(json.dumps(RoundRecord.from_line(line, WHERE).line()))
    assert written == line


@pytest.mark.parametrize("line", [SMALLEST, LARGEST])
def test_keys_keep_their_order(line: dict[str, Any]) -> None:
    assert json.dumps(RoundRecord.from_line(line, WHERE).line()) == json.dumps(line)


def test_all_that_a_line_holds_has_a_name_and_a_type() -> None:
    record = RoundRecord.from_line(LARGEST, WHERE)
    graded = Grades(0.5, 0.25, 1.5, None)
    assert (record.round, record.final) == (7, True)
    assert (record.nodes.asked, record.nodes.answered) == (2, 1)
    assert [(each.client, each.reason) for each in record.nodes.failed] == [("ada", "its node went offline")]
    assert record.seconds == {"send": 0.25, "wait": 1.5}
    assert record.bytes == Traffic(1, 2, 3, 4)
    assert record.server == Figures(accuracy=None, loss=None)
    assert record.clients == Figures(accuracy=0.5, loss=1.25)
    assert [(each.level, each.examples, each.grades) for each in record.levels] == [(1, 9, None)]
    assert (record.exits, record.ensemble) == ((0.5, 0.75), 0.75)
    assert record.early_exit == (EarlyExit(threshold=0.5, accuracy=0.5, flops=2e6),)
    assert record.grades == ExitGrades((graded, graded), graded)
    assert [each.clients for each in record.clients_by_level] == [2]
    assert record.details == {}


def test_what_a_line_lacks_is_empty() -> None:
    record = RoundRecord.from_line(SMALLEST, WHERE)
    assert (record.levels, record.exits, record.early_exit, record.clients_by_level) == ((), (), (), ())
    assert (record.ensemble, record.grades, record.final) == (None, None, False)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"round": "7"}, "round: Input should be a valid integer"),
        ({"nodes": {"asked": 2, "answered": 1}}, "nodes.failed: Field required"),
        ({"server": {"accuracy": "high", "loss": None}}, "server.accuracy: Input should be a valid number"),
        ({"server": {"accuracy": None, "loss": None, "auroc": 1.0}}, "server.auroc: Extra inputs"),
        ({"clients": {"accuracy": math.nan, "loss": None}}, "not JSON compliant"),
        ({"levels": [{"level": 1}]}, "levels.0.accuracy: Field required"),
        ({"bytes": {"paper_up": 1.5}}, "bytes.paper_up: Input should be a valid integer"),
    ],
)
def test_a_line_that_is_no_record_is_refused_with_place_and_field(change: dict[str, Any], named: str) -> None:
    with pytest.raises(FormatError) as refusal:
        RoundRecord.from_line({**SMALLEST, **change}, WHERE)
    assert str(refusal.value).startswith(f"{WHERE}: no record of a round: ")
    assert named in str(refusal.value)


@pytest.mark.parametrize("line", [[], "round", None])
def test_a_line_that_is_no_object_is_refused(line: object) -> None:
    with pytest.raises(FormatError, match=r"line 7: no record of a round: .*not a JSON object"):
        RoundRecord.from_line(line, WHERE)


# --- what a method adds --------------------------------------------------------------------------


def plain() -> RoundRecord:
    return RoundRecord.from_line(SMALLEST, WHERE)


def test_what_a_method_adds_stands_in_the_line_and_is_read_again() -> None:
    added = {"clusters": [[1, 2], [3]], "trust": {"ada": 0.5}}
    line = plain().with_details(added).line()
    assert line == {**SMALLEST, **added}
    assert RoundRecord.from_line(line, WHERE).details == added


def test_figures_of_submodels_that_a_method_adds_are_typed() -> None:
    added = {key: LARGEST[key] for key in ("levels", "exits", "ensemble", "early_exit", "grades")}
    record = plain().with_details(added)
    assert record.levels[0].ensemble == 0.75
    assert record.details == {}


@pytest.mark.parametrize("name", ["format", "round", "bytes", "server", "clients_by_level", "final"])
def test_a_method_cannot_write_over_what_the_server_records(name: str) -> None:
    with pytest.raises(FormatError, match=f"^round 7: .*: '{name}' is recorded by the server itself"):
        plain().with_details({name: 1})


@pytest.mark.parametrize(
    ("added", "why"),
    [
        ({"centre": torch.zeros(2)}, "cannot be written as JSON: Object of type Tensor"),
        ({"trust": math.nan}, "cannot be written as JSON: Out of range"),
        ({"exits": ["high"]}, "exits.0: Input should be a valid number"),
    ],
)
def test_what_a_method_adds_is_checked_and_named(added: dict[str, Any], why: str) -> None:
    with pytest.raises(FormatError) as refusal:
        plain().with_details(added)
    assert str(refusal.value).startswith("round 7: what the method adds to its record: ")
    assert why in str(refusal.value)


# --- figures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("evaluation", "metric", "expected"),
    [
        (None, "none", {"accuracy": None, "loss": None}),
        (None, "auroc", {"accuracy": None, "loss": None, "metric": None}),
        (Evaluation(0.5, 1.0, 9, 0.25), "none", {"accuracy": 0.5, "loss": 1.0}),
        (Evaluation(0.5, 1.0, 9, 0.25), "auroc", {"accuracy": 0.5, "loss": 1.0, "metric": 0.25}),
    ],
)
def test_figures_have_a_metric_if_the_run_has_one(
    evaluation: Evaluation | None, metric: str, expected: dict[str, Any]
) -> None:
    assert Figures.of(evaluation, metric_of(metric)).model_dump(exclude_unset=True) == expected
    if evaluation is not None:
        entry = LevelClients.of(2, 3, evaluation, metric_of(metric)).model_dump(exclude_unset=True)
        assert entry == {"level": 2, "clients": 3, **expected}
