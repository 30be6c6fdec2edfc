"""The payloads of methods that average weights."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from protocol.errors import MessageError
from protocol.messages import MOST_SAMPLES, EvaluatedReply, RoundRequest

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class WeightsRequest(RoundRequest):
    """A request to evaluate these weights and then train from them."""

    weights: Weights


@dataclass(frozen=True)
class WeightsReply(EvaluatedReply):
    """Trained weights, and the number of samples they were trained on."""

    trained_on: int
    weights: Weights

    def __post_init__(self) -> None:
        """Refuse a weight that would break the mean."""
        if not 1 <= self.trained_on < MOST_SAMPLES:
            raise MessageError(f"trained_on = {self.trained_on}: must be from 1 to {MOST_SAMPLES - 1}")
