"""A process that does nothing but fork others, so that they begin in the state it was made in.

A process that runs a federation cannot be forked later on, when a worker must be replaced: a GPU that it has
used cannot be used by its children, and locks that its threads hold would stay locked in them. So one child
is forked before anything of that kind happens. What was loaded by then is shared by all.

Only where processes can be forked (not on Windows).
"""

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import util
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from multiprocessing.reduction import recv_handle, send_handle

import torch

from protocol.errors import FederationError, SettingsError

_DIE_WITH_PARENT = 1
"""Linux' PR_SET_PDEATHSIG."""
_END_SECONDS = 10.0
_FORK = "fork"
_END = "end"

Work = Callable[[Connection], None]
"""What a forked process does, given its end of a pipe; it is to return when the other end is closed."""


class ForkServer:
    """Forks processes, each with a pipe to this one. None of them outlives it, however it ends.

    Parameters
    ----------
    work
        What each process does.

    Raises
    ------
    SettingsError
        If this process has used the GPU, or this system cannot fork.
    """

    def __init__(self, work: Work) -> None:
        if "fork" not in multiprocessing.get_all_start_methods():
            raise SettingsError("workers: this system cannot fork processes; allowed here: 0")
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            raise SettingsError(
                "workers: this process has used the GPU, so that processes forked from it could not; allowed "
                "now: 0, or start in a new process"
            )
        context = multiprocessing.get_context("fork")
        self._control, control = context.Pipe()
        self._process = context.Process(target=_serve, args=(control, self._control, work, os.getpid()))
        self._process.start()
        control.close()
        # without it, Python would wait for the process for ever if nobody calls close
        self.close = util.Finalize(self, _end, (self._process, self._control), exitpriority=1)
        """End all processes at once; may be called more than once."""

    def fork(self) -> tuple[int, Connection]:
        """Start a process; return its id, and this process's end of the pipe to it.

        Raises
        ------
        FederationError
            If the server has ended.
        """
        ours, theirs = multiprocessing.Pipe()
        process_id = self._ask(_FORK, theirs)
        theirs.close()
        return process_id, ours

    def ending(self, process_id: int) -> str:
        """Say how a process ended that has closed its pipe; one that has not ended is killed.

        Raises
        ------
        FederationError
            If the server has ended.
        """
        exit_code = self._ask(process_id)
        if exit_code < 0:
            name = signal.Signals(-exit_code).name
            return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        return f"exit code {exit_code}"

    def _ask(self, question: str | int, connection: Connection | None = None) -> int:
        try:
            self._control.send(question)
            if connection is not None:
                send_handle(self._control, connection.fileno(), self._process.pid)
            number: int = self._control.recv()
        except (EOFError, OSError) as error:
            raise FederationError(
                f"the simulation's worker processes are gone: the one that starts them "
                f"({self._process.pid}) has ended"
            ) from error
        return number


def _end(process: ForkProcess, control: Connection) -> None:
    """Let the server end its children and itself."""
    with suppress(OSError):  # it may be gone
        control.send(_END)
    control.close()
    process.join(_END_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


def _serve(control: Connection, other_end: Connection, work: Work, parent: int) -> None:
    """Be the server, until told to end or the parent is gone."""
    other_end.close()
    _prepare(parent)
    gc.freeze()  # what is shared stays shared: the collector would write to it, and so make copies
    children: dict[int, ForkProcess] = {}
    try:
        while (question := _hear(control)) != _END:
            if question == _FORK:
                control.send(_fork(control, work, children))
            else:
                control.send(_reap(children.pop(int(question))))
    finally:
        for child in children.values():
            child.kill()


def _hear(control: Connection) -> str | int:
    try:
        question: str | int = control.recv()
    except (EOFError, OSError):  # the parent is gone
        return _END
    return question


def _fork(control: Connection, work: Work, children: dict[int, ForkProcess]) -> int:
    connection = Connection(recv_handle(control))
    arguments = (control, work, connection, os.getpid())
    child = multiprocessing.get_context("fork").Process(target=_begin, args=arguments)
    child.start()
    connection.close()
    assert child.pid is not None
    children[child.pid] = child
    return child.pid


def _reap(child: ForkProcess) -> int:
    child.join(_END_SECONDS)
    if child.exitcode is None:
        child.kill()
        child.join()
    assert child.exitcode is not None
    return child.exitcode


def _begin(control: Connection, work: Work, connection: Connection, parent: int) -> None:
    """Do a forked process's work."""
    control.close()
    _prepare(parent)
    work(connection)


def _prepare(parent: int) -> None:
    """Leave Ctrl-C to the process that made the server; end with the parent, whatever ends that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
