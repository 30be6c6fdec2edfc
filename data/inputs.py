"""The inputs of a network, read a batch at a time: pixels, rows of numbers, texts."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from protocol.values import InputKind

CPU = torch.device("cpu")
MOST_COPIED_BYTES = 2**30
"""Pixels of at most so many bytes are copied to a GPU; more than that stay in the file mapped into memory."""


class Inputs(Protocol):
    """The inputs of some samples: indexing with int64 indices gives a batch, ready for a network."""

    @property
    def kind(self) -> InputKind:
        """What one sample's input is, which its shape alone does not tell."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample's input."""

    @property
    def device(self) -> torch.device:
        """Device of the batches."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return the batch at ``indices``, an int64 tensor of shape (batch,) on any device."""

    def take(self, indices: Tensor) -> Self:
        """Return the inputs at ``indices`` as `Inputs`."""

    def to(self, device: torch.device | str) -> Self:
        """Return the same inputs with batches on ``device``."""


def in_batches(inputs: Inputs, most: int) -> Iterator[Tensor]:
    """Yield all inputs in order, in batches of nearly equal size and at most ``most``."""
    parts = max(1, -(-len(inputs) // most))
    for indices in torch.arange(len(inputs)).tensor_split(parts):
        yield inputs[indices]


@dataclass(frozen=True, eq=False)
class TensorInputs:
    """Inputs that are stored as floats.

    Parameters
    ----------
    values
        Float32 tensor of shape (N, *shape).
    arrays
        Whether they are arrays such as series, not a table's rows or images.
    """

    values: Tensor
    arrays: bool = False

    @property
    def kind(self) -> InputKind:
        """What one sample's input is."""
        if self.arrays:
            return "arrays"
        return "images" if len(self.shape) == 3 else "numbers"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample's input."""
        return tuple(self.values.shape[1:])

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
        return self.values.device

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return self.values[indices.to(self.values.device)]

    def take(self, indices: Tensor) -> Self:
        """Return the inputs at ``indices``."""
        return replace(self, values=self[indices])

    def to(self, device: torch.device | str) -> Self:
        """Return the same inputs on ``device``."""
        return replace(self, values=self.values.to(device))


@dataclass(frozen=True, eq=False)
class PixelInputs:
    """Images stored as bytes, a quarter of float32; a batch is (pixel - mean) / deviation, in float32.

    Parameters
    ----------
    pixels
        Uint8 tensor of shape (M, channels, height, width), perhaps a file mapped into memory.
    rows
        Int64 CPU tensor of shape (N,): the rows of ``pixels`` that are the samples.
    mean, deviation
        Normalisation statistics by channel, in units of a pixel; shape (channels, 1, 1).
    device
        Device of the batches.
    """

    pixels: Tensor
    rows: Tensor
    mean: Tensor
    deviation: Tensor
    device: torch.device = CPU

    @property
    def kind(self) -> InputKind:
        """What one sample's input is."""
        return "images"

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width."""
        return tuple(self.pixels.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: Tensor) -> Tensor:
        rows = self.rows[indices.to(self.rows.device)]
        batch = self.pixels[rows.to(self.pixels.device)].to(self.device)
        if self.device.type == "cuda":  # the memory layout in which its convolutions are fastest
            batch = batch.contiguous(memory_format=torch.channels_last)
        return batch.to(torch.float32).sub_(self.mean).div_(self.deviation)

    def take(self, indices: Tensor) -> Self:
        """Return the inputs at ``indices``; the pixels stay where they are."""
        return replace(self, rows=self.rows[indices.to(self.rows.device)])

    def to(self, device: torch.device | str) -> Self:
        """Return the same inputs with batches on ``device``; pixels move there if they are few enough."""
        device = torch.device(device)
        pixels, rows = self.pixels, self.rows
        if device.type != pixels.device.type and len(rows) * pixels[:1].nbytes <= MOST_COPIED_BYTES:
            pixels, rows = pixels[rows.to(pixels.device)].to(device), torch.arange(len(rows))
        mean, deviation = self.mean.to(device), self.deviation.to(device)
        return replace(self, pixels=pixels, rows=rows, mean=mean, deviation=deviation, device=device)


@dataclass(frozen=True, eq=False)
class TokenInputs:
    """Texts as token ids in int32, half of int64; a batch is as long as its longest text.

    Parameters
    ----------
    tokens
        Int32 tensor of shape (N, positions), padded with 0.
    lengths
        Int64 CPU tensor of shape (N,): the number of tokens of each text.
    shape
        Largest number of tokens of a text, and the size of the vocabulary.
    """

    tokens: Tensor
    lengths: Tensor
    shape: tuple[int, ...]

    @property
    def kind(self) -> InputKind:
        """What one sample's input is."""
        return "texts"

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
        return self.tokens.device

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, indices: Tensor) -> Tensor:
        lengths = self.lengths[indices.to(self.lengths.device)]
        longest = int(lengths.max()) if len(lengths) else 0
        return self.tokens[indices.to(self.tokens.device), :longest].to(torch.int64)

    def take(self, indices: Tensor) -> Self:
        """Return the texts at ``indices``."""
        tokens = self.tokens[indices.to(self.tokens.device)]
        return replace(self, tokens=tokens, lengths=self.lengths[indices.to(self.lengths.device)])

    def to(self, device: torch.device | str) -> Self:
        """Return the same texts on ``device``; lengths stay on the CPU, where a batch's size is computed."""
        return replace(self, tokens=self.tokens.to(device))
