"""timm's networks for images, by their names there: ``timm:convnext_atto``. timm need not be installed."""

from functools import partial
from types import ModuleType
from typing import Any

from torch import nn

from models.image_library import image_network, require_known
from models.network import Network
from protocol.errors import SettingsError

LISTING = "timm.list_models()"


def find(name: str, setting: str) -> Network:
    """Return the network of a name.

    Parameters
    ----------
    name
        Of an architecture, without the tag of published weights: nothing is downloaded.
    setting
        The key that names it, for messages.

    Raises
    ------
    SettingsError
        If timm is not installed or has none: naming those near.
    """
    reference = f"timm:{name}"
    try:
        timm = _timm()
    except ImportError as error:
        raise SettingsError(
            f'{setting} = "{reference}": timm is not installed here ({error}); `uv pip install timm`'
        ) from error
    require_known(setting, reference, timm.list_models(), LISTING)
    return image_network(reference, partial(_build, name))


def _build(name: str, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Build a network with random weights; raises whatever timm does for images that do not fit."""
    timm = _timm()
    channels, *sides = image_shape
    options: dict[str, Any] = {}
    published = timm.get_pretrained_cfg(name)
    if published is not None and published.fixed_input_size:
        options["img_size"] = tuple(sides)
    model: nn.Module = timm.create_model(
        name, pretrained=False, num_classes=num_classes, in_chans=channels, **options
    )
    return model


def _timm() -> ModuleType:
    import timm

    return timm
