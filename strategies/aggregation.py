"""Aggregation of clients' weights (``aggregation.weights``), in the same way for all methods."""

from collections.abc import Callable, Mapping
from typing import cast

from torch import Tensor

from models import WeightedMean
from models.aggregation import Places, WeightAggregator
from protocol.references import Registry
from protocol.settings import RunSettings

OWN = "mean"
"""The method's own mean: of whole networks, of overlapping submodels or of adapters."""


AggregatorMaker = Callable[[Mapping[str, Tensor], RunSettings, int], WeightAggregator]
"""Makes an aggregator, given the network's parameters before the round, the settings and the round."""


class WholeMean:
    """FedAvg's weighted mean of whole networks, exact and so independent of the order of arrival.

    Parameters
    ----------
    whole
        The network's parameters before the round, by name, on the CPU.
    settings
        Of the run; not used.
    round
        From 1; not used.
    """

    def __init__(self, whole: Mapping[str, Tensor], settings: RunSettings, round: int) -> None:
        self._whole = whole
        self._mean = WeightedMean(whole)

    def add(self, part: Mapping[str, Tensor], where: Places, weight: int, client: str) -> None:
        """Add one network; see `WeightAggregator.add`."""
        self._mean.add(part, weight)

    def merged(self) -> dict[str, Tensor]:
        """Return the mean, or the parameters before the round if nothing was added."""
        return self._mean.mean() if self._mean.total_weight else dict(self._whole)


def _accept(found: object, reference: str) -> AggregatorMaker:
    if not callable(found):
        raise TypeError(
            "must be a weight aggregator: a class whose constructor takes the whole network's weights, the "
            "run's settings and the round, with methods add(part, where, weight, client) and merged()"
        )
    return cast("AggregatorMaker", found)


REGISTRY: Registry[AggregatorMaker | None] = Registry("aggregation.weights", {OWN: None}, _accept)


def weight_aggregator(
    own: AggregatorMaker, whole: Mapping[str, Tensor], settings: RunSettings, round: int
) -> WeightAggregator:
    """Return the aggregator of a round's weights.

    Parameters
    ----------
    own
        The method's own aggregator, selected by ``aggregation.weights = "mean"``.
    whole
        The network's parameters before the round, by name, on the CPU.
    settings
        Of the run.
    round
        From 1.

    Raises
    ------
    SettingsError
        If ``aggregation.weights`` names no aggregator.
    """
    make = REGISTRY.find(settings.aggregation.weights) or own
    return make(whole, settings, round)
