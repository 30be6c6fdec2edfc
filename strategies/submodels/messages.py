"""The payloads of methods that average parts of a network."""

from dataclasses import dataclass

from protocol.messages import RoundRequest
from strategies.weights.messages import Weights, WeightsReply


@dataclass(frozen=True)
class SliceRequest(RoundRequest):
    """A request to evaluate this submodel and then train from it."""

    level: int
    """The level of the submodel, from 1."""
    weights: Weights


@dataclass(frozen=True)
class SliceReply(WeightsReply):
    """A trained submodel, and its level."""

    level: int
