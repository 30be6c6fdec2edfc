"""The clients of a run: each node is sent a hello once, and is known by its client's name afterwards."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from protocol.errors import FederationError, MessageError
from protocol.ledger import Traffic, wire_bytes
from protocol.messages import HELLO, HelloReply, HelloRequest
from server_app.clock import Clock

log = logging.getLogger("flwr")

_ATTEMPTS = 3
_REFRESH_SECONDS = 1.0


@dataclass(frozen=True)
class Terms:
    """What a node must have in common with the server to join."""

    experiment: str
    pool_digest: str
    code_digest: str
    simulation: bool
    """Whether nodes are simulated; a real one must have a name of its own."""


@dataclass(frozen=True)
class Member:
    """A client that has joined."""

    name: str
    node_id: int
    model: str
    level: int | None
    """The level of its elastic network; None for other networks."""


class Roster:
    """The clients of an experiment, by name.

    The grid only knows node ids, which change when a node restarts. Each new id is sent one hello; the client
    takes part from the next round on.

    Parameters
    ----------
    terms
        What nodes must have in common with the server.
    greet
        Called for each client that joins; returns a remark for the log, and raises ``MessageError`` to refuse
        it.
    clock
        The time, for deadlines.
    hello_seconds
        Seconds to wait for the reply to a hello.
    """

    def __init__(
        self, terms: Terms, greet: Callable[[HelloReply], str], clock: Clock, hello_seconds: float
    ) -> None:
        self.terms = terms
        self.members: dict[str, Member] = {}
        self.refused: dict[int, str] = {}
        self.traffic = Traffic()
        self._greet = greet
        self._clock = clock
        self._hello_seconds = hello_seconds
        self._online: set[int] = set()
        self._pending: dict[str, tuple[int, float]] = {}
        self._attempts: dict[int, int] = {}
        self._queueing: dict[int, HelloReply] = {}
        self._refreshed_at = float("-inf")

    # --- asking --------------------------------------------------------------------------------

    def refresh(self, grid: Grid) -> None:
        """Find out which nodes are online, and send a hello to new ones; at most once per second."""
        if self._clock.now() - self._refreshed_at < _REFRESH_SECONDS:
            return
        self._refreshed_at = self._clock.now()
        self._online = set(grid.get_node_ids())
        self._expire()
        for node_id, hello in list(self._queueing.items()):
            self._admit_or_queue(node_id, hello)
        messages = [self._hello(node_id) for node_id in sorted(self._online) if self._is_new(node_id)]
        grid.push_messages(messages)
        for message in messages:
            until = self._clock.now() + self._hello_seconds
            self._pending[message.metadata.message_id] = (message.metadata.dst_node_id, until)
            self.traffic += Traffic(wire_down=wire_bytes(message))

    def pull(self, grid: Grid) -> None:
        """Process the replies to hellos that have arrived."""
        if self._pending:
            for reply in grid.pull_messages(list(self._pending)):
                self._take(reply)

    def settled(self) -> bool:
        """Tell whether every hello has been answered."""
        return not self._pending

    def all_refused(self) -> bool:
        """Tell whether every node was refused; in a simulation no other will join."""
        return self.terms.simulation and bool(self.refused) and self._online == set(self.refused)

    def shortage(self, wanted: int, seconds: float) -> FederationError:
        """Return the error that names the clients that joined and why others did not."""
        known = ", ".join(self.available()) or "none"
        doubles = {
            node_id: f"another node that is online is client {hello.client!r}"
            for node_id, hello in self._queueing.items()
        }
        refused = self.refused | doubles
        reasons = "".join(f"\n  node {node_id}: {reason}" for node_id, reason in refused.items())
        return FederationError(
            f"waited {seconds:.0f} s (at most wait-for-nodes) for {wanted} clients (min-nodes, min-replies); "
            f"available: {known}; "
            f"nodes that have not answered the hello: {len(self._pending)}; refused: {len(refused)}{reasons}"
        )

    # --- knowing -------------------------------------------------------------------------------

    def available(self) -> list[str]:
        """Return the names of the clients whose nodes are online, sorted."""
        return sorted(name for name, member in self.members.items() if member.node_id in self._online)

    def is_online(self, node_id: int) -> bool:
        """Tell whether a node was online at the last `refresh`."""
        return node_id in self._online

    # --- deciding ------------------------------------------------------------------------------

    def _take(self, reply: Message) -> None:
        self.traffic += Traffic(wire_up=wire_bytes(reply))
        node_id, _ = self._pending.pop(reply.metadata.reply_to_message_id, (None, None))
        if node_id is None:
            log.warning("A repeated reply to a hello was dropped")
            return
        if reply.has_error():
            self._failed(node_id, reply.error.reason or f"error {reply.error.code}")
            return
        try:
            hello = HelloReply.from_record(reply.content)
        except MessageError as error:
            self._refuse(node_id, str(error))
            return
        if objection := self._objection(hello):
            self._refuse(node_id, f"client {hello.client!r}: {objection}")
        else:
            self._admit_or_queue(node_id, hello)

    def _objection(self, hello: HelloReply) -> str:
        terms = self.terms
        if hello.simulated and not terms.simulation:
            return 'a real node needs client-name = "…" in its --node-config'
        if hello.pool_digest != terms.pool_digest:
            return f"its public pool is {hello.pool_digest}, the server's is {terms.pool_digest}"
        if hello.code_digest != terms.code_digest:
            return f"its code is {hello.code_digest}, the server's is {terms.code_digest}"
        return ""

    def _admit_or_queue(self, node_id: int, hello: HelloReply) -> None:
        """Admit a node, unless another node with its name is online: then it must wait."""
        holder = self.members.get(hello.client)
        if holder is not None and holder.node_id != node_id and holder.node_id in self._online:
            if node_id not in self._queueing:
                log.warning(
                    "Node %s refused while another node that is online is client %r", node_id, hello.client
                )
            self._queueing[node_id] = hello
            return
        self._queueing.pop(node_id, None)
        if node_id not in self._online:
            return
        try:
            remark = self._greet(hello)
        except MessageError as error:
            self._refuse(node_id, f"client {hello.client!r}: {error}")
            return
        self.members[hello.client] = Member(hello.client, node_id, hello.model, hello.level)
        log.info("Client %s joined (%s)%s", hello.client, hello.model, f": {remark}" if remark else "")
        if hello.notes:
            log.warning("Client %s: %s", hello.client, hello.notes)

    def _refuse(self, node_id: int, reason: str) -> None:
        self.refused[node_id] = reason
        log.error("Node %s refused: %s", node_id, reason)

    def _failed(self, node_id: int, reason: str) -> None:
        """Count a hello that failed on the node; it is repeated a few times."""
        self._attempts[node_id] = self._attempts.get(node_id, 0) + 1
        if self._attempts[node_id] >= _ATTEMPTS:
            self._refuse(node_id, reason)
        else:
            log.warning("Node %s failed to answer the hello: %s", node_id, reason)

    # --- parts ---------------------------------------------------------------------------------

    def _is_new(self, node_id: int) -> bool:
        met = {member.node_id for member in self.members.values()} | set(self.refused) | set(self._queueing)
        return node_id not in met | {asked for asked, _ in self._pending.values()}

    def _hello(self, node_id: int) -> Message:
        content = HelloRequest(self.terms.experiment).to_record()
        return Message(content, dst_node_id=node_id, message_type=HELLO, ttl=self._hello_seconds)

    def _expire(self) -> None:
        now = self._clock.now()
        for message_id, (node_id, until) in list(self._pending.items()):
            if now >= until or node_id not in self._online:
                del self._pending[message_id]
        for node_id in set(self._queueing) - self._online:
            del self._queueing[node_id]
        for node_id in set(self.refused) - self._online:  # it may be repaired and come back with the same id
            del self.refused[node_id]
