"""What a run's folder keeps of its settings, and which run is resumed."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import FormatError, ResumeError
from protocol.settings import RunSettings
from server_app.run_folder import RunFolder


def settings(output: Path, **changes: Any) -> RunSettings:
    named = {key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}
    return RunSettings.parse({"output-dir": str(output), **named})


def created(output: Path, **changes: Any) -> RunFolder:
    """Return the folder of a run that was killed after its first checkpoint."""
    folder = RunFolder.create(settings(output, **changes))
    folder.checkpoints.mkdir()
    return folder


def change(folder: RunFolder, *without: str, **changes: Any) -> None:
    """Change what the folder keeps of the settings."""
    kept = json.loads(folder.settings_file.read_text())
    left = {key: value for key, value in kept.items() if key not in without}
    folder.settings_file.write_text(json.dumps(left | changes))


def test_a_setting_that_an_older_run_lacks_counts_as_its_default(tmp_path: Path) -> None:
    folder = created(tmp_path)
    change(folder, "format", "train.decay", "num-rounds", "precision")
    assert RunSettings.parse(folder.kept_settings()) == settings(tmp_path)
    assert folder.differences(settings(tmp_path)) == []
    assert folder.differences(settings(tmp_path, train__decay=0.5)) == ["train.decay was 1.0, is 0.5"]
    assert not folder.differences(settings(tmp_path, num_rounds=60))
    assert RunFolder.open(settings(tmp_path, resume="auto")).path == folder.path


def test_a_run_with_settings_that_there_are_not_now_is_another_run(tmp_path: Path) -> None:
    folder = created(tmp_path)
    change(folder, **{"train.warm-up": 3})
    assert folder.differences(settings(tmp_path)) == ["train.warm-up was 3, is not set"]


def test_settings_of_a_thing_in_custom_are_compared_too(tmp_path: Path) -> None:
    one, other = settings(tmp_path, custom__fedprox__mu=0.1), settings(tmp_path)
    folder = RunFolder.create(one)
    assert folder.differences(one) == []
    assert folder.differences(other) == ["custom.fedprox.mu was 0.1, is not set"]
    assert RunFolder.create(other).differences(one) == ["custom.fedprox.mu was not set, is 0.1"]


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_damaged_settings_are_refused_by_name(content: str, tmp_path: Path) -> None:
    folder = created(tmp_path)
    folder.settings_file.write_text(content)
    with pytest.raises(ResumeError, match=r"settings\.json: cannot be read"):
        RunFolder.open(settings(tmp_path, resume=str(folder.path)))


@pytest.mark.parametrize("damage", [{"format": 99}, {"format": "new"}, None])
def test_auto_leaves_out_a_run_that_it_cannot_read_and_says_so(
    damage: dict[str, Any] | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    readable, other = created(tmp_path), RunFolder(tmp_path / "99999999-a-later-one")
    other.checkpoints.mkdir(parents=True)
    other.settings_file.write_text("{" if damage is None else json.dumps(damage))
    with caplog.at_level(logging.WARNING, "flwr"):
        assert RunFolder.open(settings(tmp_path, resume="auto")).path == readable.path
    (said,) = caplog.messages
    assert said.startswith(f'resume = "auto": left out a run that cannot be resumed: {other.settings_file}')


def test_a_newer_run_that_is_named_is_refused(tmp_path: Path) -> None:
    folder = created(tmp_path)
    change(folder, format=2)
    with pytest.raises(
        FormatError, match=r"settings\.json \(settings of a run\): written by a newer version"
    ):
        RunFolder.open(settings(tmp_path, resume=str(folder.path)))


def test_a_line_that_is_no_record_is_refused_with_its_number(tmp_path: Path) -> None:
    folder = created(tmp_path)
    folder.rounds_file.write_text('{"round": 1}\n')
    with pytest.raises(
        FormatError, match=r"rounds\.jsonl, line 1: no record of a round: nodes: Field required"
    ):
        folder.records()
