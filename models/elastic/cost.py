"""The cost of a submodel: parameters, and multiply-accumulates (MACs) per input."""

from dataclasses import dataclass
from functools import lru_cache

import torch

from models.elastic.network import ElasticDesign, Shape

BYTES_PER_PARAMETER = 4


@dataclass(frozen=True)
class Cost:
    """The cost of one shape of a network."""

    parameters: int
    """Trainable parameters, which are also what is sent."""
    macs: tuple[int, ...]
    """MACs of one input up to each exit, including the heads of earlier exits."""

    @property
    def bytes(self) -> int:
        """Bytes of its weights, one way."""
        return BYTES_PER_PARAMETER * self.parameters


@lru_cache(maxsize=4096)
def parameters_of(design: ElasticDesign, input_shape: tuple[int, ...], num_classes: int, shape: Shape) -> int:
    """Return the number of trainable parameters of a submodel.

    Parameters
    ----------
    design
        The elastic network.
    input_shape
        Shape of one input.
    num_classes
        Number of classes.
    shape
        Width and exits of the submodel.
    """
    model = design.on_meta(input_shape, num_classes, shape)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@lru_cache(maxsize=4096)
def macs_of(design: ElasticDesign, input_shape: tuple[int, ...], num_classes: int, shape: Shape) -> int:
    """Return the MACs of one input through all exits of a submodel; a text has its full length.

    Convolutions and fully connected layers are counted, each multiply-accumulate as one, as is usual in
    papers (PyTorch's own counter counts two operations).

    Parameters
    ----------
    design
        The elastic network.
    input_shape
        Shape of one input.
    num_classes
        Number of classes.
    shape
        Width and exits of the submodel.
    """
    from torch.utils.flop_counter import FlopCounterMode  # takes a second, and no round needs it

    model = design.on_meta(input_shape, num_classes, shape)
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.exits(_one_input(design, input_shape))
    return int(counter.get_total_flops()) // 2


def cost_of(design: ElasticDesign, input_shape: tuple[int, ...], num_classes: int, shape: Shape) -> Cost:
    """Return the cost of a submodel.

    Parameters
    ----------
    design
        The elastic network.
    input_shape
        Shape of one input.
    num_classes
        Number of classes.
    shape
        Width and exits of the submodel.
    """
    upto = [Shape(shape.width, shape.exits[: last + 1]) for last in range(len(shape.exits))]
    macs = tuple(macs_of(design, input_shape, num_classes, part) for part in upto)
    return Cost(parameters_of(design, input_shape, num_classes, shape), macs)


def _one_input(design: ElasticDesign, input_shape: tuple[int, ...]) -> torch.Tensor:
    if design.reads == "texts":
        length, _ = input_shape
        return torch.empty(1, length, dtype=torch.int64, device="meta")
    return torch.empty(1, *input_shape, device="meta")
