"""Accuracy per level of a small BERT that begins at random, on texts, beside the two ends of FedAvg.

8 clients, two at each of 4 levels, all in every round, α = 100, over the in-process grid.
A run that has finished is not run again, so the table resumes where it stopped. ``--bound`` adds what all
clients would learn if each could hold the whole network; it takes about as long as the rest.

    python -m benchmarks.text ~/ag-news/train.csv.gz ~/ag-news/test.csv.gz --output ~/motley/text
    python -m benchmarks.text ~/sst2/train.csv.gz ~/sst2/test.csv.gz --output ~/motley/text
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.level_runs import LevelRun, table

CLIENTS = 8
METHODS: Mapping[str, Mapping[str, Any]] = {
    "ScaleFL": {"strategy": "scalefl"},
    "smallest for all": {"strategy": "fedavg-smallest"},
    "largest only": {"strategy": "fedavg-largest"},
}
BOUND: Mapping[str, Mapping[str, Any]] = {
    "whole for all (bound)": {"strategy": "fedavg-largest", "levels.shares": "0,0,0,1"},
}
BASE: Mapping[str, Any] = {
    "device": "cpu",
    "model": "elastic-bert-tiny",
    "evaluate-every": 4,
    "min-nodes": 1,
    "text.length": 32,
    "text.vocabulary": 2000,
    "data.alpha": 100.0,
    "data.max-samples": 3000,
    "data.server-test-size": 0,
    "public.size": 500,
    "train.optimizer": "adamw",
    "train.learning-rate": 0.001,
    "train.epochs": 2,
    "train.batch-size": 8,
    "scalefl.distillation": 0.05,
}


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("train", type=Path, help="a csv or parquet file of texts with labels")
    parser.add_argument("test", type=Path, help="another")
    parser.add_argument("--output", type=Path, default=Path("~/motley/text"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--bound", action="store_true", help="also the whole network at every client")
    arguments = parser.parse_args()
    train, test = (str(path.expanduser().resolve()) for path in (arguments.train, arguments.test))
    output = arguments.output.expanduser().resolve() / Path(train).parent.name
    chosen = {"data.source": train, "data.test-source": test, "num-rounds": arguments.rounds}
    runs = [
        LevelRun(row, seed, CLIENTS, {**BASE, **chosen, **own})
        for seed in range(arguments.seeds)
        for row, own in {**METHODS, **(BOUND if arguments.bound else {})}.items()
    ]
    print("\n".join(table({run: run.evaluations(output) for run in runs})))


if __name__ == "__main__":
    main()
