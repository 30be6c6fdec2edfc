"""A round's line, and what of it people see."""

import logging
from pathlib import Path
from typing import Any

import pytest

from learning.metrics import metric_of
from protocol.messages import Evaluation
from protocol.settings import RunSettings
from server_app.hooks import MetricsHook
from server_app.round_report import RoundReport
from server_app.rounds import RoundOutcome
from server_app.run_folder import RunFolder

CLIENTS = {"ada": Evaluation(0.5, 1.0, 10, 0.25), "ben": Evaluation(0.75, 2.0, 10)}


def outcome(**changes: Any) -> RoundOutcome:
    report = RoundReport(1, ["ada", "ben"], dict(CLIENTS), levels={"ada": 1, "ben": 2})
    return RoundOutcome(report, final=False, server=Evaluation(0.5, 1.0, 100, 0.8125), **changes)


def test_a_line_without_a_metric_has_accuracy_and_loss_alone() -> None:
    line = outcome().record().line()
    for figures in (line["server"], line["clients"]):
        assert list(figures) == ["accuracy", "loss"]
    assert [list(level) for level in line["clients_by_level"]] == [
        ["level", "clients", "accuracy", "loss"]
    ] * 2


def test_a_line_has_the_metric_beside_them() -> None:
    line = outcome(metric=metric_of("auroc")).record().line()
    assert line["server"] == {"accuracy": 0.5, "loss": 1.0, "metric": 0.8125}
    assert line["clients"]["metric"] == 0.25
    assert [level["metric"] for level in line["clients_by_level"]] == [0.25, None]


@pytest.mark.parametrize(
    ("metric", "figures"),
    [
        ("none", ""),
        ("auroc", "AUROC server 0.812 clients 0.250, "),
        ("kappa", "quadratic κ server 0.812 clients 0.250, "),
    ],
)
def test_the_line_for_people_names_the_metric(
    metric: str, figures: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hook = MetricsHook(RunFolder.create(RunSettings.parse({"output-dir": str(tmp_path)})))
    with caplog.at_level(logging.INFO, "flwr"):
        hook.after_round(outcome(metric=metric_of(metric)))
    hook.close()
    assert caplog.messages == [
        f"Round 1: 2/2 clients, accuracy server 50.0 % clients 62.5 %, {figures}wire 0.0 kB up 0.0 kB down"
    ]
