"""Aggregation of clients' predictions to one soft label per sample (``aggregation.labels``)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from protocol.references import Registry
from protocol.settings import RunSettings


@dataclass(frozen=True)
class Predictions:
    """The predictions of one client in a round.

    Parameters
    ----------
    indices
        The samples' indices in the public pool, int64 of shape (n,), ascending.
    probabilities
        Of each class, float32 of shape (n, classes); rows sum to 1.
    """

    indices: NDArray[np.int64]
    probabilities: Tensor


LabelAggregator = Callable[[Mapping[str, Predictions], RunSettings], Tensor]
"""Merges the clients' predictions, given by name in ascending order, into one label per sample.

It returns probabilities, float of shape (n, classes), for the samples that all clients were asked for; the
method sharpens them afterwards. As the names are sorted, the order in which replies arrive has no influence.
"""


def mean(predictions: Mapping[str, Predictions], settings: RunSettings) -> Tensor:
    """Return the clients' unweighted mean z̄, float64 of shape (n, classes)."""
    first = next(iter(predictions.values())).probabilities
    total = torch.zeros_like(first, dtype=torch.float64)
    for predicted in predictions.values():
        total += predicted.probabilities
    return total / len(predictions)


def _accept(found: object, reference: str) -> LabelAggregator:
    if not callable(found):
        raise TypeError(
            "must be a label aggregator: a function of the clients' predictions by name and the run's "
            "settings that returns probabilities (samples, classes)"
        )
    return cast("LabelAggregator", found)


REGISTRY: Registry[LabelAggregator] = Registry("aggregation.labels", {"mean": mean}, _accept)


def merge(predictions: Mapping[str, Predictions], settings: RunSettings) -> Tensor:
    """Merge predictions with the run's aggregator, and check the result.

    Parameters
    ----------
    predictions
        By client, at least one; all of the same samples.
    settings
        Of the run.

    Returns
    -------
    Tensor
        Probabilities, float64 of shape (n, classes).

    Raises
    ------
    SettingsError
        If ``aggregation.labels`` names no aggregator.
    ValueError
        If the aggregator does not return probabilities for these samples.
    """
    aggregate = REGISTRY.find(settings.aggregation.labels)
    expected = next(iter(predictions.values())).probabilities.shape
    labels = aggregate(dict(sorted(predictions.items())), settings).double()
    sums = labels.sum(dim=1) if labels.ndim == 2 else labels
    possible = bool(labels.isfinite().all()) and bool((labels >= 0).all())
    if labels.shape != expected or not possible or bool(((sums - 1).abs() > 1e-3).any()):
        raise ValueError(
            f'aggregation.labels = "{settings.aggregation.labels}": must return probabilities of shape '
            f"{tuple(expected)} whose rows sum to 1"
        )
    return labels
