"""Rounds of soft labels between both halves of the method, and a look at what each learns from."""

import copy
import json
from dataclasses import dataclass

import numpy as np
from flwr.app import RecordDict

from learning.learner import TorchLearner
from protocol.messages import HelloReply
from strategies import method_of
from strategies.method import MethodState
from strategies.soft_labels.messages import SoftLabelReply, SoftLabelRequest
from tests.strategies.sides import EXPERIMENT, assert_same_weights, client_side, public_pool, server_side

distil = TorchLearner.distil


class DistillationSpy:
    """What server and clients distilled on last: label (as numbers) by sample."""

    def __init__(self, monkeypatch):
        self.server = {}
        self.client = {}
        spy = self

        def noted(learner, inputs, labels, round):
            spy.note(learner, inputs, labels)
            distil(learner, inputs, labels, round)

        monkeypatch.setattr(TorchLearner, "distil", noted)

    def note(self, learner, inputs, labels):
        half = "server" if learner.name == "server" else "client"
        pool = public_pool(learner.settings).inputs.values
        places = [int((pool == each).flatten(1).all(dim=1).nonzero()) for each in inputs.values]
        setattr(self, half, dict(zip(places, map(tuple, labels.tolist()), strict=True)))


@dataclass(frozen=True)
class Exchange:
    """One message as a client took it, its reply, and what the client distilled on."""

    request: SoftLabelRequest
    reply: SoftLabelReply
    distilled: dict[int, tuple[float, ...]]

    @property
    def content(self) -> RecordDict:
        return self.reply.to_record()

    @property
    def missing(self):
        return self.reply.missing or 0


class Node:
    """A client, and a view on what it distils on."""

    def __init__(self, settings, name, folder, spy):
        self.name = name
        self.side = client_side(settings, name, folder)
        self.method = method_of(settings).client(self.side)
        self._spy = spy

    def handle(self, content):
        self._spy.client = None
        reply = SoftLabelReply.from_record(self.method.answer(content))
        return Exchange(SoftLabelRequest.from_record(content), reply, self._spy.client)

    def hello(self):
        digests = b"".join(self.method.state_digests())
        return HelloReply(self.name, True, "linear", "pool", "code", digests)


class Federation:
    """A server and its nodes, in rounds without faults."""

    def __init__(self, settings, folder, spy, names=("ada", "ben")):
        self.settings = settings
        self.folder = folder
        self.spy = spy
        self.server = method_of(settings).server(server_side(settings), EXPERIMENT)
        self.nodes = {name: Node(settings, name, folder, spy) for name in names}
        self.round = 0

    def begin(self, names=None, final=False):
        """Begin the next round and return each asked client's ``Outgoing``."""
        return self.server.begin(self.round + 1, sorted(self.nodes) if names is None else names, final)

    def finish(self):
        self.round += 1
        self.server.finish(self.round)

    def play(self, names=None, silent=(), final=False):
        """Play a round; the replies of the ``silent`` are lost. Return the exchange by client."""
        outgoing = self.begin(names, final)
        exchanges = {name: self.nodes[name].handle(outgoing[name].content) for name in outgoing}
        for name, exchange in exchanges.items():
            if name not in silent:
                self.server.accept(name, self.round + 1, exchange.content)
        self.finish()
        return exchanges

    def join(self, name):
        self.nodes[name] = Node(self.settings, name, self.folder, self.spy)
        return self.server.greet(self.nodes[name].hello())

    def restart_server(self):
        """Go on with a new server from a checkpoint of the present one."""
        state, weights = stored(self.server.state()), copy.deepcopy(self.server.weights())
        self.server = method_of(self.settings).server(server_side(self.settings), EXPERIMENT)
        self.server.load_state(state, weights)


def stored(state):
    """Return a method's state as a checkpoint gives it back."""
    arrays = {name: np.array(array) for name, array in state.arrays.items()}
    return MethodState(arrays, json.loads(json.dumps(state.facts)))


def assert_same_server(got, expected):
    """Assert that two servers do not differ in a bit."""
    assert_same_weights(got.weights(), expected.weights())
    one, other = got.state(), expected.state()
    assert one.facts == other.facts
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in other.arrays.items():
        assert one.arrays[name].dtype == array.dtype, name
        assert np.array_equal(one.arrays[name], array), name
