"""Four hospitals, each with a model of its own kind, learn from each other's soft labels on heart disease.

The recipe `scarlet-heart-mixed.toml` (two forests, boosted trees, a network), beside each of its hospitals
alone, and the same two with a network everywhere. Runs go over the in-process grid with real serialisation.
One that has finished is not run again, so the table resumes where it stopped; one that was stopped begins
again.

    python -m benchmarks.mixed_learners --data ~/data/heart-disease --seeds 5
"""

import argparse
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from flwr.common.config import flatten_dict

from protocol.ledger import Traffic
from protocol.messages import EvaluatedReply
from protocol.settings import RunSettings
from protocol.values import split_names
from simulation.grid import InProcessGrid, read_reply
from simulation.run import grid_for, run_over
from strategies.individual import LocalReply
from strategies.soft_labels.messages import SoftLabelReply

RECIPE = Path(__file__).parent.parent / "recipes" / "scarlet-heart-mixed.toml"
HOSPITALS = ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")
"""In the order of their names in the data, which is that of the clients."""
ALONE = {"strategy": "individual"}
NETWORKS = {"models": ""}
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "alone": ALONE,
    "SCARLET": {},
    "networks alone": {**ALONE, **NETWORKS},
    "networks in SCARLET": NETWORKS,
}
ONLY_OF_LABELS = ("distillation", "scarlet")
"""Tables that hospitals alone do not read."""
LAST = 3
"""How many rounds, the last ones, a figure is the mean of."""


@dataclass(frozen=True)
class Figures:
    """Accuracy, and AUROC where the test part has both classes."""

    accuracy: float
    auroc: float | None


@dataclass(frozen=True)
class Result:
    """What one run came to."""

    hospitals: list[Figures]
    together: Figures
    """Of the hospitals, weighted by their test samples."""
    server: Figures | None
    megabytes: float

    @classmethod
    def read(cls, path: Path) -> "Result":
        """Read what `run_cell` wrote."""
        found = json.loads(path.read_text())
        server = found["server"] and Figures(**found["server"])
        hospitals = [Figures(**each) for each in found["hospitals"]]
        return cls(hospitals, Figures(**found["together"]), server, found["megabytes"])


def settings_of(column: str, seed: int, data: Path, output: Path) -> RunSettings:
    """Return the settings of one run.

    Parameters
    ----------
    column
        Of the table.
    seed
        Of the run.
    data
        The folder of the data's file.
    output
        Where run folders go.
    """
    recipe = flatten_dict(tomllib.loads(RECIPE.read_text()))
    changes = COLUMNS[column]
    if "strategy" in changes:
        recipe = {key: value for key, value in recipe.items() if key.split(".")[0] not in ONLY_OF_LABELS}
    source = str(data / Path(str(recipe["data.source"])).name)
    own = {"data.source": source, "seed": seed, "output-dir": str(output), "device": "cpu"}
    return RunSettings.parse({**recipe, **changes, **own})


def run_cell(column: str, seed: int, data: Path, output: Path) -> Result:
    """Run one seed of a column, or read what it came to before; see `settings_of`."""
    file = output / f"{column.replace(' ', '-')}_seed={seed}.json"
    if not file.exists():
        settings = settings_of(column, seed, data, output)
        grid = grid_for(settings, len(HOSPITALS))
        lines = run_over(grid, settings).rounds()
        kind = LocalReply if "strategy" in COLUMNS[column] else SoftLabelReply
        hospitals = [_figures_of(grid, node, kind) for node in grid.nodes]
        together, server = (_of_lines(lines[-LAST:], side) for side in ("clients", "server"))
        assert together is not None
        sent = sum(Traffic(**line["bytes"]).wire for line in lines) / 1e6
        file.write_text(json.dumps(asdict(Result(hospitals, together, server, sent))))
    return Result.read(file)


def _figures_of(grid: InProcessGrid, node: int, kind: type[EvaluatedReply]) -> Figures:
    replies = [read_reply(kind, reply) for reply in grid.replies_of(node)][-LAST:]
    return _mean([Figures(reply.accuracy, reply.metric) for reply in replies])


def _of_lines(lines: Sequence[Mapping[str, Any]], side: str) -> Figures | None:
    if lines[-1][side]["accuracy"] is None:
        return None
    return _mean([Figures(line[side]["accuracy"], line[side]["metric"]) for line in lines])


def _mean(figures: Sequence[Figures]) -> Figures:
    areas = [each.auroc for each in figures if each.auroc is not None]
    return Figures(mean(each.accuracy for each in figures), mean(areas) if areas else None)


def tables(results: Mapping[str, list[Result]]) -> Iterator[str]:
    """Yield the tables' lines, in Markdown; of each figure the mean over the seeds and their range."""
    kinds = [_kind(name) for name in split_names(str(tomllib.loads(RECIPE.read_text())["models"]))]
    for title, figure, scale in (("accuracy, %", "accuracy", 100), ("AUROC", "auroc", 1)):
        yield f"| {title} | {' | '.join(results)} |"
        yield "|---" * (len(results) + 1) + "|"
        for place, (hospital, kind) in enumerate(zip(HOSPITALS, kinds, strict=True)):
            cells = [
                _spread([getattr(run.hospitals[place], figure) for run in runs], scale)
                for runs in results.values()
            ]
            yield f"| {hospital} ({kind}) | {' | '.join(cells)} |"
        means = [_spread([getattr(run.together, figure) for run in runs], scale) for runs in results.values()]
        yield f"| hospitals together | {' | '.join(means)} |"
        servers = [
            _spread([run.server and getattr(run.server, figure) for run in runs], scale)
            for runs in results.values()
        ]
        yield f"| server (network) | {' | '.join(servers)} |"
        yield ""
    sent = [f"{mean(run.megabytes for run in runs):.2f}" for runs in results.values()]
    yield f"MB on the wire: {', '.join(sent)}"


def gains(results: Mapping[str, list[Result]], of: str, over: str) -> Iterator[str]:
    """Yield, a line a hospital, what one column gains over another in points of accuracy, seed by seed.

    Parameters
    ----------
    results
        By column.
    of, over
        The two columns.
    """
    for place, hospital in enumerate(HOSPITALS):
        pairs = zip(results[of], results[over], strict=True)
        differences = [
            100 * (one.hospitals[place].accuracy - other.hospitals[place].accuracy) for one, other in pairs
        ]
        yield f"{of} over {over}, {hospital}: " + ", ".join(f"{each:+.1f}" for each in differences)


def _kind(name: str) -> str:
    return name.partition(":")[2].partition("(")[0] or "network"


def _spread(values: Sequence[float | None], scale: int) -> str:
    known = [scale * value for value in values if value is not None]
    if not known:
        return "–"
    digits = 1 if scale == 100 else 3
    defined = "" if len(known) == len(values) else f", {len(known)} seeds"
    return f"{mean(known):.{digits}f} ({min(known):.{digits}f}–{max(known):.{digits}f}{defined})"


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of all.csv.gz")
    parser.add_argument("--output", type=Path, default=Path("~/motley/mixed-learners"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="others were used to choose settings")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    data, output = options.data.expanduser().resolve(), options.output.expanduser().resolve()
    output.mkdir(parents=True, exist_ok=True)
    cells: list[Any] = [
        (column, seed, data, output)
        for column in COLUMNS
        for seed in range(options.first_seed, options.first_seed + options.seeds)
    ]
    with ProcessPoolExecutor(options.processes) as pool:
        found = list(pool.map(run_cell, *zip(*cells, strict=True)))
    results = {
        column: found[place * options.seeds : (place + 1) * options.seeds]
        for place, column in enumerate(COLUMNS)
    }
    print("\n".join(tables(results)))
    for of, over in (("SCARLET", "alone"), ("networks in SCARLET", "networks alone")):
        print("\n".join(gains(results, of, over)))


if __name__ == "__main__":
    main()
