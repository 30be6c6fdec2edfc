"""Replies that are incomplete, too large, unreadable or in another's name, as a real node may send them."""

from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ObjectTree, PullObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
)

from server_app import bounded_grid
from server_app.bounded_grid import BoundedGrid
from simulation.grid import FIRST_NODE
from simulation.messages import RUN_ID, task_identity


class FakeSuperLink:
    """Stands in for Flower's grid and for the client of the Runtime API in it."""

    def __init__(self):
        self.node, self.run, self._runtime_client = Node(node_id=1), SimpleNamespace(run_id=RUN_ID), self
        self.objects, self.announced, self.confirmed, self.sent = {}, [], [], []

    def announce(self, proto, tree):
        """Have a reply of which no part has arrived."""
        self.announced.append((proto, tree))

    def hold(self, reply):
        """Have a whole reply; return the ids of its parts."""
        reply.metadata.__dict__["_message_id"] = reply.object_id
        self.announce(message_to_proto(remove_content_from_message(reply)), get_object_tree(reply))
        parts = {name: part.deflate() for name, part in get_all_nested_objects(reply).items()}
        self.objects.update(parts)
        return list(parts)

    def push_messages(self, messages):
        self.sent += messages
        return [message.metadata.message_id for message in messages]

    def PullMessages(self, request):  # noqa: N802
        asked = set(request.message_ids)
        found = [one for one in self.announced if one[0].metadata.reply_to_message_id in asked]
        self.announced = [one for one in self.announced if one not in found]
        return PullAppMessagesResponse(
            messages_list=[proto for proto, _ in found], message_object_trees=[tree for _, tree in found]
        )

    def PullObject(self, request):  # noqa: N802
        content = self.objects.get(request.object_id)
        return PullObjectResponse(
            object_found=content is not None, object_available=bool(content), object_content=content or b""
        )

    def ConfirmMessageReceived(self, request):  # noqa: N802
        self.confirmed.append(request.message_object_id)


@pytest.fixture
def superlink():
    return FakeSuperLink()


@pytest.fixture
def grid(superlink):
    return BoundedGrid(superlink)


@pytest.fixture(autouse=True)
def identity():
    with task_identity():
        yield


def request(name="a"):
    message = Message(RecordDict(), dst_node_id=FIRST_NODE, message_type="train")
    message.metadata.__dict__["_message_id"] = get_object_id(name.encode())
    return message


def reply_to(message, **records):
    return Message(RecordDict(records or {"fields": ConfigRecord({"accuracy": 0.5})}), reply_to=message)


def weights(values):
    return ArrayRecord({"w": Array(np.zeros(values, dtype=np.float32))})


def forged(superlink, message, content):
    """Hold a reply whose content is any bytes."""
    content_id = get_object_id(content)
    body = reply_to(message).deflate().split(b"\0", 1)[1]
    root = b"Message %s %d\0%s" % (content_id.encode(), len(body), body)
    proto = message_to_proto(remove_content_from_message(reply_to(message)))
    proto.metadata.message_id = get_object_id(root)
    tree = ObjectTree(object_id=proto.metadata.message_id, children=[ObjectTree(object_id=content_id)])
    superlink.announce(proto, tree)
    superlink.objects |= {content_id: content, proto.metadata.message_id: root}


def pulled(grid, *messages):
    return list(grid.pull_messages([message.metadata.message_id for message in messages]))


def test_a_whole_reply_arrives_as_it_was_sent(superlink, grid):
    asked = request()
    superlink.hold(reply_to(asked, fields=ConfigRecord({"loss": 1.5}), weights=weights(4)))
    (reply,) = pulled(grid, asked)
    assert reply.content["fields"] == ConfigRecord({"loss": 1.5})
    assert reply.content["weights"]["w"].numpy().tolist() == [0.0] * 4
    assert reply.metadata.reply_to_message_id == asked.metadata.message_id
    assert superlink.confirmed == [reply.metadata.message_id]
    assert pulled(grid, asked) == []


def test_an_error_of_a_node_arrives(superlink, grid):
    asked = request()
    superlink.hold(Message(bounded_grid.Error(2, "out of luck"), reply_to=asked))
    (reply,) = pulled(grid, asked)
    assert reply.error.reason == "out of luck"


def test_a_reply_whose_parts_are_still_on_their_way_holds_up_no_other(superlink, grid):
    slow, quick = request("slow"), request("quick")
    parts = superlink.hold(reply_to(slow, weights=weights(4)))
    superlink.hold(reply_to(quick))
    last = superlink.objects[parts[0]]
    superlink.objects[parts[0]] = b""
    assert [reply.metadata.reply_to_message_id for reply in pulled(grid, slow, quick)] == [
        quick.metadata.message_id
    ]
    assert pulled(grid, slow) == []
    superlink.objects[parts[0]] = last
    assert [reply.metadata.reply_to_message_id for reply in pulled(grid, slow)] == [slow.metadata.message_id]


def test_a_reply_that_never_comes_whole_is_an_error_of_its_node(superlink, grid):
    asked = request()
    parts = superlink.hold(reply_to(asked))
    superlink.objects[parts[0]] = b""
    assert pulled(grid, asked) == []
    del superlink.objects[parts[0]]  # as the SuperLink does after three minutes
    (reply,) = pulled(grid, asked)
    assert "did not send all of it" in reply.error.reason
    assert reply.metadata.reply_to_message_id == asked.metadata.message_id


@pytest.mark.parametrize(
    "content",
    [
        b"RecordDict  3\0\xff\xfe\xfd",
        b"RecordDict  2\0[]",
        b"ArrayChunk  1\0x",
        b"NoSuchThing  1\0x",
        ConfigRecord({"accuracy": 1.0}).deflate(),
    ],
)
def test_a_reply_that_cannot_be_read_is_an_error_of_its_node_and_spares_the_others(superlink, grid, content):
    hostile, honest = request("hostile"), request("honest")
    forged(superlink, hostile, content)
    superlink.hold(reply_to(honest))
    replies = {reply.metadata.reply_to_message_id: reply for reply in pulled(grid, hostile, honest)}
    refused = replies[hostile.metadata.message_id]
    assert refused.has_error()
    assert refused.error.reason.startswith("refused its reply: it ")
    assert replies[honest.metadata.message_id].has_content()


def test_who_answers_what_is_as_the_superlink_says_not_as_the_reply_says(superlink, grid):
    own, others = request("own"), request("others")
    lying = reply_to(others)
    superlink.hold(lying)
    superlink.announced[0][0].metadata.reply_to_message_id = own.metadata.message_id
    assert pulled(grid, others) == []
    (reply,) = pulled(grid, own)
    assert reply.metadata.reply_to_message_id == own.metadata.message_id


def test_a_reply_that_is_too_large_is_refused_before_all_of_it_is_fetched(superlink, grid, monkeypatch):
    monkeypatch.setattr(bounded_grid, "_FREE_BYTES", 1000)
    asked = request()
    superlink.hold(reply_to(asked, weights=weights(1000)))
    (reply,) = pulled(grid, asked)
    assert reply.error.reason.startswith("refused its reply: it has more than")
    assert superlink.confirmed, "the SuperLink need not keep it"


def test_a_reply_may_be_as_large_as_what_was_sent(superlink, grid, monkeypatch):
    monkeypatch.setattr(bounded_grid, "_FREE_BYTES", 1000)
    asked = request()
    asked.content["weights"] = weights(1000)
    grid.push_messages([asked])
    superlink.hold(reply_to(asked, weights=weights(1000)))
    (reply,) = pulled(grid, asked)
    assert reply.has_content()


def test_a_reply_of_too_many_parts_is_refused(superlink, grid, monkeypatch):
    monkeypatch.setattr(bounded_grid, "_MOST_PARTS", 2)
    asked = request()
    superlink.hold(reply_to(asked, weights=weights(4)))
    (reply,) = pulled(grid, asked)
    assert "parts, 2 are allowed" in reply.error.reason


def test_what_nobody_asks_for_any_more_is_dropped(superlink, grid, monkeypatch):
    given_up, other = request("given up"), request("other")
    parts = superlink.hold(reply_to(given_up))
    superlink.objects[parts[0]] = b""
    assert pulled(grid, given_up) == []
    monkeypatch.setattr(bounded_grid, "_FORGET_SECONDS", -1.0)
    assert pulled(grid, other) == []
    assert len(superlink.confirmed) == 1
