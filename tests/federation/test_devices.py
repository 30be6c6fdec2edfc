"""Nodes of unequal hardware in one run: what one of them lacks ends nobody's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from learning import training
from models import load_weights
from protocol.errors import SettingsError
from server_app.run_folder import RunFolder
from simulation.run import grid_for, run_over
from tests.support.federation import run_quickly, settings


def run_with_real_nodes(output: Path, **changes: Any) -> RunFolder:
    """Run over three nodes with names, as a deployment has them."""
    run_settings = settings(output, **changes)
    grid = grid_for(run_settings, nodes=0)
    for part in range(3):
        own = {"client-name": f"clinic-{part}", "partition-id": part, "num-partitions": 3}
        grid.add_node(run_settings.flat(), {**own, "state-dir": str(output / f"machine-{part}")})
    return run_over(grid, run_settings, simulation=False)


def server_weights(folder: RunFolder) -> dict[str, Tensor]:
    weights, _ = load_weights(folder.models / "server.safetensors")
    return weights


# --- precision -----------------------------------------------------------------------------------


def test_a_run_whose_machines_lack_its_precision_is_one_in_float32(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exact = run_with_real_nodes(tmp_path / "fp32", device="cpu")
    asked = run_with_real_nodes(tmp_path / "fp16", device="cpu", precision="fp16")

    expected, got = server_weights(exact), server_weights(asked)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert 'The server: precision = "fp16": it is slower than fp32 on a CPU' in caplog.text
    assert asked.differences(settings(tmp_path / "fp16", device="cpu", precision="fp16")) == []


def test_a_simulation_that_lacks_it_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match='precision = "fp16": needs a GPU'):
        run_quickly(tmp_path, device="cpu", precision="fp16")


def test_what_a_node_lacks_is_told_at_the_server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_with_real_nodes(tmp_path, device="cpu", precision="fp16", num_rounds=1)
    note = 'precision = "fp16": it is slower than fp32 on a CPU, computing in fp32'
    assert {f"Client clinic-{part}: {note}" for part in range(3)} <= set(caplog.messages)


# --- memory --------------------------------------------------------------------------------------


@pytest.fixture
def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no training step of more than 20 samples fit."""

    def fit(model: Any, batch_loss: Callable[..., Tensor], *others: Any, **named: Any) -> None:
        def limited(*batch: Tensor) -> Tensor:
            loss = batch_loss(*batch)
            if len(batch[0]) > 20:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return loss

        training.fit(model, limited, *others, **named)

    monkeypatch.setattr("learning.local.fit", fit)
    monkeypatch.setattr("learning.distillation.fit", fit)


@pytest.fixture(params=["scarlet", "fedavg", "individual"])
def with_memory_enough(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, RunFolder]:
    return request.param, run_quickly(tmp_path / "enough", strategy=request.param, num_rounds=2)


def test_a_run_short_of_memory_goes_as_one_with_enough(
    with_memory_enough: tuple[str, RunFolder], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    strategy, enough = with_memory_enough
    request.getfixturevalue("short_of_memory")

    short = run_quickly(tmp_path / "short", strategy=strategy, num_rounds=2)

    for line, expected in zip(short.rounds(), enough.rounds(), strict=True):
        assert line["clients"]["accuracy"] == pytest.approx(expected["clients"]["accuracy"], abs=0.01)


@pytest.mark.usefixtures("short_of_memory")
def test_scalefl_s_nodes_learn_in_micro_batches(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = run_quickly(tmp_path, nodes=4, strategy="scalefl", model="elastic-cnn", num_rounds=2)
    assert len(folder.rounds()) == 2
    assert "Out of memory at batch size 50: continuing with micro-batches of 25" in caplog.text
