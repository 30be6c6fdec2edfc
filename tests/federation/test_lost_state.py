"""A client whose state is gone is found out in its next exchange, and made whole in the one after."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from simulation.grid import InProcessGrid, read_reply
from simulation.run import grid_for, run_over
from strategies.soft_labels.messages import SoftLabelReply, SoftLabelRequest
from tests.support.faults import by_round, then
from tests.support.federation import settings

LOST_AFTER = 3


def run_with_a_loss(output: Path, **changes: Any) -> InProcessGrid:
    """Delete the second client's state once it has replied in round 3."""

    def delete() -> None:
        [folder] = output.glob("*/clients/client-0001")
        shutil.rmtree(folder)

    run_settings = settings(output, num_rounds=6, scarlet__cache_duration=20, **changes)
    grid = grid_for(run_settings, faults=by_round({(LOST_AFTER, 1): then(delete)}))
    run_over(grid, run_settings)
    return grid


@pytest.mark.parametrize(
    "changes", [{}, {"scarlet__expiry": "evict"}, {"distillation__indices": "explicit"}, {"strategy": "dsfl"}]
)
def test_a_lost_state_is_found_out_at_once_and_mended_in_the_next_exchange(
    changes: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "flwr"):
        grid = run_with_a_loss(tmp_path, **changes)
    _, lossy, _ = grid.nodes
    replies = [read_reply(SoftLabelReply, reply) for reply in grid.replies_of(lossy)]
    requests = [SoftLabelRequest.from_record(request.content) for request in grid.requests_to(lossy)]

    warnings = [record.getMessage() for record in caplog.records]
    lacked = replies[LOST_AFTER].missing
    assert warnings == [
        f"Round {LOST_AFTER + 1}: client-0001: its cache is out of step: all labels are resent, "
        f"it lacked {lacked} labels"
    ]
    assert [request.reset for request in requests] == [None] * (LOST_AFTER + 1) + [True, None]
    assert [reply.missing for reply in replies[LOST_AFTER + 1 :]] == [None, None]
    assert [reply.lost for reply in replies[LOST_AFTER + 1 :]] == [None, None]


def test_a_client_that_lost_labels_says_how_many_it_misses(tmp_path: Path) -> None:
    grid = run_with_a_loss(tmp_path, public__subset_size=100)
    _, lossy, _ = grid.nodes
    reply = read_reply(SoftLabelReply, grid.replies_of(lossy)[LOST_AFTER])
    assert reply.lost
    assert reply.missing == 100
