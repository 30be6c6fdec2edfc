"""From a network's name to the network."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from models.cnn import SmallCNN
from models.resnet_cifar import CifarResNet
from models.torchvision_models import resnet18
from protocol.errors import SettingsError

ModelBuilder = Callable[[tuple[int, int, int], int], nn.Module]

MODEL_BUILDERS: Mapping[str, ModelBuilder] = {
    "cnn": SmallCNN,
    "resnet20": partial(CifarResNet, 20),
    "resnet32": partial(CifarResNet, 32),
    "resnet18": resnet18,
}


def build_model(name: str, image_shape: tuple[int, int, int], num_classes: int, seed: int) -> nn.Module:
    """Build a network on the CPU whose initial weights follow from the seed alone.

    The global random generators are left as they were.

    Parameters
    ----------
    name
        One of ``protocol.settings.MODEL_NAMES``.
    image_shape
        Channels, height and width of an image.
    num_classes
        Width of the output.
    seed
        From 0 to 2**64 - 1.

    Returns
    -------
    nn.Module
        In training mode; maps images ``(batch, *image_shape)`` to logits ``(batch, num_classes)``.

    Raises
    ------
    SettingsError
        When there is no network of that name.
    """
    builder = MODEL_BUILDERS.get(name)
    if builder is None:
        raise SettingsError(f"model = {name!r}: must be one of {', '.join(MODEL_BUILDERS)}")
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed the CUDA generators too, and nothing would restore these.
        torch.default_generator.manual_seed(seed)
        return builder(image_shape, num_classes)


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers the network learns; buffers, such as running means, are not counted."""
    return sum(parameter.numel() for parameter in model.parameters())
