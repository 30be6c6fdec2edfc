"""Data sets by name or path, each scaled to what the networks expect."""

import functools
from dataclasses import dataclass
from pathlib import Path

import torch

from data.parquet import read_images
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
def load_source(source: str, max_samples: int = 0) -> Source:
    """Load a data set, once a process.

    Parameters
    ----------
    source
        ``digits``, or the path of a parquet file.
    max_samples
        How many samples to take, from the first; 0 takes all.

    Raises
    ------
    DataError
        If there is no such data set, or it cannot be read.
    """
    if source == "digits":
        return _digits(max_samples)
    path = Path(source).expanduser()
    if not path.is_file():
        raise DataError(f'data.source = "{source}": there is no such file')
    samples = read_images(path, max_samples)
    return Source(samples, int(samples.targets.max()) + 1, path.stem)


def _digits(max_samples: int) -> Source:
    """Scikit-learn's 1797 grey images of 8x8 pixels, from 0..16 to 0..1."""
    # Only this source needs scikit-learn, which takes seconds to import.
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    inputs = torch.from_numpy(images).to(torch.float32).reshape(-1, 1, 8, 8) / 16
    count = max_samples or len(inputs)
    samples = Samples(inputs[:count], torch.from_numpy(targets).to(torch.int64)[:count])
    return Source(samples, num_classes=10, name="digits")
