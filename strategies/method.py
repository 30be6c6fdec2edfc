"""The two halves of a method: what the server does in a round, and what a client does.

A method knows nothing of Flower's grid, of nodes or of time: it turns clients' names into payloads
and payloads into a model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray
from torch import Tensor

from data import Samples
from protocol.messages import Evaluation, HelloReply
from strategies.sides import ClientSide, ServerSide


class Exchanges(StrEnum):
    """What a method's clients send, and with it what their models must have in common."""

    LABELS = "soft labels"
    """Predictions on public samples: every client may have another network, or none."""
    WEIGHTS = "weights"
    """Weights of whole networks, which must be one."""
    SUBMODELS = "submodels"
    """Weights of parts of one elastic network."""
    NOTHING = "nothing"
    """Figures alone; there is no server model."""

    @property
    def averages(self) -> bool:
        """Whether clients' weights are averaged, so that all must train one network."""
        return self in (Exchanges.WEIGHTS, Exchanges.SUBMODELS)


@dataclass(frozen=True)
class Outgoing:
    """One client's payload of a round, and what it costs by the paper's formula."""

    content: RecordDict
    paper_down: int


@dataclass(frozen=True)
class Incoming:
    """What the server took from one accepted reply."""

    evaluation: Evaluation
    paper_up: int
    notes: str = ""
    """Anything about the exchange that a person should know."""


@dataclass(frozen=True)
class MethodState:
    """A server half's state in a checkpoint: arrays, and whatever JSON can hold."""

    arrays: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """How the server's model does, and whatever else the method has to tell of it."""

    evaluation: Evaluation
    details: Mapping[str, Any] = field(default_factory=dict)
    """For the round's line: scalars, lists and mappings, as JSON holds them."""


class ServerMethod(Protocol):
    """The server half of a method."""

    final_exchange: bool
    """Whether one more exchange follows the last round."""

    def begin(self, round: int, clients: Sequence[str], final: bool) -> dict[str, Outgoing]:
        """Return each client's payload for a round."""

    def accept(self, client: str, round: int, content: RecordDict) -> Incoming:
        """Take one client's reply; raise ``MessageError`` to refuse it whole, leaving no trace.

        A reply to an earlier round is late: it counts for what the client holds, not for the round.
        """

    def finish(self, round: int) -> None:
        """End the round: aggregate what was accepted, in an order that does not depend on arrival."""

    def greet(self, hello: HelloReply) -> str:
        """Take note of a node that says hello; return a remark for the log, or nothing.

        Raise ``MessageError`` to refuse the node.
        """

    def candidates(self, clients: Sequence[str]) -> list[str]:
        """Return those of the clients that can be asked to train, in the same order."""

    def weights(self) -> Mapping[str, Tensor]:
        """Return what the server's model has learned, by name; nothing if the method has no such model."""

    def score(self, test: Samples) -> Score | None:
        """Score the server's model on held-out samples, or return None if there is nothing to score."""

    def state(self) -> MethodState:
        """Return what a checkpoint must hold beside the weights."""

    def load_state(self, state: MethodState, weights: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint."""


class ClientMethod(Protocol):
    """The client half of a method."""

    def answer(self, content: RecordDict) -> RecordDict:
        """Do a round's work on this node and return the reply's payload."""

    def state_digests(self) -> list[bytes]:
        """Return the digest of what each kept state shares with the server, newest first."""


@dataclass(frozen=True)
class Method:
    """A method: all that the rest of the program knows of it.

    Parameters
    ----------
    name
        As people know it.
    exchanges
        What its clients send.
    server
        Builds the server half, given what it works with and the experiment's id.
    client
        Builds the client half.
    settings
        The tables of settings, or single keys, that it reads beside those of every run.
    """

    name: str
    exchanges: Exchanges
    server: Callable[[ServerSide, str], ServerMethod]
    client: Callable[[ClientSide], ClientMethod]
    settings: tuple[str, ...] = ()
