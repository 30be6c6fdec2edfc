"""SCARLET among clients that hold submodels of four sizes, beside the same clients left to themselves.

Digits, 12 clients, three at each level, α = 0.1, 50 rounds, 3 seeds. Every client's own final model is scored
on the server's test samples, which have all classes. A run that has finished is not run again.

    python -m benchmarks.together --output ~/motley/together
"""

import argparse
import json
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.kept_runs import run_once
from data import load_server_test
from learning.training import evaluate
from models import build_elastic, elastic_design, load_weights
from protocol.ledger import Traffic
from protocol.settings import RunSettings
from protocol.values import numbers
from strategies.levels import assign_levels, plan_levels

CLIENTS, CLASSES = 12, 10
STRATEGIES = ("individual", "scarlet")
BASE: Mapping[str, Any] = {"model": "elastic-cnn", "device": "cpu", "num-rounds": 50, "evaluate-every": 50}


def run_one(strategy: str, seed: int, output: Path) -> dict[str, Any]:
    """Run one federation, or read what it came to before: accuracy by level, wire bytes in all."""
    place = output / f"{strategy}-{seed}"
    result_file = place / "result.json"
    if result_file.exists():
        known: dict[str, Any] = json.loads(result_file.read_text())
        return known
    settings = RunSettings.parse(
        {**BASE, "strategy": strategy, "seed": seed, "output-dir": str(place), "resume": "auto"}
    )
    folder = run_once(settings, CLIENTS)
    test = load_server_test(settings)
    assert test is not None
    design = elastic_design(settings.model, settings)
    shapes = plan_levels(settings.levels, design, test.input_shape, CLASSES)
    assigned = assign_levels(numbers(settings.levels.shares), CLIENTS, seed)
    by_level: dict[int, list[float]] = {level: [] for level in range(1, len(shapes) + 1)}
    for client, level in enumerate(assigned):
        weights, _ = load_weights(folder.models / f"client-{client:04d}.safetensors")
        model = build_elastic(design, test.input_shape, CLASSES, 0, shapes[level - 1])
        model.load_state_dict(weights)
        by_level[level].append(evaluate(model, test).accuracy)
    traffic = sum((Traffic(**line["bytes"]) for line in folder.rounds()), Traffic())
    result = {"levels": [mean(found) for found in by_level.values()], "wire": traffic.wire}
    result_file.write_text(json.dumps(result))
    return result


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("~/motley/together"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    output = arguments.output.expanduser().resolve()
    print("| | level 1 | level 2 | level 3 | level 4 | mean | wire MB |")
    print("|---|---|---|---|---|---|---|")
    with ProcessPoolExecutor(arguments.processes) as pool:
        for strategy in STRATEGIES:
            seeds = range(arguments.seeds)
            results = list(
                pool.map(run_one, [strategy] * len(seeds), seeds, [output] * len(seeds), chunksize=1)
            )
            levels = [mean(values) for values in zip(*(run["levels"] for run in results), strict=True)]
            cells = " | ".join(f"{100 * accuracy:.1f}" for accuracy in [*levels, mean(levels)])
            wire = mean(run["wire"] for run in results)
            print(f"| {strategy} | {cells} | {wire / 1e6:.2f} |")


if __name__ == "__main__":
    main()
