"""A Flower grid inside one process: real ClientApps, real serialisation, and faults on demand."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flwr.app import Context, Message, RecordDict
from flwr.app.error import Error
from flwr.app.message import make_message
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from protocol.messages import TRAIN, Payload, unmark_reply
from simulation.clock import SimulatedClock

RUN_ID = 2**62 + 1
SERVER_NODE = 1
FIRST_NODE = 2**62 + 1000
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
"""Given a request, the reply to it and the time: what reaches the server, and when."""


def no_faults(request: Message, reply: Message, now: float) -> list[Delivery]:
    """Deliver every reply at once."""
    return [Delivery(reply, now)]


class InProcessGrid(Grid):
    """Runs each message in the real ClientApp as soon as it is pushed."""

    def __init__(self, app: ClientApp, clock: SimulatedClock, faults: Faults = no_faults) -> None:
        self.app = app
        self.clock = clock
        self.faults = faults
        self.nodes: dict[int, SimulatedNode] = {}
        self.requests: list[Message] = []
        self.replies: list[Message] = []
        self._deliveries: list[Delivery] = []
        self._sent = 0

    # --- nodes ---------------------------------------------------------------------------------

    def add_node(self, run_config: Mapping[str, Any], node_config: Mapping[str, Any]) -> int:
        """Connect a node and return its id."""
        node_id = FIRST_NODE + len(self.nodes)
        context = Context(RUN_ID, node_id, dict(node_config), RecordDict(), dict(run_config))
        self.nodes[node_id] = SimulatedNode(context)
        return node_id

    def add_simulated_nodes(self, run_config: Mapping[str, Any], count: int) -> list[int]:
        """Connect nodes as a simulation has them: each with its partition and no name."""
        configs = [{"partition-id": index, "num-partitions": count} for index in range(count)]
        return [self.add_node(run_config, config) for config in configs]

    # --- what was said -------------------------------------------------------------------------

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
        """Refuse: nothing sets a run here."""
        raise AssertionError("nothing sets a run here")

    @property
    def run(self) -> Run:
        """Refuse: nothing needs the run here."""
        raise AssertionError("nothing needs the run here")

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Refuse: deprecated in Flower."""
        raise AssertionError("deprecated in Flower")

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes that are online."""
        return [node_id for node_id, node in self.nodes.items() if node.online]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Let each node that is online answer at once; return the messages' ids."""
        ids = []
        for message in messages:
            self._sent += 1
            message.metadata.__dict__["_message_id"] = f"{self._sent:064x}"
            ids.append(message.metadata.message_id)
            self.requests.append(message)
            if self.nodes[message.metadata.dst_node_id].online:
                reply = self._handle(message)
                self._deliveries += self.faults(message, reply, self.clock.now())
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages that have arrived by now."""
        wanted = set(message_ids)
        due = [
            delivery
            for delivery in self._deliveries
            if delivery.at <= self.clock.now() and delivery.reply.metadata.reply_to_message_id in wanted
        ]
        self._deliveries = [delivery for delivery in self._deliveries if delivery not in due]
        self.replies += [delivery.reply for delivery in due]
        return [delivery.reply for delivery in due]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages, and let time pass until all are answered or it is up."""
        ids = list(self.push_messages(messages))
        until = self.clock.now() + (timeout or 3600)
        replies: list[Message] = []
        while len(replies) < len(ids) and self.clock.now() < until:
            replies += self.pull_messages(ids)
            self.clock.sleep()
        return replies

    # --- parts ---------------------------------------------------------------------------------

    def _handle(self, message: Message) -> Message:
        node = self.nodes[message.metadata.dst_node_id]
        node.handled.append(message.metadata.message_type)
        with task_identity(message.metadata.dst_node_id):
            try:
                reply = self.app(_over_the_wire(message), node.context)
            except Exception as error:
                return Message(Error(code=0, reason=f"{type(error).__name__}: {error}"), reply_to=message)
            copy = _over_the_wire(reply)
        copy.metadata.__dict__["_reply_to_message_id"] = message.metadata.message_id
        return copy


@contextmanager
def task_identity(node_id: int = SERVER_NODE) -> Iterator[None]:
    """Be a task of Flower's, without which no message can be made."""
    before = (TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, node_id, 2**62 + 7
    try:
        yield
    finally:
        TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before


def is_train(message: Message) -> bool:
    """Tell a round's message from a hello."""
    return message.metadata.message_type == TRAIN


def read_reply(kind: type[PayloadT], reply: Message) -> PayloadT:
    """Return a reply's payload."""
    return kind.from_record(unmark_reply(reply.content, int(reply.metadata.group_id)))


def _over_the_wire(message: Message) -> Message:
    """Return what the other side gets to see: a copy made from bytes."""
    content = recorddict_from_proto(recorddict_to_proto(message.content))
    return make_message(message.metadata, content=content)
