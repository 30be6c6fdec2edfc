"""Elastic networks on the meta device, and what of the whole network each level of them keeps."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.elastic.channels import Axes, axes_of
from models.elastic.msdnet import build_msdnet
from models.elastic.network import ElasticDesign, ElasticNetwork, Shape, nested
from models.elastic.resnet import build_resnet
from strategies.submodels.submodels import Submodels
from strategies.submodels.variants import VARIANTS

Ranges = list[list[int]]
"""Kept indices of one dimension, as [start, stop) in ascending order."""


@dataclass(frozen=True)
class Recording:
    """What ScaleFL's official code did with a small network; the files' notes say how it was recorded."""

    design: ElasticDesign
    client_levels: list[int]
    tensors: dict[str, dict]
    """What was recorded of each parameter, by our name of it."""

    def slices(self, name: str, level: int) -> list[Ranges]:
        """Return a level's slices of a parameter, traced through all exits.

        The official trace goes through the first exit alone, and so scrambles some of MSDNet's.
        """
        slices = self.tensors[name]["slices"] | self.tensors[name].get("slices_consistent", {})
        return slices[str(level)]

    def axes(self, level: int) -> dict[str, Axes]:
        """Return the axes of all blocks at a level's width: the official code ships every block."""
        shape = Shape(self.design.preset[level].width, self.design.preset[-1].exits)
        return axes_of(self.design.on_meta((3, 32, 32), 10, shape))


def _recording(file: str, design: ElasticDesign, our_name: Callable[[str], str]) -> Recording:
    path = Path(__file__).parents[1] / "models" / "elastic" / file
    recorded = json.loads(path.read_text())
    tensors = {our_name(name): tensor for name, tensor in recorded["tensors"].items()}
    return Recording(design, recorded["client_levels"], tensors)


_RESNET = ElasticDesign(partial(build_resnet, (2, 2, 2)), 6, nested((0.7, 0.7, 0.75, 1.0), (1, 3, 5, 6)))
_RESNET_BLOCKS = {
    f"layers.{path}": number for number, path in enumerate(("0.0", "0.1", "1.0", "1.1", "2.0", "2.1"))
}
_RESNET_PARTS = {"bn1": "norm1", "bn2": "norm2"}


def _resnet_name(official: str) -> str:
    """Return what we call a parameter of the official code's network of six blocks."""
    path, kind = official.rsplit(".", 1)
    if path in ("conv1", "bn1"):
        return f"stem.{['conv1', 'bn1'].index(path)}.{kind}"
    if path == "linear":
        return f"heads.6.linear.{kind}"
    if official.startswith("ee_classifiers"):
        _, exit_number, _, *layer = path.split(".")
        head = f"heads.{_RESNET.preset[-1].exits[int(exit_number)]}"
        if layer == ["fc"]:
            return f"{head}.head.linear.{kind}"
        convolution, part = divmod(int(layer[1]), 4)  # convolution, scaler, norm and ReLU
        return f"{head}.convolutions.{convolution}.{part // 2}.{kind}"
    _, stage, block, _, *layer = path.split(".")
    number = _RESNET_BLOCKS[f"layers.{stage}.{block}"]
    return ".".join([f"blocks.{number}", _RESNET_PARTS.get(layer[0], layer[0]), *layer[1:], kind])


_MSDNET = ElasticDesign(partial(build_msdnet, 9), 9, nested((0.65, 0.7, 0.85, 1.0), (3, 5, 7, 9)))
_MSDNET_LAYERS = {
    f"blocks.{path}": number
    for number, path in enumerate(("0.1", "0.2", "0.3", "1.0", "1.2", "2.0", "2.1", "3.0", "3.1"))
}
"""The official path of each layer; between them stand the stem, 0.0, and transitions, 1.1 and 2.2."""
_MSDNET_TRANSITIONS = {"blocks.1.1": 3, "blocks.2.2": 6}
_MSDNET_FINEST = (0, 0, 0, 1, 1, 1, 2, 2, 2)


def _msdnet_name(official: str) -> str:
    """Return what we call a parameter of the official code's network of nine layers."""
    top, block, *path = official.split(".")
    *path, part, kind = path
    if top == "classifier":
        head = f"heads.{_MSDNET.preset[-1].exits[int(block)]}"
        if part == "linear":
            return f"{head}.head.linear.{kind}"
        return f"{head}.convolutions.{path[1]}.{part}.{kind}"
    place = f"{top}.{block}.{path[0]}"
    if place == "blocks.0.0":
        return f"stem.convolutions.{path[2]}.{part}.{kind}"
    if place in _MSDNET_TRANSITIONS:
        number = _MSDNET_TRANSITIONS[place]
        return f"blocks.{number}.transitions.{int(path[2]) + _MSDNET_FINEST[number]}.{part}.{kind}"
    number = _MSDNET_LAYERS[place]
    convolution, part = divmod(int(part), 3)  # convolution, norm and ReLU
    growth = f"growths.{int(path[2]) + _MSDNET_FINEST[number]}.{path[3].removeprefix('conv_')}"
    return f"blocks.{number}.{growth}.{convolution}.{part}.{kind}".replace(".normal.", ".same.")


TINY_RESNET = _recording("resnet_tiny.json", _RESNET, _resnet_name)
TINY_MSDNET = _recording("msdnet_tiny.json", _MSDNET, _msdnet_name)


def levels(
    design: ElasticDesign, image_shape: tuple[int, int, int], num_classes: int
) -> list[ElasticNetwork]:
    """Build the network of every level of the preset, on the meta device."""
    return [design.on_meta(image_shape, num_classes, shape) for shape in design.preset]


def multiply_adds(network: ElasticNetwork, image_shape: tuple[int, int, int]) -> int:
    """Count the MACs of convolutions and linear layers, through all exits, for one image."""
    with FlopCounterMode(display=False) as counter:
        network.eval().exits(torch.zeros(1, *image_shape, device="meta"))
    return counter.get_total_flops() // 2


def outputs_of(
    kinds: tuple[type[nn.Module], ...], network: ElasticNetwork, image_shape: tuple[int, int, int]
) -> int:
    """Count the numbers that the layers of some kinds put out, through all exits, for one image."""
    sizes = []
    hooks = [
        layer.register_forward_hook(lambda _layer, _inputs, out: sizes.append(out.numel()))
        for layer in network.modules()
        if isinstance(layer, kinds)
    ]
    network.eval().exits(torch.zeros(1, *image_shape, device="meta"))
    for hook in hooks:
        hook.remove()
    return sum(sizes)


def group_sizes(network: ElasticNetwork) -> dict[str, int]:
    """Return each group's size, having made sure that it is the same wherever its name appears."""
    sizes: dict[str, int] = {}
    for axes in axes_of(network).values():
        for axis in axes:
            for name, size in axis.groups if axis else ():
                assert sizes.setdefault(name, size) == size, name
    return sizes


def assert_groups_nest(networks: list[ElasticNetwork]) -> None:
    """Fail unless every level's groups are there, and as large or larger, one level up."""
    for smaller, larger in pairwise([group_sizes(network) for network in networks]):
        assert smaller.keys() <= larger.keys()
        assert all(size <= larger[name] for name, size in smaller.items())


def truncated_and_deep(
    design: ElasticDesign, image_shape: tuple[int, int, int], num_classes: int, level: int
) -> tuple[ElasticNetwork, ElasticNetwork]:
    """Build a level's network and one as wide with all blocks, of the same weights and statistics."""
    shape = design.preset[level]
    exits = design.preset[-1].exits
    torch.manual_seed(level)
    deep = design.build(image_shape, num_classes, Shape(shape.width, exits))
    take_statistics(deep, image_shape)
    truncated = design.build(image_shape, num_classes, shape)
    weights = deep.state_dict()
    truncated.load_state_dict({name: weights[name] for name in truncated.state_dict()})
    return truncated.eval(), deep.eval()


def take_statistics(network: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Give the norms the statistics of one batch; with those of a new network, deep ones answer all alike."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    images = torch.randn(8, *image_shape)
    network.train()
    _ = network.exits(images) if isinstance(network, ElasticNetwork) else network(images)


def submodels_of(settings, input_shape, num_classes):
    """Return the submodels of a run."""
    return Submodels(VARIANTS[settings.strategy], settings, input_shape, num_classes)
