"""Real Flower processes on loopback, each test with its own ports, folders and SuperLink."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.local_flower import BIN, LocalFlower, free_port, is_open, wait_for

__all__ = ["BIN", "PROJECT", "Deployment", "deployment", "free_port", "is_open", "wait_for"]

PROJECT = Path(__file__).parents[2]


class Deployment(LocalFlower):
    """Flower's processes, and runs of this project over them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.runs = folder / "runs"

    def start_supernode(self, node_config: str) -> subprocess.Popen[bytes]:
        """Start a SuperNode that speaks gRPC to the SuperLink."""
        command = f"flower-supernode --insecure --superlink 127.0.0.1:{self.fleet_port}".split()
        own = ("--port", str(free_port()), "--node-config", node_config)
        return self.start(f"supernode-{len(self._processes)}", [*command, *own])

    def run(self, run_config: str, *flags: str, seconds: float = 280) -> subprocess.CompletedProcess[str]:
        """Run ``flwr run`` to the end of its log stream."""
        command = ["flwr", "run", str(PROJECT), "test", "--stream", "--run-config", self.config(run_config)]
        return self.command([*command, *flags], seconds)

    def start_run(self, run_config: str, *flags: str) -> str:
        """Start a run without waiting for it; return its id."""
        command = ["flwr", "run", str(PROJECT), "test", "--run-config", self.config(run_config)]
        output = self.command([*command, *flags], 60).stdout
        found = re.search(r"started run (\d+)", output)
        assert found, output
        return found[1]

    def config(self, run_config: str) -> str:
        """Add this deployment's run folder to a run-config."""
        return f'output-dir="{self.runs}" {run_config}'

    def run_folder(self) -> Path:
        """Return the newest run folder."""
        return max(self.runs.iterdir(), key=lambda path: path.stat().st_mtime)

    def rounds(self) -> list[dict[str, Any]]:
        """Return the lines of the newest run's rounds.jsonl."""
        files = sorted(self.runs.glob("*/rounds.jsonl"))
        return [json.loads(line) for line in files[-1].read_text().splitlines()] if files else []

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Pull the plug: kill a process and everything it started."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@contextmanager
def deployment(folder: Path) -> Iterator[Deployment]:
    """Provide a deployment and stop it in the end."""
    made = Deployment(folder)
    try:
        yield made
    finally:
        made.stop()
