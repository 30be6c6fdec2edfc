"""Worker processes that do the clients' work, one a core."""

import os
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Self

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.common.serde import context_from_proto, context_to_proto, recorddict_from_proto, recorddict_to_proto
from flwr.proto.message_pb2 import Context as ContextProto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

from protocol.errors import SettingsError
from simulation.fork_server import ForkServer
from simulation.messages import PackedMessage, answer, error_reply, pack, unpack


@dataclass(frozen=True, eq=False)
class _Task:
    """A message that a node is to answer."""

    message: Message
    context: Context

    @property
    def node_id(self) -> int:
        return self.message.metadata.dst_node_id


@dataclass(eq=False)
class _Worker:
    """A worker process, and what it is at."""

    process_id: int
    connection: Connection
    task: _Task | None = None


class WorkerPool:
    """Processes that answer messages with the real ClientApp, each on one thread of torch.

    A process serves whichever node has a message, and lives on, so that what it has loaded is there for the
    next one. A node answers one message at a time, as a real one does; two at once could spoil its state. If
    a process ends without an answer, its message is answered with an error that says how it ended, and
    another process takes its place.

    Parameters
    ----------
    app
        The nodes' ClientApp.
    workers
        How many processes there are; None: one a core that this process may use.
    warm_up
        Called before processes are forked: what it loads is loaded once, and shared by all.

    Raises
    ------
    SettingsError
        If there is to be no worker, this process has used the GPU, or this system cannot fork.
    """

    def __init__(
        self, app: ClientApp, workers: int | None = None, warm_up: Callable[[], object] | None = None
    ) -> None:
        count = cores() if workers is None else workers
        if count < 1:
            raise SettingsError(f"workers = {workers}: a pool needs at least 1")
        if warm_up is not None:
            warm_up()
        self._server = ForkServer(partial(_work, app))
        self._workers = [self._start() for _ in range(count)]
        self._waiting: deque[_Task] = deque()
        self._answered: list[PackedMessage] = []
        self._unanswered: set[str] = set()

    def __enter__(self) -> Self:
        """Return the pool; its processes end with the ``with`` block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all processes."""
        self.close()

    def close(self) -> None:
        """End all processes at once, those at work too."""
        self._server.close()
        for worker in self._workers:
            worker.connection.close()

    @property
    def process_ids(self) -> list[int]:
        """The workers' process ids."""
        return [worker.process_id for worker in self._workers]

    # --- what an executor does -----------------------------------------------------------------

    def submit(self, message: Message, context: Context) -> None:
        """Take a message for a node, whose ``context`` gets its new state when it has answered."""
        self._waiting.append(_Task(message, context))
        self._unanswered.add(message.metadata.message_id)
        self._attend(0)

    def replies(self) -> list[Message]:
        """Return the replies that are there by now; each is returned once."""
        self._attend(0)
        answered, self._answered = self._answered, []
        return [unpack(packed) for packed in answered]

    def finish(self, message_ids: Collection[str]) -> None:
        """Wait until all of these messages are answered."""
        awaited = set(message_ids)
        while self._unanswered & awaited:
            self._attend(None)

    def wait(self, seconds: float) -> None:
        """Wait until there is another reply, at most this long."""
        self._attend(seconds)

    # --- parts ---------------------------------------------------------------------------------

    def _attend(self, seconds: float | None) -> None:
        """See to the workers that have answered or ended, and give those that are idle something to do.

        Whatever can be handed out is handed out at the end, so that at least one worker is busy as long as a
        message is unanswered.

        Parameters
        ----------
        seconds
            How long to wait if none has answered or ended; None: until one has.
        """
        by_connection = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), seconds):
            assert isinstance(connection, Connection)
            self._receive(by_connection[connection])
        self._hand_out()

    def _receive(self, worker: _Worker) -> None:
        try:
            reply, state = worker.connection.recv()
        except (EOFError, OSError):
            self._replace(worker)
            return
        assert worker.task is not None
        worker.task.context.state = recorddict_from_proto(RecordDictProto.FromString(state))
        self._answer(worker, reply)

    def _hand_out(self) -> None:
        """Give each worker that has nothing to do the first message whose node is not at work."""
        while (idle := self._idle()) is not None and (task := self._next()) is not None:
            self._waiting.remove(task)
            idle.task = task
            context = context_to_proto(task.context).SerializeToString()
            try:
                idle.connection.send((pack(task.message), context))
            except OSError:
                self._replace(idle)

    def _idle(self) -> _Worker | None:
        return next((worker for worker in self._workers if worker.task is None), None)

    def _next(self) -> _Task | None:
        busy = {worker.task.node_id for worker in self._workers if worker.task is not None}
        return next((task for task in self._waiting if task.node_id not in busy), None)

    def _replace(self, worker: _Worker) -> None:
        """Put another process in the place of one that has ended, and answer for it."""
        worker.connection.close()
        ending = self._server.ending(worker.process_id)
        if worker.task is not None:
            reason = f"ClientApp ended without an answer: {ending}"
            self._answer(worker, pack(error_reply(worker.task.message, reason, ErrorCode.CLIENT_APP_CRASHED)))
        self._workers[self._workers.index(worker)] = self._start()

    def _answer(self, worker: _Worker, reply: PackedMessage) -> None:
        assert worker.task is not None
        self._answered.append(reply)
        self._unanswered.discard(worker.task.message.metadata.message_id)
        worker.task = None

    def _start(self) -> _Worker:
        return _Worker(*self._server.fork())


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(app: ClientApp, connection: Connection) -> None:
    """Answer messages until the other end is closed; what a worker process does."""
    torch.set_num_threads(1)
    with suppress(EOFError, OSError):  # the pool is gone, and with it whoever wants an answer
        while True:
            request, context_bytes = connection.recv()
            context = context_from_proto(ContextProto.FromString(context_bytes))
            reply = answer(app, request, context)
            connection.send((reply, recorddict_to_proto(context.state).SerializeToString()))
