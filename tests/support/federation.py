"""Whole runs over the in-process grid."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from protocol.settings import RunSettings
from server_app.run_folder import RunFolder
from simulation.grid import Faults, no_faults
from simulation.run import grid_for, run_over

QUICK: dict[str, Any] = {
    "num-rounds": 4,
    "train.epochs": 1,
    "public.size": 120,
    "public.subset-size": 40,
    "round-timeout": 5.0,
    "wait-for-nodes": 5.0,
}
"""Settings of a run that takes a second or two."""
DIGITS: dict[str, Any] = {"data.max-samples": 600, "data.server-test-size": 100}
"""A third of them, unless a run has other data."""
ALL_DIGITS: dict[str, Any] = {"data__max_samples": 0, "data__server_test_size": 300}
"""Changes for a run that must learn well."""
LABELS: dict[str, Any] = {"distillation.epochs": 1}
"""More of them, for methods that share soft labels; others would refuse them as idle."""
OF_STRATEGY: dict[str, dict[str, Any]] = {
    "scarlet": {**LABELS, "scarlet.cache-duration": 3},
    "dsfl": LABELS,
}


def settings(output: Path, **changes: Any) -> RunSettings:
    """Return quick settings with changes; keys may be written with ``__`` for a dot, ``_`` for a dash."""
    named = {key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}
    own = OF_STRATEGY.get(named.get("strategy", "scarlet"), {})
    data = {} if "data.source" in named else DIGITS
    return RunSettings.parse({**QUICK, **own, **data, "output-dir": str(output), **named})


def run_quickly(output: Path, nodes: int = 3, faults: Faults = no_faults, **changes: Any) -> RunFolder:
    """Run a small federation to its end."""
    run_settings = settings(output, **changes)
    return run_over(grid_for(run_settings, nodes, faults), run_settings)


def without_times(lines: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
    """Return rounds.jsonl lines without the seconds."""
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
