"""The contract of a method: a server half and a client half.

A method does not deal with Flower's grid, nodes or timeouts. Its server half writes a payload for each
client's name and turns the clients' payloads into a model.
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
    """What a method's clients send; it determines which models can be combined."""

    LABELS = "soft labels"
    """Predictions on public samples: every client may have a different network or estimator."""
    WEIGHTS = "weights"
    """Weights of whole networks: all clients must have the same network."""
    SUBMODELS = "submodels"
    """Weights of submodels of one elastic network."""
    NOTHING = "nothing"
    """Only evaluations; there is no server model."""

    @property
    def averages(self) -> bool:
        """Whether clients' weights are averaged, so that all must train one network."""
        return self in (Exchanges.WEIGHTS, Exchanges.SUBMODELS)


@dataclass(frozen=True)
class Outgoing:
    """One client's payload of a round, and its size by the paper's formula."""

    content: RecordDict
    paper_down: int


@dataclass(frozen=True)
class Incoming:
    """What the server read from one accepted reply."""

    evaluation: Evaluation
    paper_up: int
    notes: str = ""
    """A remark about the exchange for the log; empty if there is none."""


@dataclass(frozen=True)
class MethodState:
    """A server half's state in a checkpoint: arrays, and values that JSON can represent."""

    arrays: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """The evaluation of the server's model, and further metrics of the method."""

    evaluation: Evaluation
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of the round's line in ``rounds.jsonl``, as JSON values."""


class ServerMethod(Protocol):
    """The server half of a method."""

    final_exchange: bool
    """Whether one more exchange follows the last round."""

    def begin(self, round: int, clients: Sequence[str], final: bool) -> dict[str, Outgoing]:
        """Return each client's payload for a round.

        Parameters
        ----------
        round
            From 1.
        clients
            The names of the clients that are asked.
        final
            Whether this is the exchange after the last round.
        """

    def accept(self, client: str, round: int, content: RecordDict) -> Incoming:
        """Process one client's reply.

        Parameters
        ----------
        client
            The client's name.
        round
            The round that the reply answers. If it is an earlier one the reply is late: it only tells what
            the client holds, and is not aggregated.
        content
            The reply's payload.

        Raises
        ------
        MessageError
            If the reply is refused; the state is unchanged in that case.
        """

    def finish(self, round: int) -> None:
        """End the round: aggregate the accepted replies, independently of their order of arrival."""

    def greet(self, hello: HelloReply) -> str:
        """Register a node that joins; return a remark for the log, or an empty string.

        Raise ``MessageError`` to refuse the node.
        """

    def candidates(self, clients: Sequence[str]) -> list[str]:
        """Return the clients that can be asked to train, in the same order."""

    def weights(self) -> Mapping[str, Tensor]:
        """Return the weights of the server's model, by name; empty if the method has none."""

    def score(self, test: Samples) -> Score | None:
        """Score the server's model on held-out samples; None if it cannot be scored."""

    def state(self) -> MethodState:
        """Return the state to save in a checkpoint beside the weights."""

    def load_state(self, state: MethodState, weights: Mapping[str, Tensor]) -> None:
        """Restore the state of a checkpoint."""


class ClientMethod(Protocol):
    """The client half of a method."""

    def answer(self, content: RecordDict) -> RecordDict:
        """Process the server's message of a round and return the reply's payload."""

    def state_digests(self) -> list[bytes]:
        """Return a digest of the labels in each kept state, newest first; empty if no labels are kept."""


@dataclass(frozen=True)
class Method:
    """The definition of a method.

    Parameters
    ----------
    name
        The method's name in messages and reports.
    exchanges
        What its clients send.
    server
        Builds the server half, given the server's data and settings and the experiment's id.
    client
        Builds the client half, given the client's data and settings.
    settings
        The tables of settings, or single keys, that the method reads and not every run does.
    """

    name: str
    exchanges: Exchanges
    server: Callable[[ServerSide, str], ServerMethod]
    client: Callable[[ClientSide], ClientMethod]
    settings: tuple[str, ...] = ()
