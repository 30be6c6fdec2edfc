"""Messages as bytes: what is sent arrives, and is what Flower would send."""

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from protocol.ledger import wire_bytes
from simulation.messages import answer, error_reply, pack, unpack
from tests.simulation.scripted import app, said, telling

NODE = 7


def of_weights() -> Message:
    weights = {"a": Array(torch.arange(6.0).reshape(2, 3)), "b": Array(torch.zeros(0))}
    content = RecordDict(
        {"weights": ArrayRecord(weights), "fields": ConfigRecord({"bytes": b"\0x", "n": 2**40})}
    )
    return Message(content, dst_node_id=NODE, message_type="query.hello", ttl=5.0, group_id="12")


def context() -> Context:
    return Context(1, NODE, {"number": 3}, RecordDict(), {})


def test_content_and_metadata_arrive_as_they_were_sent() -> None:
    message = of_weights()
    copy = unpack(pack(message))
    assert copy.content == message.content
    assert copy.content is not message.content
    assert vars(copy.metadata) == vars(message.metadata)


def test_an_error_arrives_as_it_was_sent() -> None:
    error = error_reply(of_weights(), "the disk is full", 8)
    copy = unpack(pack(error))
    assert (copy.error.code, copy.error.reason) == (8, "the disk is full")
    assert vars(copy.metadata) == vars(error.metadata)


def test_the_bytes_of_the_content_are_those_that_the_ledger_counts() -> None:
    message = of_weights()
    alone = Message(Error(0), reply_to=message)
    content = sum(map(len, pack(message).objects.values()))
    assert pack(alone).objects == {}
    assert 0 < wire_bytes(message) - content < 300  # the message's own object: who sends it to whom


def test_a_reply_says_which_message_it_answers() -> None:
    request = telling(NODE)
    request.metadata.__dict__["_message_id"] = "of the request"
    reply = unpack(answer(app, pack(request), context()))
    assert reply.metadata.reply_to_message_id == "of the request"
    assert reply.metadata.src_node_id == NODE
    assert said(reply)["number"] == 3


def test_an_exception_becomes_an_error_that_names_it() -> None:
    reply = unpack(answer(app, pack(telling(NODE, do="raise")), context()))
    assert reply.error.reason == "OSError: no space left on device"
    assert reply.metadata.src_node_id == NODE


def test_what_is_no_message_becomes_an_error() -> None:
    wrong = ClientApp()

    @wrong.train()
    def train(message: Message, context: Context) -> Message:
        return None  # type: ignore[return-value]

    reply = unpack(answer(wrong, pack(telling(NODE)), context()))
    assert reply.error.reason.startswith("AttributeError")
