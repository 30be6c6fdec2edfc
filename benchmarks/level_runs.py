"""Runs of which each level's figures are compared: what is run once, kept, and printed as a table."""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, TypeVar

from benchmarks.kept_runs import run_once
from protocol.settings import RunSettings
from protocol.values import numbers

Figures = Mapping[str, float]
"""``accuracy``, and ``metric`` if the run has one, both from 0 or -1 to 1."""
ByLevel = Sequence[Figures | None]
"""The smallest level first; ``None`` where a method has nothing for a level."""
Evaluations = Mapping[int, ByLevel]
"""By round."""
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class LevelRun:
    """One run of a table."""

    row: str
    seed: int
    clients: int
    settings: Mapping[str, Any]

    def evaluations(self, output: Path) -> Evaluations:
        """Run it, or read what it came to before, and return each evaluation's figures by round.

        Parameters
        ----------
        output
            Where runs are kept.
        """
        place = output / self._name
        settings = RunSettings.parse(
            {**self.settings, "seed": self.seed, "output-dir": str(place), "resume": "auto"}
        )
        folder = run_once(settings, self.clients, workers=None)
        levels = range(1, len(numbers(settings.levels.shares)) + 1)
        return {
            line["round"]: [_at(line["levels"], level, settings.strategy) for level in levels]
            for line in folder.rounds()
            if "levels" in line
        }

    @property
    def _name(self) -> str:
        """The name of its folder; other settings have another."""
        mark = zlib.crc32(json.dumps(self.settings, sort_keys=True).encode())
        return f"{self.row.replace(' ', '-').replace(',', '')}-{mark:08x}-{self.seed}"


def table(results: Mapping[LevelRun, Evaluations]) -> Iterator[str]:
    """Yield the last evaluations in Markdown: the mean over the seeds in percent, and κ if there is one."""
    last = {run: evaluations[max(evaluations)] for run, evaluations in results.items()}
    levels = len(next(iter(last.values())))
    yield _row("", *(f"level {level}" for level in range(1, levels + 1)), "mean", "seeds")
    yield "|---" * (levels + 3) + "|"
    for row, runs in _by_row(last):
        cells = [_mean(of_level) for of_level in zip(*runs, strict=True)]
        means = [known["accuracy"] for run in runs if (known := _mean(run)) is not None]
        spread = f"{100 * min(means):.1f}–{100 * max(means):.1f}"
        yield _row(row, *map(_shown, [*cells, _mean(cells)]), spread)


def progress(results: Mapping[LevelRun, Evaluations]) -> Iterator[str]:
    """Yield the lines of a table by round: the mean over levels and seeds of each evaluation."""
    rounds = sorted(next(iter(results.values())))
    yield _row("round", *map(str, rounds))
    yield "|---" * (len(rounds) + 1) + "|"
    for row, runs in _by_row(results):
        of_rounds = ([figures for run in runs for figures in run[number]] for number in rounds)
        yield _row(row, *(_shown(_mean(figures)) for figures in of_rounds))


def _by_row(results: Mapping[LevelRun, Result]) -> Iterator[tuple[str, list[Result]]]:
    for row in dict.fromkeys(run.row for run in results):
        yield row, [result for run, result in results.items() if run.row == row]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _at(levels: Sequence[Mapping[str, Any]], level: int, strategy: str) -> Figures | None:
    """Return the figures that a device of a level gets: with the smallest for all, those of level 1."""
    wanted = 1 if strategy == "fedavg-smallest" else level
    found = next((figures for figures in levels if figures["level"] == wanted), None)
    return found and {name: found[name] for name in ("accuracy", "metric") if found.get(name) is not None}


def _mean(figures: Sequence[Figures | None]) -> Figures | None:
    known = [found for found in figures if found]
    names = known[0] if known else {}
    return {name: mean(found[name] for found in known if name in found) for name in names} or None


def _shown(figures: Figures | None) -> str:
    if figures is None:
        return "–"
    kappa = f" / {figures['metric']:.2f}" if "metric" in figures else ""
    return f"{100 * figures['accuracy']:.1f}{kappa}"
