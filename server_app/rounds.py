"""The only round loop."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from learning.metrics import Metric, metric_of
from protocol.errors import RunStoppedError
from protocol.messages import Evaluation
from server_app.clock import Clock
from server_app.round_record import Failure, Figures, LevelClients, Nodes, RoundRecord
from server_app.round_report import RoundReport
from server_app.strategy import MethodStrategy

log = logging.getLogger("flwr")


@dataclass
class RoundOutcome:
    """The outcome of a round; the hooks add to it, in their order."""

    report: RoundReport
    final: bool
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage."""
    server: Evaluation | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the method adds to the round's record, see `RoundRecord.with_details`."""
    metric: Metric | None = None
    """What is recorded beside accuracy and loss."""
    stop: str = ""
    """Why the run should end after this round; empty to go on."""

    @property
    def round(self) -> int:
        """The round's number, from 1."""
        return self.report.round

    def record(self) -> RoundRecord:
        """Return the record of the round, with what is known by now.

        Raises
        ------
        FormatError
            If what the method adds cannot be recorded.
        """
        report = self.report
        failed = [Failure(client=client, reason=reason) for client, reason in sorted(report.failed.items())]
        by_level = tuple(
            LevelClients.of(level, count, mean, self.metric)
            for level, (count, mean) in report.clients_by_level.items()
        )
        optional: dict[str, Any] = {"clients_by_level": by_level} if by_level else {}
        if self.final:
            optional["final"] = True
        record = RoundRecord(
            round=self.round,
            nodes=Nodes(asked=len(report.asked), answered=len(report.evaluations), failed=tuple(failed)),
            seconds={stage: round(seconds, 3) for stage, seconds in self.seconds.items()},
            bytes=report.traffic,
            server=Figures.of(self.server, self.metric),
            clients=Figures.of(report.clients, self.metric),
            **optional,
        )
        return record.with_details(self.details)


class RoundHook(Protocol):
    """Something that happens after each round."""

    def after_round(self, outcome: RoundOutcome) -> None:
        """Look at a round's outcome, add to it, or ask to stop."""


class RoundLoop:
    """Runs rounds: send messages, take replies until all are there or time is up, aggregate, run hooks.

    Parameters
    ----------
    strategy
        Chooses clients, writes messages and processes replies.
    grid
        Connects to the nodes.
    hooks
        Called after each round, in this order.
    clock
        The time, for deadlines.
    """

    def __init__(
        self, strategy: MethodStrategy, grid: Grid, hooks: Sequence[RoundHook], clock: Clock
    ) -> None:
        self._strategy = strategy
        self._grid = grid
        self._hooks = hooks
        self._clock = clock
        self._writing = threading.RLock()
        self._stopped = False

    def stop(self) -> None:
        """Run no further round and write nothing more; called when the process is asked to terminate.

        If a round is being written, this waits for it, unless it is called on the loop's own thread.
        """
        with self._writing:
            self._stopped = True

    def run(self, first: int, last: int) -> str:
        """Run the rounds from ``first`` to ``last``, and the final exchange if the method has one.

        Returns
        -------
        str
            Why the run ended before ``last``; empty if it did not.

        Raises
        ------
        RunStoppedError
            If ``stop`` was called.
        """
        number, stop = first - 1, ""
        for number in range(first, last + 1):
            stop = self._round(number).stop
            if stop:
                log.info("Round %d: stopping early: %s", number, stop)
                break
        if self._strategy.method.final_exchange:
            self._strategy.final = True
            self._round(number + 1)
        return stop

    def _round(self, number: int) -> RoundOutcome:
        strategy, stopwatch = self._strategy, _Stopwatch()
        messages = strategy.configure_train(number, ArrayRecord(), ConfigRecord(), self._grid)
        self._grid.push_messages(messages)
        stopwatch.lap("send")
        strategy.aggregate_train(number, self._replies(stopwatch))
        stopwatch.lap("aggregate")
        metric = metric_of(strategy.settings.data.metric)
        outcome = RoundOutcome(strategy.report, strategy.final, stopwatch.seconds, metric=metric)
        with self._writing:
            self._check_stopped()
            for hook in self._hooks:
                hook.after_round(outcome)
        return outcome

    def _replies(self, stopwatch: "_Stopwatch") -> Iterator[Message]:
        """Yield replies as they arrive, late ones of earlier rounds among them."""
        deadline = self._clock.now() + self._strategy.settings.round_timeout
        while True:
            self._check_stopped()
            yield from self._strategy.pull(self._grid)
            if self._strategy.awaited() == 0 or self._clock.now() >= deadline:
                break
            self._clock.sleep()
        stopwatch.lap("wait")

    def _check_stopped(self) -> None:
        if self._stopped:
            raise RunStoppedError("the run was told to stop")


class _Stopwatch:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """End a stage."""
        now = time.perf_counter()
        self.seconds[stage] = now - self._since
        self._since = now
