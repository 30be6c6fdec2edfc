"""Shows how a run's data is split: a table and a picture of each client's samples by class.

python -m data.split_report recipes/scarlet-fashion-cpu.toml --clients 10 --picture split.png
"""

import argparse
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.common.config import flatten_dict
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from torch import Tensor

from data.federation import ClientData, load_client_data, load_server_test, load_shared, load_withheld
from protocol.errors import MotleyError
from protocol.settings import RunSettings

_MOST_CLASSES = 12
"""With more classes, the table shows only how many each client has; the picture shows all."""


@dataclass(frozen=True)
class SplitReport:
    """The number of samples of each class that every client has.

    Parameters
    ----------
    classes
        Names of the classes.
    train, test
        Counts, int64 of shape (clients, classes).
    others
        Sizes of the parts that belong to no client, by name.
    """

    classes: tuple[str, ...]
    train: Tensor
    test: Tensor
    others: dict[str, int]

    @classmethod
    def of(cls, settings: RunSettings, clients: int) -> "SplitReport":
        """Split the data of a run over some clients.

        Raises
        ------
        DataError
            If the data cannot be read, or not divided as the settings ask.
        """
        shared, test = load_shared(settings), load_server_test(settings)
        data = [load_client_data(settings, client, clients) for client in range(clients)]
        others = {"public pool": len(shared.pool), "server's test": 0 if test is None else len(test)}
        if settings.data.withheld_size:
            others["withheld"] = len(load_withheld(settings))
        return cls(shared.classes.names, _counts(data, "train"), _counts(data, "test"), others)

    def table(self) -> Table:
        """Return the counts as a table: a client's samples, train and test together, by class."""
        both = self.train + self.test
        few = len(self.classes) <= _MOST_CLASSES
        names = [Column(Text(name)) for name in self.classes] if few else []
        table = Table("client", "train", "test", "classes", *names)
        for client, counts in enumerate(both):
            sizes = [int(self.train[client].sum()), int(self.test[client].sum()), int((counts > 0).sum())]
            by_class = counts.tolist() if few else []
            table.add_row(str(client), *map(str, sizes), *(str(count or "·") for count in by_class))
        return table

    def picture(self) -> Figure:
        """Return the counts as a picture: rows are clients, columns are classes, areas are counts."""
        both = self.train + self.test
        clients, classes = both.shape
        figure = Figure(
            figsize=(max(4, 0.45 * classes + 2), max(2.5, 0.28 * clients + 1.6)), layout="constrained"
        )
        axes = figure.subplots()
        rows, columns = torch.nonzero(both, as_tuple=True)
        largest = max(1, int(both.max()))
        areas = 180 * both[rows, columns].numpy() / largest
        axes.scatter(columns.numpy(), rows.numpy(), s=areas, color="#2a6f97", linewidths=0)
        axes.set(xlim=(-0.6, classes - 0.4), ylim=(clients - 0.4, -0.6), ylabel="client")
        axes.set_title(f"samples by class; the largest dot is {largest}", fontsize=10)
        if classes <= 3 * _MOST_CLASSES:
            axes.set_xticks(range(classes), self.classes, rotation=45, ha="right")
        axes.set_yticks(range(clients))
        axes.grid(alpha=0.2)
        axes.set_axisbelow(True)
        return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_config", type=Path, help="the run's settings, a TOML file")
    parser.add_argument("--clients", type=_count, default=10, help="number of clients (default: 10)")
    parser.add_argument("--picture", type=Path, help="a .png, .svg or .pdf file to write")
    options = parser.parse_args(arguments)
    try:
        settings = RunSettings.parse(flatten_dict(tomllib.loads(options.run_config.read_text())))
        report = SplitReport.of(settings, options.clients)
        console = Console(width=None if sys.stdout.isatty() else 160, markup=False)
        console.print(report.table())
        console.print(", ".join(f"{name}: {size}" for name, size in report.others.items()), highlight=False)
        if options.picture:
            report.picture().savefig(options.picture, dpi=150)
            console.print(f"Wrote {options.picture}", highlight=False)
    except (MotleyError, OSError, ValueError) as error:
        Console(stderr=True, markup=False).print(f"error: {error}", highlight=False, soft_wrap=True)
        return 1
    return 0


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def _counts(data: Sequence[ClientData], part: str) -> Tensor:
    return torch.stack(
        [torch.bincount(getattr(client, part).targets, minlength=client.num_classes) for client in data]
    )


if __name__ == "__main__":
    sys.exit(main())
