"""The two runs into which faults are injected, and how they come out undisturbed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from client_app.app import app
from protocol.settings import RunSettings
from simulation.clock import SimulatedClock
from simulation.executors import InThisProcess
from simulation.grid import InProcessGrid
from simulation.run import run_over

HONEST = ("hospital-a", "hospital-b", "hospital-c")
HOSTILE = "mallory"
CLIENTS = (*HONEST, HOSTILE)
LEVELS = {"hospital-a": 1, "hospital-b": 2, "hospital-c": 4, HOSTILE: 3}

_BOTH = {
    "min-nodes": 1,
    "round-timeout": 60.0,
    "train.epochs": 2,
    "public.size": 400,
    "data.alpha": 50.0,
    "data.server-test-size": 600,
}
SCARLET: dict[str, str | int | float] = {
    **_BOTH,
    "strategy": "scarlet",
    "num-rounds": 100,
    "train.decay": 0.95,
    "model": "cnn",
    "public.subset-size": 200,
    "distillation.epochs": 4,
    "scarlet.cache-duration": 5,
}
SCALEFL: dict[str, str | int | float] = {
    **_BOTH,
    "strategy": "scalefl",
    "num-rounds": 52,
    "train.decay": 0.93,
    "model": "elastic-cnn",
    "train.learning-rate": 0.2,
}
ONE_POINT = 0.01


def node_settings(client: str, state: Path) -> dict[str, str | int]:
    """Return a client's node-config."""
    return {
        "client-name": client,
        "partition-id": CLIENTS.index(client),
        "num-partitions": len(CLIENTS),
        "level": LEVELS[client],
        "state-dir": str(state),
        "threads": 1,
    }


def undisturbed(settings: Mapping[str, str | int | float], folder: Path) -> list[Mapping[str, Any]]:
    """Run with the same settings and clients in this process, without a fault; return the rounds.

    A run comes out the same to the last bit wherever its messages travel, so this is what the disturbed one
    is compared with; that both begin alike is asserted.
    """
    run_settings = RunSettings.parse({**settings, "output-dir": str(folder / "runs")})
    grid = InProcessGrid(InThisProcess(app), SimulatedClock())
    for client in CLIENTS:
        grid.add_node(run_settings.flat(), node_settings(client, folder / "state" / client))
    return list(run_over(grid, run_settings, simulation=False).rounds())
