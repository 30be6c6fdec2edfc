"""The launcher that keeps Python and torch imported: real SuperLink, SuperNode and ClientApps."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import BIN, deployment, free_port, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

APP = Path(__file__).parent / "troubled_app"
ENDED_RUN = Path(__file__).parent / "ended_run.py"
NOTICED_AT_ONCE = 10.0
"""Seconds; Flower by itself notices a dead ClientApp after 60."""
SAID = {
    "die": "killed by SIGKILL",
    "terminate": "killed by SIGTERM",
    "exit": "exit code 3",
    "raise": "told to",
    "hog": "1.5 GB are allowed (--memory-limit)",
}
"""What is answered to an order to die."""
NOTHING_PRELOADED = "--preload="
"""Where it does not matter, torch need not be imported."""


def children_of(pid):
    """Return the ids of a process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid):
    """Tell whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class OneNode:
    """A SuperLink, a SuperNode and its launcher."""

    def __init__(self, flower, quick, *flags, supernode=("-m", "deploy.supernode")):
        self.flower, self.port = flower, free_port()
        self.supernode_command = [
            *([sys.executable, *supernode] if quick else [str(BIN / "flower-supernode")]),
            *f"--insecure --superlink 127.0.0.1:{flower.fleet_port}".split(),
            *f"--isolation process --port {self.port}".split(),
        ]
        self.executor_command = [
            *[sys.executable, "-m", "deploy.warm_executor", "--insecure"],
            *["--runtime-api-address", f"127.0.0.1:{self.port}", *flags],
        ]
        flower.start_superlink()
        self.supernode = flower.start("supernode", self.supernode_command)
        self.executor = flower.start("executor", self.executor_command)
        self.output = flower.folder / "output"

    def obey(self, *orders):
        """Start a run of orders."""
        config = f'orders="{",".join(orders)}" output="{self.output}"'
        started = self.flower.command(["flwr", "run", str(APP), "test", "--run-config", config], 60)
        assert started.returncode == 0, started.stdout

    def answers(self, count, seconds=90):
        """Wait for this many answers; return them."""
        wait_for(lambda: len(self.lines()) >= count, seconds, f"{count} answers, {self.lines()}")
        return [ast.literal_eval(line) for line in self.lines()]

    def lines(self):
        return self.output.read_text().splitlines() if self.output.exists() else []

    def child(self):
        """Wait for a ClientApp at work; return its process id."""
        wait_for(lambda: children_of(self.executor.pid), 60, "a ClientApp")
        return children_of(self.executor.pid)[0]


@pytest.mark.parametrize(
    ("quick", "deaths", "flags"),
    [
        (True, ["die", "terminate", "exit", "raise", "hog"], []),
        (False, ["die", "raise", "hog"], ["--preload=torch"]),
    ],
    ids=["our SuperNode", "Flower's SuperNode"],
)
def test_each_message_has_a_process_of_its_own_and_a_death_is_answered_at_once(
    tmp_path, quick, deaths, flags
):
    with deployment(tmp_path) as flower:
        node = OneNode(flower, quick, "--memory-limit", "1.5", *flags)
        node.obey("look", "look", *deaths, "look")
        answers = node.answers(3 + len(deaths))
        log = flower.log("executor")
        children = children_of(node.executor.pid)

    by_order = {answer["order"]: answer["said"] for answer in answers}
    looks = [answer["said"] for answer in answers if answer["order"] == "look"]
    assert len({look["pid"] for look in looks}) == 3
    assert [look["seen"] for look in looks] == [1, 1, 1], "nothing of a message is left for the next"
    assert all(look["warm"] for look in looks)
    for death in deaths:
        assert SAID[death] in by_order[death]
    late = [answer["order"] for answer in answers if answer["seconds"] > NOTICED_AT_ONCE]
    assert not set(late) & set(deaths)
    assert log.count("ended without an answer") == len(set(deaths) - {"raise"})
    assert children == []


def test_a_launcher_told_to_stop_answers_for_the_message_at_work(tmp_path):
    with deployment(tmp_path) as flower:
        node = OneNode(flower, True, NOTHING_PRELOADED)
        node.obey("sleep", "look")
        child = node.child()
        node.executor.send_signal(signal.SIGTERM)
        assert node.executor.wait(10) == 0
        slept = node.answers(1, 20)[0]
        flower.start("executor-2", node.executor_command)
        looked = node.answers(2)[1]
    assert "its launcher was told to stop" in slept["said"]
    assert slept["seconds"] < 30
    assert not is_running(child)
    assert looked["said"]["seen"] == 1


def test_when_the_supernode_dies_its_clientapp_is_ended_and_the_launcher_serves_the_next(tmp_path):
    alive = tmp_path / "alive"
    with deployment(tmp_path) as flower:
        node = OneNode(flower, True, NOTHING_PRELOADED, "--alive-file", str(alive))
        node.obey("sleep")
        child = node.child()
        os.killpg(node.supernode.pid, signal.SIGKILL)
        wait_for(lambda: not is_running(child), 15, "the end of the ClientApp")
        flower.start("supernode-2", node.supernode_command)
        restarted = time.time()
        wait_for(lambda: alive.stat().st_mtime > restarted, 30, "the launcher to find the new SuperNode")
        log = flower.log("executor")
    assert "does not answer" in log
    assert "its SuperNode is gone" in log


def test_a_clientapp_whose_run_ends_while_its_message_is_fetched_holds_up_nobody(tmp_path):
    with deployment(tmp_path) as flower:
        node = OneNode(flower, True, NOTHING_PRELOADED, supernode=[str(ENDED_RUN)])
        node.obey("look")
        wait_for(lambda: "Receiving: " in flower.log("supernode"), 60, "the first message")
        node.obey("look")
        (looked,) = node.answers(1, 70)
    assert looked["said"]["seen"] == 1


def test_a_clientapp_does_not_outlive_its_launcher(tmp_path):
    with deployment(tmp_path) as flower:
        node = OneNode(flower, True, NOTHING_PRELOADED)
        node.obey("sleep")
        child = node.child()
        node.executor.kill()
        wait_for(lambda: not is_running(child), 5, "the end of the ClientApp")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--superexec-auth-secret-file", "/nowhere"], "--superexec-auth-secret-file /nowhere: No such file"),
        (["--memory-limit", "0"], "must be more than 0"),
        (["--poll-interval", "soon"], "--poll-interval"),
    ],
)
def test_a_wrong_flag_ends_it_with_a_line_that_names_it(flags, says):
    command = [
        sys.executable,
        "-m",
        "deploy.warm_executor",
        "--runtime-api-address",
        "127.0.0.1:1",
        "--insecure",
    ]
    ended = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
