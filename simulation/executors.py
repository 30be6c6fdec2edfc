"""Who does the clients' work: the contract, and the simplest that keeps it."""

import time
from collections.abc import Collection
from typing import Protocol

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from simulation.messages import answer, pack, unpack


class Executor(Protocol):
    """Lets nodes answer messages: each message gets one reply, the real one or an error."""

    def submit(self, message: Message, context: Context) -> None:
        """Take a message for a node, whose ``context`` is brought up to date when it has answered."""

    def replies(self) -> list[Message]:
        """Return the replies that are there by now; each is returned once."""

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
        """Return at once: whatever was submitted is answered."""

    def wait(self, seconds: float) -> None:
        """Wait: there is no other reply before the next message."""
        time.sleep(seconds)
