"""How few replies a round can do with."""

from pathlib import Path

import pytest

from protocol.errors import FederationError
from server_app.checkpoint import CheckpointStore
from server_app.run_folder import RunFolder
from simulation.grid import InProcessGrid, is_train, read_reply
from simulation.run import grid_for, run_over
from strategies.soft_labels.messages import SoftLabelReply, SoftLabelRequest
from tests.support.faults import by_round, dropped, failing
from tests.support.federation import run_quickly, settings, without_times


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    """Run three clients of which two fail in round 3, where two replies are needed."""
    output = tmp_path_factory.mktemp("failed")
    faults = by_round({(3, 0): failing("out of memory"), (3, 1): dropped})
    with pytest.raises(FederationError) as error:
        run_quickly(output, faults=faults, min_replies=2)
    [folder] = output.iterdir()
    return RunFolder(folder), str(error.value)


def test_too_few_replies_end_the_run_with_both_numbers(failed: tuple[RunFolder, str]) -> None:
    assert failed[1].startswith("round 3: replies of 1 of 3 clients were accepted, min-replies is 2")


def test_a_failed_run_leaves_a_checkpoint_and_a_table(failed: tuple[RunFolder, str]) -> None:
    folder, _ = failed
    newest = CheckpointStore(folder.checkpoints).newest()
    assert newest is not None
    assert newest.round == len(folder.rounds()) == 2
    assert "failed" in folder.summary_file.read_text()
    assert folder.report_file.is_file()


def test_a_failed_run_can_be_resumed(failed: tuple[RunFolder, str], tmp_path: Path) -> None:
    folder, _ = failed
    resumed = run_quickly(folder.path.parent, resume=str(folder.path), min_replies=2)
    whole = run_quickly(tmp_path, min_replies=2)
    assert without_times(resumed.rounds()) == without_times(whole.rounds())


# --- silent rounds -----------------------------------------------------------------------------

SILENT = 2


@pytest.fixture(scope="module", params=["derived", "explicit"])
def silent_round(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[InProcessGrid, RunFolder]:
    """Run three clients that all fail in round 2, where no reply is needed."""
    faults = by_round({(SILENT, client): failing("out of memory") for client in range(3)})
    run_settings = settings(
        tmp_path_factory.mktemp("silent"), min_replies=0, num_rounds=5, distillation__indices=request.param
    )
    grid = grid_for(run_settings, faults=faults)
    return grid, run_over(grid, run_settings)


def test_a_round_without_any_reply_is_survived(silent_round: tuple[InProcessGrid, RunFolder]) -> None:
    _, folder = silent_round
    lines = folder.rounds()
    assert [line["nodes"]["answered"] for line in lines] == [3, 0, 3, 3, 3]
    assert lines[SILENT - 1]["clients"] == {"accuracy": None, "loss": None}
    assert lines[SILENT - 1]["server"]["accuracy"] is not None


def test_clients_keep_step_with_the_server_over_a_silent_round(
    silent_round: tuple[InProcessGrid, RunFolder],
) -> None:
    grid, _ = silent_round
    later = [reply for reply in grid.replies if is_train(reply) and reply.metadata.group_id > str(SILENT)]
    replies = [read_reply(SoftLabelReply, reply) for reply in later]
    assert len(replies) == 9
    assert all(reply.labels for reply in replies)
    assert not any(reply.lost or reply.missing for reply in replies)
    # Round 3 has at most the labels of samples that round 1 shares with round 2.
    requests = [
        SoftLabelRequest.from_record(request.content) for request in grid.requests if is_train(request)
    ]
    assert all(request.silent_rounds for request in requests[6:])
    assert not any(request.silent_rounds for request in requests[:6])


@pytest.mark.parametrize("strategy", ["dsfl", "fedavg", "individual"])
def test_the_other_methods_survive_a_silent_round_too(strategy: str, tmp_path: Path) -> None:
    faults = by_round({(2, client): failing("out of memory") for client in range(2)})
    folder = run_quickly(tmp_path, nodes=2, faults=faults, strategy=strategy, min_replies=0, num_rounds=3)
    assert [line["nodes"]["answered"] for line in folder.rounds()] == [2, 0, 2]


def test_a_run_of_silence_alone_ends_with_a_table(tmp_path: Path) -> None:
    folder = run_quickly(
        tmp_path, nodes=2, faults=by_round({}, otherwise=failing("no")), min_replies=0, num_rounds=2
    )
    assert "2 of 2" in folder.summary_file.read_text()
    assert [line["clients"]["accuracy"] for line in folder.rounds()] == [None, None]
