"""Images a second, from a data set to augmented, normalised batches, beside torchvision's image at a time.

The peer is what a torchvision user writes: a data set of arrays as `torchvision.datasets.CIFAR10` (an item is
a Pillow image), RandomCrop with padding, RandomHorizontalFlip, ToTensor, Normalize, a DataLoader. All in one
run, in turns.

    python -m benchmarks.loading ~/data/cifar10/train.parquet
"""

import argparse
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from data import augment, batches, load_source
from data.images import Images
from data.inputs import PixelInputs
from protocol.settings import DataSettings

BATCH = 50


class Items(Dataset[tuple[Tensor, int]]):
    """Images as torchvision holds CIFAR-10: an array, of which an item becomes a Pillow image."""

    def __init__(
        self, images: Images, targets: Tensor, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        self._arrays = images.pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self._targets = targets.tolist()
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._arrays[index])), self._targets[index]


def ours(inputs: PixelInputs, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield an epoch's batches as `learning.local` makes them."""
    generator = torch.Generator().manual_seed(0)
    for indices in batches(len(inputs), BATCH, generator):
        yield augment(inputs[indices], "crop-flip", generator), targets[indices]


def rate(epoch: Callable[[], Iterator[tuple[Tensor, Tensor]]]) -> float:
    """Return images a second of one epoch."""
    started, count = time.perf_counter(), 0
    for inputs, _ in epoch():
        count += len(inputs)
    return count / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", type=Path, help="CIFAR-10's training images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=10_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    source = load_source("source", str(options.source.expanduser().resolve()), DataSettings())
    images, targets = source.content, source.labels
    assert isinstance(images, Images)
    print(f"opened {len(source)} images in {time.perf_counter() - started:.1f} s")
    rows = torch.arange(min(options.images, len(source)))
    form = images.fit(rows, normalise=True)
    inputs = images.inputs(rows, form)
    few = Images(images.pixels[rows], images.hashes, images.kept)
    items = Items(few, targets[rows], form.mean, form.deviation)

    def loader(workers: int) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
        return lambda: iter(DataLoader(items, BATCH, shuffle=True, num_workers=workers))

    ways: Mapping[str, Callable[[], Iterator[tuple[Tensor, Tensor]]]] = {
        "ours": lambda: ours(inputs, targets),
        "DataLoader, no worker": loader(0),
        "DataLoader, 2 workers": loader(2),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, epoch in ways.items():
            rates[name].append(rate(epoch))
    for name, values in rates.items():
        ratios = [mine / theirs for mine, theirs in zip(rates["ours"], values, strict=True)]
        print(
            f"{name:24} {median(values):9,.0f} images/s ({min(values):,.0f}–{max(values):,.0f}); ours is "
            f"{median(ratios):.1f} times as fast ({min(ratios):.1f}–{max(ratios):.1f})"
        )
    print(
        f"largest memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB"
    )


if __name__ == "__main__":
    main()
