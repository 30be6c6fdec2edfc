"""The table's figures."""

from typing import Any

import pytest

from protocol.ledger import Traffic
from protocol.settings import RunSettings
from server_app.report import Summary, curves, submodels
from server_app.round_record import RoundRecord
from strategies.composition import method_of

SETTINGS = RunSettings.parse({"num-rounds": 3, "public.size": 10_000, "public.subset-size": 1_000})


def record(round: int, asked: int = 100, accuracy: float | None = 0.5, **others: Any) -> RoundRecord:
    line = {
        "round": round,
        "nodes": {"asked": asked, "answered": asked, "failed": []},
        "seconds": {},
        "bytes": {"paper_up": 1_000_000, "paper_down": 2_000_000, "wire_up": 10, "wire_down": 20},
        "server": {"accuracy": accuracy, "loss": None},
        "clients": {"accuracy": None, "loss": None},
        **others,
    }
    return RoundRecord.from_line(line, f"round {round}")


def summary(*records: RoundRecord, settings: RunSettings = SETTINGS) -> Summary:
    return Summary(settings, method_of(settings), 10, records, Traffic(wire_up=1), "finished")


def test_dsfl_would_have_cost_104_000_bytes_an_exchange() -> None:
    """Up m(4C + 8) = 48,000; down 8m for the request and as much as up for the labels."""
    first, later, last = 48_000 + 8_000, 104_000, 48_000
    assert summary(record(1)).dsfl_paper_bytes == 100 * first
    assert summary(record(1), record(2)).dsfl_paper_bytes == 100 * (first + later)
    assert summary(record(1), record(2, final=True)).dsfl_paper_bytes == 100 * (first + last)


def test_the_rows_tell_rounds_accuracies_and_savings() -> None:
    rows = dict(
        summary(record(1, accuracy=0.8), record(2, accuracy=0.7), record(3, final=True, accuracy=None)).rows()
    )
    assert rows["rounds"] == "2 of 3"
    assert rows["accuracy of the server"] == "70.0 % (best 80.0 %)"
    assert rows["accuracy of the clients"] == "–"
    assert rows["paper bytes up / down"] == "3.00 MB / 6.00 MB"
    assert rows["against DS-FL (20.80 MB by its formula)"] == "paper 56.7 % saved, wire 100.0 % saved"


def test_a_run_with_a_metric_tells_it_by_its_name() -> None:
    figures = {"accuracy": 0.5, "loss": None}
    records = [
        record(number, server={**figures, "metric": value}, clients={**figures, "metric": None})
        for number, value in ((1, 0.875), (2, 0.8125))
    ]
    rows = summary(*records, settings=RunSettings.parse({"data.metric": "auroc"})).rows()
    place = [name for name, _ in rows].index("accuracy of the clients") + 1
    assert rows[place : place + 2] == [
        ("AUROC of the server", "0.812 (best 0.875)"),
        ("AUROC of the clients", "–"),
    ]


def test_a_run_without_a_metric_has_no_row_of_it() -> None:
    assert not [name for name, _ in summary(record(1)).rows() if "AUROC" in name or "κ" in name]


def test_what_costs_more_is_not_called_a_saving() -> None:
    rows = dict(summary(record(1, asked=1)).rows())
    assert rows["against DS-FL (56.00 kB by its formula)"].startswith("paper 53.6 times as much")


def test_a_run_of_no_round_has_a_table() -> None:
    assert dict(summary().rows())["rounds"] == "0 of 3"


@pytest.mark.filterwarnings("error")
def test_curves_without_any_accuracy_are_drawn_empty() -> None:
    assert curves([record(1, accuracy=None)]).startswith("<svg")


# --- unequal submodels -------------------------------------------------------------------------

SUBMODELS = RunSettings.parse({"strategy": "scalefl", "model": "elastic-cnn", "num-rounds": 3})
EXITS: dict[str, Any] = {
    "exits": [0.25, 0.5],
    "ensemble": 0.625,
    "early_exit": [
        {"threshold": threshold, "accuracy": 0.5, "flops": 2e6}
        for threshold in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
    ],
}


def levels(*accuracies: float) -> dict[str, Any]:
    return {
        "levels": [
            {
                "level": level,
                "accuracy": accuracy,
                "loss": 1.0,
                "examples": 300,
                "ensemble": accuracy + 0.1,
            }
            for level, accuracy in enumerate(accuracies, start=1)
        ]
    }


def test_the_rows_tell_levels_and_exits_of_the_last_evaluation() -> None:
    records = [
        record(1, **levels(0.1, 0.2)),
        record(2, **levels(0.3, 0.4), **EXITS),
        record(3, accuracy=None),
    ]
    rows = dict(summary(*records, settings=SUBMODELS).rows())
    assert rows["accuracy of the server, mean over levels"] == "50.0 % (best 50.0 %)"
    assert rows["accuracy of the server by level"] == "1: 30.0 %, 2: 40.0 %"
    assert rows["accuracy of the server by level, ensemble of exits"] == "1: 40.0 %, 2: 50.0 %"
    assert rows["accuracy of the whole network by exit"] == "25.0 %, 50.0 %"
    assert rows["accuracy of the whole network, ensemble of exits"] == "62.5 %"
    early = {name: value for name, value in rows.items() if "early exit" in name}
    assert list(early) == [f"early exit from confidence {threshold}" for threshold in (0.5, 0.8, 0.99)]
    assert set(early.values()) == {"accuracy 50.0 % at 2.00 M MACs a sample"}


def test_submodels_are_not_compared_with_soft_labels() -> None:
    rows = dict(summary(record(1, **levels(0.5)), settings=SUBMODELS).rows())
    assert not [name for name in rows if "DS-FL" in name]


def test_a_network_of_one_exit_has_no_row_of_exits() -> None:
    rows = dict(summary(record(1, **levels(0.5)), settings=SUBMODELS).rows())
    assert not [name for name in rows if "exit" in name]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("exits", [{}, EXITS], ids=["one exit", "several exits"])
def test_levels_are_drawn_where_there_are_any(exits: dict[str, Any]) -> None:
    assert submodels([record(1), record(2, **levels(0.3, 0.4), **exits)]).startswith("<svg")
    assert submodels([record(1), record(2)]) == ""
