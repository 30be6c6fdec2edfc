"""Two SuperNodes of unequal levels as real processes, over gRPC on loopback."""

import pytest

from models import elastic_design
from protocol.settings import LevelsSettings
from server_app.checkpoint import CheckpointStore
from strategies.levels import plan_levels
from tests.support.processes import deployment, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ROUNDS = 2
RUN = (
    f'strategy="scalefl" model="elastic-cnn" num-rounds={ROUNDS} train.epochs=1 public.size=120 '
    "public.subset-size=40 round-timeout=120.0"
)


def test_nodes_of_unequal_levels_train_one_network(tmp_path):
    levels = {"gateway": 1, "workstation": 4}
    with deployment(tmp_path) as flower:
        flower.start_superlink()
        for part, (name, level) in enumerate(levels.items()):
            flower.start_supernode(
                f'client-name="{name}" partition-id={part} num-partitions=2 '
                f'state-dir="{flower.folder}/state" level={level}'
            )
        run_id = flower.start_run(RUN)
        wait_for(lambda: len(flower.rounds()) >= ROUNDS, 300, "all rounds")
        folder = flower.run_folder()
        wait_for((folder / "summary.txt").exists, 60, "the table")
        rounds = flower.rounds()
        log = flower.command(["flwr", "log", run_id, "test", "--show"], 60).stdout

    whole = sum(tensor.numel() for tensor in CheckpointStore(folder / "checkpoint").newest().weights.values())
    shapes = plan_levels(LevelsSettings(), elastic_design("elastic-cnn"), (1, 8, 8), 10)
    assert len(shapes) == 4
    for line in rounds:
        assert line["nodes"] == {"asked": 2, "answered": 2, "failed": []}
        by_level = [(figures["level"], figures["clients"]) for figures in line["clients_by_level"]]
        assert by_level == [(1, 1), (4, 1)]
        traffic = line["bytes"]
        assert 4 * whole < traffic["paper_down"] == traffic["paper_up"] < 2 * 4 * whole
        for way in ("up", "down"):
            assert traffic[f"paper_{way}"] < traffic[f"wire_{way}"] < 1.5 * traffic[f"paper_{way}"]
    for name, level in levels.items():
        assert f"Client {name} joined (elastic-cnn): level {level}, set in its node-config" in log
    assert not list((tmp_path / "state").rglob("*.safetensors")), "no state outlives a round"
