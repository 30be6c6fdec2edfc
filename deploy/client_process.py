"""One ClientApp: a forked process that handles one message, and the error reply if it dies."""

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

    It reports its progress through a pipe: first the message without its content, so that the launcher can
    answer it if need be, then that it has answered.

    Parameters
    ----------
    api
        The SuperNode's Runtime API.
    token
        The task's token, with which its ClientApp makes requests.
    task_id
        The task's id.
    """

    def __init__(self, api: RuntimeApi, token: str, task_id: int) -> None:
        self._token = token
        self._task_id = task_id
        self._progress, writer = _FORK.Pipe(duplex=False)
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
        """Wait up to so many seconds for its end; tell whether it has ended."""
        self._process.join(seconds)
        return self._process.exitcode is not None

    def memory(self) -> int:
        """Return its memory in bytes, what it shares with the launcher included, mapped files left out."""
        try:
            with open(f"/proc/{self.pid}/statm") as numbers:
                _, resident, shared, *_ = map(int, numbers.read().split())
        except OSError:  # it has just ended
            return 0
        return (resident - shared) * _PAGE

    def end(self, reason: str) -> None:
        """Kill it; `report` sends the reason to the sender of its message."""
        self._reason = reason
        self._process.kill()
        self._process.join()

    def report(self, api: RuntimeApi) -> None:
        """Answer its message with an error if it ended without an answer."""
        progress = self._read_progress()
        if _ANSWERED in progress:
            return
        reason = f"ClientApp ended without an answer: {self._reason or _cause_of_end(self._process.exitcode)}"
        log.error("%s (process %d)", reason, self.pid)
        client = api.for_task(self._token)
        try:
            _answer_for(client, progress, self._task_id, reason)
        except (httpx.HTTPError, RuntimeError) as error:
            log.warning("The SuperNode did not accept the error reply: %s", error)
        finally:
            client.close()

    def _read_progress(self) -> list[bytes]:
        progress = []
        try:
            while self._progress.poll():
                progress.append(self._progress.recv_bytes())
        except EOFError:
            pass
        self._progress.close()
        return progress


def _cause_of_end(exit_code: int | None) -> str:
    """Say how a process ended."""
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"exit code {exit_code}"


def _answer_for(client: RuntimeHttpClient, progress: list[bytes], task_id: int, reason: str) -> None:
    """Send an error reply for a ClientApp that died."""
    if progress:
        message = message_from_proto(MessageProto.FromString(progress[0]))
    else:  # it died before it had its message
        message = flower.pull_task_input(client)[0]
    TaskIdentity.task_id = task_id
    TaskIdentity.run_id = message.metadata.run_id
    TaskIdentity.node_id = message.metadata.dst_node_id
    reply = Message(Error(ErrorCode.CLIENT_APP_CRASHED, reason), reply_to=message)
    context = Context(message.metadata.run_id, message.metadata.dst_node_id, {}, RecordDict(), {})
    flower.push_message(client, reply, context)
    # without a context: the ClientApp's own context stays as it was before this message
    flower.push_task_output(client, None, SubStatus.FAILED, reason)


def _work(api: RuntimeApi, token: str, progress: Connection, launcher: int) -> None:
    """Run Flower's ClientApp process in this one, which has just been forked."""
    os.setpgid(0, 0)  # Ctrl-C is for the launcher, which ends this process itself
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _die_with(launcher)
    wrapped = {
        "pull_task_input": _reporting_message(flower.pull_task_input, progress),
        "push_message": _reporting_answer(flower.push_message, progress),
    }
    for name, function in wrapped.items():
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
    """Kill this process when its launcher dies; a graceful end would leave its message unanswered."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != launcher:
        os._exit(1)


def _reporting_message(pull: _Pull, progress: Connection) -> _Pull:
    def pull_and_report(client: RuntimeHttpClient) -> tuple[Message, Context, Run, Fab]:
        # Flower shuts a ClientApp down gracefully on SIGTERM, but leaves its message without an answer
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        pulled = pull(client)
        progress.send_bytes(message_to_proto(remove_content_from_message(pulled[0])).SerializeToString())
        return pulled

    return pull_and_report


def _reporting_answer(push: _Push, progress: Connection) -> _Push:
    def push_and_report(client: RuntimeHttpClient, message: Message, context: Context) -> None:
        push(client, message, context)
        progress.send_bytes(_ANSWERED)

    return push_and_report
