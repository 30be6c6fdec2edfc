"""Grades of knee X-rays by level: a tiny vision-language model, its ends, and the vision-only counterpart.

Four clients, one at each level, all in every round, patients never divided, α = 100, over the in-process grid.
``own command`` is ScaleFL-med's: five rounds, batches of one. The rest is longer, with batches of 25. The tiny
LLaVA has random frozen weights. A run that has finished is not run again, so the table resumes where it stopped.

    python -m benchmarks.knee_vlm ~/knee-oa/train.parquet ~/knee-oa/test.parquet --output ~/motley/knee
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.level_runs import LevelRun, table

CLIENTS = 4
BASE: Mapping[str, Any] = {
    "device": "cpu",
    "min-nodes": 1,
    "data.server-test-size": 0,
    "data.group": "patient",
    "data.alpha": 100.0,
    "data.metric": "kappa",
    "public.size": 200,
    "public.subset-size": 200,
}
LANGUAGE: Mapping[str, Any] = {
    "model": "elastic-vlm",
    "data.normalisation": "none",
    "train.optimizer": "adamw",
    "train.learning-rate": 0.001,
}
OWN: Mapping[str, Any] = {
    **LANGUAGE,
    "num-rounds": 5,
    "evaluate-every": 5,
    "train.epochs": 1,
    "train.batch-size": 1,
}
LONGER: Mapping[str, Any] = {
    **LANGUAGE,
    "num-rounds": 20,
    "evaluate-every": 10,
    "train.epochs": 2,
    "train.batch-size": 25,
}
VISION: Mapping[str, Any] = {
    "model": "elastic-resnet20",
    "data.image-size": 32,
    "num-rounds": 20,
    "evaluate-every": 10,
    "train.epochs": 2,
    "train.batch-size": 25,
    "train.learning-rate": 0.05,
    "train.momentum": 0.9,
    "train.augmentation": "shift",
}
STRATEGIES = {"ScaleFL": "scalefl", "smallest for all": "fedavg-smallest", "largest only": "fedavg-largest"}
NETWORKS = {"VLM, own command": OWN, "VLM, longer": LONGER, "ResNet-20": VISION}


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("train", type=Path, help="a parquet file of X-rays with labels and patients")
    parser.add_argument("test", type=Path, help="another")
    parser.add_argument("--output", type=Path, default=Path("~/motley/knee"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    train, test = (str(path.expanduser().resolve()) for path in (arguments.train, arguments.test))
    output = arguments.output.expanduser().resolve()
    sources = {"data.source": train, "data.test-source": test}
    runs = [
        LevelRun(f"{network}: {name}", seed, CLIENTS, {**BASE, **sources, **settings, "strategy": strategy})
        for seed in range(arguments.seeds)
        for network, settings in reversed(NETWORKS.items())
        for name, strategy in STRATEGIES.items()
    ]
    print("\n".join(table({run: run.by_level(output) for run in runs})))


if __name__ == "__main__":
    main()
