"""Files of version 1 that the program wrote before they had a version are read.

They lie in ``tests/version_1``: a run of SCARLET with MLPs after two rounds (``scarlet``), the lines of the
same run with three rounds (``scarlet-three-rounds.jsonl``), settings and lines of a run of ScaleFL
whose classes are ordered (``scalefl``), an exported submodel, and a node's measured level.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from client_app.capability import Carried, pinned
from models import load_weights
from protocol.settings import RunSettings
from server_app.checkpoint import CheckpointStore
from server_app.export import load_submodel, settings_of
from server_app.run_folder import RunFolder
from strategies.state import StateStore
from tests.support.federation import ALL_DIGITS, run_quickly, settings

OLD = Path(__file__).with_name("version_1")
EXPERIMENT = "20261128-205616-scarlet-digits-43ba"
"""The old run's id; messages carry it."""
CLIENTS = ("client-0000", "client-0001")


@pytest.fixture
def scarlet(tmp_path: Path) -> RunFolder:
    """Return a copy of the old run."""
    return RunFolder(shutil.copytree(OLD / "scarlet", tmp_path / EXPERIMENT))


@pytest.mark.parametrize("run", ["scarlet", "scalefl"])
def test_settings_are_read(run: str) -> None:
    kept = json.loads((OLD / run / "settings.json").read_text())
    assert settings_of(OLD / run) == RunSettings.parse(kept)


def test_facts_about_the_data_are_read() -> None:
    assert RunFolder(OLD / "scarlet").data_facts()["classes"] == [str(digit) for digit in range(10)]


@pytest.mark.parametrize("run", ["scarlet", "scalefl"])
def test_records_of_rounds_are_read_and_written_again_to_the_same_text(run: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    old = (OLD / run / "rounds.jsonl").read_text()
    folder.rounds_file.write_text(old)
    folder.forget_rounds_after(2)
    assert folder.rounds_file.read_text() == old.replace('{"round"', '{"format": 1, "round"')


def test_a_checkpoint_and_the_clients_states_are_read() -> None:
    checkpoint = CheckpointStore(OLD / "scarlet" / "checkpoint").newest()
    assert checkpoint is not None
    assert checkpoint.round == 2
    for client in CLIENTS:
        state = StateStore(OLD / "scarlet" / "clients" / client).newest()
        assert state is not None
        assert (state.round, state.model) == (2, "mlp")
        assert state.weights.keys() == checkpoint.weights.keys()


def test_a_models_weights_are_read() -> None:
    weights, metadata = load_weights(OLD / "scarlet" / "models" / "server.safetensors")
    assert metadata["model"] == "mlp"
    assert weights["layers.5.bias"].shape == (10,)


def test_an_exported_submodel_is_read() -> None:
    logits = load_submodel(OLD / "level1.safetensors")(torch.zeros(3, 1, 8, 8))
    assert logits.shape == (3, 10)
    assert logits.isfinite().all()


def test_a_level_that_was_measured_is_kept() -> None:
    question = {"model": "elastic-cnn", "budgets": [None, 30.0]}
    carried = pinned(OLD / "level.json", question, lambda: pytest.fail("it is measured again"))
    assert carried == Carried(2, "fits")


@pytest.mark.slow
@pytest.mark.parametrize("resume", ["auto", "PATH"])
def test_an_old_run_goes_on_as_it_would_have(resume: str, scarlet: RunFolder) -> None:
    """All nodes still hold what the server believes, so bytes are the same; figures differ in last bits."""
    output = scarlet.path.parent
    changes = {
        **ALL_DIGITS,
        "model": "mlp",
        "num_rounds": 3,
        "resume": resume.replace("PATH", str(scarlet.path)),
    }
    resumed = run_quickly(output, 2, **changes)
    assert resumed.path == scarlet.path
    expected = [json.loads(line) for line in (OLD / "scarlet-three-rounds.jsonl").read_text().splitlines()]
    for line, old in zip(resumed.rounds(), expected, strict=True):
        assert (line["round"], line["nodes"], line["bytes"]) == (old["round"], old["nodes"], old["bytes"])
        assert line["clients"] == pytest.approx(old["clients"], abs=0.02)
        assert line["server"] == pytest.approx(old["server"], abs=0.02)


def test_an_old_run_is_known_by_its_settings(scarlet: RunFolder) -> None:
    output = scarlet.path.parent
    assert scarlet.differences(settings(output, **ALL_DIGITS, model="mlp")) == []
    assert scarlet.differences(settings(output, **ALL_DIGITS, model="cnn")) == ['model was "mlp", is "cnn"']
