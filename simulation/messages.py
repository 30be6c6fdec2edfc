"""Messages as bytes, and what becomes of one at a node: the real ClientApp's reply, or an error."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from flwr.app import Context, Message, RecordDict
from flwr.app.error import Error
from flwr.app.message import make_message, remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

RUN_ID = 2**62 + 1
SERVER_NODE = 1
_TASK_ID = 2**62 + 7


@dataclass(frozen=True)
class PackedMessage:
    """A message as the bytes that Flower sends."""

    header: bytes
    """The message without its content: who sends it to whom, or an error."""
    objects: Mapping[str, bytes]
    """The objects of its content by Flower's ids, the content itself last; none in an error."""


def pack(message: Message) -> PackedMessage:
    """Write a message as bytes."""
    header = message_to_proto(remove_content_from_message(message)).SerializeToString()
    if message.has_error():
        return PackedMessage(header, {})
    with no_object_id_recompute():
        parts = get_all_nested_objects(message.content)
        return PackedMessage(header, {object_id: part.deflate() for object_id, part in parts.items()})


def unpack(packed: PackedMessage) -> Message:
    """Return what the other side gets to see: a message made from bytes alone."""
    message = message_from_proto(MessageProto.FromString(packed.header))
    if message.has_error():
        return message
    content = inflate_object_from_contents(list(packed.objects)[-1], dict(packed.objects))
    assert isinstance(content, RecordDict)
    return make_message(message.metadata, content=content)


def answer(app: ClientApp, request: PackedMessage, context: Context) -> PackedMessage:
    """Let a node's ClientApp answer a message.

    Parameters
    ----------
    app
        The ClientApp.
    request
        The message.
    context
        The node's; the app may change its state.

    Returns
    -------
    PackedMessage
        The reply; if the app raised an exception, an error that names it.
    """
    message = unpack(request)
    with task_identity(message.metadata.dst_node_id):
        try:
            reply = app(message, context)
            reply.metadata.__dict__["_reply_to_message_id"] = message.metadata.message_id
            return pack(reply)
        except Exception as error:  # whatever an app raises is the sender's to hear of, as over Flower
            return pack(error_reply(message, f"{type(error).__name__}: {error}", ErrorCode.UNKNOWN))


def error_reply(message: Message, reason: str, code: int) -> Message:
    """Return an error in the place of a reply.

    Parameters
    ----------
    message
        What it replies to.
    reason
        What happened, for the person who runs the federation.
    code
        One of Flower's ``ErrorCode``.
    """
    return Message(Error(code, reason), reply_to=message)


@contextmanager
def task_identity(node_id: int = SERVER_NODE) -> Iterator[None]:
    """Be one of Flower's tasks for a while: no message can be made outside of one.

    Parameters
    ----------
    node_id
        Of the node whose task it is; the server's if not given.
    """
    before = (TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, node_id, _TASK_ID
    try:
        yield
    finally:
        TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before
