"""Flower's SuperNode with four changes, so that it reacts quickly.

Flower's SuperNode

- sleeps three seconds whenever it found no message, so that most of a short round is spent asleep. This
  one waits a tenth of the time it has been idle, a tenth of a second at least and three seconds at most;
- waits forever for a reply if its ClientApp reports that it failed before it wrote one, or dies while it
  is writing it. This one replies with an error at once;
- leaves a message half fetched if its run ends meanwhile, and the ClientApp that was already started waits
  for the rest, for hours. This one drops the message and ends the task;
- counts as offline only a minute after it died. This one sends its heartbeat every few seconds and counts as
  offline after twenty (``--heartbeat-interval``); so a registered one can also connect again sooner.

Everything else, including all flags, is as in ``flower-supernode`` (``python -m deploy.supernode --help``).
The changes replace names in Flower's modules, so they fit only the version that they were written for; with
another one they are not made, and a warning says so.
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
"""The Flower versions that the changes are written for."""
IDLE_SLEEP = 3
"""Seconds for which Flower's loop sleeps when it found no message; any other sleep waits for a ClientApp."""
LEAST_WAIT = 0.1
INCOMPLETE_REPLY_ERROR = Error(ErrorCode.CLIENT_APP_CRASHED, "ClientApp ended amid its reply.")
HEARTBEAT_INTERVAL = 10
"""Seconds between heartbeats, the least that a SuperLink accepts; a node is offline after twice that."""
Result = TypeVar("Result")
_original_fetch: Callable[..., int | None] = node_loop._pull_and_store_message


class RunEndedError(Exception):
    """A run ended while one of its messages was being fetched."""


class QuickClock:
    """Replaces the module ``time`` in the SuperNode's loop, which uses only its ``sleep``."""

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
    """Replies to a message with an error as soon as its ClientApp ends before its reply is complete."""

    def get_messages(
        self, *, run_ids: Sequence[int] | None = None, is_reply: bool | None = None, limit: int | None = None
    ) -> Sequence[Message]:
        """Retrieve messages; a reply only once all of its parts are there.

        Flower's loop takes a reply as soon as its first part is there, and then cannot be told that its
        ClientApp died.

        Parameters
        ----------
        run_ids
            Runs whose messages to retrieve; None: all.
        is_reply
            Whether to retrieve replies or other messages; None: both.
        limit
            Largest number of messages; None: all.
        """
        found = super().get_messages(run_ids=run_ids, is_reply=is_reply, limit=limit)
        partial = self._partial_replies()
        with self.lock_msg_store:
            for message_id in partial & self.msg_store.keys():
                self.msg_store[message_id].is_retrieved = False
        return [message for message in found if message.metadata.message_id not in partial]

    def finish_task(self, task_id: int, sub_status: str, details: str) -> bool:
        """Finish a task; if it is a ClientApp's without a complete reply, reply with an error.

        Parameters
        ----------
        task_id
            The task's id.
        sub_status
            How it ended, see Flower's ``SubStatus``.
        details
            Details of the end, for Flower's records.

        Returns
        -------
        bool
            Whether the task existed and was not finished before.
        """
        finished = super().finish_task(task_id, sub_status, details)
        tasks = self.get_tasks(task_ids=[task_id]) if finished else []
        if tasks and tasks[0].type == TaskType.CLIENT_APP:
            if sub_status != SubStatus.COMPLETED:
                self._store_error_replies({tasks[0].run_id}, CLIENT_APP_CRASHED_ERROR)
            elif self._partial_replies():
                self._store_error_replies({tasks[0].run_id}, INCOMPLETE_REPLY_ERROR)
        return finished

    def _store_error_replies(self, run_ids: set[int], error: Error) -> None:
        # Flower replies only to messages that a ClientApp has fetched and not begun to answer; one that died
        # before that or during its reply would keep the SuperNode waiting. Only one message is handled at a
        # time, so all messages here are those of the ClientApp that died.
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
        """Return the ids of replies whose parts have not all arrived."""
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
        """Return the state, which the first call makes."""
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
    """Fetch a message for the ClientApp; if its run ends meanwhile, drop the message completely.

    Flower's function cleans up after an ``Exception``. But the end of a run is signalled by a
    ``BaseException``, after which it does not clean up; so that is turned into an ``Exception`` here.

    Parameters
    ----------
    pull_object
        Fetches a part of a message, given the ids of the run and the part.
    confirm_message_received
        Confirms that a message has arrived, given the ids of the run and the message.
    **others
        Further arguments of Flower's function.

    Returns
    -------
    int | None
        The id of the message's run; None if there is no message.
    """
    return _original_fetch(
        pull_object=_with_clean_end(pull_object),
        confirm_message_received=_with_clean_end(confirm_message_received),
        **others,
    )


def _with_clean_end(call: Callable[[int, str], Result]) -> Callable[[int, str], Result]:
    def called(run_id: int, object_id: str) -> Result:
        try:
            return call(run_id, object_id)
        except RunNotRunningException:
            raise RunEndedError(f"run {run_id} has ended") from None

    return called


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``flower-supernode`` with our own flags added."""
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
        help="Seconds between heartbeats; a node that died counts as offline after twice that. At least "
        f"{HEARTBEAT_INTERVAL}, the default.",
    )


def node_config(text: str) -> str:
    """Join the lines of a node-config; lines that begin with # are comments."""
    lines = (line.strip() for line in text.splitlines())
    return " ".join(line for line in lines if line and not line.startswith("#"))


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], int]:
    """Take our own flags out of a command line.

    Returns
    -------
    list[str]
        Flower's arguments, among them the node-config that was read from a file.
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
        sys.exit(f"--heartbeat-interval {ours.heartbeat_interval}: must be at least {HEARTBEAT_INTERVAL}")
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


def patch_flower(heartbeat_interval: int) -> None:
    """Change Flower's SuperNode in this process, if the changes are written for the installed version.

    Parameters
    ----------
    heartbeat_interval
        Seconds between heartbeats.
    """
    installed = version("flwr")
    if not installed.startswith(KNOWN_FLOWER):
        log.warning("Flower %s is not a known version: its SuperNode runs without our changes", installed)
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
    patch_flower(heartbeat_interval)
    command_line.flower_supernode()


if __name__ == "__main__":
    main()
