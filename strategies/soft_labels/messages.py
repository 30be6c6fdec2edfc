"""The payloads of methods that share soft labels."""

from dataclasses import dataclass

from protocol.messages import EvaluatedReply, RoundRequest


@dataclass(frozen=True)
class SoftLabelRequest(RoundRequest):
    """Labels of the last round's subset, and the request for predictions on this round's.

    Positions are implied (``used`` and ``requested`` are ``None``) or explicit. Implied ones hold
    only for a client whose cache has the digest ``base`` and whose versions have ``versions``.
    """

    labels: bytes
    """Wire rows of the labels sent, in ascending order of their samples."""
    base: bytes
    """Digest of the labels that the server believes the client to hold."""
    versions: bytes
    """Digest of the server's cache versions, of the labels in use and of the request."""
    final: bool | None = None
    """True in the exchange after the last round: distil and evaluate, neither train nor predict."""
    silent_rounds: bytes | None = None
    """Rounds so far in which no prediction arrived (index set); absent if there are none."""
    used: bytes | None = None
    """Samples that have a label to distil on (index set)."""
    used_versions: bytes | None = None
    """Version of each used label: one little-endian int32 if all are alike, else one each."""
    sent: bytes | None = None
    """Which of the used labels are among ``labels`` (index set over ``used``); absent: all."""
    requested: bytes | None = None
    """Samples to predict (index set)."""
    reset: bool | None = None
    """True: forget every label held before."""


@dataclass(frozen=True)
class SoftLabelReply(EvaluatedReply):
    """A client's predictions, and what it now holds."""

    cache: bytes
    """Digest of the client's cache after this exchange."""
    labels: bytes | None = None
    """Wire rows of the predictions; absent if the client could not tell what was requested."""
    indices: bytes | None = None
    """The samples predicted (index set), where the request named them."""
    missing: int | None = None
    """How many of the labels in use the client lacked; absent if none."""
    lost: bool | None = None
    """True if implied positions did not hold for this client, so that it used none of the labels sent."""
