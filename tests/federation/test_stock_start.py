"""Flower's own round loop drives the strategy too."""

from pathlib import Path

import pytest
from flwr.app import ArrayRecord

from server_app.run import build
from simulation.messages import task_identity
from simulation.run import grid_for
from tests.support.federation import run_quickly, settings


@pytest.mark.parametrize("strategy", ["scarlet", "fedavg"])
def test_flowers_stock_start_gives_the_same_figures_as_our_loop(strategy: str, tmp_path: Path) -> None:
    ours = run_quickly(tmp_path / "ours", num_rounds=2, strategy=strategy)
    run_settings = settings(tmp_path / "stock", strategy=strategy)
    grid = grid_for(run_settings)
    with task_identity():
        stock = build(run_settings, simulation=True, clock=grid.clock).strategy
        result = stock.start(grid, initial_arrays=ArrayRecord(), num_rounds=2)
    assert result.train_metrics_clientapp == {
        line["round"]: {"accuracy": line["clients"]["accuracy"], "loss": line["clients"]["loss"]}
        for line in ours.rounds()
    }
    weights = stock.method.weights()
    assert weights
    assert result.arrays.keys() == weights.keys()
