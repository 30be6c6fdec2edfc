"""Whole federations with worker processes: the figures are those of one process."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch

import server_app.report
from client_app.node import Node
from models import load_weights
from protocol.errors import DataError, FederationError
from server_app.run_folder import RunFolder
from simulation.run import simulate
from tests.support.faults import by_round, dropped, late_by
from tests.support.federation import settings, without_times

pytestmark = pytest.mark.slow

CLIENTS = 4
METHODS: dict[str, dict[str, Any]] = {
    "SCARLET": {},
    "FedAvg": {"strategy": "fedavg"},
    "ScaleFL": {"strategy": "scalefl", "model": "elastic-cnn"},
}


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no curves, which takes longer than these rounds."""
    monkeypatch.setattr(server_app.report, "curves", lambda lines: "<svg></svg>")


def assert_alike(one: RunFolder, other: RunFolder) -> None:
    assert without_times(one.rounds()) == without_times(other.rounds())
    names = sorted(path.name for path in one.models.iterdir())
    assert names == sorted(path.name for path in other.models.iterdir())
    for name in names:
        weights, again = load_weights(one.models / name)[0], load_weights(other.models / name)[0]
        assert weights.keys() == again.keys()
        assert all(torch.equal(weights[key], again[key]) for key in weights)


@pytest.mark.parametrize("method", METHODS)
def test_workers_change_no_figure_and_no_weight(tmp_path: Path, method: str) -> None:
    one, other = (
        simulate(settings(tmp_path / str(workers), num_rounds=2, **METHODS[method]), CLIENTS, workers)
        for workers in (0, 2)
    )
    assert len(one.rounds()) == 2
    assert_alike(one, other)


def test_in_real_time_the_figures_are_the_same_if_nobody_is_late(tmp_path: Path) -> None:
    patient = {"strategy": "fedavg", "num_rounds": 2, "round_timeout": 120.0, "wait_for_nodes": 120.0}
    one, other = (
        simulate(settings(tmp_path / str(workers), **patient), CLIENTS, workers, real_time=True)
        for workers in (0, 2)
    )
    assert_alike(one, other)


def test_workers_change_nothing_in_what_faults_do(tmp_path: Path) -> None:
    faults = by_round({(1, 0): dropped, (2, 1): late_by(7.0), (3, 2): late_by(1.0)})
    one, other = (
        simulate(settings(tmp_path / str(workers), num_rounds=4), CLIENTS, workers, faults=faults)
        for workers in (0, 2)
    )
    failed = [line["nodes"]["failed"] for line in one.rounds()]
    assert [len(clients) for clients in failed] == [1, 1, 0, 0]
    assert_alike(one, other)


def test_work_takes_no_simulated_time_however_long_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_down(monkeypatch)
    folder = simulate(settings(tmp_path, num_rounds=1, round_timeout=0.1), 2, 2)
    assert folder.rounds()[0]["nodes"]["answered"] == 2


def test_in_real_time_a_client_can_be_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_down(monkeypatch)
    impatient = settings(tmp_path, num_rounds=1, round_timeout=0.1)
    with pytest.raises(FederationError, match="replies of 0 of 2 clients were accepted"):
        simulate(impatient, 2, 2, real_time=True)


def slow_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a round's work take half a second."""
    method = Node.method

    def slowly(self: Node, content: Any) -> Any:
        if "round" in next(iter(content.config_records.values())):
            time.sleep(0.5)
        return method(self, content)

    monkeypatch.setattr(Node, "method", slowly)


def test_there_are_no_more_workers_than_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def noting(app: Any, workers: int, warm_up: Any) -> Any:
        asked.append(workers)
        raise KeyboardInterrupt

    monkeypatch.setattr("simulation.run.WorkerPool", noting)
    for workers in (1, 8, None):
        with pytest.raises(KeyboardInterrupt):
            simulate(settings(tmp_path), 2, workers)
    assert asked[:2] == [1, 2]
    assert 1 <= asked[2] <= 2


def test_data_that_cannot_be_used_are_refused_before_any_process_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulation.workers.ForkServer", None)
    with pytest.raises(DataError, match=r"public\.size"):
        simulate(settings(tmp_path, public__size=100_000), 2, 2)
