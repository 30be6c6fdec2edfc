"""The server's own work in a round of SCARLET, beside DS-FL's on the same machine in the same run.

100 clients, |P| = 10,000, m = 1,000, C = 10 and 100: writing the messages, checking and keeping the
replies, merging them. The server model's own training is timed apart. Rounds alternate between the two.

    python -m benchmarks.server_round
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable
from statistics import median
from typing import Any
from unittest import mock

import torch

import strategies.soft_labels.server as scarlet
from data import PublicPool
from data.inputs import TensorInputs
from protocol.encodings import encode_indices, encode_labels
from protocol.settings import RunSettings
from strategies import method_of
from strategies.sides import ServerSide
from strategies.soft_labels.messages import SoftLabelReply, SoftLabelRequest
from strategies.soft_labels.server import SoftLabelServer

CLIENTS, POOL, SUBSET = 100, 10_000, 1_000
STAGES = ("send", "accept", "merge", "learn")
SETTINGS = {
    "public.size": POOL,
    "public.subset-size": SUBSET,
    "distillation.epochs": 1,
    "data.server-test-size": 1,
}
METHODS = {
    "DS-FL": {"strategy": "dsfl", "distillation.labels": "float32", "distillation.indices": "explicit"},
    "SCARLET": {"strategy": "scarlet", "scarlet.cache-duration": 50},
}


def build(method: str, classes: int) -> SoftLabelServer:
    """Build a server half over random public images."""
    settings = RunSettings.parse({**SETTINGS, **METHODS[method]})
    inputs = torch.rand(POOL, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    pool = PublicPool(TensorInputs(inputs), "of random images")
    side = ServerSide(settings, pool, pool.inputs.shape, classes, torch.device("cpu"))
    server = method_of(side.settings).server(side, "benchmark")
    assert isinstance(server, SoftLabelServer)
    return server


def play_round(server: SoftLabelServer, method: str, classes: int, number: int) -> dict[str, float]:
    """Play one round and return its seconds by stage; what the clients do is not counted."""
    names = [f"client-{index:04d}" for index in range(CLIENTS)]
    seconds: dict[str, float] = {}
    outgoing = _timed(seconds, "send", lambda: server.begin(number, names, final=False))
    request = SoftLabelRequest.from_record(outgoing[names[0]].content)
    assert server._plan is not None
    requested = server._plan.requested
    encoding = RunSettings.parse({**SETTINGS, **METHODS[method]}).distillation.labels
    generator = torch.Generator().manual_seed(number)
    labels = torch.softmax(3 * torch.randn(len(requested), classes, generator=generator), dim=1)
    rows = encode_labels(labels, encoding).tobytes()
    named = None if request.requested is None else encode_indices(requested, POOL)
    replies = {}
    for name in names:
        # All clients answer and hold what they were sent, so each has the digest the server expects.
        digest = server._acknowledged._expected[name][1].digest()
        replies[name] = SoftLabelReply(0.5, 1.0, 10, digest, rows, named).to_record()
    _timed(seconds, "accept", lambda: [server.accept(name, number, replies[name]) for name in names])
    learning = 0.0

    def timed_distil(*arguments: object) -> None:
        nonlocal learning
        started = time.perf_counter()
        original(*arguments)  # type: ignore[arg-type]
        learning = time.perf_counter() - started

    original = scarlet.distil
    with mock.patch.object(scarlet, "distil", timed_distil):
        _timed(seconds, "merge", lambda: server.finish(number))
    seconds["merge"] -= learning
    seconds["learn"] = learning
    return seconds


def measure(classes: int, rounds: int) -> None:
    """Print the medians over the rounds after the first five, and the peak memory."""
    servers = {method: build(method, classes) for method in METHODS}
    timings: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for number in range(1, rounds + 1):
        for method, server in servers.items():
            timings[method].append(play_round(server, method, classes, number))
    print(f"\nC = {classes}, median of {rounds - 5} rounds (min–max), ms; peak memory of one round, MB")
    totals = {}
    for method, server in servers.items():
        kept = timings[method][5:]
        parts = [f"{stage} {_spread([1e3 * timing[stage] for timing in kept])}" for stage in STAGES]
        totals[method] = median(sum(timing[stage] for stage in STAGES[:3]) for timing in kept)
        peak = peak_megabytes(
            lambda server=server, method=method: play_round(server, method, classes, rounds + 1)
        )  # type: ignore[misc]
        print(f"{method:8} {' · '.join(parts)} · own work {1e3 * totals[method]:.1f} · peak {peak:.0f}")
    print(f"SCARLET's own work is {totals['SCARLET'] / totals['DS-FL']:.2f} of DS-FL's")


def peak_megabytes(work: Callable[[], object]) -> float:
    """Return the most memory that Python and NumPy hold at once beyond what they held before."""
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 1e6


def _timed(seconds: dict[str, float], stage: str, work: Callable[[], Any]) -> Any:  # noqa: ANN401
    started = time.perf_counter()
    result = work()
    seconds[stage] = time.perf_counter() - started
    return result


def _spread(values: list[float]) -> str:
    return f"{median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def main() -> None:
    """Measure both class counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    for classes in (10, 100):
        measure(classes, rounds)


if __name__ == "__main__":
    main()
