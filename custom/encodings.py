"""An encoding of soft labels: the k largest probabilities and their classes; the rest is distributed evenly.

distillation.labels = "custom.encodings:TopK"
"""

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from protocol.encodings import Rows
from protocol.settings import RunSettings
from protocol.tables import Table
from protocol.values import Count


class TopKSettings(Table):
    """The settings under ``[tool.flwr.app.config.custom.top-k]``."""

    place: ClassVar[str] = "custom.top-k"
    k: Count = Field(3, description="number of probabilities that are sent per label")


class TopK:
    """A label's k largest probabilities as float16, and their classes as uint16: 4k bytes.

    Parameters
    ----------
    settings
        Of the run.
    """

    def __init__(self, settings: RunSettings) -> None:
        self._k = settings.of(TopKSettings).k

    def row_bytes(self, classes: int) -> int:
        """Return the bytes that one label takes."""
        return 4 * min(self._k, classes)

    def encode(self, labels: Tensor) -> Rows:
        """Write labels, shape (n, classes), as shape (n, row_bytes)."""
        top = labels.topk(min(self._k, labels.shape[1]), dim=1)
        values = top.values.numpy().astype("<f2").view(np.uint8)
        classes = top.indices.numpy().astype("<u2").view(np.uint8)
        return np.concatenate([values.reshape(len(labels), -1), classes.reshape(len(labels), -1)], axis=1)

    def decode(self, rows: Rows, classes: int) -> Tensor:
        """Read labels back, float32, shape (n, classes)."""
        half = rows.shape[1] // 2
        values = torch.from_numpy(np.ascontiguousarray(rows[:, :half]).view("<f2").astype(np.float32))
        places = torch.from_numpy(np.ascontiguousarray(rows[:, half:]).view("<u2").astype(np.int64))
        if len(rows) and not bool((places < classes).all()):
            raise ValueError(f"a class above {classes - 1}")
        rest = (1 - values.sum(dim=1, keepdim=True)).clamp(min=0) / max(classes - values.shape[1], 1)
        labels = rest.expand(len(rows), classes).clone().scatter(1, places, values)
        return labels / labels.sum(dim=1, keepdim=True)

    def worst_error(self, classes: int) -> float:
        """Return the bound: a class that is not sent has at most 1/(k+1), and the others at most 2⁻¹⁰."""
        return max(1 / (self._k + 1), 2.0**-10) if self._k < classes else 2.0**-10
