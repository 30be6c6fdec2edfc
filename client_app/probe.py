"""Measures which level this machine would train, and why.

python -m client_app.probe recipes/scalefl-digits.toml --node-config 'partition-id=0 num-partitions=4'
"""

import argparse
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from click import ClickException
from flwr.common.config import flatten_dict, parse_config_args
from rich.console import Console
from rich.table import Table

from client_app.capability import Budgets, Carried, Need, choose, measure
from client_app.node import data_of
from learning.precision import usable_precision
from protocol.device import find_place
from protocol.errors import MotleyError
from protocol.settings import NodeSettings, RunSettings

_WIDTH = 110


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every level and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_config", type=Path, help="the run's settings, a TOML file")
    parser.add_argument(
        "--node-config", default="partition-id=0 num-partitions=20", help="as SuperNodes take it"
    )
    options = parser.parse_args(arguments)
    console = Console(width=_WIDTH, markup=False)
    try:
        run = RunSettings.parse(flatten_dict(tomllib.loads(options.run_config.read_text())))
        node = NodeSettings.parse(parse_config_args([options.node_config]))
        place = find_place(node.device or run.device, node.gpu_memory)
        precision, slower = usable_precision(run.precision, place.device)
        run, device = run.model_copy(update={"precision": precision}), place.device
        data = data_of(run, node).to(device)
        budgets = Budgets.of(node, device)  # before anything that is measured takes memory
        needs = measure(run, node.model or run.model, data, device)
    except (MotleyError, OSError, ValueError, ClickException) as error:
        Console(stderr=True, markup=False).print(f"error: {error}", highlight=False)
        return 1
    for note in filter(None, [place.note, slower]):
        console.print(note, highlight=False)
    console.print(_table(needs, budgets))
    carried = choose(needs, budgets)
    console.print(_verdict(carried, str(device)), highlight=False)
    return 0


def _table(needs: Sequence[Need], budgets: Budgets) -> Table:
    table = Table("level", "width", "exits after", "parameters", "memory", "a step", "a round", "fits")
    for need in needs:
        table.add_row(
            str(need.level),
            f"{need.shape.width:g}",
            " ".join(map(str, need.shape.exits)),
            f"{need.parameters:,}",
            f"{need.memory / 1e6:.1f} MB",
            f"{need.seconds_per_step * 1e3:.1f} ms",
            f"{need.seconds_per_round:.2f} s",
            budgets.objection(need) or "yes",
        )
    return table


def _verdict(carried: Carried, device: str) -> str:
    return f'On {device}, level = "auto" would be level {carried.level}: {carried.reason}'


if __name__ == "__main__":
    sys.exit(main())
