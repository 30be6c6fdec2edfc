"""A label aggregator: a trimmed mean, on which a few faulty clients have little influence.

aggregation.labels = "custom.aggregators:trimmed_mean"
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from protocol.settings import RunSettings
from protocol.tables import Table
from strategies.soft_labels.aggregation import Predictions


class TrimmedMeanSettings(Table):
    """The settings under ``[tool.flwr.app.config.custom.trimmed-mean]``."""

    place: ClassVar[str] = "custom.trimmed-mean"
    share: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        0.2, description="share of the clients left out at each end, for each probability"
    )


def trimmed_mean(predictions: Mapping[str, Predictions], settings: RunSettings) -> Tensor:
    """Return each probability's mean over clients without its largest and smallest values (Yin et al. 2018).

    Parameters
    ----------
    predictions
        By client, all of the same n samples.
    settings
        Of the run.

    Returns
    -------
    Tensor
        Probabilities, float64 of shape (n, classes), whose rows sum to 1 again.
    """
    stacked = torch.stack([each.probabilities for each in predictions.values()]).double()
    trimmed = int(settings.of(TrimmedMeanSettings).share * len(stacked))
    kept = stacked.sort(dim=0).values[trimmed : len(stacked) - trimmed].mean(dim=0)
    return kept / kept.sum(dim=1, keepdim=True)
