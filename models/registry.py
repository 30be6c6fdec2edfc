"""From a network's name to the network."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import torch
from torch import nn

from models.cnn import SmallCNN
from models.elastic import ElasticDesign, ElasticNetwork, Shape
from models.elastic.cnn import CNN
from models.elastic.efficientnet import EFFICIENTNET_B4
from models.elastic.msdnet import MSDNET24
from models.elastic.resnet import RESNET20, RESNET56, RESNET110
from models.mlp import MLP
from models.resnet_cifar import CifarResNet
from models.torchvision_models import resnet18
from protocol.errors import SettingsError

ModelBuilder = Callable[[tuple[int, int, int], int], nn.Module]
"""Builds a network for images of (channels, height, width) and a number of classes."""

MODEL_BUILDERS: Mapping[str, ModelBuilder] = {
    "cnn": SmallCNN,
    "resnet20": partial(CifarResNet, 20),
    "resnet32": partial(CifarResNet, 32),
    "resnet18": resnet18,
}

ELASTIC_DESIGNS: Mapping[str, ElasticDesign] = {
    "elastic-cnn": CNN,
    "elastic-resnet20": RESNET20,
    "elastic-resnet56": RESNET56,
    "elastic-resnet110": RESNET110,
    "elastic-msdnet24": MSDNET24,
    "elastic-efficientnet-b4": EFFICIENTNET_B4,
}


def build_model(name: str, input_shape: tuple[int, ...], num_classes: int, seed: int) -> nn.Module:
    """Build a network on the CPU whose initial weights follow from the seed alone.

    The global random generators are left as they were.

    Parameters
    ----------
    name
        One of ``protocol.settings.MODEL_NAMES``; an elastic network is built whole, with one exit.
    input_shape
        Channels, height and width of an image, or (features,) of a table's row.
    num_classes
        Width of the output.
    seed
        From 0 to 2**64 - 1.

    Returns
    -------
    nn.Module
        In training mode; maps inputs ``(batch, *input_shape)`` to logits ``(batch, num_classes)``.

    Raises
    ------
    SettingsError
        When there is no network of that name, or it cannot take such inputs.
    """
    if name == "mlp":
        if not input_shape:
            raise _wrong_inputs(name, "numbers", input_shape)
        return _seeded(lambda: MLP(input_shape, num_classes), seed)
    image_shape = as_image_shape(input_shape, name)
    if name in ELASTIC_DESIGNS:
        return build_elastic(ELASTIC_DESIGNS[name], image_shape, num_classes, seed, None)
    builder = MODEL_BUILDERS.get(name)
    if builder is None:
        names = ", ".join(["mlp", *MODEL_BUILDERS, *ELASTIC_DESIGNS])
        raise SettingsError(f"model = {name!r}: must be one of {names}")
    return _seeded(lambda: builder(image_shape, num_classes), seed)


def build_elastic(
    design: ElasticDesign,
    image_shape: tuple[int, int, int],
    num_classes: int,
    seed: int,
    shape: Shape | None,
) -> ElasticNetwork:
    """Build a shape of an elastic network on the CPU, by default the whole without early exits.

    As `build_model`; raises ``SettingsError`` when the network cannot take such images or shapes.
    """
    try:
        return _seeded(lambda: design.build(image_shape, num_classes, shape or design.whole()), seed)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def as_image_shape(input_shape: tuple[int, ...], model: str) -> tuple[int, int, int]:
    """Return channels, height and width.

    Raises
    ------
    SettingsError
        If the inputs are no images.
    """
    if len(input_shape) != 3:
        raise _wrong_inputs(model, "images", input_shape)
    channels, height, width = input_shape
    return channels, height, width


def elastic_design(name: str) -> ElasticDesign:
    """Return the elastic network of a name.

    Raises
    ------
    SettingsError
        When there is none.
    """
    if name not in ELASTIC_DESIGNS:
        raise SettingsError(
            f"model = {name!r}: has no submodels; those that have are {', '.join(ELASTIC_DESIGNS)}"
        )
    return ELASTIC_DESIGNS[name]


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers the network learns; buffers, such as running means, are not counted."""
    return sum(parameter.numel() for parameter in model.parameters())


def _wrong_inputs(model: str, reads: str, input_shape: tuple[int, ...]) -> SettingsError:
    kind, allowed = ("a table's rows", '"mlp"') if input_shape else ("texts", "a network that reads texts")
    return SettingsError(f"model = {model!r}: reads {reads}, but the data are {kind}; allowed is {allowed}")


_M = TypeVar("_M", bound=nn.Module)


def _seeded(build: Callable[[], _M], seed: int) -> _M:
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed the CUDA generators too, and nothing would restore these.
        torch.default_generator.manual_seed(seed)
        return build()
