"""Flower's processes on loopback: each leaves a log, and none is left when all are stopped."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local_flower import LocalFlower, free_port, is_open, local_flower, wait_for
from tests.support.process_table import command_line


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[LocalFlower]:
    with local_flower(tmp_path / "flower") as made:
        yield made


def test_whatever_was_started_is_ended_with_its_children(tmp_path: Path) -> None:
    with local_flower(tmp_path / "flower") as made:
        shell = made.start("shell", ["sh", "-c", "sleep 61.5 & echo $!; wait"])
        wait_for(lambda: made.log("shell"), 30, "the shell")
        sleeper = int(made.log("shell"))
        assert "sleep" in command_line(sleeper)
    assert shell.returncode is not None
    wait_for(lambda: "sleep" not in command_line(sleeper), 10, "the shell's child to end")


def test_a_command_finds_flower_and_deploy_and_its_output_is_returned(flower: LocalFlower) -> None:
    done = flower.command(["sh", "-c", "which flower-supernode; echo $FLWR_HOME; echo $PYTHONPATH >&2"], 30)
    commands, home, path = done.stdout.splitlines()
    assert Path(commands).parent == Path(sys.executable).parent
    assert Path(home, "config.toml").read_text().count(f"127.0.0.1:{flower.http_port}") == 1
    assert [entry.name for entry in Path(path).iterdir()] == ["deploy"]


def test_a_free_port_is_one_on_which_nobody_listens_yet() -> None:
    port = free_port()
    assert not is_open(port)
    with socket.create_server(("127.0.0.1", port)):
        assert is_open(port)


def test_waiting_ends_when_the_condition_holds_or_with_an_error_that_names_it() -> None:
    looks = iter([False, True])
    wait_for(lambda: next(looks), 30, "the second look")
    assert next(looks, None) is None
    with pytest.raises(TimeoutError, match=r"waited 0\.1 s for Godot"):
        wait_for(lambda: False, 0.1, "Godot")
