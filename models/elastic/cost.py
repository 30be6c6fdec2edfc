"""What a submodel costs: parameters, and multiply-adds an image."""

from dataclasses import dataclass
from functools import lru_cache

import torch

from models.elastic.network import ElasticDesign, Shape

BYTES_PER_PARAMETER = 4


@dataclass(frozen=True)
class Cost:
    """The cost of one shape of a network."""

    parameters: int
    """Numbers it learns, and so sends."""
    flops: tuple[int, ...]
    """Multiply-adds of one image up to each exit, the heads passed on the way included."""

    @property
    def bytes(self) -> int:
        """Bytes of its weights, one way."""
        return BYTES_PER_PARAMETER * self.parameters


@lru_cache(maxsize=4096)
def parameters_of(
    design: ElasticDesign, image_shape: tuple[int, int, int], num_classes: int, shape: Shape
) -> int:
    """Return how many numbers a shape learns."""
    model = design.on_meta(image_shape, num_classes, shape)
    return sum(parameter.numel() for parameter in model.parameters())


@lru_cache(maxsize=4096)
def flops_of(design: ElasticDesign, image_shape: tuple[int, int, int], num_classes: int, shape: Shape) -> int:
    """Return the multiply-adds of one image through all exits of a shape.

    Convolutions and fully connected layers are counted, each multiply-add as one, as papers do (PyTorch's
    own counter says two).
    """
    from torch.utils.flop_counter import FlopCounterMode  # takes a second, and no round needs it

    model = design.on_meta(image_shape, num_classes, shape)
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.exits(torch.empty(1, *image_shape, device="meta"))
    return int(counter.get_total_flops()) // 2


def cost_of(design: ElasticDesign, image_shape: tuple[int, int, int], num_classes: int, shape: Shape) -> Cost:
    """Return what a shape costs."""
    upto = [Shape(shape.width, shape.exits[: last + 1]) for last in range(len(shape.exits))]
    flops = tuple(flops_of(design, image_shape, num_classes, part) for part in upto)
    return Cost(parameters_of(design, image_shape, num_classes, shape), flops)
