"""Bytes and accuracy of DS-FL and of SCARLET with both expiries, in each encoding of a label.

Digits, 10 clients, α = 0.1, |P| = 600, m = 200, D = 20, 100 rounds, 3 seeds, over the in-process grid
with real serialisation. A run that has finished is not run again, so the table resumes where it stopped.

    python -m benchmarks.label_exchange --output ~/motley/label-exchange
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from benchmarks.kept_runs import run_once
from protocol.ledger import Traffic
from protocol.settings import RunSettings

CLIENTS = 10
METHODS: Mapping[str, Mapping[str, Any]] = {
    "DS-FL": {"strategy": "dsfl", "distillation.indices": "explicit"},
    "SCARLET evict": {"strategy": "scarlet", "scarlet.expiry": "evict"},
    "SCARLET refresh": {"strategy": "scarlet", "scarlet.expiry": "refresh"},
}
CURVES = (("DS-FL", "float32"), ("SCARLET evict", "float16"), ("SCARLET refresh", "float16"))
ENCODINGS = ("float32", "float16", "uint8")
BASE: Mapping[str, Any] = {"num-rounds": 100, "scarlet.cache-duration": 20}


@dataclass(frozen=True)
class Cell:
    """One run of the table."""

    method: str
    encoding: str
    seed: int

    def settings(self, output: Path) -> RunSettings:
        """Return the run's settings."""
        return RunSettings.parse(
            {
                **BASE,
                **METHODS[self.method],
                "distillation.labels": self.encoding,
                "seed": self.seed,
                "output-dir": str(output / self.name),
                "resume": "auto",
            }
        )

    @property
    def name(self) -> str:
        """The name of the folder it runs in."""
        return f"{self.method}-{self.encoding}-{self.seed}".lower().replace(" ", "-")


def run_cell(cell: Cell, output: Path) -> dict[str, Any]:
    """Run one cell, or read what it came to before."""
    result_file = output / cell.name / "result.json"
    if result_file.exists():
        result: dict[str, Any] = json.loads(result_file.read_text())
        return result
    lines = run_once(cell.settings(output), CLIENTS).rounds()
    traffic = sum((Traffic(**line["bytes"]) for line in lines), Traffic())
    result = {"paper": traffic.paper, "wire": traffic.wire}
    for side in ("server", "clients"):
        result[side] = mean(line[side]["accuracy"] for line in lines[-5:])
        result[f"{side} last"] = lines[-1][side]["accuracy"]
    result_file.write_text(json.dumps(result))
    return result


def rows(results: Mapping[Cell, Mapping[str, Any]], seeds: int) -> Iterator[str]:
    """Yield the table's lines, in Markdown."""

    def over_seeds(method: str, encoding: str, figure: str) -> list[float]:
        return [results[Cell(method, encoding, seed)][figure] for seed in range(seeds)]

    reference = mean(over_seeds("DS-FL", "float32", "wire"))
    yield "| method | labels | paper MB | wire MB | wire saved | server % | clients % | both % |"
    yield "|---|---|---|---|---|---|---|---|"
    for method in METHODS:
        for encoding in ENCODINGS:
            wire = mean(over_seeds(method, encoding, "wire"))
            sides = [over_seeds(method, encoding, side) for side in ("server", "clients")]
            sides.append([mean(pair) for pair in zip(*sides, strict=True)])
            accuracies = " | ".join(_mean_and_spread(values) for values in sides)
            paper = mean(over_seeds(method, encoding, "paper"))
            yield (
                f"| {method} | {encoding} | {paper / 1e6:.2f} | {wire / 1e6:.2f} "
                f"| {100 * (1 - wire / reference):.1f} % | {accuracies} |"
            )


def draw(output: Path, seeds: int, picture: Path) -> None:
    """Draw accuracy against wire bytes, one line a method, mean over the seeds."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = dict(zip(("server", "clients"), figure.subplots(1, 2, sharey=True), strict=True))
    for method, encoding in CURVES:
        runs = [_rounds(output / Cell(method, encoding, seed).name) for seed in range(seeds)]
        sent = [sum(_wire(run[index]) for run in runs) / seeds / 1e6 for index in range(len(runs[0]))]
        for side, side_axes in axes.items():
            accuracy = [
                100 * mean(run[index][side]["accuracy"] for run in runs) for index in range(len(runs[0]))
            ]
            side_axes.plot(list(accumulate(sent)), accuracy, label=f"{method}, {encoding}")
    for side, side_axes in axes.items():
        side_axes.set(title=side, xlabel="wire bytes so far, both directions (MB)", xscale="log")
        side_axes.grid(alpha=0.3)
    axes["server"].set(ylabel="accuracy (%)")
    axes["server"].legend(loc="lower right")
    figure.savefig(picture, dpi=120)


def _rounds(cell: Path) -> list[dict[str, Any]]:
    (file,) = cell.glob("*/rounds.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def _wire(line: Mapping[str, Any]) -> int:
    return Traffic(**line["bytes"]).wire


def _mean_and_spread(values: list[float]) -> str:
    return f"{100 * mean(values):.1f} ({100 * min(values):.1f}–{100 * max(values):.1f})"


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("~/motley/label-exchange"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--picture", type=Path, help="also draw accuracy against bytes into this file")
    arguments = parser.parse_args()
    output = arguments.output.expanduser()
    cells = [
        Cell(method, encoding, seed)
        for seed in range(arguments.seeds)
        for method in METHODS
        for encoding in ENCODINGS
    ]
    with ProcessPoolExecutor(arguments.processes) as pool:
        results = dict(zip(cells, pool.map(run_cell, cells, [output] * len(cells)), strict=True))
    print("\n".join(rows(results, arguments.seeds)))
    if arguments.picture:
        draw(output, arguments.seeds, arguments.picture)


if __name__ == "__main__":
    main()
