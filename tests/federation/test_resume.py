"""A run that was killed goes on as if it had not been."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

from models import load_weights
from protocol.errors import ResumeError
from server_app.checkpoint import CheckpointStore
from server_app.run_folder import RunFolder
from simulation.grid import Delivery, Faults, is_train, no_faults
from simulation.run import grid_for, run_over
from strategies.method import ServerMethod
from tests.support.faults import by_round, failing, in_time
from tests.support.federation import run_quickly, settings, without_times
from tests.support.witness import Witness

KILLED_IN = 3
ROUNDS = 4

METHODS: dict[str, dict[str, Any]] = {
    "scarlet refresh": {},
    "scarlet evict, half of the clients": {"scarlet__expiry": "evict", "fraction_train": 0.5},
    "scarlet explicit, uint8": {"distillation__indices": "explicit", "distillation__labels": "uint8"},
    "dsfl": {"strategy": "dsfl"},
    "fedavg, half of the clients": {"strategy": "fedavg", "fraction_train": 0.5},
    "individual": {"strategy": "individual"},
    "scalefl": {"strategy": "scalefl", "model": "elastic-cnn"},
    "federated dropout, half of the clients": {
        "strategy": "federated-dropout",
        "model": "elastic-cnn",
        "fraction_train": 0.5,
    },
    "scarlet, unequal submodels": {"model": "elastic-cnn"},
}


class Killed(BaseException):
    """The server's process ends here."""


def die() -> None:
    raise Killed


def changes_of(method: str) -> dict[str, Any]:
    return {"num_rounds": ROUNDS, **METHODS[method]}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunFolder]:
    """Return the run of a method that was never killed, each run once."""
    runs: dict[str, RunFolder] = {}

    def run(method: str) -> RunFolder:
        if method not in runs:
            runs[method] = run_quickly(tmp_path_factory.mktemp("whole"), nodes=4, **changes_of(method))
        return runs[method]

    return run


def in_the_middle_of(round: int) -> Faults:
    """Kill the server once a second client has done its work in a round."""
    at_work = []

    def fault(request: Message, reply: Message, now: float) -> list[Delivery]:
        at_work.extend([reply] if request.metadata.group_id == str(round) else [])
        if len(at_work) == 2:
            die()
        return in_time(reply, now)

    return fault


def run_and_kill(output: Path, faults: Faults, **changes: Any) -> None:
    with pytest.raises(Killed):
        run_quickly(output, nodes=4, faults=faults, **changes)


def kill_while_saving(output: Path, after: bool, **changes: Any) -> None:
    """Kill the server before or after it has written the checkpoint of a round."""
    save = CheckpointStore.save

    def die_around(self: CheckpointStore, round: int, method: ServerMethod) -> None:
        if round < KILLED_IN or after:
            save(self, round, method)
        if round == KILLED_IN:
            die()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointStore, "save", die_around)
        run_and_kill(output, no_faults, **changes)


def assert_same_run(one: RunFolder, other: RunFolder) -> None:
    """Compare all that two runs left behind, bit for bit, timings aside."""
    assert without_times(one.rounds()) == without_times(other.rounds())
    files = [file.name for file in sorted(one.models.iterdir())]
    assert files == [file.name for file in sorted(other.models.iterdir())]
    for name in files:
        weights, others = load_weights(one.models / name)[0], load_weights(other.models / name)[0]
        assert all(torch.equal(weights[key], others[key]) for key in weights)


@pytest.mark.parametrize("method", METHODS)
def test_killed_while_nodes_were_at_work(
    method: str, uninterrupted: Callable[[str], RunFolder], tmp_path: Path
) -> None:
    """Two clients have done the round already; they do it again from the same state."""
    run_and_kill(tmp_path, in_the_middle_of(KILLED_IN), **changes_of(method))
    resumed = run_quickly(tmp_path, nodes=4, resume="auto", **changes_of(method))
    assert len(list(tmp_path.iterdir())) == 1
    assert_same_run(resumed, uninterrupted(method))


@pytest.mark.parametrize("after", [True, False])
def test_killed_around_a_checkpoint(
    after: bool, uninterrupted: Callable[[str], RunFolder], tmp_path: Path
) -> None:
    method = "scarlet evict, half of the clients"
    kill_while_saving(tmp_path, after, **changes_of(method))
    [killed] = tmp_path.iterdir()
    assert len(RunFolder(killed).rounds()) == KILLED_IN
    resumed = run_quickly(tmp_path, nodes=4, resume=str(killed), **changes_of(method))
    assert_same_run(resumed, uninterrupted(method))


# --- what is resumed ---------------------------------------------------------------------------


def finished_run(output: Path, **changes: Any) -> RunFolder:
    return run_quickly(output, nodes=2, num_rounds=3, **changes)


def test_a_finished_run_is_not_run_again_but_told_again(tmp_path: Path) -> None:
    folder = finished_run(tmp_path, distillation__final_exchange=True)
    lines = folder.rounds_file.read_bytes()
    folder.summary_file.unlink()
    run_settings = settings(
        tmp_path, num_rounds=3, distillation__final_exchange=True, resume=str(folder.path)
    )
    grid = grid_for(run_settings, nodes=2)
    run_over(grid, run_settings)
    assert grid.requests == []
    assert folder.rounds_file.read_bytes() == lines
    assert "3 of 3" in folder.summary_file.read_text()


@pytest.mark.parametrize("resume", ["auto", "PATH"])
def test_more_rounds_go_on_with_a_finished_run(resume: str, tmp_path: Path) -> None:
    whole = run_quickly(tmp_path / "whole", nodes=2, num_rounds=5)
    short = finished_run(tmp_path / "short")
    resume = resume.replace("PATH", str(short.path))
    longer = run_quickly(tmp_path / "short", nodes=2, num_rounds=5, resume=resume)
    assert longer.path == short.path
    assert_same_run(longer, whole)


def test_more_rounds_take_the_place_of_a_final_exchange(tmp_path: Path) -> None:
    final = {"distillation__final_exchange": True}
    whole = run_quickly(tmp_path / "whole", nodes=2, num_rounds=5, **final)
    short = finished_run(tmp_path / "short", **final)
    longer = run_quickly(tmp_path / "short", nodes=2, num_rounds=5, resume=str(short.path), **final)
    assert_same_run(longer, whole)


@pytest.mark.parametrize("resume", ["auto", "PATH"])
def test_a_final_exchange_that_was_killed_is_made_up_for(resume: str, tmp_path: Path) -> None:
    final = {"distillation__final_exchange": True, "num_rounds": 3}
    run_and_kill(tmp_path, in_the_middle_of(4), **final)
    [killed] = tmp_path.iterdir()
    resumed = run_quickly(tmp_path, nodes=4, resume=resume.replace("PATH", str(killed)), **final)
    assert resumed.path == killed
    assert [(line["round"], "final" in line) for line in resumed.rounds()] == [
        (1, False),
        (2, False),
        (3, False),
        (4, True),
    ]


def test_auto_takes_a_run_that_stopped_early_for_finished(tmp_path: Path) -> None:
    early = {"num_rounds": 4, "early_stopping__patience": 1, "train__learning_rate": 1e-9}
    stopped_early = run_quickly(tmp_path, **early)
    assert len(stopped_early.rounds()) < 4
    assert run_quickly(tmp_path, resume="auto", **early).path != stopped_early.path


def test_a_folder_that_another_process_runs_in_is_refused(stopped: RunFolder) -> None:
    with stopped.lock(), pytest.raises(ResumeError, match="already running in another process"):
        go_on(stopped)


def test_auto_without_a_run_to_go_on_with_starts_a_new_one(tmp_path: Path) -> None:
    first = finished_run(tmp_path, resume="auto")
    assert len(first.rounds()) == 3
    finished_again = finished_run(tmp_path, resume="auto")
    other_seed = finished_run(tmp_path, resume="auto", seed=1)
    assert len({folder.path for folder in (first, finished_again, other_seed)}) == 3


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    run_and_kill(tmp_path, in_the_middle_of(1), num_rounds=2)
    [killed] = tmp_path.iterdir()
    assert run_quickly(tmp_path, nodes=4, num_rounds=2, resume=str(killed)).path == killed
    assert [line["round"] for line in RunFolder(killed).rounds()] == [1, 2]


def test_a_run_folder_that_was_moved_takes_its_clients_along(tmp_path: Path) -> None:
    whole = run_quickly(tmp_path / "whole", nodes=2, num_rounds=4)
    short = run_quickly(tmp_path / "here", nodes=2, num_rounds=2)
    (tmp_path / "there").mkdir()
    moved = short.path.rename(tmp_path / "there" / short.experiment)
    resumed = run_quickly(tmp_path / "here", nodes=2, num_rounds=4, resume=str(moved))
    assert resumed.path == moved
    assert_same_run(resumed, whole)


# --- what is refused, and what is damaged --------------------------------------------------------


@pytest.fixture(scope="module")
def three_rounds(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return finished_run(tmp_path_factory.mktemp("original"))


@pytest.fixture
def stopped(three_rounds: RunFolder, tmp_path: Path) -> RunFolder:
    """Return a copy of a run of three rounds."""
    return RunFolder(shutil.copytree(three_rounds.path, tmp_path / three_rounds.experiment))


def go_on(folder: RunFolder, **changes: Any) -> RunFolder:
    return run_quickly(
        folder.path.parent, nodes=2, **{"num_rounds": 4, "resume": str(folder.path), **changes}
    )


def test_other_settings_are_refused_with_key_and_both_values(stopped: RunFolder) -> None:
    with pytest.raises(ResumeError) as refusal:
        go_on(stopped, seed=7, models="cnn,resnet20")
    assert "seed was 0, is 7" in str(refusal.value)
    assert 'models was "", is "cnn,resnet20"' in str(refusal.value)


def test_settings_of_the_machine_and_the_clock_may_change(stopped: RunFolder) -> None:
    folder = go_on(stopped, round_timeout=9.0, wait_for_nodes=1.0, min_replies=2)
    assert len(folder.rounds()) == 4
    assert json.loads(folder.settings_file.read_text())["round-timeout"] == 9.0


def test_a_path_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match=f'resume = "{tmp_path}/nothing": there is no run folder'):
        run_quickly(tmp_path, resume=f"{tmp_path}/nothing")


@pytest.mark.parametrize("file", ["model.safetensors", "strategy.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut off", "empty", "gone"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    file: str, damage: str, stopped: RunFolder
) -> None:
    whole = stopped.rounds()
    damaged = stopped.checkpoints / "round-000003" / file
    content = damaged.read_bytes()
    damaged.unlink()
    if damage != "gone":
        damaged.write_bytes(content[: len(content) // 2] if damage == "cut off" else b"")
    newest = CheckpointStore(stopped.checkpoints).newest()
    assert newest is not None
    assert newest.round == 2
    if damage == "cut off":
        assert without_times(go_on(stopped).rounds()[:3]) == without_times(whole)


def test_without_any_readable_checkpoint_each_is_named(stopped: RunFolder) -> None:
    for number in (2, 3):
        (stopped.checkpoints / f"round-00000{number}" / "state.json").write_text("{")
    with pytest.raises(ResumeError, match=r"no checkpoint can be read: .*round-000003.*round-000002"):
        go_on(stopped)


def test_a_line_that_was_cut_off_is_written_anew(stopped: RunFolder) -> None:
    with stopped.rounds_file.open("a") as file:
        file.write('{"round": 4, "nodes": {"ask')
    assert [line["round"] for line in go_on(stopped).rounds()] == [1, 2, 3, 4]
    assert len(stopped.rounds_file.read_text().splitlines()) == 4


def test_what_a_killed_checkpoint_left_behind_is_cleared_away(stopped: RunFolder) -> None:
    leftover = stopped.checkpoints / ".unfinished-abc"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half of it")
    go_on(stopped)
    assert [path.name for path in sorted(stopped.checkpoints.iterdir())] == ["round-000003", "round-000004"]


def test_a_server_set_back_to_an_old_backup_teaches_no_wrong_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clients are rounds ahead of it, and round 3 goes another way than the first time."""
    witness = Witness(monkeypatch)
    changes: dict[str, Any] = {"min_replies": 0, "nodes": 3}
    folder = run_quickly(tmp_path, num_rounds=2, **changes)
    backup = shutil.copytree(folder.checkpoints, tmp_path / "backup")
    run_quickly(tmp_path, num_rounds=5, resume=str(folder.path), **changes)
    shutil.rmtree(folder.checkpoints)
    backup.rename(folder.checkpoints)

    silence = by_round({(3, client): failing("out of memory") for client in range(3)})
    resumed = run_quickly(tmp_path, num_rounds=7, faults=silence, resume=str(folder.path), **changes)
    assert [line["nodes"]["answered"] for line in resumed.rounds()] == [3, 3, 0, 3, 3, 3, 3]
    assert witness.wrong == []
    assert witness.compared > 500


def test_resumed_nodes_say_hello_again_and_lose_nothing(tmp_path: Path) -> None:
    """What the nodes hold fits what the checkpoint says of them: no client is told to start anew."""
    run_and_kill(tmp_path, in_the_middle_of(3), num_rounds=4)
    run_settings = settings(tmp_path, num_rounds=4, resume="auto")
    grid = grid_for(run_settings, nodes=4)
    run_over(grid, run_settings)
    trained = [request for request in grid.requests if is_train(request)]
    assert [request.metadata.group_id for request in trained] == ["3"] * 4 + ["4"] * 4
    assert not any("reset" in next(iter(request.content.config_records.values())) for request in trained)


def test_models_are_saved_though_the_run_was_killed_before_that(tmp_path: Path) -> None:
    folder = run_quickly(tmp_path, nodes=2, num_rounds=2)
    names = {path.name for path in folder.models.iterdir()}
    shutil.rmtree(folder.models)
    again = run_quickly(tmp_path, nodes=2, num_rounds=2, resume="auto")
    assert again.path == folder.path
    assert (
        {path.name for path in again.models.iterdir()}
        == names
        == {
            "server.safetensors",
            "client-0000.safetensors",
            "client-0001.safetensors",
        }
    )
