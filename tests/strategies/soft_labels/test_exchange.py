"""Server and clients together, over a wire that loses, delays, repeats and reorders."""

import copy
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from learning.training import predict
from strategies import method_of
from tests.strategies.sides import CLASSES, EXPERIMENT, server_side, tiny_settings
from tests.strategies.soft_labels.exchange import DistillationSpy, Exchange, Federation, Node, stored
from tests.support.labels import encode_labels, row_bytes

NAMES = ("ada", "ben", "cem")
EMPTY = bytes(8)
OUT_OF_STEP = "out of step"

scarlet_settings = st.fixed_dictionaries(
    {
        "scarlet__cache_duration": st.integers(0, 4),
        "scarlet__expiry": st.sampled_from(["refresh", "evict"]),
        "distillation__labels": st.sampled_from(["float16", "float32", "uint8"]),
        "public__subset_size": st.integers(1, 8),
        "seed": st.integers(0, 99),
    }
)


@pytest.fixture
def federation(monkeypatch, tmp_path_factory):
    """Return a function that makes a federation."""
    spy = DistillationSpy(monkeypatch)
    return lambda **changes: Federation(tiny_settings(**changes), tmp_path_factory.mktemp("clients"), spy)


def sent_labels(exchange, encoding="float16"):
    return len(exchange.request.labels) // row_bytes(CLASSES, encoding)


def wipe(run, name):
    shutil.rmtree(run.nodes[name].side.store.folder)


def is_explicit(exchange):
    return exchange.request.used is not None


def starts_anew(exchange):
    return is_explicit(exchange) or exchange.reply.lost


# --- what the synchronisation costs, case by case ------------------------------------------------


@pytest.mark.slow
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scarlet_settings, st.booleans())
def test_without_faults_no_label_travels_twice_and_no_position_is_named(federation, changes, restarts):
    run = federation(**changes)
    labels_used, labels_sent = set(), dict.fromkeys(run.nodes, 0)
    for _ in range(12):
        exchanges = run.play()
        for name, exchange in exchanges.items():
            labels_sent[name] += sent_labels(exchange, changes["distillation__labels"])
            assert not is_explicit(exchange)
            assert labels_sent[name] == len(labels_used)
        arrays = run.server.state().arrays
        labels_used |= set(
            zip(arrays["in-use.indices"].tolist(), arrays["in-use.versions"].tolist(), strict=True)
        )
        if restarts:
            run.restart_server()


def test_a_late_join_needs_no_explicit_positions_and_misses_no_label(federation):
    run = federation()
    run.play()
    run.play(silent=list(run.nodes))
    for _ in range(3):
        run.play()

    assert run.join("new") == ""

    for _ in range(4):
        truth = run.spy.server
        newcomer = run.play()["new"]
        assert newcomer.distilled == truth
        assert not starts_anew(newcomer)


def test_a_client_that_missed_rounds_catches_up_without_explicit_positions(federation):
    run = federation()
    for _ in range(2):
        run.play()
    for _ in range(5):
        run.play(["ada"])
    truth = run.spy.server

    returned = run.play()["ben"]

    assert returned.distilled == truth
    assert not starts_anew(returned)


@pytest.mark.parametrize("round", [1, 2, 5])
def test_a_lost_reply_costs_no_explicit_exchange_and_no_label(federation, round):
    """Not even the first: what the client held before it is nothing."""
    run = federation()
    for _ in range(round - 1):
        run.play()
    run.play(silent=["ada"])
    truth = run.spy.server

    exchange = run.play()["ada"]

    assert exchange.distilled == truth
    assert not starts_anew(exchange)
    assert not is_explicit(run.play()["ada"])


def test_two_lost_replies_in_a_row_cost_one_explicit_exchange(federation):
    run = federation(public__subset_size=6)
    for silent in ([], [], ["ada"], ["ada"]):
        run.play(silent=silent)

    lost, healed, ordinary = (run.play()["ada"] for _ in range(3))

    assert (is_explicit(lost), is_explicit(healed), is_explicit(ordinary)) == (False, True, False)
    assert (lost.reply.lost, healed.missing, ordinary.missing) == (True, 0, 0)


@pytest.mark.parametrize("expiry", ["refresh", "evict"])
@pytest.mark.parametrize("duration", [0, 2])
def test_a_lost_cache_is_noticed_in_the_next_exchange_and_made_good_in_the_one_after(
    federation, expiry, duration
):
    run = federation(scarlet__expiry=expiry, scarlet__cache_duration=duration)
    for _ in range(4):
        run.play()
    wipe(run, "ada")

    outgoing = run.begin()
    exchange = run.nodes["ada"].handle(outgoing["ada"].content)
    assert exchange.reply.lost
    assert OUT_OF_STEP in run.server.accept("ada", 5, exchange.content).notes
    run.server.accept("ben", 5, run.nodes["ben"].handle(outgoing["ben"].content).content)
    run.finish()

    for explicit in (True, False, False):
        truth = run.spy.server
        exchange = run.play()["ada"]
        assert exchange.distilled == truth
        assert is_explicit(exchange) == explicit


def test_a_node_that_lost_its_cache_and_says_hello_again_misses_no_label(federation):
    run = federation()
    for _ in range(4):
        run.play()
    wipe(run, "ada")
    assert OUT_OF_STEP in run.server.greet(run.nodes["ada"].hello())
    assert run.server.greet(run.nodes["ben"].hello()) == ""
    truth = run.spy.server

    exchanges = run.play()

    assert [is_explicit(exchanges[name]) for name in ("ada", "ben")] == [True, False]
    assert exchanges["ada"].distilled == exchanges["ben"].distilled == truth


def go_back(run, round, checkpoint):
    """Let a new server go on from a checkpoint of an earlier round."""
    run.server = method_of(run.settings).server(server_side(run.settings), EXPERIMENT)
    run.server.load_state(*checkpoint)
    run.round = round


def checkpoint_of(run):
    return stored(run.server.state()), copy.deepcopy(run.server.weights())


def test_a_client_whose_memory_of_silent_rounds_is_wrong_is_made_good_by_one_explicit_exchange(federation):
    """A server resumed from a checkpoint went through a round once more, and this time it was silent."""
    run = federation()
    for _ in range(3):
        run.play()
    checkpoint = checkpoint_of(run)
    run.play()
    run.play()
    go_back(run, 3, checkpoint)
    run.play(["ben"], silent=["ben"])
    run.play(["ben"])

    truth_by_round, exchanges = [], []
    for _ in range(4):
        truth_by_round.append(run.spy.server)
        exchanges.append(run.play()["ada"])

    assert [is_explicit(exchange) for exchange in exchanges] == [False, True, False, False]
    assert [exchange.reply.lost for exchange in exchanges] == [True, None, None, None]
    assert [exchange.distilled for exchange in exchanges[1:]] == truth_by_round[1:]


def test_no_client_learns_from_labels_of_rounds_that_a_resumed_server_went_through_otherwise(federation):
    """The labels of round 3 are other ones the second time, and have the same version."""
    run = federation(public__subset_size=8, scarlet__cache_duration=1)
    for _ in range(2):
        run.play()
    checkpoint = checkpoint_of(run)
    for _ in range(2):
        run.play()
    of_the_first_time = run.spy.server
    run.play()
    go_back(run, 2, checkpoint)
    for _ in range(2):
        run.play(["ben"])
    assert run.spy.server.keys() == of_the_first_time.keys()
    assert run.spy.server != of_the_first_time

    lost, healed = run.play()["ada"], run.play()["ada"]

    assert (lost.reply.lost, lost.distilled) == (True, {})
    assert len(healed.distilled) == 8
    assert healed.missing == 0


def test_explicit_positions_can_be_had_always(federation):
    run = federation(distillation__indices="explicit")
    truth = {}
    for _ in range(6):
        for exchange in run.play().values():
            assert is_explicit(exchange)
            assert exchange.request.reset is None
            assert exchange.distilled == truth
        truth = run.spy.server


# --- any faults in any order ---------------------------------------------------------------------

FATES = ["away", "answered", "reply lost", "reply late", "message lost", "message late", "twice", "repeated"]
NOT_HANDLED = ["away", "message lost", "message late"]
fates = st.fixed_dictionaries({name: st.sampled_from(FATES) for name in NAMES})
clients = st.sampled_from(NAMES)
DISTURBED = 99


@dataclass
class Standing:
    """What must hold for a client, from what befell it."""

    unheard: int = 0
    """Exchanges since the last that was answered in time; ``DISTURBED`` if its state was tampered with."""
    told: bool = False
    """Whether the server said that it resends all labels to this client, with nothing acknowledged since."""
    asked_in: int | None = None
    """Round of its last message, the only one that it can still acknowledge."""
    wiped: bool = False
    """Whether it lost its state since its last exchange."""

    def tell_to_start_anew(self):
        self.told, self.asked_in = True, None


@dataclass(frozen=True)
class Late:
    """A message or a reply under way, with the round of its message."""

    client: str
    round: int
    content: object
    exchange: Exchange | None = None


class FaultyFederation(RuleBasedStateMachine):
    """Holds what the specification promises against whatever the wire, the disks and the server do.

    - Every label that a client distils on is the server's label of that sample in that version.
    - Every prediction is about the sample that the server takes it to be about.
    - A client whose last exchange was answered in time, or all but that one, misses no label.
    - A client gets all labels resent with explicit positions if, and only if, the server has said so.
    - A lost cache is noticed in the next exchange.
    """

    def __init__(self):
        super().__init__()
        self.patches = pytest.MonkeyPatch()
        self.folder = Path(tempfile.mkdtemp())

    @initialize(changes=scarlet_settings, indices=st.sampled_from(["derived", "derived", "explicit"]))
    def start(self, changes, indices):
        self.settings = tiny_settings(**changes, distillation__indices=indices)
        self.derived = indices == "derived"
        self.spy = DistillationSpy(self.patches)
        self.nodes = {name: Node(self.settings, name, self.folder, self.spy) for name in NAMES}
        self.server = method_of(self.settings).server(server_side(self.settings), EXPERIMENT)
        self.round = 0
        self.truth, self.requested = {0: {}}, {}
        self.standing = {name: Standing() for name in NAMES}
        self.messages, self.replies, self.snapshots = [], [], {}
        self.checkpoints = []
        self.save_checkpoint()

    def teardown(self):
        self.patches.undo()
        shutil.rmtree(self.folder)

    # --- rules ---------------------------------------------------------------------------------

    @rule(fates=fates, overtaken=st.booleans())
    def play_round(self, fates, overtaken):
        self.begin(fates)
        if overtaken:
            self.deliver_all_late()
        for name, fate in fates.items():
            self.meet(name, fate)
        self.server.finish(self.round)
        self.truth[self.round] = self.spy.server
        self.save_checkpoint()

    @rule(fates=fates, back=st.integers(0, 1))
    def kill_server_in_the_middle_of_a_round(self, fates, back):
        self.begin(fates)
        unheard = {name: standing.unheard for name, standing in self.standing.items()}
        for name, fate in fates.items():
            self.meet(name, fate)
            handled = fate not in NOT_HANDLED
            self.standing[name].unheard = unheard[name] + handled  # the server forgets what it heard
        self.resume(back)

    @rule(back=st.integers(0, 1))
    def kill_server_between_rounds(self, back):
        self.resume(back)

    @precondition(lambda self: self.replies)
    @rule(which=st.integers(0, 9), again=st.booleans())
    def deliver_a_late_reply(self, which, again):
        late = self.replies[which % len(self.replies)]
        if not again:
            self.replies.remove(late)
        self.accept(late, in_time=False)

    @precondition(lambda self: self.messages)
    @rule(which=st.integers(0, 9))
    def handle_a_late_message(self, which):
        late = self.messages.pop(which % len(self.messages))
        self.standing[late.client].unheard = DISTURBED
        self.standing[late.client].wiped = False
        self.replies.append(self.handle(late))

    @rule(name=clients)
    def lose_cache(self, name):
        shutil.rmtree(self.nodes[name].side.store.folder, ignore_errors=True)
        self.standing[name].unheard = DISTURBED
        self.standing[name].wiped = True

    @rule(name=clients)
    def take_snapshot(self, name):
        folder = self.nodes[name].side.store.folder
        self.snapshots[name] = {file.name: file.read_bytes() for file in folder.glob("*")}

    @precondition(lambda self: self.snapshots)
    @rule(which=st.integers(0, 9))
    def roll_back_to_snapshot(self, which):
        name = sorted(self.snapshots)[which % len(self.snapshots)]
        folder = self.nodes[name].side.store.folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file, data in self.snapshots[name].items():
            (folder / file).write_bytes(data)
        self.standing[name].unheard = DISTURBED
        self.standing[name].wiped = False

    @rule(name=clients)
    def say_hello_again(self, name):
        self.greet(name)

    # --- parts ---------------------------------------------------------------------------------

    def begin(self, fates):
        self.round += 1
        asked = [name for name, fate in fates.items() if fate != "away"]
        self.outgoing = self.server.begin(self.round, asked, final=False)
        self.requested[self.round] = self.server._plan.requested
        self.starts_anew = {name for name, standing in self.standing.items() if standing.told}
        for name in asked:
            self.standing[name].asked_in = self.round

    def meet(self, name, fate):
        """Let one client's exchange have its fate."""
        if fate in ("away", "message lost"):
            return
        message = Late(name, self.round, self.outgoing[name].content)
        if fate == "message late":
            self.messages.append(message)
            return
        handled = self.handle(message)
        self.check_request(name, handled.exchange)
        standing = self.standing[name]
        if fate == "repeated" and standing.unheard == 0:
            assert self.handle(message).exchange == handled.exchange
        standing.unheard += 1
        if fate == "reply late":
            self.replies.append(handled)
        elif fate != "reply lost":
            for _ in range(2 if fate == "twice" else 1):
                self.accept(handled, in_time=True)

    def handle(self, message):
        """Let a client handle a message; check what it makes of it."""
        name, round = message.client, message.round
        exchange = self.nodes[name].handle(message.content)
        standing, truth = self.standing[name], self.truth[round - 1]
        assert exchange.distilled.items() <= truth.items()
        if not exchange.reply.lost:
            assert exchange.missing == len(truth) - len(exchange.distilled)
        if standing.unheard <= 1 or exchange.request.reset:
            assert not exchange.reply.lost
            assert exchange.distilled == truth
        self.check_predictions(name, exchange.reply, self.requested[round])
        return Late(name, round, exchange.content, exchange)

    def check_predictions(self, name, reply, requested):
        if reply.labels is None or len(requested) == 0:
            assert not reply.labels
            return
        side = self.nodes[name].side
        model = side.new_model()
        model.load_state_dict(side.store.newest().weights)
        predictions = predict(model, side.pool.inputs.take(torch.tensor(requested)))
        assert reply.labels == encode_labels(predictions, self.settings.distillation.labels).tobytes()

    def check_request(self, name, exchange):
        request, standing = exchange.request, self.standing[name]
        assert bool(request.reset) == (name in self.starts_anew)
        assert is_explicit(exchange) == bool(request.reset or not self.derived)
        if standing.wiped and self.derived and not request.reset and request.base != EMPTY:
            assert exchange.reply.lost
        standing.wiped = False

    def accept(self, late, in_time):
        incoming = self.server.accept(late.client, late.round, late.content)
        standing, reply = self.standing[late.client], late.exchange.reply
        if OUT_OF_STEP in incoming.notes:
            standing.tell_to_start_anew()
        elif late.round == standing.asked_in:
            standing.told = False
        if in_time:
            standing.unheard = 0
            if reply.lost:
                assert standing.told

    def deliver_all_late(self):
        for late in self.replies:
            self.accept(late, in_time=False)
        self.replies = []

    def greet(self, name):
        if self.server.greet(self.nodes[name].hello()):
            self.standing[name].tell_to_start_anew()

    def save_checkpoint(self):
        told = {name: standing.told for name, standing in self.standing.items()}
        weights = copy.deepcopy(self.server.weights())
        self.checkpoints = [*self.checkpoints, (self.round, stored(self.server.state()), weights, told)][-2:]

    def resume(self, back):
        """Go on from the newest checkpoint or the one before; all nodes say hello."""
        back = min(back, len(self.checkpoints) - 1)
        self.checkpoints = self.checkpoints[: len(self.checkpoints) - back]
        self.round, state, weights, told = self.checkpoints[-1]
        self.server = method_of(self.settings).server(server_side(self.settings), EXPERIMENT)
        self.server.load_state(copy.deepcopy(state), weights)
        self.truth = {round: labels for round, labels in self.truth.items() if round <= self.round}
        self.messages, self.replies, self.snapshots = [], [], {}
        for name, standing in self.standing.items():
            standing.told, standing.asked_in = told[name], None
            if back:
                standing.unheard = DISTURBED
            self.greet(name)


FaultyFederation.TestCase.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
TestAnyFaults = pytest.mark.slow(FaultyFederation.TestCase)
