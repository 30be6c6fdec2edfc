"""A learner that is no network: anything with ``fit`` and ``predict_proba``, as a forest or boosted trees."""

from collections.abc import Mapping

from torch import Tensor

from data import Inputs, Samples
from models.network import Estimator
from protocol.messages import Evaluation
from protocol.settings import RunSettings


class EstimatorLearner:
    """Learns anew each round from its private samples and the round's soft labels, as weighted rows.

    Parameters
    ----------
    estimator
        What it is.
    settings
        Of the run.
    name
        The party's name.
    num_classes
        Of the federation, of which the private samples may show only some.
    """

    def __init__(self, estimator: Estimator, settings: RunSettings, name: str, num_classes: int) -> None:
        raise NotImplementedError

    def distil(self, inputs: Inputs, labels: Tensor, round: int) -> None:
        """Keep the round's soft labels, to learn from them with the samples."""
        raise NotImplementedError

    def train(self, samples: Samples, round: int) -> None:
        """Learn from labelled samples and the soft labels kept."""
        raise NotImplementedError

    def predict(self, inputs: Inputs) -> Tensor:
        """Return class probabilities, float32 of shape (n, classes)."""
        raise NotImplementedError

    def evaluate(self, samples: Samples) -> Evaluation:
        """Score it on held-out samples."""
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """Return the fitted estimator as bytes in a tensor."""
        raise NotImplementedError

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` returned."""
        raise NotImplementedError
