"""What every elastic network is: a stem, blocks, and an exit after some of the blocks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.elastic.channels import Channels


@dataclass(frozen=True)
class Shape:
    """How much of a network there is: its width, and the blocks with an exit, of which the last ends it.

    Raises
    ------
    ValueError
        If the width is not in (0, 1], or the exits do not ascend from 1 or more.
    """

    width: float
    exits: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse what no network can be."""
        if not 0 < self.width <= 1:
            raise ValueError(f"width {self.width}: must be above 0 and at most 1")
        ascending = all(a < b for a, b in pairwise(self.exits))
        if not self.exits or self.exits[0] < 1 or not ascending:
            raise ValueError(f"exits {self.exits}: must be block numbers, from 1, that ascend")

    @property
    def depth(self) -> int:
        """How many blocks there are."""
        return self.exits[-1]


class ElasticNetwork(nn.Module):
    """A network that can answer after several of its blocks.

    A block's number starts at 1. What a block hands on may be a tensor or any structure that the next
    block and the heads understand, as MSDNet's features at several scales.

    Parameters
    ----------
    stem
        Turns images into the first block's input.
    blocks
        Those that there are: a shallower network simply has fewer.
    heads
        By the number of the block they follow, the last block among them; each returns logits.
    """

    def __init__(self, stem: nn.Module, blocks: Sequence[nn.Module], heads: Mapping[int, nn.Module]) -> None:
        super().__init__()
        if max(heads) != len(blocks):
            raise ValueError(f"the last of {len(blocks)} blocks needs a head, there are {sorted(heads)}")
        self.stem = stem
        self.blocks = nn.ModuleList(blocks)
        self.heads = nn.ModuleDict({str(block): heads[block] for block in sorted(heads)})

    def exits(self, images: Tensor) -> list[Tensor]:
        """Map images ``(batch, channels, height, width)`` to each exit's logits, the shallowest first."""
        features = self.stem(images)
        logits = []
        for number, block in enumerate(self.blocks, start=1):
            features = block(features)
            if str(number) in self.heads:
                logits.append(self.heads[str(number)](features))
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, channels, height, width)`` to the last exit's logits ``(batch, classes)``."""
        features = self.stem(images)
        for block in self.blocks:
            features = block(features)
        logits: Tensor = self.heads[str(len(self.blocks))](features)
        return logits


ElasticBuilder = Callable[[tuple[int, int, int], int, Shape], ElasticNetwork]
"""Builds a network of a shape for images of (channels, height, width) and a number of classes."""


@dataclass(frozen=True)
class ElasticDesign:
    """A kind of elastic network, of which shapes are built.

    Parameters
    ----------
    build
        The builder.
    depth
        Blocks of the whole network.
    preset
        The levels' shapes that its source gives, or that were found good; the last is the whole.
    first_exit
        The first block that can have an exit.
    """

    build: ElasticBuilder
    depth: int
    preset: tuple[Shape, ...]
    first_exit: int = 1

    def whole(self) -> Shape:
        """Return the shape of the network without early exits."""
        return Shape(1.0, (self.depth,))

    def on_meta(self, image_shape: tuple[int, int, int], num_classes: int, shape: Shape) -> ElasticNetwork:
        """Build a network that takes no memory, to ask what it would hold."""
        with torch.device("meta"):
            return self.build(image_shape, num_classes, shape)


def nested(widths: Sequence[float], exits: Sequence[int]) -> tuple[Shape, ...]:
    """Return the levels of ScaleFL: level l has width w_l and the first l exits."""
    return tuple(Shape(width, tuple(exits[: level + 1])) for level, width in enumerate(widths))


def image_channels(image_shape: tuple[int, int, int]) -> Channels:
    """Return the images' channels, which are never cut."""
    return Channels.of("image", image_shape[0])


def class_outputs(num_classes: int) -> Channels:
    """Return the classes, which are never cut."""
    return Channels.of("classes", num_classes)
