"""Orders a node to do odd things, one after another, and writes down what came back and when."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

ALREADY_IMPORTED = "torch" in sys.modules  # before this app, or anything it imports, could have done it
MESSAGES_SEEN = []

server = ServerApp()
client = ClientApp()


@client.query("order")
def obey(message: Message, context: Context) -> Message:
    order = str(message.content["config"]["order"])
    MESSAGES_SEEN.append(order)
    if order == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif order == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    elif order == "exit":
        os._exit(3)
    elif order == "raise":
        raise ValueError("told to")
    elif order == "hog":
        hoard = [os.urandom(1 << 20) * 16 for _ in range(200)]
        time.sleep(60)
        del hoard
    elif order == "sleep":
        time.sleep(60)
    facts = {
        "pid": os.getpid(),
        "seen": len(MESSAGES_SEEN),
        "warm": ALREADY_IMPORTED,
        "threads": threading.active_count(),
    }
    return Message(RecordDict({"config": ConfigRecord(facts)}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    output = Path(str(context.run_config["output"]))
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.2)
    for order in str(context.run_config["orders"]).split(","):
        content = RecordDict({"config": ConfigRecord({"order": order})})
        message = Message(content, dst_node_id=nodes[0], message_type="query.order")
        began = time.monotonic()
        (awaited,) = grid.push_messages([message])
        while not (replies := list(grid.pull_messages([awaited]))):
            time.sleep(0.1)
        (reply,) = replies
        said = reply.error.reason if reply.has_error() else dict(reply.content["config"])
        with output.open("a") as lines:
            lines.write(f"{ {'order': order, 'seconds': time.monotonic() - began, 'said': said}!r}\n")
