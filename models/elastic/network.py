"""Elastic networks: networks with several exits, usually made of a stem, blocks and heads."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from models.elastic.channels import Channels


@dataclass(frozen=True)
class Shape:
    """The size of a submodel: its width, and the numbers of the blocks with an exit, up to the last block.

    Raises
    ------
    ValueError
        If the width is not in (0, 1], or the exits do not ascend from 1 or more.
    """

    width: float
    exits: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse impossible widths and exits."""
        if not 0 < self.width <= 1:
            raise ValueError(f"width {self.width}: must be above 0 and at most 1")
        ascending = all(a < b for a, b in pairwise(self.exits))
        if not self.exits or self.exits[0] < 1 or not ascending:
            raise ValueError(f"exits {self.exits}: must be increasing block numbers, from 1")

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.exits[-1]


class ExitNetwork(nn.Module, ABC):
    """A network with several exits, each of which returns logits.

    Parameters without gradients are frozen. Every party has them already, so they are neither cut nor sent,
    see ``models.learned_state``.
    """

    answers_at_once: int = 500
    """Largest batch in evaluation; small for networks that need much memory per input."""

    @abstractmethod
    def exits(self, inputs: Tensor) -> list[Tensor]:
        """Map a batch to each exit's logits ``(batch, classes)``, the shallowest first."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Map a batch to the last exit's logits ``(batch, classes)``."""
        return self.exits(inputs)[-1]

    def own_loss(self) -> Tensor | None:
        """Return an extra loss term for the last training batch, once; None for most networks."""
        return None


class ElasticNetwork(ExitNetwork):
    """A stem, blocks, and a head after some of the blocks.

    Blocks are numbered from 1. A block's output may be a tensor or any structure that the next block and the
    heads accept, such as MSDNet's features at several scales.

    Parameters
    ----------
    stem
        Maps inputs to the input of the first block.
    blocks
        The network's blocks; a shallower network has fewer.
    heads
        By the number of the block they follow; each returns logits. The last block has one.
    """

    def __init__(self, stem: nn.Module, blocks: Sequence[nn.Module], heads: Mapping[int, nn.Module]) -> None:
        super().__init__()
        if max(heads) != len(blocks):
            raise ValueError(f"the last of {len(blocks)} blocks needs a head, there are {sorted(heads)}")
        self.stem = stem
        self.blocks = nn.ModuleList(blocks)
        self.heads = nn.ModuleDict({str(block): heads[block] for block in sorted(heads)})

    def exits(self, inputs: Tensor) -> list[Tensor]:
        """Map a batch to each exit's logits ``(batch, classes)``, the shallowest first."""
        features = self.stem(inputs)
        logits = []
        for number, block in enumerate(self.blocks, start=1):
            features = block(features)
            if str(number) in self.heads:
                logits.append(self.heads[str(number)](features))
        return logits

    def forward(self, inputs: Tensor) -> Tensor:
        """Map a batch to the last exit's logits ``(batch, classes)``, without computing the early exits."""
        features = self.stem(inputs)
        for block in self.blocks:
            features = block(features)
        logits: Tensor = self.heads[str(len(self.blocks))](features)
        return logits


ElasticBuilder = Callable[[tuple[int, ...], int, Shape], ExitNetwork]
"""Builds a network of a shape for inputs of a shape (see ``data.Inputs``) and a number of classes."""

Reads = Literal["images", "texts"]


@dataclass(frozen=True)
class ElasticDesign:
    """An elastic network from which submodels of any shape can be built.

    Parameters
    ----------
    build
        Builds the network in a given shape.
    depth
        Number of blocks of the whole network.
    preset
        The default shape of each level, from the paper or from a search; the last is the whole network.
    first_exit
        The first block that can have an exit.
    reads
        The kind of its inputs.
    initial
        Returns pretrained parameters of the whole network, by name; all other parameters are initialised
        randomly. None: there are no pretrained ones.
    """

    build: ElasticBuilder
    depth: int
    preset: tuple[Shape, ...]
    first_exit: int = 1
    reads: Reads = "images"
    initial: Callable[[], Mapping[str, Tensor]] | None = None

    def whole(self) -> Shape:
        """Return the shape of the network without early exits."""
        return Shape(1.0, (self.depth,))

    def on_meta(self, input_shape: tuple[int, ...], num_classes: int, shape: Shape) -> ExitNetwork:
        """Build a network on torch's meta device, without memory, to inspect its parameters and its cost.

        Parameters
        ----------
        input_shape
            Shape of one input.
        num_classes
            Number of classes.
        shape
            Width and exits.
        """
        with torch.device("meta"):
            return self.build(input_shape, num_classes, shape)


def nested(widths: Sequence[float], exits: Sequence[int]) -> tuple[Shape, ...]:
    """Return the levels of ScaleFL: level l has width w_l and the first l exits."""
    return tuple(Shape(width, tuple(exits[: level + 1])) for level, width in enumerate(widths))


def image_channels(image_shape: tuple[int, ...]) -> Channels:
    """Return the images' channels, which are never cut."""
    return Channels.of("image", image_shape[0])


def class_outputs(num_classes: int) -> Channels:
    """Return the classes, which are never cut."""
    return Channels.of("classes", num_classes)
