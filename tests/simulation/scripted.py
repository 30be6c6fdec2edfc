"""A ClientApp that does what its message says, and messages for it."""

import os
import signal
import sys
import time

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from simulation.grid import InProcessGrid

app = ClientApp()


@app.train()
def do_as_told(message: Message, context: Context) -> Message:
    told = message.content["fields"]
    time.sleep(told.get("seconds", 0))
    match told.get("do"):
        case "raise":
            raise OSError("no space left on device")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            sys.exit(3)
    counted = context.state.setdefault("counted", ConfigRecord({"messages": 0}))
    counted["messages"] += 1
    said = {"process": os.getpid(), "threads": torch.get_num_threads(), **counted, **context.node_config}
    return Message(RecordDict({"fields": ConfigRecord({**told, **said})}), reply_to=message)


def telling(node_id: int, **fields: str | float | bytes) -> Message:
    """Return a message that tells a node what to do."""
    return Message(RecordDict({"fields": ConfigRecord(fields)}), dst_node_id=node_id, message_type="train")


def said(reply: Message) -> ConfigRecord:
    """Return what a node said."""
    return reply.content["fields"]


def exchange(grid: Grid, *messages: Message) -> list[Message]:
    """Send messages and return the replies."""
    return list(grid.send_and_receive(messages, timeout=60))


def with_nodes(grid: InProcessGrid, count: int) -> list[int]:
    """Connect nodes to a grid; return their ids."""
    return [grid.add_node({}, {"number": number}) for number in range(count)]
