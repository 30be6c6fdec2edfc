"""The table of grades, on the screen and on the page."""

from pathlib import Path
from typing import Any

import pytest

from protocol.ledger import Traffic
from protocol.settings import RunSettings
from server_app.grades import grade_rows
from server_app.report import Summary, as_page, as_text
from server_app.round_record import RoundRecord
from server_app.run_folder import RunFolder
from strategies.composition import method_of

SETTINGS = RunSettings.parse({"strategy": "scalefl", "model": "elastic-cnn", "data.metric": "kappa"})


def grades(accuracy: float, kappa: float | None = 0.5) -> dict[str, float | None]:
    return {"accuracy": accuracy, "macro_f1": 0.25, "mean_absolute_error": 1.5, "kappa": kappa}


def record(round: int, **others: Any) -> RoundRecord:
    line = {
        "round": round,
        "nodes": {"asked": 1, "answered": 1, "failed": []},
        "seconds": {},
        "bytes": {"paper_up": 1, "paper_down": 1, "wire_up": 1, "wire_down": 1},
        "server": {"accuracy": 0.5, "loss": 1.0, "metric": 0.5},
        "clients": {"accuracy": 0.5, "loss": 1.0, "metric": 0.5},
        **others,
    }
    return RoundRecord.from_line(line, f"round {round}")


def level(number: int, **others: Any) -> dict[str, Any]:
    return {"level": number, "accuracy": 0.5, "loss": 1.0, "examples": 300, "ensemble": 0.5, **others}


EXITS = {"exits": [0.5, 0.5], "ensemble": 0.5, "early_exit": []}
GRADED = {
    "levels": [level(1, grades=grades(0.25)), level(2, grades=grades(0.5, None))],
    **EXITS,
    "grades": {"exits": [grades(0.1), grades(0.2)], "ensemble": grades(0.3)},
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "experiment")


def summary(*records: RoundRecord) -> Summary:
    return Summary(SETTINGS, method_of(SETTINGS), 5, records, Traffic(), "finished")


def test_levels_exits_and_the_ensemble_of_exits_have_a_row_of_the_last_evaluation() -> None:
    earlier = record(1, levels=[level(1, grades=grades(0.9))])
    assert grade_rows([earlier, record(2, **GRADED), record(3)]) == [
        ("level 1", "25.0 %", "0.250", "1.500", "0.500"),
        ("level 2", "50.0 %", "0.250", "1.500", "–"),
        ("whole network, exit 1", "10.0 %", "0.250", "1.500", "0.500"),
        ("whole network, exit 2", "20.0 %", "0.250", "1.500", "0.500"),
        ("whole network, ensemble of exits", "30.0 %", "0.250", "1.500", "0.500"),
    ]


def test_networks_of_one_exit_have_rows_of_levels_alone() -> None:
    assert [name for name, *_ in grade_rows([record(1, levels=[level(1, grades=grades(0.5))])])] == [
        "level 1"
    ]


@pytest.mark.parametrize("records", [[], [record(1)], [record(1, levels=[level(1)], **EXITS)]])
def test_without_grades_there_is_no_row(records: list[RoundRecord]) -> None:
    assert grade_rows(records) == []


def test_the_table_of_grades_ends_the_runs_text(folder: RunFolder) -> None:
    text = as_text(summary(record(1, **GRADED)), folder)
    table = text[text.index("Grades") :]
    words = " ".join(table.replace("┃", " ").replace("│", " ").split())
    assert "accuracy macro-F1 mean absolute error quadratic κ" in words
    assert "whole network, ensemble of exits 30.0 % 0.250 1.500 0.500" in words
    assert table.splitlines()[-1] == f"Run folder: {folder.path}"


@pytest.mark.slow
def test_the_page_has_the_table_of_grades(folder: RunFolder) -> None:
    page = as_page(summary(record(1, **GRADED)), folder)
    assert "<h2>Grades</h2><table><tr><td></td><td>accuracy</td><td>macro-F1</td>" in page
    assert "<tr><td>level 2</td><td>50.0 %</td><td>0.250</td><td>1.500</td><td>–</td></tr>" in page


@pytest.mark.slow
def test_a_run_without_grades_says_nothing_of_them(folder: RunFolder) -> None:
    ungraded = summary(record(1, levels=[level(1)], **EXITS))
    assert "Grades" not in as_text(ungraded, folder) + as_page(ungraded, folder)
