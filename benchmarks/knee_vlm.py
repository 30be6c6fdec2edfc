"""Grades of knee X-rays per level: ScaleFL-med beside the two ends of FedAvg and a network of vision alone.

Four clients, one a level, all in every round, no patient at two of them, over the in-process grid. The
vision-language model is the tiny LLaVA that is made here: its base is random and frozen. `command` is as
ScaleFL-med's own command runs it, five rounds and batches of one; `longer` goes on with larger batches. A run
that has finished is not run again, and one that was stopped goes on, so the table resumes where it stopped.

    python -m benchmarks.knee_vlm command ~/knee-oa --output ~/motley/knee-vlm
    python -m benchmarks.knee_vlm longer ~/knee-oa --output ~/motley/knee-vlm --seeds 3
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.level_runs import LevelRun, progress, table
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
    "train.batch-size": 32,
    "train.learning-rate": 0.05,
    "train.momentum": 0.9,
}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "ScaleFL-med": {**LANGUAGE, "strategy": "scalefl"},
    "ScaleFL-med, plain loss": {**LANGUAGE, "strategy": "scalefl", "scalefl.classes": "plain"},
    "smallest for all": {**LANGUAGE, "strategy": "fedavg-smallest"},
    "largest only": {**LANGUAGE, "strategy": "fedavg-largest"},
    "ScaleFL, elastic ResNet-20": {**VISION, "strategy": "scalefl"},
}
LENGTHS: Mapping[str, Mapping[str, Any]] = {
    "command": {"num-rounds": 5, "evaluate-every": 5, "train.batch-size": 1},
    "longer": {"num-rounds": 40, "evaluate-every": 5, "train.batch-size": 10},
}


def main() -> None:
    """Run what is missing; print the last evaluations by level, and all by round."""
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
        LevelRun(row, seed, CLIENTS, {**BASE, **LENGTHS[arguments.length], **METHODS[row], **changes})
        for seed in range(arguments.seeds)
        for row in arguments.rows
    ]
    output = arguments.output.expanduser().resolve()
    results = {run: run.evaluations(output) for run in runs}
    print("\n".join([*table(results), "", *progress(results)]))


if __name__ == "__main__":
    main()
