"""Seconds of a simulated federation with worker processes, beside the same in one process.

Digits, 10 clients, 5 rounds, over the in-process grid with real serialisation. The two take turns, and their
figures must be equal. Each run is timed from its settings to its report; its rounds are timed apart. Beside
it the processor time of the whole run, which other programs on the machine disturb less: the server's, and
that of all workers together.

    python -m benchmarks.simulation
"""

import argparse
import logging
import resource
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from protocol.settings import RunSettings
from simulation.run import simulate
from simulation.workers import cores

CLIENTS = 10
METHODS: Mapping[str, Mapping[str, Any]] = {
    "SCARLET": {"strategy": "scarlet"},
    "FedAvg": {"strategy": "fedavg"},
    "ScaleFL": {"strategy": "scalefl", "model": "elastic-cnn"},
}


@dataclass(frozen=True)
class Timing:
    """How long a run took, and what it came to."""

    seconds: float
    in_rounds: float
    processor: float
    """Seconds of this process."""
    workers_processor: float
    """Seconds of all workers together."""
    figures: Sequence[Mapping[str, Any]]


def measure(method: str, rounds: int, workers: int) -> Timing:
    """Run a federation.

    Parameters
    ----------
    method
        One of ``METHODS``.
    rounds
        How many.
    workers
        Processes that do the clients' work; 0: none beside this one.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = RunSettings.parse(
            {**METHODS[method], "num-rounds": rounds, "output-dir": folder, "device": "cpu"}
        )
        started, processor = time.perf_counter(), time.process_time()
        helpers = _of_ended_processes()
        lines = simulate(settings, CLIENTS, workers).rounds()
        seconds, processor = time.perf_counter() - started, time.process_time() - processor
        helpers = _of_ended_processes() - helpers
    in_rounds = sum(sum(line.pop("seconds").values()) for line in lines)
    return Timing(seconds, in_rounds, processor, helpers, lines)


def row(method: str, alone: Sequence[Timing], helped: Sequence[Timing]) -> str:
    """Return a line of the table: medians, and the median of the ratios of runs that followed each other.

    Parameters
    ----------
    method
        Its name.
    alone
        The runs in one process.
    helped
        Those with workers, in the same order.
    """
    cells = [f"{median(run.seconds for run in runs):.1f} s" for runs in (alone, helped)]
    cells += [f"{median(run.in_rounds for run in runs):.1f} s" for runs in (alone, helped)]
    cells += [f"{median(run.processor for run in alone):.1f} s"]
    cells += [
        f"{median(getattr(run, part) for run in helped):.1f} s" for part in ("processor", "workers_processor")
    ]
    ratios = sorted(one.in_rounds / other.in_rounds for one, other in zip(alone, helped, strict=True))
    cells.append(f"{median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})")
    return f"| {method} | {' | '.join(cells)} |"


def _of_ended_processes() -> float:
    """Return the processor seconds of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=cores(), help="worker processes; one a core")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.WARNING)
    heads = ["", "in one process", f"{options.workers} workers", "rounds", "rounds, workers"]
    heads += ["processor time", "server's, workers", "workers'", "times as fast, rounds"]
    print(f"| {' | '.join(heads)} |")
    print("|---" * len(heads) + "|")
    for method in options.methods:
        measure(method, 1, 0)  # the first run of a process imports and loads data
        alone, helped = [], []
        for _ in range(options.repeats):
            alone.append(measure(method, options.rounds, 0))
            helped.append(measure(method, options.rounds, options.workers))
        assert all(run.figures == alone[0].figures for run in [*alone, *helped]), "figures differ"
        print(row(method, alone, helped), flush=True)


if __name__ == "__main__":
    main()
