"""What a person is told about this machine."""

from pathlib import Path

import pytest

from client_app.probe import main

RUN = 'strategy = "scalefl"\nmodel = "elastic-cnn"\n\n[train]\nepochs = 1\n'


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(RUN)
    return path


def test_every_level_is_listed_and_the_verdict_given(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    assert main([str(recipe)]) == 0
    shown = capsys.readouterr().out
    for heading in ("level", "width", "exits after", "parameters", "memory", "a step", "a round", "fits"):
        assert heading in shown
    rows = [line for line in shown.splitlines() if line.lstrip("│ ")[:1] in set("1234") and "MB" in line]
    assert len(rows) == 4
    assert 'level = "auto" would be level 4: fits: ' in shown


def test_a_budget_changes_the_verdict(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = 'partition-id=0 num-partitions=20 memory-budget=0.000001 device="cpu"'
    assert main([str(recipe), "--node-config", config]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert 'On cpu, level = "auto" would be level 1: even the smallest level needs' in shown


def test_what_is_not_as_asked_is_told(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.write_text(f'precision = "fp16"\n{RUN}')
    config = 'partition-id=0 num-partitions=20 device="cpu" gpu-memory=4.0'
    assert main([str(recipe), "--node-config", config]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "gpu-memory = 4 has no effect on a CPU" in shown
    assert 'precision = "fp16": it is slower than fp32 on a CPU, computing in fp32' in shown


BAD_FILES = {
    "no TOML": (b'strategy = "scalefl', "error: "),
    "no text": (b"\xff\xfe\x00", "error: "),
    "a wrong setting": (b"strategy = 7", "strategy = 7: "),
    "a list": (b"strategy = [1]", "strategy"),
    "a network without levels": (b'model = "cnn"', "model = 'cnn': has no submodels"),
    "too few samples": (b'model = "elastic-cnn"\n[public]\nsize = 1796', "public.size = 1796"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_one_error(
    content: bytes, message: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.write_bytes(content)
    assert main([str(recipe)]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert message in " ".join(shown.err.split())
    assert shown.out == ""


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing.toml")]) == 1
    assert "nothing.toml" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.parametrize("config", ["partition-id=x", "partition-id=3", "levl=2 client-name='a'"])
def test_a_wrong_node_config_is_one_error(
    config: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(recipe), "--node-config", config]) == 1
    assert capsys.readouterr().err.startswith("error: ")
