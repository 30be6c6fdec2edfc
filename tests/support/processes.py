"""Real Flower processes on loopback, each test with its own ports, folders and SuperLink."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


class Deployment:
    """A SuperLink and its SuperNodes; ``stop`` ends by process id what was started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self.http_port, self.fleet_port = free_port(), free_port()
        self._processes: list[subprocess.Popen[bytes]] = []
        home = folder / "flwr-home"
        home.mkdir(parents=True)
        path = folder / "path"  # `deploy` alone, as in the image: the app's code comes with the bundle only
        path.mkdir()
        (path / "deploy").symlink_to(PROJECT / "deploy")
        address = f"127.0.0.1:{self.http_port}"
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "test"\n\n[superlink.test]\naddress = "{address}"\ninsecure = true\n'
        )
        self._environment = {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(path),
            "FLWR_HOME": str(home),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
        }

    def start_superlink(self, *flags: str, working_folder: Path | None = None) -> None:
        """Start the SuperLink and wait until it answers."""
        empty = self.folder / "empty"
        empty.mkdir(exist_ok=True)
        command = f"flower-superlink --insecure --host 127.0.0.1 --port {self.http_port}".split()
        fleet = ("--fleet-api-address", f"127.0.0.1:{self.fleet_port}")
        self._start("superlink", [*command, *fleet, *flags], working_folder or empty)
        wait_for(lambda: is_open(self.http_port), 60, "the SuperLink's HTTP port")

    def start_supernode(self, node_config: str) -> subprocess.Popen[bytes]:
        """Start a SuperNode that speaks gRPC to the SuperLink."""
        command = f"flower-supernode --insecure --superlink 127.0.0.1:{self.fleet_port}".split()
        own = ("--port", str(free_port()), "--node-config", node_config)
        return self._start(f"supernode-{len(self._processes)}", [*command, *own], self.folder)

    def start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        """Start any other process; it writes to ``NAME.log``."""
        return self._start(name, command, self.folder)

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

    def command(self, command: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
        """Run a command in this deployment's environment."""
        return subprocess.run(
            command,
            env=self._environment,
            cwd=self.folder,
            timeout=seconds,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def run_folder(self) -> Path:
        """Return the newest run folder."""
        return max(self.runs.iterdir(), key=lambda path: path.stat().st_mtime)

    def rounds(self) -> list[dict[str, Any]]:
        """Return the lines of the newest run's rounds.jsonl."""
        files = sorted(self.runs.glob("*/rounds.jsonl"))
        return [json.loads(line) for line in files[-1].read_text().splitlines()] if files else []

    def log(self, name: str = "superlink") -> str:
        """Return what a process wrote."""
        return (self.folder / f"{name}.log").read_text()

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Pull the plug: kill a process and everything it started."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)

    def stop(self) -> None:
        """End everything that was started."""
        for process in reversed(self._processes):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in reversed(self._processes):
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)

    def _start(self, name: str, command: list[str], working_folder: Path) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env=self._environment,
                cwd=working_folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._processes.append(process)
        return process


@contextmanager
def deployment(folder: Path) -> Iterator[Deployment]:
    """Provide a deployment and stop it in the end."""
    made = Deployment(folder)
    try:
        yield made
    finally:
        made.stop()


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_open(port: int) -> bool:
    """Tell whether somebody listens on a port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until a condition holds, for a bounded time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds} s for {what}"
        time.sleep(0.3)
