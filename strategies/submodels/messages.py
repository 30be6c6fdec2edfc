"""The payloads of methods that average parts of a network."""

from dataclasses import dataclass

from protocol.messages import RoundRequest
from strategies.weights.messages import Weights, WeightsReply


@dataclass(frozen=True)
class SliceRequest(RoundRequest):
    """Evaluate this submodel, then train from it."""

    level: int
    """The level whose submodel it is, from 1."""
    weights: Weights


@dataclass(frozen=True)
class SliceReply(WeightsReply):
    """A trained submodel, and the level it is of."""

    level: int
