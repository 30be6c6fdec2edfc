"""Networks for images that a library has by name: which there are, and which images fit them."""

import difflib
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from models.network import Network
from models.pretrained import Published, as_published
from protocol.errors import SettingsError
from protocol.settings import RunSettings

ImageBuilder = Callable[[tuple[int, ...], int], nn.Module]
"""Builds a network for images of a shape (channels, height, width) and a number of classes."""

SIDES = (16, 32, 64, 96, 128, 224, 256)
"""Pixels a side that are tried where the images at hand do not fit."""
_COLOUR = 3
_NEAR = 6


def image_network(name: str, build: ImageBuilder, published: Published = as_published) -> Network:
    """Return a network for images, which says what images it would take where those at hand do not fit.

    Parameters
    ----------
    name
        As the settings have it.
    build
        Builds it with random weights.
    published
        Brings the library's published weights to the network's own names.
    """

    def remedy(shape: tuple[int, ...], classes: int, _: RunSettings) -> str:
        return fitting_images(build, shape, classes)

    return Network(
        name,
        frozenset({"images"}),
        lambda shape, classes, _: build(shape, classes),
        remedy=remedy,
        published=published,
    )


def require_known(setting: str, reference: str, names: Iterable[str], listing: str) -> None:
    """Refuse a name that a library does not have.

    Parameters
    ----------
    setting
        The key that names the network.
    reference
        Library and name, as ``torchvision:resnet19``.
    names
        Those there are.
    listing
        Where a reader finds them all.

    Raises
    ------
    SettingsError
        Saying which names are near.
    """
    known = list(names)
    library, _, name = reference.partition(":")
    if name in known:
        return
    near = difflib.get_close_matches(name, known, _NEAR, cutoff=0.5)
    hint = f"near it are {', '.join(near)}; " if near else ""
    raise SettingsError(
        f'{setting} = "{reference}": {library} has no classifier of images of that name; {hint}all '
        f"{len(known)} are in {listing}"
    )


def fitting_images(
    build: ImageBuilder, shape: tuple[int, ...], classes: int, sides: Sequence[int] = SIDES
) -> str:
    """Say which images a network takes; nothing if none of those that are tried.

    Parameters
    ----------
    build
        Builds the network.
    shape
        Of the images at hand, which it does not take.
    classes
        Width of its answer.
    sides
        Pixels a side to try. The smallest that is not below the images' own is named, else the largest.
    """
    channels, height, width = shape
    own = max(height, width)
    ordered = sorted(sides, key=lambda side: (side < own, side if side >= own else -side))
    for planes in dict.fromkeys((channels, _COLOUR)):
        for side in ordered:
            if _takes(build, (planes, side, side), classes):
                colour = "" if planes == channels else f" and data.channels = {planes}"
                return f"it takes images of {side} pixels a side: set data.image-size = {side}{colour}"
    return ""


def _takes(build: ImageBuilder, shape: tuple[int, ...], classes: int) -> bool:
    """Tell whether a network answers two images of a shape, in both modes; nothing is computed."""
    try:
        model = _without_memory(build, shape, classes)
        answers = [model.train(mode)(torch.empty(2, *shape, device="meta")) for mode in (True, False)]
    except Exception:  # a library says in many ways that images are too small
        return False
    return all(tuple(answer.shape) == (2, classes) for answer in answers)


def _without_memory(build: ImageBuilder, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Build a network whose tensors have shapes and no values; some can only be built with values first."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return build(shape, classes)
        except NotImplementedError:
            return build(shape, classes).to("meta")
