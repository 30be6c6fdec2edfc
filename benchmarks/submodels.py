"""Accuracy per level of ScaleFL, its relatives and the two ends of FedAvg.

20 clients of which half take part in a round, equal shares of 4 levels, α = 100, 1 and 0.1, 3 seeds, over the
in-process grid with real serialisation. A figure is the mean of the last evaluations. A run that has finished
is not run again, so the table resumes where it stopped.

    python -m benchmarks.submodels digits --output ~/motley/submodels
    python -m benchmarks.submodels ~/fashion-mnist/train.parquet --output ~/motley/submodels
    python -m benchmarks.submodels ~/fashion-mnist/train.parquet --rows causes --alphas 1 0.1
"""

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.kept_runs import run_once
from protocol.settings import RunSettings
from protocol.values import numbers

CLIENTS = 20
LAST = 3
"""How many evaluations, the last ones, a figure is the mean of."""
ALPHAS = (100.0, 1.0, 0.1)
PAPER: Mapping[str, Any] = {
    "strategy": "scalefl",
    "scalefl.loss": "paper",
    "scalefl.exit-weights": "linear",
    "scalefl.classes": "plain",
}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "ScaleFL": {"strategy": "scalefl"},
    "ScaleFL, the paper's loss": PAPER,
    "HeteroFL": {"strategy": "heterofl"},
    "FedRolex": {"strategy": "fedrolex"},
    "DepthFL": {"strategy": "depthfl"},
    "smallest for all": {"strategy": "fedavg-smallest"},
    "largest only": {"strategy": "fedavg-largest"},
    "whole for all (bound)": {"strategy": "fedavg-largest", "levels.shares": "0,0,0,1"},
}
CAUSES: Mapping[str, Mapping[str, Any]] = {
    "the paper's loss": PAPER,
    "the paper's loss, learning rate 0.2": {**PAPER, "train.learning-rate": 0.2},
    "exits weigh 1 each": {"strategy": "scalefl", "scalefl.loss": "paper", "scalefl.classes": "plain"},
    "balanced classes": {"strategy": "scalefl", "scalefl.loss": "paper", "scalefl.exit-weights": "linear"},
    "both": {"strategy": "scalefl", "scalefl.loss": "paper"},
    "both, exits learn from the classes alone": {"strategy": "scalefl", "scalefl.start": 1.0},
    "both, exits learn from each other": {"strategy": "scalefl", "scalefl.distillation": 0.1},
    "the same, β = 0.3": {"strategy": "scalefl", "scalefl.distillation": 0.3},
    "plain classes, exits learn from each other": {"strategy": "scalefl", "scalefl.classes": "plain"},
    "HeteroFL, balanced": {"strategy": "heterofl", "scalefl.classes": "balanced"},
    "DepthFL, balanced": {"strategy": "depthfl", "scalefl.classes": "balanced"},
    "smallest for all, balanced": {"strategy": "fedavg-smallest", "scalefl.classes": "balanced"},
}
TABLES = {"methods": METHODS, "causes": CAUSES}
BASE: Mapping[str, Any] = {
    "device": "cpu",
    "model": "elastic-cnn",
    "num-rounds": 40,
    "fraction-train": 0.5,
    "evaluate-every": 5,
    "train.momentum": 0.9,
    "train.learning-rate": 0.1,
    "train.epochs": 2,
    "min-nodes": 1,
}
DIGITS: Mapping[str, Any] = {
    "data.source": "digits",
    "train.batch-size": 16,
    "public.size": 100,
    "public.subset-size": 100,
}
IMAGES: Mapping[str, Any] = {
    "data.max-samples": 7500,
    "data.normalisation": "none",
    "data.server-test-size": 2000,
    "train.batch-size": 25,
    "public.size": 500,
}

Accuracies = list[float | None]
"""By level, the smallest first; ``None`` where the method has nothing for that level."""


@dataclass(frozen=True)
class Cell:
    """One run of a table."""

    table: str
    row: str
    source: str
    alpha: float
    seed: int
    changes: tuple[str, ...] = ()
    """Settings that differ from the table's, as ``key=value``."""

    def settings(self, output: Path) -> RunSettings:
        """Return the run's settings."""
        data = DIGITS if self.source == "digits" else {**IMAGES, "data.source": self.source}
        return RunSettings.parse(
            {
                **BASE,
                **data,
                **TABLES[self.table][self.row],
                **dict(map(parse_change, self.changes)),
                "data.alpha": self.alpha,
                "seed": self.seed,
                "output-dir": str(output / self.name),
                "resume": "auto",
            }
        )

    @property
    def name(self) -> str:
        """The name of the folder it runs in; alike for runs that are alike in two tables."""
        own = {**TABLES[self.table][self.row], **dict(map(parse_change, self.changes))}
        words = [f"{key.split('.')[-1]}={value}" for key, value in sorted(own.items())]
        source = self.source if self.source == "digits" else Path(self.source).parent.name
        return "_".join([source, *words, f"alpha={self.alpha:g}", f"seed={self.seed}"])


def run_cell(cell: Cell, output: Path) -> Accuracies:
    """Run one cell, or read what it came to before."""
    result_file = output / cell.name / "result.json"
    if result_file.exists():
        result: Accuracies = json.loads(result_file.read_text())
        return result
    settings = cell.settings(output)
    rounds = run_once(settings, CLIENTS).rounds()
    lines = [line for line in rounds if "levels" in line][-LAST:]
    levels = range(1, len(numbers(settings.levels.shares)) + 1)
    result = [_mean(_at(line["levels"], level, settings.strategy) for line in lines) for level in levels]
    result_file.write_text(json.dumps(result))
    return result


def rows(results: Mapping[Cell, Accuracies]) -> Iterator[str]:
    """Yield the table's lines, in Markdown."""
    yield "| α | | level 1 | level 2 | level 3 | level 4 | mean | smallest–largest of the seeds |"
    yield "|---|---|---|---|---|---|---|---|"
    for alpha, row in dict.fromkeys((cell.alpha, cell.row) for cell in results):
        runs = [result for cell, result in results.items() if (cell.alpha, cell.row) == (alpha, row)]
        levels = [_mean(values) for values in zip(*runs, strict=True)]
        means = [known for run in runs if (known := _mean(run)) is not None]
        spread = f"{100 * min(means):.1f}–{100 * max(means):.1f}"
        yield f"| {alpha:g} | {row} | {' | '.join(map(_percent, [*levels, _mean(means)]))} | {spread} |"


def _at(levels: list[Mapping[str, Any]], level: int, strategy: str) -> float | None:
    """Return the accuracy that a device of a level gets: with the smallest for all, that of level 1."""
    wanted = 1 if strategy == "fedavg-smallest" else level
    return next((figures["accuracy"] for figures in levels if figures["level"] == wanted), None)


def _mean(
    values: Iterator[float | None] | Accuracies | list[float] | tuple[float | None, ...],
) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def parse_change(change: str) -> tuple[str, Any]:
    """Read a setting given as ``key=value``; what is no JSON is text."""
    key, _, value = change.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", help="digits, or a parquet file of images")
    parser.add_argument("--rows", choices=TABLES, default="methods")
    parser.add_argument("--output", type=Path, default=Path("~/motley/submodels"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--alphas", nargs="+", type=float, default=ALPHAS)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings to change")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    path = Path(arguments.source).expanduser().resolve()
    source = "digits" if arguments.source == "digits" else str(path)
    output = arguments.output.expanduser().resolve()
    cells = [
        Cell(arguments.rows, row, source, alpha, seed, tuple(arguments.set))
        for alpha in arguments.alphas
        for row in TABLES[arguments.rows]
        for seed in range(arguments.seeds)
    ]
    with ProcessPoolExecutor(arguments.processes) as pool:
        results = dict(zip(cells, pool.map(run_cell, cells, [output] * len(cells)), strict=True))
    print("\n".join(rows(results)))


if __name__ == "__main__":
    main()
