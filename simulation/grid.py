"""A Flower grid inside the server's process: real ClientApps, real serialisation, and faults on demand."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, TypeVar

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from protocol.messages import TRAIN, Payload, unmark_reply
from simulation.clock import SimulationClock
from simulation.executors import Executor
from simulation.messages import RUN_ID

FIRST_NODE = 2**62 + 1000
_NO_RUN = "a simulation in this process has no SuperLink, and so no run of one"
PayloadT = TypeVar("PayloadT", bound=Payload)


@dataclass
class Delivery:
    """A reply on its way to the server."""

    reply: Message
    at: float


@dataclass
class SimulatedNode:
    """A node: its context, and whether it is connected."""

    context: Context
    online: bool = True
    handled: list[str] = field(default_factory=list)


Faults = Callable[[Message, Message, float], list[Delivery]]
"""Maps a request, the reply to it and the time to the replies that reach the server, and when."""


def no_faults(request: Message, reply: Message, now: float) -> list[Delivery]:
    """Deliver every reply at once.

    Parameters
    ----------
    request
        The server's message; it has no influence.
    reply
        The node's reply.
    now
        The time in seconds.
    """
    return [Delivery(reply, now)]


class InProcessGrid(Grid):
    """Flower's grid without a SuperLink: it hands each message to an executor and keeps the replies.

    With a `SimulatedClock` time stands still while clients work, and replies are delivered in the order in
    which messages were sent; with a `RealClock` they are delivered as they come.

    Parameters
    ----------
    executor
        Does the clients' work.
    clock
        Simulated or real time.
    faults
        Drops, delays or repeats replies.
    recording
        Whether all messages are kept in memory, so that they can be read later.
    """

    def __init__(
        self,
        executor: Executor,
        clock: SimulationClock,
        faults: Faults = no_faults,
        recording: bool = False,
    ) -> None:
        self.clock = clock
        self.faults = faults
        self.nodes: dict[int, SimulatedNode] = {}
        self.requests: list[Message] = []
        self.replies: list[Message] = []
        self._executor = executor
        self._recording = recording
        self._sent = 0
        self._unanswered: dict[str, Message] = {}
        self._answers: dict[str, Message] = {}
        self._deliveries: list[Delivery] = []

    # --- nodes ---------------------------------------------------------------------------------

    def add_node(self, run_config: Mapping[str, Any], node_config: Mapping[str, Any]) -> int:
        """Connect a node and return its id.

        Parameters
        ----------
        run_config
            Of the run, as Flower gives it to the node.
        node_config
            The node's own settings.
        """
        node_id = FIRST_NODE + len(self.nodes)
        context = Context(RUN_ID, node_id, dict(node_config), RecordDict(), dict(run_config))
        self.nodes[node_id] = SimulatedNode(context)
        return node_id

    def add_simulated_nodes(self, run_config: Mapping[str, Any], count: int) -> list[int]:
        """Connect nodes as a simulation has them, each with its partition and no name; return their ids.

        Parameters
        ----------
        run_config
            Of the run, as Flower gives it to the nodes.
        count
            How many nodes.
        """
        configs = [{"partition-id": index, "num-partitions": count} for index in range(count)]
        return [self.add_node(run_config, config) for config in configs]

    # --- what was said, if it is recorded ------------------------------------------------------

    def requests_to(self, node_id: int) -> list[Message]:
        """Return the rounds' messages to a node, in order."""
        return [
            message
            for message in self.requests
            if is_train(message) and message.metadata.dst_node_id == node_id
        ]

    def replies_of(self, node_id: int) -> list[Message]:
        """Return the rounds' replies of a node that the server has taken, in order."""
        return [reply for reply in self.replies if is_train(reply) and reply.metadata.src_node_id == node_id]

    # --- Flower's interface --------------------------------------------------------------------

    def set_run(self, run: Run) -> None:
        """Raise an error: there is no SuperLink of which this could be a run."""
        raise NotImplementedError(_NO_RUN)

    @property
    def run(self) -> Run:
        """Raise an error: there is no SuperLink of which this could be a run."""
        raise NotImplementedError(_NO_RUN)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Raise an error: Flower makes messages with ``Message(...)`` now."""
        raise NotImplementedError("Grid.create_message is deprecated in Flower: use flwr.app.Message(...)")

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes that are online."""
        return [node_id for node_id, node in self.nodes.items() if node.online]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; return their ids. A node that is offline never answers."""
        return [self._send(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages that have arrived by now; each is returned once."""
        wanted = set(message_ids)
        if not self.clock.work_takes_time:
            self._executor.finish(self._sent_until(wanted))
        self._collect()
        now = self.clock.now()
        due: list[Delivery] = []
        later: list[Delivery] = []
        for delivery in self._deliveries:
            arrived = delivery.at <= now and delivery.reply.metadata.reply_to_message_id in wanted
            (due if arrived else later).append(delivery)
        self._deliveries = later
        arrived_replies = [delivery.reply for delivery in due]
        if self._recording:
            self.replies += arrived_replies
        return arrived_replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages, and let time pass until all are answered or it is up.

        Parameters
        ----------
        messages
            To nodes.
        timeout
            Seconds to wait; None: until the messages are too old to be answered.
        """
        messages = list(messages)
        ids = list(self.push_messages(messages))
        lifetime = max((message.metadata.ttl for message in messages), default=0.0)
        until = self.clock.now() + (lifetime if timeout is None else timeout)
        replies = list(self.pull_messages(ids))
        while len(replies) < len(ids) and self.clock.now() < until:
            self.clock.sleep()
            replies += self.pull_messages(ids)
        return replies

    # --- parts ---------------------------------------------------------------------------------

    def _send(self, message: Message) -> str:
        self._sent += 1
        message_id = f"{self._sent:064x}"
        message.metadata.__dict__["_message_id"] = message_id
        if self._recording:
            self.requests.append(message)
        node = self.nodes[message.metadata.dst_node_id]
        if node.online:
            node.handled.append(message.metadata.message_type)
            self._unanswered[message_id] = message
            self._executor.submit(message, node.context)
            self._collect()
        return message_id

    def _sent_until(self, wanted: set[str]) -> list[str]:
        """Return the unanswered messages up to the last wanted one, in the order in which they were sent."""
        unanswered = list(self._unanswered)
        last = max((place for place, sent in enumerate(unanswered, start=1) if sent in wanted), default=0)
        return unanswered[:last]

    def _collect(self) -> None:
        """Send on its way what nodes have answered."""
        for reply in self._executor.replies():
            self._answers[reply.metadata.reply_to_message_id] = reply
        answered = self._answers.__contains__
        in_any_order = self.clock.work_takes_time
        ready = filter(answered, self._unanswered) if in_any_order else takewhile(answered, self._unanswered)
        for message_id in list(ready):
            request, reply = self._unanswered.pop(message_id), self._answers.pop(message_id)
            self._deliveries += self.faults(request, reply, self.clock.now())


def is_train(message: Message) -> bool:
    """Tell a round's message from a hello."""
    return message.metadata.message_type == TRAIN


def read_reply(kind: type[PayloadT], reply: Message) -> PayloadT:
    """Return a reply's payload.

    Raises
    ------
    MessageError
        If it is no such payload.
    """
    return kind.from_record(unmark_reply(reply.content, int(reply.metadata.group_id)))
