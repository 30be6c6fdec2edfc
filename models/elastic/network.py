"""What every elastic network is: something that answers at several exits, as a stem, blocks and heads do."""

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


class ExitNetwork(nn.Module, ABC):
    """A network that can answer at several exits.

    Parameters that need no gradient are frozen: every party has them already, so they are neither cut nor
    sent, see ``models.learned_state``.
    """

    answers_at_once: int = 500
    """How many inputs it is given at most where nothing is learned: few where one takes much memory."""

    @abstractmethod
    def exits(self, inputs: Tensor) -> list[Tensor]:
        """Map a batch to each exit's logits ``(batch, classes)``, the shallowest first."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Map a batch to the last exit's logits ``(batch, classes)``."""
        return self.exits(inputs)[-1]

    def own_loss(self) -> Tensor | None:
        """Return what the last batch in training adds to the loss, once; most networks add nothing."""
        return None


class ElasticNetwork(ExitNetwork):
    """A stem, blocks, and a head after some of the blocks.

    A block's number starts at 1. What a block passes on may be a tensor or any structure that the next
    block and the heads understand, as MSDNet's features at several scales.

    Parameters
    ----------
    stem
        Turns inputs into the first block's input.
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
        """Map a batch to the last exit's logits ``(batch, classes)``, passing the early exits by."""
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
    reads
        What its inputs are.
    initial
        Returns pretrained parameters of the whole network, by name; parameters it does not name begin at
        random, as all do without it.
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
        """Build a network that takes no memory, to ask what it would hold."""
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
