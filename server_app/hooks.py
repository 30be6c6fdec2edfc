"""Hooks that run after each round: evaluation, metrics, early stopping."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from data import Samples
from learning.metrics import Metric
from protocol.settings import EarlyStoppingSettings
from server_app.round_record import RoundRecord
from server_app.rounds import RoundOutcome
from server_app.run_folder import RunFolder
from strategies.method import ServerMethod

log = logging.getLogger("flwr")


class EvaluationHook:
    """Scores the server's model on the server's test samples, if it holds any.

    Parameters
    ----------
    method
        The method's server half, which has the model.
    test
        The server's test samples; None if it has none.
    every
        Rounds from one evaluation to the next.
    last
        The last round, which is always evaluated.
    """

    def __init__(self, method: ServerMethod, test: Samples | None, every: int, last: int) -> None:
        self._method = method
        self._test = test
        self._every = every
        self._last = last

    def after_round(self, outcome: RoundOutcome) -> None:
        """Add the server's figures; they stay None without test samples, or without a server model."""
        skipped = outcome.round % self._every and outcome.round < self._last
        if self._test is None or skipped:
            return
        started = time.perf_counter()
        score = self._method.score(self._test)
        if score is not None:
            outcome.server, outcome.details = score.evaluation, score.details
        outcome.seconds["evaluate"] = time.perf_counter() - started


class EarlyStoppingHook:
    """Asks to stop once an accuracy has not improved for a number of rounds."""

    def __init__(self, settings: EarlyStoppingSettings, past: Sequence[RoundRecord] = ()) -> None:
        self._settings = settings
        self._best = float("-inf")
        self._best_round = 0
        self._round = 0
        for record in past:
            self._note(record)

    def after_round(self, outcome: RoundOutcome) -> None:
        """Compare with the best round so far; after the final exchange there is nothing left to stop."""
        if not outcome.final:
            self._note(outcome.record())
            outcome.stop = self.reason()

    def reason(self) -> str:
        """Say why the run should end after the last round seen; empty to go on."""
        patience = self._settings.patience
        if not (patience and self._best_round) or self._round - self._best_round < patience:
            return ""
        return (
            f"{self._settings.metric} has not improved for {patience} rounds "
            f"(best {self._best:.4f} in round {self._best_round})"
        )

    def _note(self, record: RoundRecord) -> None:
        figures = record.server if self._settings.metric == "server-accuracy" else record.clients
        self._round = record.round
        if figures.accuracy is not None and figures.accuracy > self._best:
            self._best, self._best_round = figures.accuracy, self._round


class MetricsHook:
    """Writes the round's record, its TensorBoard events, and a line of the log."""

    def __init__(self, folder: RunFolder, resumed_after: int = 0) -> None:
        self._folder = folder
        self._events = SummaryWriter(str(_events_folder(folder.path)), purge_step=resumed_after + 1)

    def after_round(self, outcome: RoundOutcome) -> None:
        """Record the round."""
        record = outcome.record()
        self._folder.append_round(record)
        groups: dict[str, Mapping[str, float | None]] = {
            "server": dict(record.server),
            "clients": dict(record.clients),
            "bytes": vars(record.bytes),
            "seconds": record.seconds,
        }
        for group, values in groups.items():
            for name, value in values.items():
                if value is not None:
                    self._events.add_scalar(f"{group}/{name}", value, outcome.round)
        self._events.flush()
        log.info(_as_log_line(record, outcome.metric))

    def close(self) -> None:
        """Close the event file."""
        self._events.close()


def _events_folder(run: Path) -> Path:
    return run / "tensorboard"


def _as_log_line(record: RoundRecord, metric: Metric | None) -> str:
    nodes, traffic, server, clients = record.nodes, record.bytes, record.server, record.clients
    parts = [
        f"Round {record.round}: {nodes.answered}/{nodes.asked} clients",
        f"accuracy server {_percent(server.accuracy)} clients {_percent(clients.accuracy)}",
        f"wire {traffic.wire_up / 1e3:.1f} kB up {traffic.wire_down / 1e3:.1f} kB down",
    ]
    if metric is not None:
        parts.insert(2, f"{metric.title} server {_plain(server.metric)} clients {_plain(clients.metric)}")
    return ", ".join(parts)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _plain(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.3f}"
