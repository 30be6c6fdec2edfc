"""The report of a run: a table, and an HTML page with charts."""

import html
import io
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from learning.metrics import metric_of
from protocol.files import write_atomically
from protocol.ledger import Traffic, soft_label_paper_up
from protocol.settings import RunSettings
from server_app.grades import HEADINGS, grade_rows
from server_app.round_record import EarlyExit, RoundRecord
from server_app.run_folder import RunFolder
from strategies.method import Exchanges, Method
from strategies.soft_labels.dsfl import dsfl_paper_down, dsfl_paper_exchange


@dataclass(frozen=True)
class Summary:
    """A run in a few figures."""

    settings: RunSettings
    method: Method
    num_classes: int
    records: Sequence[RoundRecord]
    hello: Traffic
    ending: str
    """How the run ended: finished, stopped early, stopped by a person, failed."""

    @property
    def traffic(self) -> Traffic:
        """All rounds' bytes, without the hellos."""
        return sum((record.bytes for record in self.records), Traffic())

    @property
    def rounds(self) -> int:
        """How many rounds were run, without the final exchange."""
        return sum(not record.final for record in self.records)

    @property
    def dsfl_paper_bytes(self) -> int:
        """Bytes that DS-FL would have exchanged in the same rounds, by its paper's formula."""
        subset = self.settings.public.subset_size
        first = soft_label_paper_up(subset, self.num_classes) + dsfl_paper_down(subset, 0, self.num_classes)
        later = dsfl_paper_exchange(subset, self.num_classes)
        last = dsfl_paper_down(0, subset, self.num_classes)
        total = 0
        for record in self.records:
            exchange = first if record.round == 1 else last if record.final else later
            total += record.nodes.asked * exchange
        return total

    def rows(self) -> list[tuple[str, str]]:
        """Return the table's rows: what, and how much."""
        traffic = self.traffic
        failed = sum(len(record.nodes.failed) for record in self.records)
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
        metric, levels = metric_of(self.settings.data.metric), any(record.levels for record in self.records)
        sides = {
            "the server, mean over levels" if levels else "the server": [
                record.server for record in self.records
            ],
            "the clients": [record.clients for record in self.records],
        }
        rows = [
            (f"accuracy of {name}", _last_and_best([each.accuracy for each in figures], _percent, max))
            for name, figures in sides.items()
        ]
        if metric is None:
            return rows
        return rows + [
            (
                f"{metric.title} of {name}",
                _last_and_best([each.metric for each in figures], _plain, metric.best),
            )
            for name, figures in sides.items()
        ]

    def _client_rows(self) -> list[tuple[str, str]]:
        by_level = self.records[-1].clients_by_level if self.records else ()
        if not by_level:
            return []
        accuracies = {clients.level: clients.accuracy for clients in by_level}
        return [("accuracy of the clients by level", _by_level(accuracies))]

    def _submodel_rows(self) -> list[tuple[str, str]]:
        """Return the rows of unequal submodels, as of the last evaluation at the server."""
        record = next((record for record in reversed(self.records) if record.levels), None)
        if record is None:
            return []
        accuracies = {score.level: score.accuracy for score in record.levels}
        rows = [("accuracy of the server by level", _by_level(accuracies))]
        if record.exits and record.ensemble is not None:
            ensembles = {score.level: score.ensemble for score in record.levels}
            rows += [
                ("accuracy of the server by level, ensemble of exits", _by_level(ensembles)),
                ("accuracy of the whole network by exit", ", ".join(map(_percent, record.exits))),
                ("accuracy of the whole network, ensemble of exits", _percent(record.ensemble)),
            ]
        few = record.early_exit[::3]  # rounds.jsonl has all thresholds
        return rows + [(f"early exit from confidence {point.threshold:g}", _early(point)) for point in few]


def conclude(folder: RunFolder, summary: Summary) -> None:
    """Write ``summary.txt`` and ``report.html``."""
    write_atomically(folder.summary_file, f"{as_text(summary, folder)}\n".encode())
    write_atomically(folder.report_file, as_page(summary, folder).encode())


def as_text(summary: Summary, folder: RunFolder) -> str:
    """Return the table, the table of grades if there are any, and the run folder's path."""
    table = Table(show_header=False)
    for name, value in summary.rows():
        table.add_row(name, value)
    console = Console(file=io.StringIO(), width=110, color_system=None, markup=False)
    console.print(table)
    if graded := grade_rows(summary.records):
        grades = Table(*HEADINGS, title="Grades", title_justify="left")
        for row in graded:
            grades.add_row(*row)
        console.print(grades)
    assert isinstance(console.file, io.StringIO)
    return f"{console.file.getvalue()}Run folder: {folder.path}"


def as_page(summary: Summary, folder: RunFolder) -> str:
    """Return a self-contained HTML page: table, curves, grades, failures, settings."""
    figures = _table(summary.rows())
    graded = grade_rows(summary.records)
    grades = f"<h2>Grades</h2>{_table([HEADINGS, *graded])}" if graded else ""
    settings = _table([(key, str(value)) for key, value in summary.settings.flat().items()])
    failures = [
        (f"round {record.round}", f"{failure.client}: {failure.reason}")
        for record in summary.records
        for failure in record.nodes.failed
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
{figures}{curves(summary.records) if summary.records else ""}{submodels(summary.records)}{grades}{failed}
<h2>Settings</h2>{settings}
</body></html>
"""


def curves(records: Sequence[RoundRecord]) -> str:
    """Draw accuracy by round and by wire bytes, as SVG."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    by_round, by_bytes = figure.subplots(1, 2, sharey=True)
    sent = list(itertools.accumulate(record.bytes.wire / 1e6 for record in records))
    sides = {
        "server": [record.server.accuracy for record in records],
        "clients": [record.clients.accuracy for record in records],
    }
    for side, shares in sides.items():
        points = [
            (record.round, megabytes, 100 * share)
            for record, megabytes, share in zip(records, sent, shares, strict=True)
            if share is not None
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


def submodels(records: Sequence[RoundRecord]) -> str:
    """Draw each level's accuracy by round, and early exit's by its cost, as SVG; empty without levels."""
    scored = [record for record in records if record.levels]
    if not scored:
        return ""
    figure = Figure(figsize=(10, 4), layout="constrained")
    by_round, by_cost = figure.subplots(1, 2)
    rounds = [record.round for record in scored]
    for place, score in enumerate(scored[-1].levels):
        accuracies = [100 * record.levels[place].accuracy for record in scored]
        by_round.plot(rounds, accuracies, label=f"level {score.level}")
    by_round.set(xlabel="round", ylabel="accuracy (%)", title="each level's submodel")
    by_round.legend()
    early = scored[-1].early_exit
    costs = [point.flops / 1e6 for point in early]
    by_cost.plot(costs, [100 * point.accuracy for point in early], marker="o")
    by_cost.set(xlabel="MACs a sample, mean (M)", ylabel="accuracy (%)", title="early exit")
    for axes in (by_round, by_cost):
        axes.grid(alpha=0.3)
    return _as_svg(figure)


def _as_svg(figure: Figure) -> str:
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg")
    text = drawing.getvalue()
    return text[text.index("<svg") :]


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


def _last_and_best(
    values: Sequence[float | None], show: Callable[[float], str], best: Callable[[Iterable[float]], float]
) -> str:
    known = [value for value in values if value is not None]
    return f"{show(known[-1])} (best {show(best(known))})" if known else "–"


def _by_level(accuracies: Mapping[int, float]) -> str:
    return ", ".join(f"{level}: {_percent(accuracy)}" for level, accuracy in accuracies.items())


def _early(point: EarlyExit) -> str:
    return f"accuracy {_percent(point.accuracy)} at {point.flops / 1e6:.2f} M MACs a sample"


def _saving(count: int, reference: int) -> str:
    if count > reference:
        return f"{count / reference:.1f} times as much"
    return f"{100 * (1 - count / reference):.1f} % saved"
