"""Runs of which each level's figures are compared: what is run once, kept, and printed as a table."""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from protocol.settings import RunSettings
from protocol.values import numbers
from server_app.run_folder import RunFolder
from tests.support.federation import grid_for, run_over

Figures = Mapping[str, float]
"""``accuracy``, and ``metric`` if the run has one, both from 0 or -1 to 1."""
ByLevel = Sequence[Figures | None]
"""The smallest level first; ``None`` where a method has nothing for a level."""


@dataclass(frozen=True, eq=False)
class LevelRun:
    """One run of a table."""

    row: str
    seed: int
    clients: int
    settings: Mapping[str, Any]

    def by_level(self, output: Path, last: int = 1) -> ByLevel:
        """Run it, or read what it came to before; a figure is the mean of the last evaluations.

        Parameters
        ----------
        output
            Where runs are kept.
        last
            How many evaluations.
        """
        place = output / self._name
        kept = place / "result.json"
        if kept.exists():
            known: ByLevel = json.loads(kept.read_text())
            return known
        settings = RunSettings.parse(
            {**self.settings, "seed": self.seed, "output-dir": str(place), "resume": "auto"}
        )
        finished = [RunFolder(models.parent) for models in place.glob("*/models")]
        folder = finished[0] if finished else run_over(grid_for(settings, self.clients), settings)
        lines = [line["levels"] for line in folder.rounds() if "levels" in line][-last:]
        levels = range(1, len(numbers(settings.levels.shares)) + 1)
        result = [_mean([_at(line, level, settings.strategy) for line in lines]) for level in levels]
        kept.write_text(json.dumps(result))
        return result

    @property
    def _name(self) -> str:
        """The name of its folder; other settings have another."""
        mark = zlib.crc32(json.dumps(self.settings, sort_keys=True).encode())
        return f"{self.row.replace(' ', '-').replace(',', '')}-{mark:08x}-{self.seed}"


def table(results: Mapping[LevelRun, ByLevel]) -> Iterator[str]:
    """Yield the table's lines in Markdown: the mean over the seeds in percent, and κ if there is one."""
    levels = len(next(iter(results.values())))
    yield f"| | {' | '.join(f'level {level}' for level in range(1, levels + 1))} | mean | seeds |"
    yield "|---" * (levels + 3) + "|"
    for row in dict.fromkeys(run.row for run in results):
        runs = [found for run, found in results.items() if run.row == row]
        cells = [_mean(of_level) for of_level in zip(*runs, strict=True)]
        means = [known["accuracy"] for run in runs if (known := _mean(run)) is not None]
        spread = f"{100 * min(means):.1f}–{100 * max(means):.1f}"
        yield f"| {row} | {' | '.join(map(_shown, [*cells, _mean(cells)]))} | {spread} |"


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
