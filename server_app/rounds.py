"""The only round loop."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from protocol.messages import Evaluation
from strategies.clock import Clock
from strategies.strategy import MethodStrategy, RoundReport

log = logging.getLogger("flwr")


@dataclass
class RoundOutcome:
    """What a round came to; the hooks add to it, in their order."""

    report: RoundReport
    final: bool
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage."""
    server: Evaluation | None = None
    stop: str = ""
    """Why the run should end after this round; empty to go on."""

    @property
    def round(self) -> int:
        """The round's number, from 1."""
        return self.report.round

    def line(self) -> dict[str, Any]:
        """Return the round as a line of ``rounds.jsonl``."""
        report, traffic = self.report, self.report.traffic
        failed = [{"client": client, "reason": reason} for client, reason in sorted(report.failed.items())]
        line: dict[str, Any] = {
            "round": self.round,
            "nodes": {"asked": len(report.asked), "answered": len(report.evaluations), "failed": failed},
            "seconds": {stage: round(seconds, 3) for stage, seconds in self.seconds.items()},
            "bytes": vars(traffic),
            "server": _figures(self.server),
            "clients": _figures(report.clients),
        }
        return line | {"final": True} if self.final else line


class RoundHook(Protocol):
    """Something that happens after each round."""

    def after_round(self, outcome: RoundOutcome) -> None:
        """Look at a round's outcome, add to it, or ask to stop."""


class RoundLoop:
    """Runs rounds: send, take replies as they come until all are there or time is up, merge, hooks."""

    def __init__(
        self, strategy: MethodStrategy, grid: Grid, hooks: Sequence[RoundHook], clock: Clock
    ) -> None:
        self._strategy = strategy
        self._grid = grid
        self._hooks = hooks
        self._clock = clock

    def run(self, first: int, last: int) -> RoundOutcome | None:
        """Run the rounds from ``first`` to ``last``, and the final exchange if the method has one."""
        outcome = None
        for number in range(first, last + 1):
            outcome = self._round(number)
            if outcome.stop:
                log.info("Round %d: stopping early: %s", number, outcome.stop)
                break
        if outcome is not None and self._strategy.method.final_exchange:
            self._strategy.final = True
            outcome = self._round(outcome.round + 1)
        return outcome

    def _round(self, number: int) -> RoundOutcome:
        strategy, stopwatch = self._strategy, _Stopwatch()
        messages = strategy.configure_train(number, ArrayRecord(), ConfigRecord(), self._grid)
        self._grid.push_messages(messages)
        stopwatch.lap("send")
        strategy.aggregate_train(number, self._replies(stopwatch))
        stopwatch.lap("aggregate")
        outcome = RoundOutcome(strategy.report, strategy.final, stopwatch.seconds)
        for hook in self._hooks:
            hook.after_round(outcome)
        return outcome

    def _replies(self, stopwatch: "_Stopwatch") -> Iterator[Message]:
        """Yield replies as they arrive, late ones of earlier rounds among them."""
        deadline = self._clock.now() + self._strategy.settings.round_timeout
        while True:
            yield from self._strategy.pull(self._grid)
            if self._strategy.awaited() == 0 or self._clock.now() >= deadline:
                break
            self._clock.sleep()
        stopwatch.lap("wait")


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


def _figures(evaluation: Evaluation | None) -> dict[str, float | None]:
    if evaluation is None:
        return {"accuracy": None, "loss": None}
    return {"accuracy": evaluation.accuracy, "loss": evaluation.loss}
