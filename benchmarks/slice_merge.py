"""Time and memory of merging unequal submodels, beside a plain mask-and-count merge of the same tensors.

ResNet-110, 10 and 100 clients over 4 levels, one thread; the two alternate. Each merge runs in a process of
its own that reads one client's weights at a time, so that its peak memory is the merge's.

    python -m benchmarks.slice_merge
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from models import build_elastic, elastic_design
from models.elastic import SliceMap, SliceMean, axes_of
from protocol.randomness import torch_generator

IMAGE_SHAPE, CLASSES = (3, 32, 32), 10
State = dict[str, Tensor]


@dataclass(frozen=True)
class Federation:
    """The whole network's weights, and where each level lies in them."""

    whole: State
    maps: list[SliceMap]

    @classmethod
    def of(cls, model: str) -> "Federation":
        """Build the network of a name and its levels."""
        design = elastic_design(model)
        network = build_elastic(design, IMAGE_SHAPE, CLASSES, 0, design.preset[-1])
        parts = [design.on_meta(IMAGE_SHAPE, CLASSES, shape) for shape in design.preset]
        whole = {name: parameter.detach() for name, parameter in network.named_parameters()}
        return cls(whole, [SliceMap(axes_of(network), axes_of(part)) for part in parts])

    def replies(self, order: list[int]) -> Iterator[tuple[State, SliceMap]]:
        """Yield each client's trained submodel as it arrives; its weights follow from its number."""
        for client in order:
            where = self.maps[client % len(self.maps)]
            generator = torch_generator(0, "merge benchmark", client=str(client))
            part = where.extract(self.whole)
            yield (
                {name: w + 0.01 * torch.randn(w.shape, generator=generator) for name, w in part.items()},
                where,
            )


def ours(federation: Federation, order: list[int]) -> tuple[State, float]:
    """Merge with `SliceMean`; return the result and the seconds that merging took."""
    seconds = -time.perf_counter()
    mean = SliceMean(federation.whole)
    seconds += time.perf_counter()
    for part, where in federation.replies(order):
        seconds -= time.perf_counter()
        mean.add(part, where)
        seconds += time.perf_counter()
    seconds -= time.perf_counter()
    merged = mean.merged()
    return merged, seconds + time.perf_counter()


def plain(federation: Federation, order: list[int]) -> tuple[State, float]:
    """Lay each submodel out at full size with a mask, keep them all, then sum values and masks."""
    padded: list[tuple[State, State]] = []
    seconds = 0.0
    for part, where in federation.replies(order):
        seconds -= time.perf_counter()
        values = {name: torch.zeros_like(whole) for name, whole in federation.whole.items()}
        masks = {name: torch.zeros_like(whole) for name, whole in federation.whole.items()}
        for name, tensor in part.items():
            values[name][where.places(name)] = tensor
            masks[name][where.places(name)] = 1
        padded.append((values, masks))
        seconds += time.perf_counter()
    seconds -= time.perf_counter()
    merged = {}
    for name, whole in federation.whole.items():
        total = torch.stack([values[name] for values, _ in padded]).sum(dim=0)
        count = torch.stack([masks[name] for _, masks in padded]).sum(dim=0)
        merged[name] = torch.where(count > 0, total / count.clamp(min=1), whole)
    return merged, seconds + time.perf_counter()


def plain_streaming(federation: Federation, order: list[int]) -> tuple[State, float]:
    """Do the same one client at a time: mask and values at full size are added to running sums."""
    totals = {name: torch.zeros_like(whole) for name, whole in federation.whole.items()}
    counts = {name: torch.zeros_like(whole) for name, whole in federation.whole.items()}
    seconds = 0.0
    for part, where in federation.replies(order):
        seconds -= time.perf_counter()
        for name, whole in federation.whole.items():
            if name in part:
                value, mask = torch.zeros_like(whole), torch.zeros_like(whole)
                value[where.places(name)] = part[name]
                mask[where.places(name)] = 1
                totals[name] += value
                counts[name] += mask
        seconds += time.perf_counter()
    seconds -= time.perf_counter()
    merged = {
        name: torch.where(counts[name] > 0, totals[name] / counts[name].clamp(min=1), whole)
        for name, whole in federation.whole.items()
    }
    return merged, seconds + time.perf_counter()


MERGES: dict[str, Callable[[Federation, list[int]], tuple[State, float]]] = {
    "ours": ours,
    "mask and count": plain,
    "mask and count, streaming": plain_streaming,
}


def measure(kind: str, model: str, clients: int) -> tuple[float, float, bool]:
    """Return seconds, peak megabytes above the start, and whether another order gives the same bits."""
    torch.set_num_threads(1)
    federation = Federation.of(model)
    MERGES[kind](federation, [0])  # warm up
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    order = list(range(clients))
    merged, seconds = MERGES[kind](federation, order)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    again, _ = MERGES[kind](federation, order[::-1])
    return seconds, peak / 1024, all(torch.equal(merged[name], again[name]) for name in merged)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="elastic-resnet110")
    parser.add_argument("--clients", type=int, nargs="+", default=(10, 100))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print("| clients | merge | ms, median (smallest–largest) | peak MB | same bits in another order |")
    print("|---|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    for clients in arguments.clients:
        found: dict[str, list[tuple[float, float, bool]]] = {kind: [] for kind in MERGES}
        for _ in range(arguments.repeats):
            for kind in MERGES:
                with context.Pool(1) as pool:
                    found[kind].append(pool.apply(measure, (kind, arguments.model, clients)))
        for kind, runs in found.items():
            times = [1e3 * seconds for seconds, _, _ in runs]
            peak, same = median(peak for _, peak, _ in runs), all(same for _, _, same in runs)
            span = f"{median(times):.0f} ({min(times):.0f}–{max(times):.0f})"
            print(f"| {clients} | {kind} | {span} | {peak:.0f} | {'yes' if same else 'no'} |")


if __name__ == "__main__":
    main()
