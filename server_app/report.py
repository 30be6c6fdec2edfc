"""What a person sees at the end: a table, and a page with pictures."""

import html
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from learning.metrics import metric_of
from protocol.files import write_atomically
from protocol.ledger import Traffic, soft_label_paper_up
from protocol.settings import RunSettings
from server_app.grades import HEADINGS, grade_rows
from server_app.run_folder import RunFolder
from strategies.method import Exchanges, Method
from strategies.soft_labels.dsfl import dsfl_paper_down, dsfl_paper_exchange

Line = Mapping[str, Any]
_Figure = tuple[str, str, Callable[[float], str], Callable[[Iterable[float]], float]]
"""Title, key in a round's line, how it is shown, and which of several is the best."""


@dataclass(frozen=True)
class Summary:
    """A run in a few figures."""

    settings: RunSettings
    method: Method
    num_classes: int
    lines: Sequence[Line]
    hello: Traffic
    ending: str
    """How the run ended: finished, stopped early, stopped by a person, failed."""

    @property
    def traffic(self) -> Traffic:
        """All rounds' bytes, without the hellos."""
        return sum((Traffic(**line["bytes"]) for line in self.lines), Traffic())

    @property
    def rounds(self) -> int:
        """How many rounds were run, without the final exchange."""
        return sum(not line.get("final", False) for line in self.lines)

    @property
    def dsfl_paper_bytes(self) -> int:
        """What DS-FL would have cost in the same exchanges, by its own formula."""
        subset = self.settings.public.subset_size
        first = soft_label_paper_up(subset, self.num_classes) + dsfl_paper_down(subset, 0, self.num_classes)
        later = dsfl_paper_exchange(subset, self.num_classes)
        last = dsfl_paper_down(0, subset, self.num_classes)
        total = 0
        for line in self.lines:
            exchange = first if line["round"] == 1 else last if line.get("final") else later
            total += line["nodes"]["asked"] * exchange
        return total

    def rows(self) -> list[tuple[str, str]]:
        """Return the table's rows: what, and how much."""
        traffic = self.traffic
        failed = sum(len(line["nodes"]["failed"]) for line in self.lines)
        rows = [
            ("run", f"{self.settings.strategy} on {self.settings.data.source}, {self.ending}"),
            ("rounds", f"{self.rounds} of {self.settings.num_rounds}"),
            *self._figure_rows(),
            *self._client_rows(),
            *self._submodel_rows(),
            ("replies that failed", str(failed)),
            ("paper bytes up / down", f"{_size(traffic.paper_up)} / {_size(traffic.paper_down)}"),
            ("wire bytes up / down", f"{_size(traffic.wire_up)} / {_size(traffic.wire_down)}"),
            ("hellos up / down", f"{_size(self.hello.wire_up)} / {_size(self.hello.wire_down)}"),
        ]
        if self.method.exchanges is not Exchanges.SUBMODELS and (dsfl := self.dsfl_paper_bytes):
            rows.append(
                (
                    f"against DS-FL ({_size(dsfl)} by its formula)",
                    f"paper {_saving(traffic.paper, dsfl)}, wire {_saving(traffic.wire, dsfl)}",
                )
            )
        return rows

    def _figure_rows(self) -> list[tuple[str, str]]:
        """Return the rows of accuracy and of the run's metric, each of the server and of the clients."""
        metric, levels = metric_of(self.settings.data.metric), any("levels" in line for line in self.lines)
        server = "the server, mean over levels" if levels else "the server"
        figures: list[_Figure] = [("accuracy", "accuracy", _percent, max)]
        if metric is not None:
            figures.append((metric.title, "metric", _plain, metric.best))
        return [
            (f"{title} of {name}", self._last_and_best(side, figure, show, best))
            for title, figure, show, best in figures
            for side, name in (("server", server), ("clients", "the clients"))
        ]

    def _last_and_best(
        self, side: str, figure: str, show: Callable[[float], str], best: Callable[[Iterable[float]], float]
    ) -> str:
        values = [line[side][figure] for line in self.lines if line[side][figure] is not None]
        return f"{show(values[-1])} (best {show(best(values))})" if values else "–"

    def _client_rows(self) -> list[tuple[str, str]]:
        line: Line = self.lines[-1] if self.lines else {}
        if by_level := line.get("clients_by_level"):
            return [("accuracy of the clients by level", _by_level(by_level, "accuracy"))]
        return []

    def _submodel_rows(self) -> list[tuple[str, str]]:
        """Return the rows of unequal submodels, as of the last evaluation at the server."""
        line: Line = next((line for line in reversed(self.lines) if "levels" in line), {})
        rows = []
        if levels := line.get("levels"):
            rows.append(("accuracy of the server by level", _by_level(levels, "accuracy")))
        if exits := line.get("exits"):
            rows.append(
                ("accuracy of the server by level, exits together", _by_level(line["levels"], "ensemble"))
            )
            rows.append(("accuracy of the whole network by exit", ", ".join(map(_percent, exits))))
            rows.append(("accuracy of the whole network, exits together", _percent(line["ensemble"])))
            for point in line["early_exit"][::3]:  # a few of the thresholds; rounds.jsonl has them all
                rows.append((f"answering early, from confidence {point['threshold']:g}", _early(point)))
        return rows


def conclude(folder: RunFolder, summary: Summary) -> None:
    """Write ``summary.txt`` and ``report.html``."""
    write_atomically(folder.summary_file, f"{as_text(summary, folder)}\n".encode())
    write_atomically(folder.report_file, as_page(summary, folder).encode())


def as_text(summary: Summary, folder: RunFolder) -> str:
    """Return the table, that of grades if there are any, and where everything lies."""
    table = Table(show_header=False)
    for name, value in summary.rows():
        table.add_row(name, value)
    console = Console(file=io.StringIO(), width=110, color_system=None, markup=False)
    console.print(table)
    if graded := grade_rows(summary.lines):
        grades = Table(*HEADINGS, title="Grades", title_justify="left")
        for row in graded:
            grades.add_row(*row)
        console.print(grades)
    assert isinstance(console.file, io.StringIO)
    return f"{console.file.getvalue()}Run folder: {folder.path}"


def as_page(summary: Summary, folder: RunFolder) -> str:
    """Return a page that needs nothing but itself: table, curves, failures, settings."""
    figures = _table(summary.rows())
    graded = grade_rows(summary.lines)
    grades = f"<h2>Grades</h2>{_table([HEADINGS, *graded])}" if graded else ""
    settings = _table([(key, str(value)) for key, value in summary.settings.flat().items()])
    failures = [
        (f"round {line['round']}", f"{failure['client']}: {failure['reason']}")
        for line in summary.lines
        for failure in line["nodes"]["failed"]
    ]
    failed = f"<h2>Replies that failed</h2>{_table(failures)}" if failures else ""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(folder.experiment)}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
td {{ padding: .1rem 1rem .1rem 0; vertical-align: top; }} td:first-child {{ color: #555; }}
svg {{ max-width: 100%; height: auto; }}
</style></head><body>
<h1>{html.escape(folder.experiment)}</h1>
{figures}{curves(summary.lines) if summary.lines else ""}{submodels(summary.lines)}{grades}{failed}
<h2>Settings</h2>{settings}
</body></html>
"""


def curves(lines: Sequence[Line]) -> str:
    """Draw accuracy by round and by wire bytes, as SVG."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    by_round, by_bytes = figure.subplots(1, 2, sharey=True)
    sent = _running_sum([Traffic(**line["bytes"]).wire / 1e6 for line in lines])
    for side in ("server", "clients"):
        points = [
            (line["round"], megabytes, 100 * line[side]["accuracy"])
            for line, megabytes in zip(lines, sent, strict=True)
            if line[side]["accuracy"] is not None
        ]
        if points:
            rounds, megabytes, accuracies = zip(*points, strict=True)
            by_round.plot(rounds, accuracies, label=side)
            by_bytes.plot(megabytes, accuracies, label=side)
    by_round.set(xlabel="round", ylabel="accuracy (%)")
    by_bytes.set(xlabel="wire bytes so far, both directions (MB)")
    for axes in (by_round, by_bytes):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    return _as_svg(figure)


def submodels(lines: Sequence[Line]) -> str:
    """Draw accuracy by round of each level, and of early exits by cost, as SVG; nothing without levels."""
    scored = [line for line in lines if "levels" in line]
    if not scored:
        return ""
    figure = Figure(figsize=(10, 4), layout="constrained")
    by_round, by_cost = figure.subplots(1, 2)
    rounds = [line["round"] for line in scored]
    for place, figures in enumerate(scored[-1]["levels"]):
        accuracies = [100 * line["levels"][place]["accuracy"] for line in scored]
        by_round.plot(rounds, accuracies, label=f"level {figures['level']}")
    by_round.set(xlabel="round", ylabel="accuracy (%)", title="each level's submodel")
    by_round.legend()
    early = scored[-1].get("early_exit", [])
    costs = [point["flops"] / 1e6 for point in early]
    by_cost.plot(costs, [100 * point["accuracy"] for point in early], marker="o")
    by_cost.set(xlabel="mean multiply-adds an image (M)", ylabel="accuracy (%)", title="early exits")
    for axes in (by_round, by_cost):
        axes.grid(alpha=0.3)
    return _as_svg(figure)


def _as_svg(figure: Figure) -> str:
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg")
    text = drawing.getvalue()
    return text[text.index("<svg") :]


def _running_sum(values: Sequence[float]) -> list[float]:
    total, sums = 0.0, []
    for value in values:
        total += value
        sums.append(total)
    return sums


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{cells}</tr>' for cells in lines)}</table>"


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count} B"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _plain(figure: float) -> str:
    return f"{figure:.3f}"


def _by_level(levels: Sequence[Mapping[str, Any]], figure: str) -> str:
    return ", ".join(f"{figures['level']}: {_percent(figures[figure])}" for figures in levels)


def _early(point: Mapping[str, float]) -> str:
    return f"{_percent(point['accuracy'])} for {point['flops'] / 1e6:.2f} M multiply-adds an image"


def _saving(count: int, reference: int) -> str:
    if count > reference:
        return f"{count / reference:.1f} times as much"
    return f"{100 * (1 - count / reference):.1f} % saved"
