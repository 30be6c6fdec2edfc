"""A launcher whose ClientApps do their work and then send something else: what a hostile node may do.

``python hostile.py FILE …`` takes the launcher's flags after FILE, which holds an order; without one, replies
leave as they are. It runs the real app, so that all but the reply is as it should be.
"""

import os
import pickle
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PushAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import get_object_id
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime import run_clientapp as flower
from numpy.typing import NDArray

from deploy import warm_executor

FIELDS, WEIGHTS = "fields", "weights"
_MEGABYTE = 10**6
Change = Callable[[RecordDict], None]

Push = Callable[[RuntimeHttpClient, Message, Context], None]
honestly: Push = flower.push_message


# --- replies that are changed ------------------------------------------------------------------


def flip_bits(content: RecordDict) -> None:
    """Flip bits all over what was learned."""
    if WEIGHTS in content:
        for name, array in content[WEIGHTS].items():
            content[WEIGHTS][name] = Array((array.numpy().view(np.uint8) ^ 0x5A).view(array.dtype))
    elif "labels" in content[FIELDS]:
        content[FIELDS]["labels"] = bytes(byte ^ 0x5A for byte in content[FIELDS]["labels"])


def not_a_number(content: RecordDict) -> None:
    """Send NaN."""
    if WEIGHTS in content:
        for name, array in content[WEIGHTS].items():
            content[WEIGHTS][name] = Array(np.full(array.shape, np.nan, array.dtype))
    else:
        content[FIELDS]["labels"] = np.full(len(content[FIELDS]["labels"]) // 2, np.nan, "<f2").tobytes()


def other_shapes(content: RecordDict) -> None:
    """Send arrays of other shapes than asked for."""
    if WEIGHTS in content:
        for name, array in content[WEIGHTS].items():
            content[WEIGHTS][name] = Array(np.concatenate([array.numpy().ravel()] * 2))
    else:
        content[FIELDS]["labels"] = content[FIELDS]["labels"] * 2


def other_keys(content: RecordDict) -> None:
    """Send a record that nobody asked for in the place of the fields."""
    content[FIELDS] = ConfigRecord({"round": content[FIELDS]["round"], "accuracy": [1.0, 2.0]})


def gigabyte(content: RecordDict) -> None:
    """Add a gigabyte of weights."""
    content[WEIGHTS] = ArrayRecord({f"w{i}": Array(_noise(100 * _MEGABYTE)) for i in range(10)})


# --- replies that are no messages --------------------------------------------------------------


def junk(client: RuntimeHttpClient, message: Message, context: Context) -> None:
    """Send a content whose head is right and whose body is not."""
    body = b"\xff\xfe\xfd"
    _push_forged(client, message, context, b"RecordDict  %d\0%s" % (len(body), body))


def other_type(client: RuntimeHttpClient, message: Message, context: Context) -> None:
    """Send an object of another type than a message's content."""
    _push_forged(client, message, context, ConfigRecord({"accuracy": 1.0}).deflate())


def promised(client: RuntimeHttpClient, message: Message, context: Context) -> None:
    """Announce a reply and never send what is in it."""
    _push_forged(client, message, context, ConfigRecord({"never": "sent"}).deflate(), sent=False)


def half(client: RuntimeHttpClient, message: Message, context: Context) -> None:
    """Die amid the reply, as of too little memory."""
    promised(client, message, context)
    os.kill(os.getpid(), signal.SIGKILL)


def _push_forged(
    client: RuntimeHttpClient, message: Message, context: Context, content: bytes, *, sent: bool = True
) -> None:
    """Send a reply whose content is any bytes."""
    content_id = get_object_id(content)
    body = message.deflate().split(b"\0", 1)[1]
    root = b"Message %s %d\0%s" % (content_id.encode(), len(body), body)
    bare = message_to_proto(remove_content_from_message(message))
    bare.metadata.message_id = get_object_id(root)
    tree = ObjectTree(object_id=bare.metadata.message_id, children=[ObjectTree(object_id=content_id)])
    request = PushAppMessagesRequest(messages_list=[bare], message_object_trees=[tree])
    session = client.PushMessages(request).session_id
    for object_bytes in (content, root) if sent else (root,):
        client.PushObject(
            PushObjectRequest(
                node=Node(node_id=context.node_id),
                run_id=context.run_id,
                session_id=session,
                object_id=get_object_id(object_bytes),
                object_content=object_bytes,
            )
        )


CHANGES: dict[str, Change] = {
    "bits": flip_bits,
    "nan": not_a_number,
    "shapes": other_shapes,
    "keys": other_keys,
    "gigabyte": gigabyte,
}
SENDINGS: dict[str, Push] = {"junk": junk, "type": other_type, "promised": promised, "half": half}


class Saboteur:
    """Stands in for the ClientApp's ``push_message``.

    Parameters
    ----------
    orders
        A file that holds the order of the next reply to a round's message; it is emptied when obeyed.
    """

    def __init__(self, orders: Path) -> None:
        self._orders = orders

    def __call__(self, client: RuntimeHttpClient, message: Message, context: Context) -> None:
        """Send what the order says."""
        order = self._order() if message.metadata.message_type == MessageType.TRAIN else ""
        kept = self._orders.with_suffix(f".{message.metadata.run_id}")
        if order == "replay":
            message.content = pickle.loads(kept.read_bytes())
        elif (
            message.has_content() and message.metadata.message_type == MessageType.TRAIN and not kept.exists()
        ):
            kept.write_bytes(pickle.dumps(message.content))
        if order in SENDINGS:
            SENDINGS[order](client, message, context)
            return
        if order in CHANGES:
            CHANGES[order](message.content)
        honestly(client, message, context)

    def _order(self) -> str:
        order = self._orders.read_text() if self._orders.exists() else ""
        self._orders.write_text("")
        return order


def main() -> None:
    """Run the launcher."""
    orders = Path(sys.argv.pop(1))
    flower.push_message = Saboteur(orders)
    warm_executor.main()


def _noise(size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)


if __name__ == "__main__":
    main()
