"""An app that does nothing, in two styles: Flower's usual round, and one exchange, quickly answered."""

import json
import time
from pathlib import Path

import torch  # what any node imports before it can train
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

POLL_SECONDS = 0.1

server = ServerApp()
client = ClientApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Send back what came."""
    return Message(message.content, reply_to=message)


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Send back what came."""
    return Message(message.content, reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds and write how long each took."""
    config = context.run_config
    exchange = {"one-exchange": one_exchange, "flower": flower}[str(config["style"])]
    while len(list(grid.get_node_ids())) < int(config["nodes"]):
        time.sleep(POLL_SECONDS)
    seconds = []
    for number in range(
        1 + int(config["rounds"])
    ):  # the first is not counted: it brings the app to the nodes
        began = time.perf_counter()
        exchange(grid)
        if number > 0:
            seconds.append(time.perf_counter() - began)
    Path(str(config["output"])).write_text(json.dumps(seconds))


def messages(grid: Grid, kind: str) -> list[Message]:
    """Write a message of one small tensor to each node."""
    content = RecordDict({"arrays": ArrayRecord({"weight": torch.zeros(10)})})
    return [Message(content, dst_node_id=node, message_type=kind) for node in grid.get_node_ids()]


def flower(grid: Grid) -> None:
    """Do what Flower's strategies do in a round: train, then evaluate."""
    for kind in ("train", "evaluate"):
        check(list(grid.send_and_receive(messages(grid, kind))))


def one_exchange(grid: Grid) -> None:
    """Do what Motley does in a round: one exchange, and looking for replies ten times a second."""
    awaited = set(grid.push_messages(messages(grid, "train")))
    while awaited:
        replies = list(grid.pull_messages(list(awaited)))
        check(replies)
        awaited -= {reply.metadata.reply_to_message_id for reply in replies}
        time.sleep(POLL_SECONDS)


def check(replies: list[Message]) -> None:
    """End the run if a node failed."""
    for reply in replies:
        if reply.has_error():
            raise RuntimeError(reply.error.reason)
