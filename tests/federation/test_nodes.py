"""Nodes that are missing, join late, go away, come back, or do not belong."""

import logging
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

import client_app.app
import client_app.node
from data import load_public_pool
from protocol.digests import code_digest
from protocol.errors import FederationError, MotleyError
from protocol.messages import HELLO, TRAIN
from server_app.run_folder import RunFolder
from simulation.clock import SimulatedClock
from simulation.executors import InThisProcess
from simulation.grid import Delivery, InProcessGrid, read_reply
from simulation.run import grid_for, run_over
from strategies.soft_labels.messages import SoftLabelReply, SoftLabelRequest
from strategies.soft_labels.positions import Positions
from tests.support.faults import Fault, by_round, dropped, failing, late_by, then
from tests.support.federation import settings

SLOWLY = late_by(2.0)
"""Time passes only while the server waits; nodes that take 2 s leave it time to look around."""


def real_node(grid: InProcessGrid, run_config: dict[str, Any], part: int, state: Path, **config: Any) -> int:
    """Connect a node as a deployment has them: with a name, and a place for its state."""
    node_config = {
        "client-name": f"clinic-{part}",
        "partition-id": part,
        "num-partitions": 3,
        "state-dir": str(state / f"machine-{part}"),
    }
    named = {key.replace("_", "-"): value for key, value in config.items()}
    return grid.add_node(run_config, {**node_config, **named})


def asked_in(grid: InProcessGrid, node_id: int) -> list[int]:
    """Return the rounds in which a node was sent a message."""
    return [int(request.metadata.group_id) for request in grid.requests_to(node_id)]


def failures(folder: RunFolder) -> dict[int, dict[str, str]]:
    return {
        line["round"]: {failure["client"]: failure["reason"] for failure in line["nodes"]["failed"]}
        for line in folder.rounds()
        if line["nodes"]["failed"]
    }


# --- too few -----------------------------------------------------------------------------------


def test_too_few_nodes_end_the_run_with_what_was_waited_for(tmp_path: Path) -> None:
    run_settings = settings(tmp_path, min_nodes=3, wait_for_nodes=7.0)
    grid = grid_for(run_settings, nodes=2)
    with pytest.raises(FederationError) as error:
        run_over(grid, run_settings)
    assert str(error.value) == (
        "waited 7 s (at most wait-for-nodes) for 3 clients (min-nodes, min-replies); "
        "available: client-0000, client-0001; "
        "nodes that have not answered the hello: 0; refused: 0"
    )
    assert 7 <= grid.clock.now() < 8


def test_nodes_that_never_answer_the_hello_are_counted(tmp_path: Path) -> None:
    run_settings = settings(tmp_path)
    grid = grid_for(run_settings, nodes=2, faults=lambda request, reply, now: dropped(reply, now))
    with pytest.raises(FederationError, match="available: none; nodes that have not answered the hello: 2"):
        run_over(grid, run_settings)


def test_the_run_starts_once_enough_nodes_have_come(tmp_path: Path) -> None:
    run_settings = settings(tmp_path, num_rounds=1)
    grid = grid_for(run_settings, nodes=0)
    for seconds, part in ((1.0, 0), (3.0, 1)):
        config = {"partition-id": part, "num-partitions": 2}
        grid.clock.after(seconds, lambda config=config: grid.add_node(run_settings.flat(), config))
    assert run_over(grid, run_settings).rounds()[0]["nodes"]["asked"] == 2


# --- coming and going --------------------------------------------------------------------------


def test_a_node_that_joins_takes_part_from_the_next_round_on(tmp_path: Path) -> None:
    run_settings = settings(tmp_path, num_rounds=5, distillation__indices="derived")
    grid = grid_for(run_settings, nodes=0, faults=by_round({}, otherwise=SLOWLY))
    for part in range(2):
        grid.add_node(run_settings.flat(), {"partition-id": part, "num-partitions": 3})
    joiner = {"partition-id": 2, "num-partitions": 3}
    grid.clock.after(3.0, lambda: grid.add_node(run_settings.flat(), joiner))
    folder = run_over(grid, run_settings)

    *_, late = grid.nodes
    assert [line["nodes"]["asked"] for line in folder.rounds()] == [2, 2, 3, 3, 3]
    assert asked_in(grid, late) == [3, 4, 5]
    assert grid.nodes[late].handled == [HELLO, TRAIN, TRAIN, TRAIN]
    replies = [read_reply(SoftLabelReply, reply) for reply in grid.replies_of(late)]
    assert not any(reply.lost or reply.missing for reply in replies)
    assert grid.clock.now() < 2 * 5 + 1, "no round waited for the hello"


@pytest.fixture(scope="module")
def comeback(tmp_path_factory: pytest.TempPathFactory) -> tuple[InProcessGrid, RunFolder]:
    """Let clinic-1 go offline after its work of round 3, and come back under another id in round 4."""
    output, state = tmp_path_factory.mktemp("comeback"), tmp_path_factory.mktemp("state")
    # P^t is most of P and D is large: most labels in use have been sent before.
    run_settings = settings(
        output,
        num_rounds=8,
        public__subset_size=90,
        scarlet__cache_duration=50,
        distillation__indices="explicit",
    )
    config = run_settings.flat()
    grid: InProcessGrid

    def go_away() -> None:
        list(grid.nodes.values())[1].online = False
        grid.clock.after(3.0, lambda: real_node(grid, config, 1, state))

    faults: dict[tuple[int, int], Fault] = {(3, 1): then(go_away, dropped)}
    grid = grid_for(run_settings, nodes=0, faults=by_round(faults, otherwise=SLOWLY))
    for part in range(3):
        real_node(grid, config, part, state)
    return grid, run_over(grid, run_settings, simulation=False)


def test_a_node_that_goes_offline_is_counted_at_once(comeback: tuple[InProcessGrid, RunFolder]) -> None:
    _, folder = comeback
    assert failures(folder) == {3: {"clinic-1": "its node went offline"}}


def test_a_node_that_comes_back_takes_its_old_place(comeback: tuple[InProcessGrid, RunFolder]) -> None:
    grid, folder = comeback
    _, before, _, after = grid.nodes
    assert asked_in(grid, before) == [1, 2, 3]
    assert asked_in(grid, after) == [5, 6, 7, 8]
    assert [line["nodes"]["asked"] for line in folder.rounds()] == [3, 3, 3, 2, 3, 3, 3, 3]


def test_a_node_that_comes_back_is_not_sent_what_it_holds(
    comeback: tuple[InProcessGrid, RunFolder],
) -> None:
    grid, _ = comeback
    _, before, _, after = grid.nodes
    held: set[tuple[int, int]] = set()
    for request in [*grid.requests_to(before)[:2], *grid.requests_to(after)]:
        sent, used = labels_of(SoftLabelRequest.from_record(request.content))
        assert not sent & held
        assert len(used) in {0, 90}
        held |= sent
        assert used <= held
    assert len(held) > 90
    replies = [read_reply(SoftLabelReply, reply) for reply in grid.replies_of(after)]
    assert not any(reply.lost or reply.missing for reply in replies)


def labels_of(request: SoftLabelRequest) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """Return the (sample, version) pairs that a message carries, and those it lets the client use."""
    positions = Positions.from_request(request, pool_size=120)
    assert positions is not None
    pairs = np.stack([positions.in_use.indices, positions.in_use.versions], axis=1)
    return set(map(tuple, pairs[positions.sent].tolist())), set(map(tuple, pairs.tolist()))


def test_a_node_that_is_still_at_work_is_not_asked_again(tmp_path: Path) -> None:
    run_settings = settings(tmp_path, num_rounds=4)
    faults: dict[tuple[int, int], Fault] = {(1, 1): late_by(8.0)}
    grid = grid_for(run_settings, nodes=3, faults=by_round(faults, otherwise=SLOWLY))
    run_over(grid, run_settings)
    _, slow, _ = grid.nodes
    assert asked_in(grid, slow) == [1, 4]  # rounds take 5, 2, 2 s


def test_a_reply_that_is_there_counts_though_its_node_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply arrives in the very moment in which the node is seen to be offline."""
    run_settings = settings(tmp_path, num_rounds=2)
    last_words: list[Delivery] = []

    def speak_and_go(reply: Message, now: float) -> list[Delivery]:
        grid.nodes[reply.metadata.src_node_id].online = False
        last_words.append(Delivery(reply, math.inf))
        return last_words

    def look() -> Iterable[int]:
        for delivery in last_words:
            delivery.at = 0.0
        return InProcessGrid.get_node_ids(grid)

    grid = grid_for(run_settings, nodes=3, faults=by_round({(2, 1): speak_and_go}, otherwise=SLOWLY))
    monkeypatch.setattr(grid, "get_node_ids", look)
    assert failures(run_over(grid, run_settings)) == {}


# --- one name, two nodes -----------------------------------------------------------------------


def test_a_second_node_of_a_name_waits_until_the_first_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_settings = settings(tmp_path / "runs", num_rounds=8)
    grid = grid_for(run_settings, nodes=0, faults=by_round({}, otherwise=SLOWLY))
    for part in (0, 1, 1):
        real_node(grid, run_settings.flat(), part, tmp_path)
    _, first, second = grid.nodes

    def first_goes_away() -> None:
        grid.nodes[first].online = False

    grid.clock.after(7.0, first_goes_away)
    with caplog.at_level(logging.WARNING, "flwr"):
        run_over(grid, run_settings, simulation=False)
    assert asked_in(grid, first) == [1, 2, 3, 4]
    assert asked_in(grid, second) == [5, 6, 7, 8]
    assert (
        caplog.messages.count(f"Node {second} refused while another node that is online is client 'clinic-1'")
        == 1
    )


def test_the_error_of_too_few_nodes_names_doubles(tmp_path: Path) -> None:
    run_settings = settings(tmp_path / "runs")
    grid = grid_for(run_settings, nodes=0)
    for _ in range(2):
        real_node(grid, run_settings.flat(), 1, tmp_path)
    _, second = grid.nodes
    with pytest.raises(
        FederationError, match=f"node {second}: another node that is online is client 'clinic-1'"
    ):
        run_over(grid, run_settings, simulation=False)


# --- refused -----------------------------------------------------------------------------------


def refusal(grid: InProcessGrid, run_settings: Any, simulation: bool = True) -> str:
    """Run with two good nodes where three are wanted; return the error, which gives the reason."""
    with pytest.raises(FederationError) as error:
        run_over(grid, run_settings, simulation)
    return str(error.value)


def test_a_node_with_another_pool_is_refused_with_both_digests(tmp_path: Path) -> None:
    run_settings = settings(tmp_path, min_nodes=3)
    grid = grid_for(run_settings, nodes=2)
    other = settings(tmp_path, public__size=100)
    node = grid.add_node(other.flat(), {"partition-id": 2, "num-partitions": 3})
    pools = [load_public_pool(each).digest for each in (other, run_settings)]
    assert pools[0] != pools[1]
    message = refusal(grid, run_settings)
    assert f"its public pool is {pools[0]}, the server's is {pools[1]}" in message
    assert f"node {node}: client 'client-0002'" in message


def test_a_node_with_other_code_is_refused_with_both_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_settings = settings(tmp_path, min_nodes=3)
    grid = grid_for(run_settings, nodes=3)
    digests = iter(["0123456789abcdef"])
    monkeypatch.setattr(client_app.node, "code_digest", lambda: next(digests, code_digest()))
    assert f"its code is 0123456789abcdef, the server's is {code_digest()}" in refusal(grid, run_settings)


def test_a_refused_node_is_not_asked_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_settings = settings(tmp_path, num_rounds=1)
    grid = grid_for(run_settings, nodes=3)
    digests = iter(["0123456789abcdef"])
    monkeypatch.setattr(client_app.node, "code_digest", lambda: next(digests, code_digest()))
    assert run_over(grid, run_settings).rounds()[0]["nodes"]["asked"] == 2
    refused, *_ = grid.nodes
    assert grid.nodes[refused].handled == [HELLO]


def test_a_refused_node_may_come_back_mended_under_the_same_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_settings = settings(tmp_path, num_rounds=4)
    grid = grid_for(run_settings, nodes=3, faults=by_round({}, otherwise=SLOWLY))
    node, *_ = grid.nodes
    digests = iter(["0123456789abcdef"])
    monkeypatch.setattr(client_app.node, "code_digest", lambda: next(digests, code_digest()))

    def set_online(online: bool) -> Callable[[], None]:
        return lambda: setattr(grid.nodes[node], "online", online)

    grid.clock.after(1.0, set_online(False))
    grid.clock.after(3.0, set_online(True))
    run_over(grid, run_settings)
    assert asked_in(grid, node) == [3, 4]


def test_a_simulated_node_is_refused_in_a_deployment(tmp_path: Path) -> None:
    """A real node must say who it is."""
    run_settings = settings(tmp_path)
    message = refusal(grid_for(run_settings, nodes=2), run_settings, simulation=False)
    assert 'a real node needs client-name = "…" in its --node-config' in message


def test_a_node_without_name_or_part_is_refused_with_the_reason(tmp_path: Path) -> None:
    run_settings = settings(tmp_path, min_nodes=3, wait_for_nodes=6.0)
    grid = grid_for(run_settings, nodes=2)
    node = grid.add_node(run_settings.flat(), {})
    message = refusal(grid, run_settings)
    assert f"node {node}: SettingsError: wrong settings" in message
    assert "client-name" in message


def test_a_node_whose_hello_fails_three_times_is_refused(tmp_path: Path) -> None:
    run_settings = settings(tmp_path, min_nodes=2, wait_for_nodes=10.0)
    grid = grid_for(run_settings, nodes=2)
    _, node = grid.nodes
    broken = failing("Traceback\nOSError: the disk is full")
    grid.faults = lambda request, reply, now: (
        broken if request.metadata.dst_node_id == node else late_by(0)
    )(reply, now)
    message = refusal(grid, run_settings)
    assert grid.nodes[node].handled == [HELLO] * 3
    assert "refused: 1" in message
    assert "OSError: the disk is full" in message


def test_a_hello_that_fails_once_is_said_again(tmp_path: Path) -> None:
    run_settings = settings(tmp_path, num_rounds=1)
    grid = grid_for(run_settings, nodes=2)
    broken = iter([failing("OSError: busy")])
    grid.faults = lambda request, reply, now: next(broken, late_by(0))(reply, now)
    assert run_over(grid, run_settings).rounds()[0]["nodes"]["asked"] == 2


def test_a_second_copy_of_a_hello_is_dropped(tmp_path: Path) -> None:
    run_settings = settings(tmp_path)

    def twice(request: Message, reply: Message, now: float) -> list[Delivery]:
        copies = 2 if request.metadata.message_type == HELLO else 1
        return [Delivery(reply, now)] * copies

    folder = run_over(grid_for(run_settings, nodes=2, faults=twice), run_settings)
    assert [line["nodes"]["answered"] for line in folder.rounds()] == [2] * run_settings.num_rounds


def test_a_simulation_whose_nodes_are_all_refused_ends_at_once(tmp_path: Path) -> None:
    changes = {"data__split": "pathological", "data__classes_per_client": 11}
    run_settings = settings(tmp_path, wait_for_nodes=500.0, **changes)
    grid = grid_for(run_settings, nodes=2)
    with pytest.raises(FederationError, match=r"data\.classes-per-client = 11: must be 9 to 10"):
        run_over(grid, run_settings)
    assert grid.clock.now() < 20


def test_a_quorum_above_min_nodes_is_waited_for_before_the_round(tmp_path: Path) -> None:
    run_settings = settings(tmp_path, min_nodes=2, min_replies=3)
    grid = grid_for(run_settings, nodes=2)
    with pytest.raises(FederationError, match=r"for 3 clients \(min-nodes, min-replies\)"):
        run_over(grid, run_settings)
    assert not any(request.metadata.message_type == TRAIN for request in grid.requests)


def test_a_node_that_changes_its_network_is_told_so(tmp_path: Path) -> None:
    run_settings = settings(tmp_path, min_nodes=1, num_rounds=2)
    grid = InProcessGrid(InThisProcess(client_app.app.app), SimulatedClock())
    nodes = [real_node(grid, run_settings.flat(), part, tmp_path) for part in range(2)]
    folder = run_over(grid, run_settings, simulation=False)
    grid.nodes[nodes[0]].context.node_config["model"] = "resnet20"
    longer = settings(tmp_path, min_nodes=1, num_rounds=3, resume=str(folder.path))
    run_over(grid, longer, simulation=False)
    (reason,) = failures(folder)[3].values()
    assert "client 'clinic-0' trained 'cnn' before in this experiment" in reason


def test_a_server_model_that_diverges_ends_the_run_with_a_message(tmp_path: Path) -> None:
    run_settings = settings(tmp_path, distillation__learning_rate=1e30)
    with pytest.raises(MotleyError, match="diverged"):
        run_over(grid_for(run_settings, nodes=2), run_settings)
