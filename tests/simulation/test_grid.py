"""The grid: who gets which reply, when."""

from collections.abc import Callable, Collection
from itertools import pairwise

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from simulation.clock import RealClock, SimulatedClock, SimulationClock
from simulation.executors import InThisProcess
from simulation.grid import Delivery, InProcessGrid, no_faults
from tests.simulation.scripted import app, exchange, said, telling, with_nodes


class ByHand:
    """An executor whose messages are answered when, and in the order in which, the test says."""

    def __init__(self) -> None:
        self.submitted: list[Message] = []
        self.awaited: list[list[str]] = []
        self._done: list[Message] = []

    def submit(self, message: Message, context: Context) -> None:
        self.submitted.append(message)

    def answer(self, number: int) -> None:
        content = RecordDict({"fields": ConfigRecord({"number": number})})
        self._done.append(Message(content, reply_to=self.submitted[number]))

    def replies(self) -> list[Message]:
        done, self._done = self._done, []
        return done

    def finish(self, message_ids: Collection[str]) -> None:
        self.awaited.append(list(message_ids))

    def wait(self, seconds: float) -> None:
        """Return at once."""


def numbers(replies: Collection[Message]) -> list[object]:
    return [said(reply)["number"] for reply in replies]


@pytest.fixture
def by_hand() -> ByHand:
    return ByHand()


def pushed(executor: ByHand, clock: SimulationClock, count: int) -> tuple[InProcessGrid, list[str]]:
    """Return a grid that has sent a message to each of some nodes, and the messages' ids."""
    grid = InProcessGrid(executor, clock)
    return grid, list(grid.push_messages(map(telling, with_nodes(grid, count))))


def test_in_simulated_time_replies_come_in_the_order_of_their_messages(by_hand: ByHand) -> None:
    grid, ids = pushed(by_hand, SimulatedClock(), 3)
    by_hand.answer(2)
    by_hand.answer(1)
    assert numbers(grid.pull_messages(ids)) == []
    by_hand.answer(0)
    assert numbers(grid.pull_messages(ids)) == [0, 1, 2]


def test_in_simulated_time_the_work_on_what_is_pulled_and_on_earlier_messages_is_waited_for(
    by_hand: ByHand,
) -> None:
    grid, ids = pushed(by_hand, SimulatedClock(), 4)
    grid.pull_messages([ids[2], ids[1]])
    assert by_hand.awaited == [ids[:3]]


def test_in_real_time_replies_come_as_they_are_ready(by_hand: ByHand) -> None:
    grid, ids = pushed(by_hand, RealClock(by_hand.wait), 3)
    by_hand.answer(2)
    assert numbers(grid.pull_messages(ids)) == [2]
    by_hand.answer(0)
    assert numbers(grid.pull_messages(ids)) == [0]
    assert by_hand.awaited == []


def test_only_replies_to_the_messages_asked_for_are_returned_and_each_once(by_hand: ByHand) -> None:
    grid, ids = pushed(by_hand, SimulatedClock(), 2)
    by_hand.answer(0)
    by_hand.answer(1)
    assert numbers(grid.pull_messages(ids[1:])) == [1]
    assert numbers(grid.pull_messages(ids)) == [0]
    assert numbers(grid.pull_messages(ids)) == []


def test_no_two_messages_have_the_same_id(by_hand: ByHand) -> None:
    _, ids = pushed(by_hand, SimulatedClock(), 20)
    assert len(set(ids)) == 20
    assert {len(message_id) for message_id in ids} == {64}, "as many bytes as Flower's"


def test_a_node_that_is_offline_is_not_listed_and_gets_no_message(by_hand: ByHand) -> None:
    grid = InProcessGrid(by_hand, SimulatedClock())
    first, second = with_nodes(grid, 2)
    grid.nodes[first].online = False
    assert list(grid.get_node_ids()) == [second]
    grid.push_messages([telling(first), telling(second)])
    assert [message.metadata.dst_node_id for message in by_hand.submitted] == [second]


def late(request: Message, reply: Message, now: float) -> list[Delivery]:
    return [Delivery(reply, now + 0.35)]


def twice(request: Message, reply: Message, now: float) -> list[Delivery]:
    return [Delivery(reply, now)] * 2


def lost(request: Message, reply: Message, now: float) -> list[Delivery]:
    return []


@pytest.mark.parametrize(
    ("faults", "arrivals"),
    [
        (no_faults, [1, 0, 0, 0, 0]),
        (late, [0, 0, 0, 0, 1]),
        (twice, [2, 0, 0, 0, 0]),
        (lost, [0, 0, 0, 0, 0]),
    ],
)
def test_faults_decide_what_arrives_when(
    faults: Callable[[Message, Message, float], list[Delivery]], arrivals: list[int]
) -> None:
    grid = InProcessGrid(InThisProcess(app), SimulatedClock(), faults)
    ids = list(grid.push_messages(map(telling, with_nodes(grid, 1))))
    found = []
    for _ in arrivals:
        found.append(len(list(grid.pull_messages(ids))))
        grid.clock.sleep()
    assert found == arrivals


def test_sending_and_receiving_waits_for_all_replies() -> None:
    grid = InProcessGrid(InThisProcess(app), SimulatedClock(), late)
    replies = exchange(grid, *map(telling, with_nodes(grid, 3)))
    assert numbers(replies) == [0, 1, 2]


def test_sending_and_receiving_ends_when_time_is_up_or_the_messages_are_too_old() -> None:
    grid = InProcessGrid(InThisProcess(app), SimulatedClock(), lost)
    (node,) = with_nodes(grid, 1)
    times = [grid.clock.now()]
    for timeout in (2.0, None):
        message = telling(node)
        message.metadata.ttl = 5.0
        assert list(grid.send_and_receive([message], timeout=timeout)) == []
        times.append(grid.clock.now())
    assert [after - before for before, after in pairwise(times)] == pytest.approx([2.0, 5.0], abs=0.2)


def test_messages_are_kept_only_when_recorded() -> None:
    kept = []
    for recording in (False, True):
        grid = InProcessGrid(InThisProcess(app), SimulatedClock(), recording=recording)
        nodes = with_nodes(grid, 2)
        exchange(grid, *map(telling, nodes))
        kept.append((len(grid.requests), len(grid.replies), len(grid.requests_to(nodes[0]))))
        assert len(grid.replies_of(nodes[1])) == recording
    assert kept == [(0, 0, 0), (2, 2, 1)]


def test_what_needs_a_superlink_is_refused(by_hand: ByHand) -> None:
    grid = InProcessGrid(by_hand, SimulatedClock())
    with pytest.raises(NotImplementedError, match="no SuperLink"):
        _ = grid.run
    with pytest.raises(NotImplementedError, match="no SuperLink"):
        grid.set_run(None)  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match=r"flwr\.app\.Message"):
        grid.create_message(RecordDict(), "train", 1, "1")
