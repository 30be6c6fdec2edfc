"""A SuperLink and two SuperNodes as real processes, over gRPC on loopback."""

import json

import pytest

from models import load_weights
from server_app.checkpoint import CheckpointStore
from strategies.state import StateStore
from tests.support.processes import Deployment, deployment, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(540)]

ROUNDS = 7
RUN = (
    f"num-rounds={ROUNDS} train.epochs=1 distillation.epochs=1 public.size=120 public.subset-size=40 "
    "scarlet.cache-duration=3 round-timeout=120.0 min-nodes=1"
)


def start_hospital(flower: Deployment, index: int, model: str):
    return flower.start_supernode(
        f'client-name="hospital-{index}" partition-id={index} num-partitions=2 '
        f'state-dir="{flower.folder}/state" model="{model}"'
    )


def test_a_killed_supernode_rejoins_with_its_identity_and_state(tmp_path):
    with deployment(tmp_path) as flower:
        flower.start_superlink()
        killed = start_hospital(flower, 0, "cnn")
        start_hospital(flower, 1, "resnet20")
        run_id = flower.start_run(RUN)
        wait_for(lambda: len(flower.rounds()) >= 2, 240, "two rounds")
        flower.kill(killed)
        start_hospital(flower, 0, "cnn")
        wait_for(lambda: len(flower.rounds()) >= ROUNDS, 420, "all rounds")
        folder = flower.run_folder()
        wait_for((folder / "summary.txt").exists, 60, "the table")
        rounds = flower.rounds()
        log = flower.command(["flwr", "log", run_id, "test", "--show"], 60).stdout

    answered = [line["nodes"]["answered"] for line in rounds]
    assert answered[:2] == [2, 2], "both nodes take part before the kill"
    assert 1 in answered[2:], "the run goes on without the killed node"
    assert answered[-1] == 2, "the killed node is back under its name"
    reasons = {failure["reason"] for line in rounds for failure in line["nodes"]["failed"]}
    assert {failure["client"] for line in rounds for failure in line["nodes"]["failed"]} == {"hospital-0"}
    assert all("navailable" in reason or "offline" in reason for reason in reasons), reasons

    back = next(line for line in rounds[2:] if line["nodes"]["answered"] == 2)
    assert not [line for line in rounds if line["round"] > back["round"] and line["nodes"]["failed"]]
    state = StateStore(tmp_path / "state" / folder.name / "hospital-0")
    states = state.before(ROUNDS + 1)
    assert [kept.round for kept in states] == [ROUNDS, ROUNDS - 1]

    assert log.count("Client hospital-0 joined") == 2
    assert "out of step" not in log, "its state from before the kill is what the server believed"

    weights, facts = load_weights(folder / "models" / "server.safetensors")
    assert facts["model"] == "cnn"
    assert weights
    assert json.loads((folder / "settings.json").read_text())["strategy"] == "scarlet"
    checkpoint = CheckpointStore(folder / "checkpoint").newest()
    assert checkpoint is not None
    assert checkpoint.round == ROUNDS
