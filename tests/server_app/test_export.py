"""The submodel of a level, taken out of a run."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor

import server_app.report
from data import load_public_pool, load_server_test, load_shared
from models import load_weights
from models.elastic import ElasticNetwork
from protocol.errors import ResumeError, SettingsError
from protocol.formats import FORMATS, FileKind
from protocol.settings import RunSettings
from server_app.checkpoint import CheckpointStore
from server_app.export import export, load_submodel, main
from server_app.run_folder import RunFolder
from tests.support.elastic import submodels_of
from tests.support.federation import run_quickly

pytestmark = pytest.mark.slow

LEVELS = (1, 4)


def short_run(output: Path, **changes: Any) -> RunFolder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_app.report, "curves", lambda lines: "")
        patch.setattr(server_app.report, "submodels", lambda lines: "")
        quick = {"num_rounds": 1, "model": "elastic-cnn", "public__size": 60}
        return run_quickly(output, 2, **{**quick, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return short_run(tmp_path_factory.mktemp("run"), strategy="scalefl", num_rounds=2)


def settings_of(folder: RunFolder) -> RunSettings:
    return RunSettings.parse(folder.kept_settings())


def calibrated(folder: RunFolder, level: int) -> ElasticNetwork:
    """Return the submodel as the server scored it after the last round."""
    settings = settings_of(folder)
    checkpoint = CheckpointStore(folder.checkpoints).newest()
    assert checkpoint is not None
    submodels = submodels_of(settings, (1, 8, 8), 10)
    inputs = load_public_pool(settings).inputs
    return submodels.calibrated(level, checkpoint.round, checkpoint.weights, inputs).eval()


def images_of(folder: RunFolder, count: int = 50) -> Tensor:
    test = load_server_test(settings_of(folder))
    assert test is not None
    return test.inputs[torch.arange(count)]


# --- safetensors -------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_an_exported_submodel_answers_bit_for_bit_as_the_one_that_was_scored(
    level: int, folder: RunFolder, tmp_path: Path
) -> None:
    export(folder.path, level, tmp_path / "level")

    loaded = load_submodel(tmp_path / "level")

    images = images_of(folder)
    with torch.no_grad():
        expected = calibrated(folder, level).exits(images)
        exits = loaded.exits(images)
    assert len(exits) == level
    assert all(torch.equal(own, other) for own, other in zip(exits, expected, strict=True))


def test_a_file_says_what_it_holds(folder: RunFolder, tmp_path: Path) -> None:
    export(folder.path, 2, tmp_path / "level")
    _, text = load_weights(tmp_path / "level", FileKind.EXPORT)
    facts = {name: json.loads(value) for name, value in text.items()}
    shape = submodels_of(settings_of(folder), (1, 8, 8), 10).shape(2)
    assert facts.pop("settings") == settings_of(folder).flat()
    assert facts.pop("data") == load_shared(settings_of(folder)).facts()
    assert facts == {
        "model": "elastic-cnn",
        "level": 2,
        "width": shape.width,
        "exits": list(shape.exits),
        "input_shape": [1, 8, 8],
        "num_classes": 10,
        "experiment": folder.experiment,
        "round": 2,
    }


@pytest.mark.parametrize("strategy", ["fedrolex", "fedavg-largest"])
def test_every_kind_of_submodel_can_be_exported(strategy: str, tmp_path: Path) -> None:
    # With two clients and equal shares, none may be at the top.
    folder = short_run(tmp_path, strategy=strategy, levels__shares="0,0,0.5,0.5", min_nodes=1)
    export(folder.path, 4, tmp_path / "level")
    images = images_of(folder)
    with torch.no_grad():
        assert torch.equal(load_submodel(tmp_path / "level")(images), calibrated(folder, 4)(images))


def test_a_file_that_was_not_exported_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="not an exported submodel"):
        load_submodel(folder.models / "server.safetensors")
    with pytest.raises(ResumeError, match="nothing"):
        load_submodel(tmp_path / "nothing")


# --- onnx --------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_an_onnx_file_answers_batches_of_any_size_as_the_submodel(
    level: int, folder: RunFolder, tmp_path: Path
) -> None:
    output = tmp_path / "level.onnx"
    export(folder.path, level, output, "onnx")

    session = onnxruntime.InferenceSession(str(output), providers=["CPUExecutionProvider"])
    for count in (1, 2, 7):
        images = images_of(folder, count)
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        with torch.no_grad():
            expected = calibrated(folder, level)(images)
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=0, atol=1e-4)
    facts = session.get_modelmeta().custom_metadata_map
    assert (facts["model"], facts["level"], facts["round"]) == ("elastic-cnn", str(level), "2")
    assert facts["motley-format"] == str(FORMATS[FileKind.EXPORT].version)
    assert [path.name for path in tmp_path.iterdir()] == ["level.onnx"]


# --- what is refused ---------------------------------------------------------------------------


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="not the folder of a run"):
        export(tmp_path, 1, tmp_path / "level")


def test_a_run_without_a_checkpoint_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    copy = RunFolder(shutil.copytree(folder.path, tmp_path / "copy"))
    shutil.rmtree(copy.checkpoints)
    with pytest.raises(ResumeError, match="holds no checkpoint yet"):
        export(copy.path, 1, tmp_path / "level")


@pytest.mark.parametrize("level", [-1, 0, 5])
def test_a_level_that_does_not_exist_is_refused(level: int, folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"level = {level}: this run has no submodel for it"):
        export(folder.path, level, tmp_path / "level")


def changed(folder: RunFolder, copy: Path, **settings: Any) -> Path:
    """Return a run's copy that says it was run with other settings."""
    path = Path(shutil.copytree(folder.path, copy))
    file = RunFolder(path).settings_file
    named = {key.replace("__", ".").replace("_", "-"): value for key, value in settings.items()}
    file.write_text(json.dumps({**json.loads(file.read_text()), **named}))
    return path


def test_a_run_without_submodels_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    other = changed(folder, tmp_path / "copy", strategy="scarlet")
    with pytest.raises(SettingsError, match='strategy = "scarlet": its clients train no submodels'):
        export(other, 1, tmp_path / "level")


def test_a_run_without_anything_to_calibrate_on_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    other = changed(folder, tmp_path / "copy", scalefl__calibration="none")
    with pytest.raises(SettingsError, match="there are no samples to compute normalisation statistics on"):
        export(other, 1, tmp_path / "level")


@pytest.mark.parametrize("form", ["safetensors", "onnx"])
def test_an_existing_file_stays_whole_until_the_new_one_is(
    form: str, folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "level"
    output.write_bytes(b"an older model")

    made = SimpleNamespace(
        model=SimpleNamespace(metadata_props={}),
        model_proto=SimpleNamespace(SerializeToString=lambda: b"new"),
    )

    def break_off(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch.onnx, "export", lambda *args, **named: made)
    monkeypatch.setattr("os.fsync", break_off)
    with pytest.raises(OSError, match="no space left"):
        export(folder.path, 1, output, form)

    assert output.read_bytes() == b"an older model"
    assert [path.name for path in tmp_path.iterdir()] == ["level"]


def test_an_older_file_is_replaced(folder: RunFolder, tmp_path: Path) -> None:
    output = tmp_path / "level"
    output.write_bytes(b"an older model")
    export(folder.path, 1, output)
    assert isinstance(load_submodel(output), ElasticNetwork)


# --- the command -------------------------------------------------------------------------------


def test_the_command_writes_the_file_and_says_so(
    folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "level"
    assert main([str(folder.path), "--level", "3", "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"Wrote {output}\n"
    assert len(load_submodel(output).heads) == 3


@pytest.mark.parametrize("place", ["folder/that/is/missing", "."])
def test_the_command_says_in_one_line_what_is_wrong(
    place: str, folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (
        [str(tmp_path), "--level", "1", "--output", str(tmp_path / "level")],
        [str(folder.path), "--level", "7", "--output", str(tmp_path / "level")],
        [str(folder.path), "--level", "1", "--output", str(tmp_path / place)],
    ):
        assert main(arguments) == 1
        shown = capsys.readouterr()
        assert shown.err.startswith("error: ")
        assert shown.err.count("\n") == 1
        assert shown.out == ""
    assert list(tmp_path.iterdir()) == []
