"""A grid on which no node can block or end a run: replies are limited in size, and checked before use.

If a node's connection is slow or cut, Flower's own grid waits minutes for the rest of its reply and takes no
other reply meanwhile. It also accepts replies of any size, raises if a part cannot be read, and accepts a
reply that claims to answer another node's message.
"""

import threading
import time
from collections.abc import Callable, Iterable

from flwr.app import Message, RecordDict
from flwr.app.error import Error
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    inflate_object_from_contents,
    pull_objects,
)
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid import HttpGrid

_FREE_BYTES = 64 * 10**6
_TIMES_SENT = 4
_MOST_PARTS = 100_000
_FORGET_SECONDS = 300.0


Pull = Callable[[str], bytes]
"""Fetches a part of a reply by its id."""


class UnusableReplyError(Exception):
    """A reply that cannot be made into a message."""


class BoundedGrid(Grid):
    """Flower's grid, but a reply is taken only when it is complete, small enough and readable.

    Any other becomes an error reply of the node that sent it. The limit is 64 MB plus four times the bytes of
    the largest weights that were sent to any node.

    Parameters
    ----------
    grid
        Flower's.
    """

    def __init__(self, grid: HttpGrid) -> None:
        self._grid = grid
        self._arriving: dict[str, _Arriving] = {}
        self._largest_sent = 0

    # --- passed on to Flower's grid --------------------------------------------------------------

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message; deprecated in Flower, as a message can be constructed directly."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes that are online."""
        return self._grid.get_node_ids()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and wait for the replies, which are not limited or checked."""
        return self._grid.send_and_receive(messages, timeout=timeout)

    # --- limited and checked ---------------------------------------------------------------------

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; return their ids."""
        messages = list(messages)
        self._largest_sent = max([self._largest_sent, *map(_weight_bytes, messages)])
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the complete replies to these messages, and an error for each that cannot be used."""
        wanted = set(message_ids)
        self._look_for(wanted - self._arriving.keys())
        arrived = [self._fetch(answered) for answered in sorted(wanted & self._arriving.keys())]
        self._forget()
        return [message for message in arrived if message is not None]

    # --- parts ---------------------------------------------------------------------------------

    @property
    def _client(self) -> RuntimeHttpClient:
        return self._grid._runtime_client

    @property
    def _most_bytes(self) -> int:
        return _FREE_BYTES + _TIMES_SENT * self._largest_sent

    def _look_for(self, message_ids: set[str]) -> None:
        """Note which replies have begun to arrive; the SuperLink reports each once."""
        if not message_ids:
            return
        response = self._client.PullMessages(PullAppMessagesRequest(message_ids=sorted(message_ids)))
        for proto, tree in zip(response.messages_list, response.message_object_trees, strict=True):
            self._arriving[proto.metadata.reply_to_message_id] = _Arriving(proto, tree)

    def _fetch(self, answered: str) -> Message | None:
        """Fetch what has arrived of a reply; return the reply if it is complete."""
        arriving = self._arriving[answered]
        pull = make_pull_object_fn_protobuf(self._client.PullObject, self._grid.node, self.run.run_id)
        try:
            if not arriving.fetch(pull, self._most_bytes):
                return None
            message = arriving.message()
        except UnusableReplyError as error:
            message = arriving.refusal(str(error))
        self._drop(answered)
        return message

    def _drop(self, answered: str) -> None:
        """Forget a reply, and tell the SuperLink that it can be deleted."""
        object_id = self._arriving.pop(answered).object_id
        request = ConfirmMessageReceivedRequest(
            node=self._grid.node, run_id=self.run.run_id, message_object_id=object_id
        )
        self._client.ConfirmMessageReceived(request)

    def _forget(self) -> None:
        """Drop replies that were not asked for in a while: their messages were given up."""
        now = time.monotonic()
        for answered, arriving in list(self._arriving.items()):
            if now - arriving.asked_at > _FORGET_SECONDS:
                self._drop(answered)


def _weight_bytes(message: Message) -> int:
    """Return the bytes of the weights in a message; all else in it is small."""
    return sum(record.count_bytes() for record in message.content.array_records.values())


class _Arriving:
    """A reply of which some parts may not have arrived yet."""

    def __init__(self, proto: MessageProto, tree: ObjectTree) -> None:
        self.object_id: str = proto.metadata.message_id
        self.asked_at = time.monotonic()
        self._metadata = metadata_from_proto(proto.metadata)
        self._parts = list(dict.fromkeys(part.object_id for part in iterate_object_tree(tree)))
        self._contents: dict[str, bytes] = {}
        self._size = 0
        self._counting = threading.Lock()
        self._waiting = False

    def fetch(self, pull: Pull, most_bytes: int) -> bool:
        """Fetch the parts that have arrived; tell whether the reply is complete.

        Raises
        ------
        UnusableReplyError
            If the reply is too large, or its node did not send all of it in time.
        """
        if len(self._parts) > _MOST_PARTS:
            raise UnusableReplyError(f"it has {len(self._parts)} parts, {_MOST_PARTS} are allowed")
        self.asked_at, self._waiting = time.monotonic(), False
        missing = [part for part in self._parts if part not in self._contents]
        try:
            pull_objects(missing, lambda part: self._pull(part, pull, most_bytes), max_tries_per_object=1)
        except ObjectPullError as error:
            if self._waiting:
                return False
            raise UnusableReplyError("its node did not send all of it") from error
        return True

    def message(self) -> Message:
        """Make a message of the parts; which message it answers is taken from what the SuperLink checked.

        Raises
        ------
        UnusableReplyError
            If the parts do not make a message.
        """
        try:
            inflated = inflate_object_from_contents(self.object_id, self._contents)
        except Exception as error:  # whatever Flower's parsers raise on such bytes
            raise UnusableReplyError(f"it cannot be read ({type(error).__name__})") from error
        if not isinstance(inflated, Message):
            raise UnusableReplyError(f"it is a {type(inflated).__name__}, not a message")
        if inflated.has_error():
            return make_message(self._metadata, error=inflated.error)
        if not isinstance(inflated.content, RecordDict):
            raise UnusableReplyError(f"its content is a {type(inflated.content).__name__}, not a RecordDict")
        return make_message(self._metadata, content=inflated.content)

    def refusal(self, reason: str) -> Message:
        """Return the error that takes the reply's place."""
        return make_message(
            self._metadata, error=Error(ErrorCode.MESSAGE_UNAVAILABLE, f"refused its reply: {reason}")
        )

    def _pull(self, part: str, pull: Pull, most_bytes: int) -> bytes:
        try:
            content = pull(part)
        except ObjectUnavailableError:
            self._waiting = True
            raise
        with self._counting:
            self._contents[part] = content
            self._size += len(content)
            if self._size > most_bytes:
                raise UnusableReplyError(f"it has more than the {most_bytes / 1e6:.0f} MB that are allowed")
        return content
