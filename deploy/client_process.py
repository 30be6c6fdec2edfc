"""One ClientApp: a forked process that works on one message, and what becomes of the message if it dies."""

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

import httpx
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.supercore.fab import Fab
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime import run_clientapp as flower

from deploy.runtime_api import RuntimeApi

log = logging.getLogger("flwr")

_FORK = multiprocessing.get_context("fork")
_DIE_WITH_PARENT = 1
"""Linux' PR_SET_PDEATHSIG."""
_ANSWERED = b"answered"
_PAGE = os.sysconf("SC_PAGE_SIZE")
_Pull = Callable[[RuntimeHttpClient], tuple[Message, Context, Run, Fab]]
_Push = Callable[[RuntimeHttpClient, Message, Context], None]


class ClientProcess:
    """A process that runs Flower's ClientApp for one task.

    While it works it leaves notes: first the message without its content, so that somebody else can answer
    it, then that it has answered.
    """

    def __init__(self, api: RuntimeApi, token: str, task_id: int) -> None:
        self._token = token
        self._task_id = task_id
        self._notes, writer = _FORK.Pipe(duplex=False)
        self._process = _FORK.Process(target=_work, args=(api, token, writer, os.getpid()))
        self._reason = ""
        self._process.start()
        writer.close()

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process.pid is not None
        return self._process.pid

    def wait(self, seconds: float) -> bool:
        """Wait for its end for some time; tell whether it has come."""
        self._process.join(seconds)
        return self._process.exitcode is not None

    def memory(self) -> int:
        """Return the bytes of memory that are its own or its launcher's too, mapped files left out."""
        try:
            with open(f"/proc/{self.pid}/statm") as numbers:
                _, resident, shared, *_ = map(int, numbers.read().split())
        except OSError:  # it has just ended
            return 0
        return (resident - shared) * _PAGE

    def end(self, reason: str) -> None:
        """End it at once, for a reason that its message's sender is told."""
        self._reason = reason
        self._process.kill()
        self._process.join()

    def report(self, api: RuntimeApi) -> None:
        """Answer its message with an error if it ended without an answer."""
        notes = self._read_notes()
        if _ANSWERED in notes:
            return
        reason = f"ClientApp ended without an answer: {self._reason or _death(self._process.exitcode)}"
        log.error("%s (process %d)", reason, self.pid)
        client = api.of_task(self._token)
        try:
            _answer_for(client, notes, self._task_id, reason)
        except (httpx.HTTPError, RuntimeError) as error:
            log.warning("The SuperNode takes no answer for it: %s", error)
        finally:
            client.close()

    def _read_notes(self) -> list[bytes]:
        notes = []
        try:
            while self._notes.poll():
                notes.append(self._notes.recv_bytes())
        except EOFError:
            pass
        self._notes.close()
        return notes


def _death(exit_code: int | None) -> str:
    """Say how a process died."""
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"exit code {exit_code}"


def _answer_for(client: RuntimeHttpClient, notes: list[bytes], task_id: int, reason: str) -> None:
    """Send an error in the name of a ClientApp that is dead."""
    if notes:
        message = message_from_proto(MessageProto.FromString(notes[0]))
    else:  # it died before it had its message
        message = flower.pull_task_input(client)[0]
    TaskIdentity.task_id = task_id
    TaskIdentity.run_id = message.metadata.run_id
    TaskIdentity.node_id = message.metadata.dst_node_id
    reply = Message(Error(ErrorCode.CLIENT_APP_CRASHED, reason), reply_to=message)
    context = Context(message.metadata.run_id, message.metadata.dst_node_id, {}, RecordDict(), {})
    flower.push_message(client, reply, context)
    # without a context: what the ClientApp had in its own is kept as it was before this message
    flower.push_task_output(client, None, SubStatus.FAILED, reason)


def _work(api: RuntimeApi, token: str, notes: Connection, launcher: int) -> None:
    """Run Flower's ClientApp process in this one, which has just been forked."""
    os.setpgid(0, 0)  # Ctrl-C is for the launcher, which ends this process itself
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _die_with(launcher)
    noting = {
        "pull_task_input": _noting_message(flower.pull_task_input, notes),
        "push_message": _noting_answer(flower.push_message, notes),
    }
    for name, function in noting.items():
        setattr(flower, name, function)
    sys.argv = ["flwr-clientapp"]
    flower.run_clientapp(
        api.address,
        token,
        api.insecure,
        api.certificates,
        parent_pid=None,
        runtime_dependency_install=False,
    )


def _die_with(launcher: int) -> None:
    """End this process when its launcher does, at once: a gentle end would leave its message unanswered."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != launcher:
        os._exit(1)


def _noting_message(pull: _Pull, notes: Connection) -> _Pull:
    def pull_and_note(client: RuntimeHttpClient) -> tuple[Message, Context, Run, Fab]:
        # Flower ends a ClientApp gently on SIGTERM, and leaves its message without an answer
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        pulled = pull(client)
        notes.send_bytes(message_to_proto(remove_content_from_message(pulled[0])).SerializeToString())
        return pulled

    return pull_and_note


def _noting_answer(push: _Push, notes: Connection) -> _Push:
    def push_and_note(client: RuntimeHttpClient, message: Message, context: Context) -> None:
        push(client, message, context)
        notes.send_bytes(_ANSWERED)

    return push_and_note
