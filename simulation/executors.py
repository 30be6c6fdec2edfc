"""Executors, which do the clients' work: the contract, and one that works in this process."""

import time
from collections.abc import Collection
from typing import Protocol

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from simulation.messages import answer, pack, unpack


class Executor(Protocol):
    """Lets nodes answer messages: each message gets one reply, the real one or an error."""

    def submit(self, message: Message, context: Context) -> None:
        """Take a message for a node, whose ``context`` is updated when it has answered."""

    def replies(self) -> list[Message]:
        """Return the replies that have arrived; each is returned once."""

    def finish(self, message_ids: Collection[str]) -> None:
        """Wait until all of these messages are answered."""

    def wait(self, seconds: float) -> None:
        """Wait until there is another reply, at most this long."""


class InThisProcess:
    """Answers each message at once, in the process that sends it.

    Parameters
    ----------
    app
        The nodes' ClientApp.
    """

    def __init__(self, app: ClientApp) -> None:
        self._app = app
        self._replies: list[Message] = []

    def submit(self, message: Message, context: Context) -> None:
        """Answer a message."""
        self._replies.append(unpack(answer(self._app, pack(message), context)))

    def replies(self) -> list[Message]:
        """Return the replies that have not been returned yet."""
        replies, self._replies = self._replies, []
        return replies

    def finish(self, message_ids: Collection[str]) -> None:
        """Return at once: every message is answered when it is submitted."""

    def wait(self, seconds: float) -> None:
        """Wait: there is no other reply before the next message."""
        time.sleep(seconds)
