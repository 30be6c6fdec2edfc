"""Labelled samples, and the batches drawn from them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from data.inputs import Inputs


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs with their classes, on one device.

    Parameters
    ----------
    inputs
        Of N samples.
    targets
        Int64 tensor of shape (N,): the class of each.
    """

    inputs: Inputs
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input: channels, height and width of an image, (features,) of a table's row."""
        return self.inputs.shape

    def take(self, indices: Tensor) -> Self:
        """Return the samples at ``indices``, an int64 tensor of shape (M,) on any device."""
        return type(self)(self.inputs.take(indices), self.targets[indices.to(self.targets.device)])

    def to(self, device: torch.device | str) -> Self:
        """Return the same samples on ``device``."""
        return type(self)(self.inputs.to(device), self.targets.to(device))


def batches(samples_count: int, batch_size: int, generator: torch.Generator | None) -> Iterator[Tensor]:
    """Divide the indices below ``samples_count`` into batches, each index in exactly one.

    Parameters
    ----------
    samples_count
        How many samples there are.
    batch_size
        Indices in a batch. The last batch may be smaller; a single index that is left over joins
        the batch before it, because batch norm cannot train on one sample.
    generator
        CPU generator that shuffles the indices, drawn from when this is called; ``None`` keeps
        them in order.

    Returns
    -------
    Iterator[Tensor]
        Int64 CPU tensors of shape (B,). A lone sample makes a batch of one, no sample makes none.
    """
    if generator is None:
        order = torch.arange(samples_count)
    else:
        order = torch.randperm(samples_count, generator=generator)
    starts = list(range(0, samples_count, batch_size))
    if samples_count % batch_size == 1 and len(starts) > 1:
        starts.pop()
    return iter(order.tensor_split(starts[1:]) if starts else ())
