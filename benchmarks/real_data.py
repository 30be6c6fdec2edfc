"""SCARLET on real data beside FedAvg and clients that learn alone: the recipes, over several seeds.

Each row is one of the recipes `scarlet-NAME.toml`, with another strategy where the row says so. Runs go
over the in-process grid with real serialisation. A run that has finished is not run again, and one that was
stopped goes on, so the table resumes where it stopped.

    python -m benchmarks.real_data fashion-cpu --data ~/data/fashion-mnist --clients 10
    python -m benchmarks.real_data knee --data ~/data/knee-oa --clients 8
    python -m benchmarks.real_data heart-4-hospitals --data ~/data/heart-disease --clients 4 --seeds 10
"""

import argparse
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from flwr.common.config import flatten_dict
from matplotlib.figure import Figure

from benchmarks.kept_runs import run_once
from benchmarks.submodels import parse_change
from protocol.ledger import Traffic
from protocol.settings import RunSettings

RECIPES = Path(__file__).parent.parent / "recipes"
ROWS: Mapping[str, Mapping[str, Any]] = {
    "SCARLET": {},
    "FedAvg": {"strategy": "fedavg"},
    "Individual": {"strategy": "individual"},
}
OF_LABELS = ("distillation.", "scarlet.")
"""Tables of settings that only SCARLET reads; others would refuse them as idle."""
LAST = 3
"""How many evaluations, the last ones, a figure is the mean of."""
PATHS = ("data.source", "data.test-source", "public.source")

Lines = list[dict[str, Any]]


@dataclass(frozen=True)
class Cell:
    """One run of a table."""

    recipe: str
    data: Path
    clients: int
    row: str
    seed: int
    changes: tuple[str, ...] = ()
    """Settings that differ from the recipe's, as ``key=value``."""

    def settings(self, output: Path) -> RunSettings:
        """Return the run's settings: the recipe's, with the row's changes and the real paths."""
        recipe = flatten_dict(tomllib.loads((RECIPES / f"scarlet-{self.recipe}.toml").read_text()))
        paths = {key: str(self.data / Path(str(recipe[key])).name) for key in PATHS if key in recipe}
        own = {"seed": self.seed, "output-dir": str(output / self.name), "resume": "auto", "device": "cpu"}
        if self.row != "SCARLET":
            recipe = {key: value for key, value in recipe.items() if not key.startswith(OF_LABELS)}
        return RunSettings.parse(
            {**recipe, **paths, **ROWS[self.row], **dict(map(parse_change, self.changes)), **own}
        )

    @property
    def name(self) -> str:
        """The name of the folder it runs in."""
        return "_".join([self.recipe, self.row.lower(), *self.changes, f"seed={self.seed}"])


def run_cell(cell: Cell, output: Path) -> Lines:
    """Run one cell, or go on with it, or read what it came to before."""
    return run_once(cell.settings(output), cell.clients).rounds()


def rows(results: Mapping[Cell, Lines]) -> Iterator[str]:
    """Yield the table's lines, in Markdown: mean over the seeds, smallest and largest of them."""
    metric = any("metric" in line["clients"] for lines in results.values() for line in lines)
    figures = [("accuracy", 100), *([("metric", 1)] if metric else [])]
    heads = [f"{side}, {figure}" for side in ("server", "clients") for figure, _ in figures]
    yield f"| | {' | '.join(heads)} | MB on the wire |"
    yield "|---" * (len(heads) + 2) + "|"
    for row in dict.fromkeys(cell.row for cell in results):
        runs = [lines for cell, lines in results.items() if cell.row == row]
        cells = [
            _spread([_last(lines, side, figure) for lines in runs], scale)
            for side in ("server", "clients")
            for figure, scale in figures
        ]
        sent = mean(_traffic(lines)[-1] for lines in runs)
        yield f"| {row} | {' | '.join(cells)} | {sent:.2f} |"


def curves(results: Mapping[Cell, Lines]) -> Figure:
    """Draw the clients' accuracy by round and by bytes, the mean over the seeds."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    by_round, by_bytes = figure.subplots(1, 2, sharey=True)
    for row in dict.fromkeys(cell.row for cell in results):
        runs = [lines for cell, lines in results.items() if cell.row == row]
        rounds = range(1, min(map(len, runs)) + 1)
        accuracy = [100 * mean(lines[r - 1]["clients"]["accuracy"] for lines in runs) for r in rounds]
        sent = [mean(_traffic(lines)[r - 1] for lines in runs) for r in rounds]
        by_round.plot(rounds, accuracy, label=row)
        by_bytes.plot(sent, accuracy, label=row)
    by_round.set(xlabel="round", ylabel="accuracy of the clients (%)")
    by_bytes.set(xlabel="MB on the wire so far, both directions", xscale="log")
    for axes in (by_round, by_bytes):
        axes.grid(alpha=0.3)
    by_round.legend()
    return figure


def _last(lines: Lines, side: str, figure: str) -> float | None:
    values = [line[side].get(figure) for line in lines]
    known = [value for value in values if value is not None][-LAST:]
    return mean(known) if known else None


def _traffic(lines: Lines) -> list[float]:
    total, sent = 0.0, []
    for line in lines:
        total += Traffic(**line["bytes"]).wire / 1e6
        sent.append(total)
    return sent


def _spread(values: Sequence[float | None], scale: int) -> str:
    known = [scale * value for value in values if value is not None]
    if not known:
        return "–"
    digits = 1 if scale == 100 else 3
    return f"{mean(known):.{digits}f} ({min(known):.{digits}f}–{max(known):.{digits}f})"


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recipe", help="the NAME of a recipe scarlet-NAME.toml")
    parser.add_argument("--data", type=Path, required=True, help="the folder of its files")
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--output", type=Path, default=Path("~/motley/real-data"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings to change")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--picture", type=Path, help="a .png file to write")
    options = parser.parse_args()
    data, output = options.data.expanduser().resolve(), options.output.expanduser().resolve()
    changes = tuple(options.set)
    cells = [
        Cell(options.recipe, data, options.clients, row, seed, changes)
        for row in options.rows
        for seed in range(options.seeds)
    ]
    with ProcessPoolExecutor(options.processes) as pool:
        results = dict(zip(cells, pool.map(run_cell, cells, [output] * len(cells)), strict=True))
    print("\n".join(rows(results)))
    if options.picture:
        curves(results).savefig(options.picture, dpi=150)


if __name__ == "__main__":
    main()
