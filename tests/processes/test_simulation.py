"""Whole simulations through ``flwr run``, on a SuperLink of the test's own."""

import json
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


def test_the_smoke_recipe_trains_and_ends_with_a_table(flower):
    recipe = (PROJECT / "recipes" / "smoke.toml").read_text()
    config = flower.folder / "smoke.toml"
    config.write_text(f'output-dir = "{flower.runs}"\n{recipe}')
    command = ["flwr", "run", str(PROJECT), "test", "--stream", "--run-config", str(config), *ONE_CPU]
    output = flower.command(command, 280).stdout
    folder = flower.run_folder()
    assert "against DS-FL" in output, output
    assert f"Run folder: {folder}" in output
    rounds = flower.rounds()
    assert [line["round"] for line in rounds] == [1, 2, 3, 4, 5]
    assert all(line["nodes"] == {"asked": 2, "answered": 2, "failed": []} for line in rounds)
    assert rounds[-1]["server"]["accuracy"] > 0.6
    assert rounds[-1]["clients"]["accuracy"] > 0.8
    for name in ("server", "client-0000", "client-0001"):
        assert load_weights(folder / "models" / f"{name}.safetensors")[0]


def test_impossible_settings_end_the_run_with_one_readable_message(flower):
    output = flower.run("scarlet.beta=-1.0 fraction-train=0.0 public.subset-size=601", *ONE_CPU).stdout
    assert "scarlet.beta = -1.0: Input should be greater than 0" in output, output
    assert "fraction-train = 0.0: Input should be greater than 0" in output
    assert "public.subset-size = 601: must be at most public.size = 600" in output
    assert "Traceback" not in output
    listing = json.loads(flower.command(["flwr", "list", "test", "--format", "json"], 60).stdout)
    newest = max(listing["runs"], key=lambda run: run["pending-at"])
    assert newest["status"].startswith("finished:failed"), newest


def test_a_stopped_run_leaves_a_checkpoint_and_a_table_and_can_be_resumed(flower):
    before = set(flower.runs.iterdir())
    run_id = flower.start_run(f"num-rounds=2000 {QUICK}", *())
    wait_for(lambda: set(flower.runs.glob("*")) - before, 120, "the run folder")
    (folder,) = set(flower.runs.iterdir()) - before
    store = CheckpointStore(folder / "checkpoint")
    wait_for(lambda: store.newest() is not None, 120, "the first checkpoint")
    flower.command(["flwr", "stop", run_id, "test"], 60)
    wait_for((folder / "summary.txt").exists, 90, "the table")
    assert "stopped" in (folder / "summary.txt").read_text()
    checkpoint = store.newest()
    assert checkpoint is not None
    wanted = checkpoint.round + 3
    output = flower.run(f'num-rounds={wanted} resume="{folder}" {QUICK}', *ONE_CPU).stdout
    assert f"Run folder: {folder}" in output, output
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == list(range(1, wanted + 1))


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
