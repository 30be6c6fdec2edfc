"""A person stops the run: what was done is safe, and told."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Message

import server_app.run
from protocol.errors import RunStoppedError
from server_app.run_folder import RunFolder
from simulation.grid import Delivery
from tests.support.faults import in_time
from tests.support.federation import run_quickly, without_times


def test_a_run_that_is_stopped_tells_what_was_done_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    handlers: list[Callable[[], None]] = []
    monkeypatch.setattr(server_app.run, "add_exit_handler", handlers.append)

    def stop_in_round_3(request: Message, reply: Message, now: float) -> list[Delivery]:
        if request.metadata.group_id == "3":
            handlers[0]()
        return in_time(reply, now)

    with caplog.at_level(logging.INFO, "flwr"), pytest.raises(RunStoppedError):
        run_quickly(tmp_path / "stopped", nodes=2, faults=stop_in_round_3)
    [path] = (tmp_path / "stopped").iterdir()
    folder = RunFolder(path)
    assert len(folder.rounds()) == 2
    assert "scarlet on digits, stopped" in folder.summary_file.read_text()
    assert sum("Run folder:" in message and "rounds" in message for message in caplog.messages) == 1

    resumed = run_quickly(tmp_path / "stopped", nodes=2, resume="auto")
    whole = run_quickly(tmp_path / "whole", nodes=2)
    assert without_times(resumed.rounds()) == without_times(whole.rounds())
