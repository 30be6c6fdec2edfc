"""The adapter that makes a method a Flower strategy: sampling, quorum, failures, byte counts."""

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from protocol.errors import FederationError, MessageError
from protocol.ledger import Traffic, wire_bytes
from protocol.messages import TRAIN, unmark_reply
from protocol.randomness import derive_seed, draw_subset
from protocol.settings import RunSettings
from server_app.clock import Clock
from server_app.roster import Roster
from server_app.round_report import RoundReport
from strategies.method import ServerMethod

log = logging.getLogger("flwr")

_REPLIES_AT_ONCE = 8
LIFETIME_IN_DEADLINES = 2
"""Lifetime of a message in round deadlines: a late reply still says which labels a client holds."""


@dataclass(frozen=True)
class _Asked:
    """A message without a reply so far; the grid adds the id to its metadata when it is sent."""

    message: Message
    client: str
    round: int
    until: float


class MethodStrategy(Strategy):
    """Runs a method's rounds over Flower's grid.

    ``server_app.rounds`` passes it each reply as it arrives; Flower's own ``start`` works too. The method
    keeps its model, so the arrays that Flower passes in are not used.

    Parameters
    ----------
    method
        The method's server half.
    roster
        The clients.
    settings
        Of the run.
    clock
        The time, for deadlines.
    """

    def __init__(self, method: ServerMethod, roster: Roster, settings: RunSettings, clock: Clock) -> None:
        self.method = method
        self.roster = roster
        self.settings = settings
        self.report = RoundReport(0, [])
        self.final = False
        """Set for the exchange after the last round."""
        self._clock = clock
        self._out: list[_Asked] = []
        self._running = False
        self._between_rounds = Traffic()

    # --- Flower's interface --------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Choose clients and write one message to each."""
        settings = self.settings
        self.wait_for_clients(grid)
        clients = self._sample(server_round)
        outgoing = self.method.begin(server_round, clients, self.final)
        members = [self.roster.members[client] for client in clients]
        levels = {member.name: member.level for member in members if member.level is not None}
        self.report = RoundReport(server_round, clients, levels=levels, traffic=self._between_rounds)
        self._between_rounds = Traffic()
        self._running = True
        messages = []
        for client in clients:
            message = Message(
                outgoing[client].content,
                dst_node_id=self.roster.members[client].node_id,
                message_type=TRAIN,
                ttl=settings.round_timeout * LIFETIME_IN_DEADLINES,
                group_id=str(server_round),
            )
            until = self._clock.now() + settings.round_timeout * LIFETIME_IN_DEADLINES
            self._out.append(_Asked(message, client, server_round, until))
            down = Traffic(paper_down=outgoing[client].paper_down, wire_down=wire_bytes(message))
            self.report.traffic += down
            messages.append(message)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Process replies one by one, as they arrive; then end the round.

        Raises
        ------
        FederationError
            If fewer than ``min-replies`` replies were accepted.
        """
        for reply in replies:
            self._take(reply)
        self._running = False
        report = self.report
        for client in report.asked:
            if client not in report.evaluations and client not in report.failed:
                report.failed[client] = f"no reply within {self.settings.round_timeout:g} s (round-timeout)"
        for client, reason in sorted(report.failed.items()):
            log.warning("Round %d: %s failed: %s", server_round, client, reason)
        self._check_quorum()
        self.method.finish(server_round)
        return self._result()

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return no messages: a round's replies contain the evaluation."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return nothing: see ``aggregate_train``."""
        return None

    def summary(self) -> None:
        """Log the method and the number of clients."""
        log.info("%s over %d clients", self.settings.strategy, len(self.roster.available()))

    # --- for the loop --------------------------------------------------------------------------

    def wait_for_clients(self, grid: Grid) -> None:
        """Wait until ``min-nodes`` clients, or the quorum if larger, have joined and enough are idle.

        At the start it waits for every node's hello, so that a run begins with all nodes that are online.

        Raises
        ------
        FederationError
            If too few clients have joined after ``wait-for-nodes`` seconds, or every node was refused.
        """
        starting = not self.roster.members
        needed = max(self.settings.min_nodes, self.settings.min_replies)
        began = self._clock.now()
        until = began + self.settings.wait_for_nodes
        while True:
            for reply in self.pull(grid):
                self._take(reply)
            late = self._clock.now() >= until
            settled = late or not starting or self.roster.settled()
            there = len(self.roster.available()) >= needed
            if there and settled and len(self._free()) >= self._least():
                return
            if there and late and not self._candidates():
                names = ", ".join(self.roster.available())
                raise FederationError(
                    f"strategy {self.settings.strategy} cannot use any of the clients: {names}"
                )
            if (late or self.roster.all_refused()) and not there:
                raise self.roster.shortage(needed, self._clock.now() - began)
            self._clock.sleep()

    def pull(self, grid: Grid) -> Iterator[Message]:
        """Yield the replies that have arrived, a few at a time, so that not all are in memory.

        Messages without a reply that have expired, or whose node is offline, are given up.
        """
        self.roster.refresh(grid)
        self.roster.pull(grid)
        awaited = [asked.message.metadata.message_id for asked in self._out]
        for start in range(0, len(awaited), _REPLIES_AT_ONCE):
            yield from grid.pull_messages(awaited[start : start + _REPLIES_AT_ONCE])
        self._give_up()

    def awaited(self) -> int:
        """Return the number of messages of the current round without a reply."""
        return sum(asked.round == self.report.round for asked in self._out)

    # --- parts ---------------------------------------------------------------------------------

    def _free(self) -> list[str]:
        """Return the clients that are online and idle: not at work on an earlier message."""
        busy = {asked.client for asked in self._out}
        return [name for name in self._candidates() if name not in busy]

    def _candidates(self) -> list[str]:
        """Return the clients that are online and that the method can use."""
        return self.method.candidates(self.roster.available())

    def _least(self) -> int:
        """Return the smallest number of clients to ask."""
        return max(1, min(self.settings.min_replies, len(self._candidates())))

    def _sample(self, round: int) -> list[str]:
        """Draw the round's clients from the idle ones, by name."""
        names = self._free()
        share = math.floor(self.settings.fraction_train * len(names) + 0.5)
        wanted = min(len(names), max(share, self._least()))
        seed = derive_seed(self.settings.seed, "sample")
        return [names[index] for index in draw_subset(seed, round, len(names), wanted)]

    def _give_up(self) -> None:
        now = self._clock.now()
        for asked in list(self._out):
            if not self.roster.is_online(asked.message.metadata.dst_node_id):
                self._out.remove(asked)
                self._fail(asked, "its node went offline")
            elif now >= asked.until:
                self._out.remove(asked)

    def _take(self, reply: Message) -> None:
        self._count(Traffic(wire_up=wire_bytes(reply)))
        answered = reply.metadata.reply_to_message_id
        asked = next((out for out in self._out if out.message.metadata.message_id == answered), None)
        if asked is None:
            log.warning("A reply to message %s was dropped: no reply to it is expected", answered)
            return
        self._out.remove(asked)
        if reply.has_error():
            self._fail(asked, _last_line(reply.error.reason) or f"error {reply.error.code}")
            return
        try:
            content = unmark_reply(reply.content, asked.round)
            incoming = self.method.accept(asked.client, asked.round, content)
        except MessageError as error:
            self._fail(asked, f"refused: {error}")
            return
        self._count(Traffic(paper_up=incoming.paper_up))
        if incoming.notes:
            log.warning("Round %d: %s: %s", asked.round, asked.client, incoming.notes)
        if self._is_current(asked):
            self.report.evaluations[asked.client] = incoming.evaluation
        else:
            log.info("Round %d: the reply of %s came late", asked.round, asked.client)

    def _fail(self, asked: _Asked, reason: str) -> None:
        """Record a failure; a late reply was already recorded as missing in its round."""
        if self._is_current(asked):
            self.report.failed[asked.client] = reason
        else:
            log.warning("Round %d: %s failed late: %s", asked.round, asked.client, reason)

    def _is_current(self, asked: _Asked) -> bool:
        return self._running and asked.round == self.report.round

    def _count(self, traffic: Traffic) -> None:
        if self._running:
            self.report.traffic += traffic
        else:
            self._between_rounds += traffic

    def _check_quorum(self) -> None:
        report, needed = self.report, self.settings.min_replies
        accepted, asked = len(report.evaluations), len(report.asked)
        if accepted < needed:
            raise FederationError(
                f"round {report.round}: replies of {accepted} of {asked} clients were accepted, "
                f"min-replies is {needed}; a resumed run continues after the round before"
            )

    def _result(self) -> tuple[ArrayRecord | None, MetricRecord | None]:
        weights, figures = self.method.weights(), self.report.clients
        arrays = ArrayRecord(dict(weights)) if weights else None
        metrics = None
        if figures is not None:
            metrics = MetricRecord({"accuracy": figures.accuracy, "loss": figures.loss})
        return arrays, metrics


def _last_line(reason: str | None) -> str:
    """Return the last line of an error's reason, which may contain a whole traceback."""
    lines = [line.strip() for line in (reason or "").splitlines() if line.strip()]
    return lines[-1] if lines else ""
