"""Whole simulations through ``flwr run``, on a SuperLink of the test's own."""

import json
import re
import shutil

import pytest

from models import load_weights
from server_app.checkpoint import CheckpointStore
from tests.support.processes import PROJECT, deployment, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ONE_CPU = ("--federation-config", "client-resources-num-cpus=1")
QUICK = "train.epochs=1 distillation.epochs=1 public.size=120 public.subset-size=40"


@pytest.fixture(scope="module")
def flower(tmp_path_factory):
    with deployment(tmp_path_factory.mktemp("simulation")) as made:
        made.start_superlink("--simulation")
        yield made


def run_smoke(flower, rounds, *flags, resume=""):
    """Run the smoke recipe with another number of rounds; return what was printed."""
    recipe = (PROJECT / "recipes" / "smoke.toml").read_text()
    own = f'output-dir = "{flower.runs}"\nresume = "{resume}"\n'
    assert recipe.count("num-rounds = 5\n") == 1
    config = flower.folder / f"smoke-{rounds}.toml"
    config.write_text(own + recipe.replace("num-rounds = 5\n", f"num-rounds = {rounds}\n"))
    return flower.command(
        ["flwr", "run", str(PROJECT), "test", "--run-config", str(config), *flags], 280
    ).stdout


@pytest.fixture(scope="module")
def stopped(flower):
    """Stop a run after its first checkpoint; return its folder."""
    before = set(flower.runs.glob("*"))
    started = re.search(r"started run (\d+)", output := run_smoke(flower, 2000))
    assert started, output
    wait_for(lambda: set(flower.runs.glob("*")) - before, 120, "the run folder")
    (folder,) = set(flower.runs.iterdir()) - before
    wait_for(lambda: CheckpointStore(folder / "checkpoint").newest() is not None, 120, "the first checkpoint")
    flower.command(["flwr", "stop", started[1], "test"], 60)
    wait_for((folder / "summary.txt").exists, 90, "the table")
    return folder


@pytest.fixture(scope="module")
def resumed(flower, stopped):
    """Go on with it for a few rounds; return the number of rounds and what was printed."""
    assert "stopped" in (stopped / "summary.txt").read_text()
    checkpoint = CheckpointStore(stopped / "checkpoint").newest()
    rounds = max(checkpoint.round + 3, 5)
    return rounds, run_smoke(flower, rounds, "--stream", *ONE_CPU, resume=stopped)


def test_a_stopped_run_leaves_a_checkpoint_and_a_table_and_can_be_resumed(stopped, resumed):
    rounds, output = resumed
    assert f"Run folder: {stopped}" in output, output
    lines = [json.loads(line) for line in (stopped / "rounds.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == list(range(1, rounds + 1))


def test_the_smoke_recipe_trains_and_ends_with_a_table(stopped, resumed):
    """With more rounds than it has."""
    _, output = resumed
    assert "against DS-FL" in output, output
    rounds = [json.loads(line) for line in (stopped / "rounds.jsonl").read_text().splitlines()]
    assert all(line["nodes"] == {"asked": 2, "answered": 2, "failed": []} for line in rounds)
    assert rounds[-1]["server"]["accuracy"] > 0.6
    assert rounds[-1]["clients"]["accuracy"] > 0.8
    for name in ("server", "client-0000", "client-0001"):
        assert load_weights(stopped / "models" / f"{name}.safetensors")[0]


def test_impossible_settings_end_the_run_with_one_readable_message(flower):
    output = flower.run("scarlet.beta=-1.0 fraction-train=0.0 public.subset-size=601", *ONE_CPU).stdout
    assert "scarlet.beta = -1.0: Input should be greater than 0" in output, output
    assert "fraction-train = 0.0: Input should be greater than 0" in output
    assert "public.subset-size = 601: must be at most public.size = 600" in output
    assert "Traceback" not in output
    listing = json.loads(flower.command(["flwr", "list", "test", "--format", "json"], 60).stdout)
    newest = max(listing["runs"], key=lambda run: run["pending-at"])
    assert newest["status"].startswith("finished:failed"), newest


def test_a_false_package_beside_the_superlink_is_found_out_by_its_digest(tmp_path):
    folder = tmp_path / "start"
    shutil.copytree(PROJECT / "models", folder / "models")
    registry = folder / "models" / "registry.py"
    registry.write_text(registry.read_text() + "\n# another code\n")
    with deployment(tmp_path / "deployment") as flower:
        flower.start_superlink("--simulation", working_folder=folder)
        # Ray alone may take a minute to start on a busy machine, and a hello lives as long as this wait.
        output = flower.run(f"num-rounds=1 wait-for-nodes=110.0 {QUICK}", *ONE_CPU).stdout
    assert "its code is" in output, output
    assert "the server's is" in output
    assert "min-nodes" in output
    assert "Traceback" not in output
