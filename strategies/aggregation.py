"""How clients' weights become the network's (``aggregation.weights``): one contract for all methods."""

from collections.abc import Callable, Mapping
from typing import cast

from torch import Tensor

from models import WeightedMean
from models.aggregation import Places, WeightAggregator
from protocol.references import Registry
from protocol.settings import RunSettings

OWN = "mean"
"""The mean that a method itself takes: of whole networks, of submodels where they overlap, of adapters."""


AggregatorMaker = Callable[[Mapping[str, Tensor], RunSettings, int], WeightAggregator]
"""Makes an aggregator of the network's parameters before the round, the run's settings and the round."""


class WholeMean:
    """FedAvg's mean of whole networks, weighted; exact, so that the order of arrival changes nothing."""

    def __init__(self, whole: Mapping[str, Tensor], settings: RunSettings, round: int) -> None:
        self._whole = whole
        self._mean = WeightedMean(whole)

    def add(self, part: Mapping[str, Tensor], where: Places, weight: int, client: str) -> None:
        """Take in one network."""
        self._mean.add(part, weight)

    def merged(self) -> dict[str, Tensor]:
        """Return the mean, or the network as it was if there is none."""
        return self._mean.mean() if self._mean.total_weight else dict(self._whole)


def _accept(found: object, reference: str) -> AggregatorMaker:
    if not callable(found):
        raise TypeError(
            "must be a weight aggregator: a class that is made with the whole network's weights, the run's "
            "settings and the round, with add(part, where, weight, client) and merged()"
        )
    return cast("AggregatorMaker", found)


REGISTRY: Registry[AggregatorMaker | None] = Registry("aggregation.weights", {OWN: None}, _accept)


def weight_aggregator(
    own: AggregatorMaker, whole: Mapping[str, Tensor], settings: RunSettings, round: int
) -> WeightAggregator:
    """Return what merges the weights of a round.

    Parameters
    ----------
    own
        The method's own, which ``aggregation.weights = "mean"`` stands for.
    whole
        The network's parameters before the round, by name, on the CPU.
    settings
        Of the run.
    round
        From 1.

    Raises
    ------
    SettingsError
        If ``aggregation.weights`` names none.
    """
    make = REGISTRY.find(settings.aggregation.weights) or own
    return make(whole, settings, round)
