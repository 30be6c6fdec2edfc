"""Worker processes: they answer as one process would, and leave nothing behind."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from protocol.errors import FederationError, SettingsError
from simulation.clock import RealClock, SimulatedClock
from simulation.grid import InProcessGrid
from simulation.messages import task_identity
from simulation.workers import WorkerPool, cores
from tests.simulation.scripted import app, exchange, said, telling, with_nodes
from tests.support.process_table import children

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def shared() -> Iterator[WorkerPool]:
    with WorkerPool(app, 2) as pool:
        yield pool


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    """Return workers that may be harmed."""
    with WorkerPool(app, 2) as pool:
        yield pool


def grid_over(pool: WorkerPool, nodes: int) -> tuple[InProcessGrid, list[int]]:
    grid = InProcessGrid(pool, SimulatedClock())
    return grid, with_nodes(grid, nodes)


# --- answering ---------------------------------------------------------------------------------


def test_every_message_is_answered_by_its_own_node(shared: WorkerPool) -> None:
    grid, nodes = grid_over(shared, 20)
    replies = exchange(grid, *(telling(node, text=str(node)) for node in nodes))
    assert [said(reply)["number"] for reply in replies] == list(range(20))
    assert [said(reply)["text"] for reply in replies] == [str(node) for node in nodes]


def test_the_work_is_done_by_all_workers_and_by_no_other_process(shared: WorkerPool) -> None:
    grid, nodes = grid_over(shared, 4)
    replies = exchange(grid, *(telling(node, seconds=0.1) for node in nodes))
    assert {said(reply)["process"] for reply in replies} == set(shared.process_ids)
    assert len(set(shared.process_ids)) == 2
    assert os.getpid() not in shared.process_ids


def test_a_worker_computes_on_one_thread(shared: WorkerPool) -> None:
    grid, nodes = grid_over(shared, 1)
    assert said(exchange(grid, telling(nodes[0]))[0])["threads"] == 1


def test_a_message_larger_than_a_pipe_holds_arrives(shared: WorkerPool) -> None:
    grid, nodes = grid_over(shared, 3)
    large = bytes(range(256)) * 2**14  # 4 MiB; a pipe holds some 200 kB
    replies = exchange(grid, *(telling(node, large=large) for node in nodes))
    assert all(said(reply)["large"] == large for reply in replies)


def test_a_nodes_state_follows_it_from_worker_to_worker(shared: WorkerPool) -> None:
    grid, (node, other) = grid_over(shared, 2)
    processes, counts = set(), []
    for _ in range(8):  # the other node's messages take the workers in turns
        replies = exchange(grid, telling(other, seconds=0.02), telling(node), telling(other))
        processes.add(said(replies[1])["process"])
        counts.append(said(replies[1])["messages"])
    assert counts == list(range(1, 9))
    assert grid.nodes[node].context.state["counted"]["messages"] == 8


def test_a_node_never_answers_two_messages_at_once(shared: WorkerPool) -> None:
    grid, (node,) = grid_over(shared, 1)
    replies = exchange(grid, *(telling(node, seconds=0.1) for _ in range(3)))
    assert [said(reply)["messages"] for reply in replies] == [1, 2, 3], "each began after the one before"


def test_in_real_time_the_first_to_be_ready_is_the_first_to_arrive(shared: WorkerPool) -> None:
    grid = InProcessGrid(shared, RealClock(shared.wait))
    slow, quick = with_nodes(grid, 2)
    replies = exchange(grid, telling(slow, seconds=0.5), telling(quick))
    assert [said(reply)["number"] for reply in replies] == [1, 0]


def test_a_pause_ends_when_a_reply_is_there(shared: WorkerPool) -> None:
    grid, (node,) = grid_over(shared, 1)
    grid.push_messages([telling(node, seconds=0.3)])
    started = time.monotonic()
    shared.wait(30)
    assert 0.2 < time.monotonic() - started < 10
    assert len(shared.replies()) == 1
    shared.wait(0.2)  # there is no other
    assert time.monotonic() - started > 0.4


def test_what_was_loaded_before_is_shared_and_what_a_worker_loads_it_keeps() -> None:
    loads: list[int] = []

    @lru_cache
    def load(what: str) -> int:
        loads.append(os.getpid())
        return os.getpid()

    loading = ClientApp()

    @loading.train()
    def train(message: Message, context: Context) -> Message:
        where = {"shared": load("shared"), "own": load("own"), "loads": len(loads)}
        return Message(RecordDict({"fields": ConfigRecord(where)}), reply_to=message)

    with WorkerPool(loading, 1, warm_up=lambda: load("shared")) as pool:
        grid, nodes = grid_over(pool, 3)
        replies = [dict(said(reply)) for reply in exchange(grid, *map(telling, nodes))]
        (worker,) = pool.process_ids
    assert replies == [{"shared": os.getpid(), "own": worker, "loads": 2}] * 3


def test_there_is_a_worker_for_each_core_unless_said_otherwise() -> None:
    with WorkerPool(app) as pool:
        assert len(pool.process_ids) == cores() == len(os.sched_getaffinity(0))


# --- what goes wrong ---------------------------------------------------------------------------


def test_an_exception_is_an_error_and_the_worker_goes_on(shared: WorkerPool) -> None:
    grid, nodes = grid_over(shared, 3)
    before = shared.process_ids
    replies = exchange(grid, telling(nodes[0]), telling(nodes[1], do="raise"), telling(nodes[2]))
    assert [reply.has_error() for reply in replies] == [False, True, False]
    assert replies[1].error.reason == "OSError: no space left on device"
    assert shared.process_ids == before


@pytest.mark.parametrize(
    ("do", "ending"), [("kill", "killed by SIGKILL (out of memory?)"), ("exit", "exit code 3")]
)
def test_a_worker_that_dies_is_replaced_and_its_message_answered_with_an_error(
    pool: WorkerPool, do: str, ending: str
) -> None:
    grid, nodes = grid_over(pool, 4)
    before = set(pool.process_ids)
    replies = exchange(grid, telling(nodes[0], do=do), *map(telling, nodes[1:]))
    assert [reply.has_error() for reply in replies] == [True, False, False, False]
    assert replies[0].error.code == ErrorCode.CLIENT_APP_CRASHED
    assert replies[0].error.reason == f"ClientApp ended without an answer: {ending}"
    assert replies[0].metadata.src_node_id == nodes[0]
    assert len(set(pool.process_ids)) == 2
    assert len(before & set(pool.process_ids)) == 1
    assert [said(reply)["number"] for reply in exchange(grid, *map(telling, nodes))] == [0, 1, 2, 3]


def test_an_idle_worker_that_is_killed_is_replaced_and_no_message_fails(pool: WorkerPool) -> None:
    grid, nodes = grid_over(pool, 2)
    before = set(pool.process_ids)
    for process_id in before:
        os.kill(process_id, signal.SIGKILL)
    vanished(before)
    assert not any(reply.has_error() for reply in exchange(grid, *map(telling, nodes)))
    assert not before & set(pool.process_ids)


def test_messages_that_kill_every_worker_are_all_answered(pool: WorkerPool) -> None:
    grid, nodes = grid_over(pool, 6)
    replies = exchange(grid, *(telling(node, do="kill") for node in nodes))
    assert all("SIGKILL" in reply.error.reason for reply in replies)
    assert len(replies) == 6


def test_the_end_of_the_process_that_starts_workers_is_told(pool: WorkerPool) -> None:
    grid, nodes = grid_over(pool, 2)
    (starter,) = [child for child in children(os.getpid()) if set(pool.process_ids) <= set(children(child))]
    os.kill(starter, signal.SIGKILL)
    vanished(pool.process_ids)
    with pytest.raises(FederationError, match=f"worker processes are gone: .*{starter}"):
        exchange(grid, *map(telling, nodes))


@pytest.mark.parametrize("workers", [0, -1])
def test_a_pool_without_workers_is_refused(workers: int) -> None:
    with pytest.raises(SettingsError, match=f"workers = {workers}: a pool needs at least 1"):
        WorkerPool(app, workers)


def test_a_process_that_has_used_the_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(SettingsError, match=r"workers: this process has used the GPU.*allowed now: 0"):
        WorkerPool(app, 1)


# --- the end -----------------------------------------------------------------------------------


def vanished(process_ids: object) -> None:
    """Wait until processes have ended, for a bounded time."""
    until = time.monotonic() + 10
    left = [process_id for process_id in process_ids if alive(process_id)]  # type: ignore[attr-defined]
    while left:
        assert time.monotonic() < until, f"still there: {left}"
        time.sleep(0.02)
        left = [process_id for process_id in left if alive(process_id)]


def alive(process_id: int) -> bool:
    """Tell whether a process is there and has not ended; one that nobody has asked after stays a zombie."""
    with suppress(OSError):
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def test_a_closed_pool_leaves_no_process_even_if_one_was_at_work() -> None:
    before = set(children(os.getpid()))
    with WorkerPool(app, 2) as pool:
        workers = pool.process_ids
        grid, nodes = grid_over(pool, 2)
        grid.push_messages(telling(node, seconds=60) for node in nodes)
        assert all(map(alive, workers))
    assert not any(map(alive, workers))
    assert set(children(os.getpid())) <= before
    pool.close()  # may be called again


def test_a_pool_that_nobody_closed_ends_when_it_is_forgotten() -> None:
    pool = WorkerPool(app, 1)
    workers = pool.process_ids
    del pool
    vanished(workers)


def test_other_processes_forked_meanwhile_do_not_keep_a_pool_alive(pool: WorkerPool) -> None:
    """They inherit its pipes, so that none of these closes when the pool does."""
    with WorkerPool(app, 1):
        workers, started = pool.process_ids, time.monotonic()
        pool.close()
        vanished(workers)
        assert time.monotonic() - started < 5


def be_a_server(pipe: Connection) -> None:
    """Own workers at work, and say who they are; what a process does until it is ended."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with suppress(KeyboardInterrupt), task_identity(), WorkerPool(app, 2) as pool:
        grid, nodes = grid_over(pool, 2)
        ids = list(grid.push_messages(telling(node, seconds=60) for node in nodes))
        pipe.send(pool.process_ids)
        grid.pull_messages(ids)


@pytest.mark.parametrize(
    "end",
    [
        lambda server: os.killpg(server, signal.SIGINT),
        lambda server: os.kill(server, signal.SIGTERM),
        lambda server: os.kill(server, signal.SIGKILL),
    ],
    ids=["Ctrl-C", "SIGTERM", "SIGKILL"],
)
def test_no_worker_outlives_its_server(end: Callable[[int], None]) -> None:
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("fork").Process(target=be_a_server, args=(theirs,))
    server.start()
    assert server.pid is not None
    workers = ours.recv()
    assert all(map(alive, workers))
    end(server.pid)
    server.join(10)
    assert server.exitcode is not None
    vanished(workers)


def test_a_pool_may_be_used_from_another_thread() -> None:
    replies: list[Message] = []

    def serve() -> None:
        with WorkerPool(app, 1) as pool:
            grid, nodes = grid_over(pool, 2)
            replies.extend(exchange(grid, *map(telling, nodes)))

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join(30)
    assert [said(reply)["number"] for reply in replies] == [0, 1]
