"""Flower's processes on this machine's loopback, to try things out: a SuperLink, and others beside it.

Ports and folders are their own, so that several may run at once; each process is ended by its id.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent
"""Where Flower's commands lie."""
_DEPLOY = Path(__file__).parent
_START_SECONDS = 60
_END_SECONDS = 15
_LOOK_SECONDS = 0.3


class LocalFlower:
    """A SuperLink without TLS and the processes beside it, in a folder of their own.

    ``flwr`` finds the SuperLink by the name ``test``. Each process writes to ``NAME.log`` in the folder.

    Parameters
    ----------
    folder
        Where logs and Flower's files go; it is made here.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.http_port, self.fleet_port = free_port(), free_port()
        self._processes: list[subprocess.Popen[bytes]] = []
        home = folder / "flwr-home"
        home.mkdir(parents=True)
        path = folder / "path"  # `deploy` alone, as in the image: the app's code comes with the bundle only
        path.mkdir()
        (path / "deploy").symlink_to(_DEPLOY)
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
        """Start the SuperLink and wait until it answers.

        Parameters
        ----------
        flags
            More of its command line.
        working_folder
            Where it is started; None: in an empty folder.

        Raises
        ------
        TimeoutError
            If it does not answer within a minute.
        """
        empty = self.folder / "empty"
        empty.mkdir(exist_ok=True)
        command = f"flower-superlink --insecure --host 127.0.0.1 --port {self.http_port}".split()
        fleet = ("--fleet-api-address", f"127.0.0.1:{self.fleet_port}")
        self.start("superlink", [*command, *fleet, *flags], working_folder or empty)
        wait_for(lambda: is_open(self.http_port), _START_SECONDS, "the SuperLink's HTTP port")

    def start(
        self, name: str, command: list[str], working_folder: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start any other process, at the head of a process group of its own.

        Parameters
        ----------
        name
            Of its log.
        command
            What to run.
        working_folder
            Where it is started; None: in this object's folder.
        """
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env=self._environment,
                cwd=working_folder or self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def command(self, command: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, and return what it came to with what it wrote.

        Parameters
        ----------
        command
            What to run, for example ``flwr``.
        seconds
            How long it may take.

        Raises
        ------
        subprocess.TimeoutExpired
            If it takes longer.
        """
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

    def log(self, name: str = "superlink") -> str:
        """Return what a process wrote."""
        return (self.folder / f"{name}.log").read_text()

    def stop(self) -> None:
        """End everything that was started, gently at first."""
        for process in reversed(self._processes):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in reversed(self._processes):
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def local_flower(folder: Path) -> Iterator[LocalFlower]:
    """Provide Flower's processes in a folder, and end them at the end of the ``with`` block."""
    made = LocalFlower(folder)
    try:
        yield made
    finally:
        made.stop()


def free_port() -> int:
    """Return a port of loopback on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_open(port: int) -> bool:
    """Tell whether somebody listens on a port of loopback."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until a condition holds.

    Parameters
    ----------
    condition
        Looked at a few times a second.
    seconds
        How long to wait.
    what
        What is waited for, for the error.

    Raises
    ------
    TimeoutError
        If it does not hold in time.
    """
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= until:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(_LOOK_SECONDS)
