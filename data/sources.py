"""Data sets by name, each scaled to what the networks expect."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from data.samples import Samples
from protocol.errors import DataError


@dataclass(frozen=True, eq=False)
class Source:
    """A whole data set, before anything is split off.

    Parameters
    ----------
    samples
        All samples, on the CPU. The loader has already scaled and normalised the inputs.
    num_classes
        Targets lie in 0 .. ``num_classes`` - 1.
    name
        The name under which the settings know it.
    """

    samples: Samples
    num_classes: int
    name: str


@functools.cache
def load_source(name: str) -> Source:
    """Load a data set, once a process.

    Raises
    ------
    DataError
        If no data set has that name.
    """
    if name not in _LOADERS:
        raise DataError(f'data.source = "{name}": must be one of {", ".join(sorted(_LOADERS))}')
    return _LOADERS[name]()


def _digits() -> Source:
    """Scikit-learn's 1797 grey images of 8x8 pixels, from 0..16 to 0..1."""
    # Only this source needs scikit-learn, which takes seconds to import.
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    inputs = torch.from_numpy(images).to(torch.float32).reshape(-1, 1, 8, 8) / 16
    return Source(Samples(inputs, torch.from_numpy(targets).to(torch.int64)), num_classes=10, name="digits")


_LOADERS: dict[str, Callable[[], Source]] = {"digits": _digits}
