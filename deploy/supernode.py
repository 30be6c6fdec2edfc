"""A SuperNode that answers quickly: Flower's own, with four of its habits changed.

Flower's SuperNode

- sleeps three seconds whenever it found no message, so that most of a short round is spent asleep. This
  one waits a tenth of the time it has been idle, a tenth of a second at least and three seconds at most;
- waits for ever for a reply if its ClientApp reports that it failed before it wrote one, or dies while it
  is writing it. This one replies with an error at once;
- leaves a message half fetched if its run ends meanwhile, and the ClientApp that is already there waits for
  the rest, for hours. This one drops the message and ends the task;
- is missed after a minute when it dies. This one sends its heartbeat every few seconds and is missed after
  twenty (``--heartbeat-interval``); a registered one can also take its place again that much sooner.

Everything else, all flags included, is ``flower-supernode``'s: ``python -m deploy.supernode --help``. The
changes replace names in Flower's modules, so they are bound to the version they were written for; with
another one they stay away and a warning says so.
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from flwr.app import Error, Message
from flwr.client.grpc_rere_client import connection
from flwr.common.constant import ErrorCode, SubStatus
from flwr.supercore import heartbeat
from flwr.supercore.constant import TaskType
from flwr.supercore.run import RunNotRunningException
from flwr.supernode import start_client_internal as node_loop
from flwr.supernode.nodestate import NodeState, NodeStateFactory
from flwr.supernode.nodestate.in_memory_nodestate import CLIENT_APP_CRASHED_ERROR, InMemoryNodeState

from deploy.idle import IdleWait

log = logging.getLogger("flwr")
# The package exports a function of the module's name, which hides the module.
command_line = import_module("flwr.supernode.cli.flower_supernode")

KNOWN_FLOWER = "1.39."
"""The Flower versions whose SuperNode is known here."""
IDLE_SLEEP = 3
"""Seconds for which Flower's loop sleeps when it found no message; any other sleep waits for a ClientApp."""
LEAST_WAIT = 0.1
INCOMPLETE_REPLY_ERROR = Error(ErrorCode.CLIENT_APP_CRASHED, "ClientApp ended amid its reply.")
HEARTBEAT_INTERVAL = 10
"""Seconds between heartbeats, the least that a SuperLink accepts; it misses a node after two."""
Result = TypeVar("Result")
_flowers_fetch: Callable[..., int | None] = node_loop._pull_and_store_message


class RunEndedError(Exception):
    """A run has ended while one of its messages was fetched."""


class QuickClock:
    """Stands in for the module ``time`` in the SuperNode's loop, which uses nothing of it but ``sleep``."""

    def __init__(self) -> None:
        self._idle = IdleWait(LEAST_WAIT, IDLE_SLEEP)

    def sleep(self, seconds: float) -> None:
        """Sleep less than the loop asks for."""
        if seconds == IDLE_SLEEP:
            time.sleep(self._idle.seconds())
        else:
            self._idle.busy()
            time.sleep(LEAST_WAIT)


class PromptNodeState(InMemoryNodeState):
    """Answers a message with an error as soon as its ClientApp has ended without an answer, or amid one."""

    def get_messages(
        self, *, run_ids: Sequence[int] | None = None, is_reply: bool | None = None, limit: int | None = None
    ) -> Sequence[Message]:
        """Retrieve messages; replies when all of their parts are there.

        Flower's loop takes a reply that has just begun to come, and nobody could tell it then that its
        ClientApp has died.
        """
        found = super().get_messages(run_ids=run_ids, is_reply=is_reply, limit=limit)
        partial = self._partial_replies()
        with self.lock_msg_store:
            for message_id in partial & self.msg_store.keys():
                self.msg_store[message_id].is_retrieved = False
        return [message for message in found if message.metadata.message_id not in partial]

    def finish_task(self, task_id: int, sub_status: str, details: str) -> bool:
        """Finish a task; a ClientApp's that did not answer is answered for."""
        finished = super().finish_task(task_id, sub_status, details)
        tasks = self.get_tasks(task_ids=[task_id]) if finished else []
        if tasks and tasks[0].type == TaskType.CLIENT_APP:
            if sub_status != SubStatus.COMPLETED:
                self._store_error_replies({tasks[0].run_id}, CLIENT_APP_CRASHED_ERROR)
            elif self._partial_replies():
                self._store_error_replies({tasks[0].run_id}, INCOMPLETE_REPLY_ERROR)
        return finished

    def _store_error_replies(self, run_ids: set[int], error: Error) -> None:
        # Flower answers only for messages that a ClientApp has fetched and not begun to answer; one that died
        # before or amid that would keep the SuperNode waiting. It works on one message at a time, so all that
        # are here are the dead one's.
        self._drop_partial_replies()
        with self.lock_msg_store:
            for entry in self.msg_store.values():
                if (
                    entry.message.metadata.run_id in run_ids
                    and not entry.message.metadata.reply_to_message_id
                ):
                    entry.is_retrieved = True
        super()._store_error_replies(run_ids, error)

    def _partial_replies(self) -> set[str]:
        """Return the ids of the replies of which parts are still to come."""
        with self._lock_object_push_sessions:
            return {
                root
                for root, session_id in self._object_push_session_by_root.items()
                if self._object_push_sessions[session_id].pending_object_ids
            }

    def _drop_partial_replies(self) -> None:
        with self._lock_object_push_sessions:
            for root in self._partial_replies():
                session_id = self._object_push_session_by_root[root]
                self._cleanup_push_session(session_id, cleanup_messages=True)


class PromptNodeStateFactory(NodeStateFactory):
    """Makes the one ``PromptNodeState`` of a SuperNode."""

    def state(self) -> NodeState:
        """Return the state; make it if need be."""
        with self.lock:
            if self.state_instance is None:
                self.state_instance = PromptNodeState(self.objectstore_factory.store())
            return self.state_instance


def fetch_message(
    *,
    pull_object: Callable[[int, str], bytes],
    confirm_message_received: Callable[[int, str], None],
    **others: object,
) -> int | None:
    """Fetch a message for the ClientApp; nothing is left of one whose run ends meanwhile.

    Flower's function cleans up after an ``Exception``. That a run has ended is a ``BaseException`` there,
    which passes the cleaning by, so it becomes the other here.

    Parameters
    ----------
    pull_object
        Fetches a part of a message, by the run's id and the part's.
    confirm_message_received
        Says that a message is here, by the run's id and the message's.
    **others
        What else Flower's function takes.

    Returns
    -------
    int | None
        The id of the message's run; None if there is no message.
    """
    return _flowers_fetch(
        pull_object=_cleanly(pull_object),
        confirm_message_received=_cleanly(confirm_message_received),
        **others,
    )


def _cleanly(call: Callable[[int, str], Result]) -> Callable[[int, str], Result]:
    def called(run_id: int, object_id: str) -> Result:
        try:
            return call(run_id, object_id)
        except RunNotRunningException:
            raise RunEndedError(f"run {run_id} has ended") from None

    return called


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``flower-supernode`` with the flags that are ours."""
    made: argparse.ArgumentParser = command_line._parse_args_run_supernode()
    made.prog = "python -m deploy.supernode"
    add_own_flags(made)
    return made


def add_own_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that Flower's SuperNode does not have."""
    parser.add_argument(
        "--node-config-file",
        type=Path,
        help="A file that holds the node-config, in one line or several, instead of --node-config.",
    )
    parser.add_argument(
        "--heartbeat-interval",
        type=int,
        default=HEARTBEAT_INTERVAL,
        help=f"Seconds; a dead node is missed after twice that. At least {HEARTBEAT_INTERVAL}, the default.",
    )


def node_config(text: str) -> str:
    """Make one line of a node-config's lines; those that begin with # are left out."""
    lines = (line.strip() for line in text.splitlines())
    return " ".join(line for line in lines if line and not line.startswith("#"))


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], int]:
    """Take our own flags out of a command line.

    Returns
    -------
    list[str]
        What is Flower's, the node-config of the file among it.
    int
        Seconds between heartbeats.

    Raises
    ------
    SystemExit
        If a value is not allowed or the file cannot be read; the message says which.
    """
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_own_flags(own)
    ours, rest = own.parse_known_args(arguments)
    if ours.heartbeat_interval < HEARTBEAT_INTERVAL:
        sys.exit(f"--heartbeat-interval {ours.heartbeat_interval}: at least {HEARTBEAT_INTERVAL} is allowed")
    if ours.node_config_file is not None:
        if any(flag.split("=")[0] == "--node-config" for flag in rest):
            sys.exit("--node-config and --node-config-file: give one of them")
        rest += ["--node-config", node_config(_read(ours.node_config_file))]
    return rest, ours.heartbeat_interval


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"--node-config-file {file}: {error}")


def quicken(heartbeat_interval: int) -> None:
    """Change Flower's SuperNode in this process, if it is a version whose SuperNode is known.

    Parameters
    ----------
    heartbeat_interval
        Seconds.
    """
    installed = version("flwr")
    if not installed.startswith(KNOWN_FLOWER):
        log.warning("Flower %s is not known here: its SuperNode runs with its own waits", installed)
        return
    for module, name, ours in (
        (node_loop, "time", QuickClock()),
        (node_loop, "_pull_and_store_message", fetch_message),
        (command_line, "NodeStateFactory", PromptNodeStateFactory),
        (connection, "HEARTBEAT_DEFAULT_INTERVAL", heartbeat_interval),
        (heartbeat, "HEARTBEAT_DEFAULT_INTERVAL", heartbeat_interval),
    ):
        setattr(module, name, ours)


def main() -> None:
    """Run the SuperNode."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        parser().parse_args(["--help"])
    arguments, heartbeat_interval = split_arguments(sys.argv[1:])
    sys.argv = ["flower-supernode", *arguments]
    quicken(heartbeat_interval)
    command_line.flower_supernode()


if __name__ == "__main__":
    main()
