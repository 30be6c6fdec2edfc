"""A data source: synthetic series of a sensor, as a torch ``Dataset`` of (input, label) pairs.

data.source = "custom.sources:SensorSeries"
"""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

SERIES, STEPS = 1200, 64


class SensorSeries(Dataset[tuple[Tensor, int]]):
    """Slow, fast and square waves in noise: 1,200 series of 64 steps and 2 channels, a third of each class.

    A source is created in every process of every party and must hold the same rows each time. So all draws
    are seeded, and values are rounded, because the last bit of a sine differs between processors.
    """

    classes = ("slow", "fast", "square")

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self.labels = np.arange(SERIES) % len(self.classes)
        cycles = draw.uniform(2, 3, SERIES) * np.where(self.labels == 1, 2, 1)
        start = draw.uniform(0, 1, SERIES)[:, None, None] + [0, 0.25]  # a quarter of a cycle between channels
        waves = np.sin(2 * np.pi * (cycles[:, None, None] * np.linspace(0, 1, STEPS)[:, None] + start))
        waves = np.where((self.labels == 2)[:, None, None], np.sign(waves), waves)
        self.series = torch.tensor((waves + draw.normal(0, 0.3, waves.shape)).round(3), dtype=torch.float32)

    def __len__(self) -> int:
        return SERIES

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.series[row], int(self.labels[row])
