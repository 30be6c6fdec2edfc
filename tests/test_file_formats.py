"""Every kind of file that the program writes says its version, and is refused by name if it is newer.

A newer file is made by the program's own writers, told that they write the next version.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

import server_app.report
from client_app.capability import Carried, pinned
from models import load_weights, save_weights
from protocol.errors import FormatError
from protocol.formats import FORMATS, FileKind
from protocol.ledger import Traffic
from server_app.checkpoint import CheckpointStore
from server_app.export import export, load_submodel
from server_app.round_record import Figures, Nodes, RoundRecord
from server_app.run_folder import RunFolder
from strategies.method import MethodState
from strategies.state import ClientState, StateStore
from tests.support.federation import run_quickly, settings

WEIGHTS = {"layer.weight": torch.ones(2, 3)}
NOTHING = Figures(accuracy=None, loss=None)
RECORD = RoundRecord(
    round=1,
    nodes=Nodes(asked=1, answered=1, failed=()),
    seconds={"send": 0.25},
    bytes=Traffic(1, 2, 3, 4),
    server=NOTHING,
    clients=NOTHING,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Return a run whose submodels can be exported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_app.report, "curves", lambda records: "")
        patch.setattr(server_app.report, "submodels", lambda records: "")
        changes = {"strategy": "scalefl", "model": "elastic-cnn", "num_rounds": 1, "public__size": 60}
        return run_quickly(tmp_path_factory.mktemp("trained"), 2, **changes)


@dataclass(frozen=True)
class Case:
    """A file, by its writer, which returns its path, and its reader, which gets that path."""

    kind: FileKind
    write: Callable[[Path, RunFolder], Path]
    read: Callable[[Path], object]


def write_settings(folder: Path, _: RunFolder) -> Path:
    return RunFolder.create(settings(folder)).settings_file


def write_data_facts(folder: Path, _: RunFolder) -> Path:
    RunFolder(folder).write_data_facts({"classes": ["0", "1"]})
    return folder / "data.json"


def write_round(folder: Path, _: RunFolder) -> Path:
    RunFolder(folder).append_round(RECORD)
    return folder / "rounds.jsonl"


def write_checkpoint(folder: Path, _: RunFolder) -> Path:
    state = MethodState({"rows": np.arange(3)}, {"levels": {"ada": 1}})
    method: Any = SimpleNamespace(weights=lambda: WEIGHTS, state=lambda: state)
    CheckpointStore(folder).save(7, method)
    return folder / "round-000007"


def read_checkpoint(file: Path) -> object:
    return CheckpointStore(file.parents[1]).newest()


def read_arrays(file: Path) -> object:
    """Read a checkpoint whose ``state.json``, which is read first, is of the first version."""
    state = file.with_name("state.json")
    facts = {key: value for key, value in json.loads(state.read_text()).items() if key != "format"}
    state.write_text(json.dumps(facts))
    return read_checkpoint(file)


def write_weights(folder: Path, _: RunFolder) -> Path:
    save_weights(folder / "server.safetensors", WEIGHTS, {"model": "cnn"})
    return folder / "server.safetensors"


def write_state(folder: Path, _: RunFolder) -> Path:
    StateStore(folder).save(ClientState(3, "cnn", WEIGHTS))
    return folder / "round-000003.safetensors"


def write_export(folder: Path, trained: RunFolder) -> Path:
    export(trained.path, 1, folder / "level1.safetensors")
    return folder / "level1.safetensors"


def write_level(folder: Path, _: RunFolder) -> Path:
    pinned(folder / "level.json", {"model": "elastic-cnn"}, lambda: Carried(2, "fits"))
    return folder / "level.json"


def read_level(file: Path) -> object:
    return pinned(file, {"model": "elastic-cnn"}, lambda: pytest.fail("it is kept"))


CASES = {
    "settings.json": Case(
        FileKind.SETTINGS, write_settings, lambda file: RunFolder(file.parent).kept_settings()
    ),
    "data.json": Case(
        FileKind.DATA_FACTS, write_data_facts, lambda file: RunFolder(file.parent).data_facts()
    ),
    "data.json, to be replaced": Case(
        FileKind.DATA_FACTS, write_data_facts, lambda file: RunFolder(file.parent).write_data_facts({})
    ),
    "rounds.jsonl": Case(FileKind.ROUND, write_round, lambda file: RunFolder(file.parent).records()),
    "a checkpoint's state.json": Case(
        FileKind.CHECKPOINT, lambda *of: write_checkpoint(*of) / "state.json", read_checkpoint
    ),
    "a checkpoint's strategy.safetensors": Case(
        FileKind.CHECKPOINT, lambda *of: write_checkpoint(*of) / "strategy.safetensors", read_arrays
    ),
    "a checkpoint's model.safetensors": Case(
        FileKind.WEIGHTS, lambda *of: write_checkpoint(*of) / "model.safetensors", read_checkpoint
    ),
    "models/server.safetensors": Case(FileKind.WEIGHTS, write_weights, load_weights),
    "a client's state": Case(
        FileKind.CLIENT_STATE, write_state, lambda file: StateStore(file.parent).newest()
    ),
    "an exported submodel": Case(FileKind.EXPORT, write_export, load_submodel),
    "level.json": Case(FileKind.LEVEL, write_level, read_level),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def write_by_a_newer_program(case: Case, folder: Path, trained: RunFolder) -> Path:
    """Write a file as a program does that writes the next version of its kind."""
    with pytest.MonkeyPatch.context() as patch:
        newer = replace(FORMATS[case.kind], version=FORMATS[case.kind].version + 1)
        patch.setitem(FORMATS, case.kind, newer)
        return case.write(folder, trained)


def version_in(file: Path) -> int:
    """Return the version that a file says it has."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as opened:
            return int(opened.metadata()["motley-format"])
    version: int = json.loads(file.read_text())["format"]
    return version


def test_no_kind_of_file_is_forgotten_here() -> None:
    """Prepared images have the version in their folder's name, see tests/data/test_images.py."""
    assert {case.kind for case in CASES.values()} | {FileKind.IMAGES} == set(FileKind)


def test_a_file_says_its_version_and_can_be_read(case: Case, tmp_path: Path, trained: RunFolder) -> None:
    file = case.write(tmp_path, trained)
    assert version_in(file) == FORMATS[case.kind].version
    case.read(file)


def test_a_newer_file_is_refused_by_name(case: Case, tmp_path: Path, trained: RunFolder) -> None:
    file = write_by_a_newer_program(case, tmp_path, trained)
    content, known = file.read_bytes(), FORMATS[case.kind]
    with pytest.raises(FormatError) as refusal:
        case.read(file)
    said = str(refusal.value)
    assert said.startswith(str(file))
    assert f"({case.kind}): written by a newer version of Motley, in format {known.version + 1}" in said
    assert f"this one reads up to format {known.version}: use the newer version" in said
    assert said.endswith(known.remedy)
    assert file.read_bytes() == content


def test_a_newer_checkpoint_is_not_passed_over_for_an_older_one(tmp_path: Path, trained: RunFolder) -> None:
    case = CASES["a checkpoint's state.json"]
    write_by_a_newer_program(case, tmp_path, trained)
    case.write(tmp_path, trained).parent.rename(tmp_path / "round-000006")
    newer = write_by_a_newer_program(case, tmp_path, trained)
    with pytest.raises(FormatError, match="round-000007"):
        case.read(newer)
