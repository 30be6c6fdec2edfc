"""Each example in ``custom/`` learns from the bundle that nodes receive, with nothing of the clone beside it.

Flower builds the bundle; it is unpacked, and one process runs all examples with the packages found there.
"""

import json
import os
import re
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from tests.support.processes import PROJECT

pytestmark = pytest.mark.slow

EXAMPLES = {
    "method": {"strategy": "custom.fedprox:FEDPROX", "custom.fedprox.mu": 0.1},
    "network and source": {"data.source": "custom.sources:SensorSeries", "model": "custom.networks:GRU"},
    "loss": {"train.loss": "custom.losses:focal", "custom.focal.gamma": 1.0},
    "metric": {"data.metric": "custom.metrics:BALANCED_ACCURACY"},
    "label aggregator": {
        "aggregation.labels": "custom.aggregators:trimmed_mean",
        "custom.trimmed-mean.share": 0.34,
    },
    "transform": {"strategy": "fedavg", "uplink": "custom.transforms:noise", "custom.noise.clip": 1.0},
    "encoding": {"distillation.labels": "custom.encodings:TopK", "custom.top-k.k": 2},
}
SCRIPT = """
import json, sys, tempfile, traceback
import custom, protocol
from protocol.settings import RunSettings
from simulation.run import simulate

found = {"custom": custom.__file__, "protocol": protocol.__file__}
for name, config in json.loads(sys.argv[1]).items():
    settings = RunSettings.parse({**config, "output-dir": tempfile.mkdtemp(dir=sys.argv[2])})
    found[name] = simulate(settings, clients=3).rounds()
print("FOUND" + json.dumps(found))
"""
QUICK = {"num-rounds": 2, "train.epochs": 1, "public.size": 120, "public.subset-size": 40, "data.alpha": 10.0}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    zipfile.ZipFile(BytesIO(build_fab_from_disk(PROJECT))).extractall(folder)
    return folder


@pytest.fixture(scope="module")
def found(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Run all examples; the simulation is no part of the bundle and comes from the clone."""
    apart = tmp_path_factory.mktemp("simulation")
    (apart / "simulation").symlink_to(PROJECT / "simulation")
    configs = {name: {**QUICK, **config} for name, config in EXAMPLES.items()}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(configs), str(tmp_path_factory.mktemp("runs"))],
        cwd=apart,
        env={**os.environ, "PYTHONPATH": f"{bundle}:{apart}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, object] = json.loads(done.stdout.partition("FOUND")[2])
    return result


def test_the_code_that_runs_is_the_bundle_s(found: dict[str, object], bundle: Path) -> None:
    assert Path(str(found["custom"])).parents[1] == bundle
    assert Path(str(found["protocol"])).parents[1] == bundle


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_takes_part_in_every_round_without_a_failure(
    example: str, found: dict[str, object]
) -> None:
    rounds = found[example]
    assert isinstance(rounds, list)
    assert [line["nodes"] for line in rounds] == [{"asked": 3, "answered": 3, "failed": []}] * 2


def test_the_example_of_a_metric_is_in_every_line(found: dict[str, object]) -> None:
    rounds = found["metric"]
    assert isinstance(rounds, list)
    assert all(0 <= line["clients"]["metric"] <= 1 for line in rounds)


def test_every_kind_of_thing_has_an_example_and_every_example_is_run() -> None:
    modules = {file.stem for file in (PROJECT / "custom").glob("*.py")} - {"__init__"}
    named = set(re.findall(r"custom\.(\w+):", json.dumps(EXAMPLES)))
    assert named == modules


@pytest.mark.parametrize("file", sorted((PROJECT / "custom").glob("*.py")), ids=lambda file: file.stem)
def test_an_example_is_read_at_a_glance_and_says_how_it_is_named(file: Path) -> None:
    text = file.read_text()
    assert len([line for line in text.splitlines() if line.strip()]) <= 70
    if file.stem != "__init__":
        assert re.search(rf'= "custom\.{file.stem}:\w+"', text)
