"""Grades of knee X-rays per level: ScaleFL-med beside the two ends of FedAvg and a network of vision alone.

Four clients, one a level, all in every round, no patient at two of them, over the in-process grid. The
vision-language model is the tiny LLaVA that is made here: its base is random and frozen. `command` is as
ScaleFL-med's own command runs it, five rounds and batches of one; `longer` goes on with larger batches. A run
that has finished is not run again, and one that was stopped goes on, so the table resumes where it stopped.

    python -m benchmarks.knee_vlm command ~/knee-oa --output ~/motley/knee-vlm
    python -m benchmarks.knee_vlm longer ~/knee-oa --output ~/motley/knee-vlm --set data.max-samples=1500
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.level_runs import LevelRun, table
from benchmarks.submodels import parse_change

CLIENTS = 4
BASE: Mapping[str, Any] = {
    "device": "cpu",
    "min-nodes": 1,
    "data.alpha": 100.0,
    "data.group": "patient",
    "data.normalisation": "none",
    "data.metric": "kappa",
    "data.server-test-size": 0,
    "public.size": 200,
    "public.subset-size": 200,
    "train.epochs": 1,
}
LANGUAGE: Mapping[str, Any] = {
    "model": "elastic-vlm",
    "train.optimizer": "adamw",
    "train.learning-rate": 0.001,
}
VISION: Mapping[str, Any] = {
    "model": "elastic-resnet20",
    "data.image-size": 32,
    "train.learning-rate": 0.05,
    "train.momentum": 0.9,
}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "ScaleFL-med": {**LANGUAGE, "strategy": "scalefl"},
    "smallest for all": {**LANGUAGE, "strategy": "fedavg-smallest"},
    "largest only": {**LANGUAGE, "strategy": "fedavg-largest"},
    "ScaleFL, elastic ResNet-20": {**VISION, "strategy": "scalefl"},
}
LENGTHS: Mapping[str, Mapping[str, Any]] = {
    "command": {"num-rounds": 5, "evaluate-every": 5, "train.batch-size": 1},
    "longer": {"num-rounds": 20, "evaluate-every": 5, "train.batch-size": 10},
}


def settings_of(row: str, length: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's settings; a network with batch norms cannot learn from batches of one, so it has ten."""
    settings = {**BASE, **LENGTHS[length], **METHODS[row], **changes}
    if METHODS[row]["model"] == VISION["model"]:
        settings["train.batch-size"] = max(10, settings["train.batch-size"])
    return settings


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("length", choices=LENGTHS)
    parser.add_argument("data", type=Path, help="a folder with train.parquet and test.parquet")
    parser.add_argument("--output", type=Path, default=Path("~/motley/knee-vlm"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rows", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings to change")
    arguments = parser.parse_args()
    data = arguments.data.expanduser().resolve()
    changes = {
        "data.source": str(data / "train.parquet"),
        "data.test-source": str(data / "test.parquet"),
        **dict(map(parse_change, arguments.set)),
    }
    runs = [
        LevelRun(row, seed, CLIENTS, settings_of(row, arguments.length, changes))
        for seed in range(arguments.seeds)
        for row in arguments.rows
    ]
    output = arguments.output.expanduser().resolve()
    print("\n".join(table({run: run.by_level(output) for run in runs})))


if __name__ == "__main__":
    main()
