"""torchvision's networks for images, by their names there: ``torchvision:mobilenet_v3_small``.

They are as torchvision has them but for their first convolution, which takes the images' channels, and the
size of images where a network is built for one. ``models/torchvision_models.py`` has our own ``resnet18``,
which is fitted to small images.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from models.first_convolution import fit_channels
from models.image_library import image_network, require_known
from models.network import Network

LISTING = "torchvision.models.list_models(module=torchvision.models)"

_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Heads that Inception's published weights have for training alone; ours have none."""
_DENSE = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..+)")
"""DenseNet's published weights have names of an older torchvision: ``norm.1`` for ``norm1``."""


def find(name: str, setting: str) -> Network:
    """Return the network of a name.

    Parameters
    ----------
    name
        Of a builder in ``torchvision.models`` itself.
    setting
        The key that names it, for messages.

    Raises
    ------
    SettingsError
        If there is none: naming those near.
    """
    from torchvision import models

    reference = f"torchvision:{name}"
    require_known(setting, reference, models.list_models(module=models), LISTING)
    return image_network(reference, partial(_build, name), own_names)


def _build(name: str, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Build a network with random weights.

    Raises
    ------
    ValueError
        If it cannot take such images.
    """
    from torchvision import models

    builder = models.get_model_builder(name)
    model: nn.Module = builder(weights=None, num_classes=num_classes, **_options(name, image_shape))
    fit_channels(model, image_shape[0])
    return model


def _options(name: str, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Return what some networks must be told beside the number of classes."""
    _, height, width = image_shape
    if name.startswith("vit_"):
        if height != width:
            raise ValueError("it takes square images alone")
        return {"image_size": height}
    if name.startswith("maxvit_"):
        return {"input_size": (height, width)}
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
    return {}


def own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as torchvision publishes them by the names that its networks have."""
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(_AUXILIARY)}
    return {_DENSE.sub(r"\1\2", name): tensor for name, tensor in kept.items()}
