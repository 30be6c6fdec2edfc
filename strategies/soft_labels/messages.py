"""The payloads of methods that share soft labels."""

from dataclasses import dataclass

from protocol.messages import EvaluatedReply, RoundRequest


@dataclass(frozen=True)
class SoftLabelRequest(RoundRequest):
    """Labels of the last round's subset, and a request for predictions on this round's subset.

    Positions are implied (``used`` and ``requested`` are ``None``) or explicit. Implied ones are valid only
    for a client whose cache has the digest ``base`` and whose versions have the digest ``versions``.
    """

    labels: bytes
    """The encoded labels, in ascending order of their samples."""
    base: bytes
    """Digest of the labels that the client has acknowledged."""
    versions: bytes
    """Digest of the stored versions, the labels in use and the request."""
    final: bool | None = None
    """True in the exchange after the last round: distil and evaluate only."""
    silent_rounds: bytes | None = None
    """Rounds so far without any prediction (index set); None if there are none."""
    used: bytes | None = None
    """Samples with a label to distil on (index set)."""
    used_versions: bytes | None = None
    """Version of each used label: one little-endian int32 if all are equal, else one per label."""
    sent: bytes | None = None
    """Which of the used labels are among ``labels`` (index set over ``used``); None: all."""
    requested: bytes | None = None
    """Samples to predict (index set)."""
    reset: bool | None = None
    """True: drop all labels received before."""


@dataclass(frozen=True)
class SoftLabelReply(EvaluatedReply):
    """A client's predictions, and the state of its cache."""

    cache: bytes
    """Digest of the client's cache after this exchange."""
    labels: bytes | None = None
    """The encoded predictions; None if the client could not derive which samples were requested."""
    indices: bytes | None = None
    """The predicted samples (index set), if the request had explicit positions."""
    missing: int | None = None
    """Number of labels in use that the client lacked; None for 0."""
    lost: bool | None = None
    """True if implied positions were not valid for this client, so that it used none of the labels sent."""
