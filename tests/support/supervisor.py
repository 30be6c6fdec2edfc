"""Keeps processes running as a service manager would: one that ends is started again after a moment."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

RESTART_SECONDS = 2.0
_LOOK_SECONDS = 0.1
_STOP_SECONDS = 15


@dataclass
class Service:
    """A process that is wanted."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    starts: int = 0
    ended_at: float | None = None
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)


class Supervisor:
    """Starts processes, and starts them again when they end.

    Parameters
    ----------
    folder
        Where they run and where their logs lie, ``NAME-1.log`` of the first start.
    environment
        What they all find.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._environment = dict(environment)
        self._services: dict[str, Service] = {}
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def start(self, name: str, command: Sequence[str], **environment: str) -> None:
        """Want a process."""
        with self._lock:
            self._services[name] = Service(name, command, environment)
            self._launch(self._services[name])

    def pid(self, name: str) -> int:
        """Return a process's id; of a service that is just down, the last one's."""
        return self._services[name].processes[-1].pid

    def starts(self, name: str) -> int:
        """Return how often a process was started."""
        return self._services[name].starts

    def is_running(self, name: str) -> bool:
        """Tell whether a process runs."""
        return self._services[name].processes[-1].poll() is None

    def kill(self, name: str) -> None:
        """Kill a process, and it alone, at once; it will be started again."""
        os.kill(self.pid(name), signal.SIGKILL)

    def dismiss(self, name: str) -> None:
        """End a process for good."""
        with self._lock:
            service = self._services.pop(name)
        self._end([service])

    def log(self, name: str) -> str:
        """Return what a service wrote, over all its starts."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob(f"{name}-*.log")))

    def stop(self) -> None:
        """End everything."""
        self._ended.set()
        self._thread.join()
        self._end(list(reversed(self._services.values())))

    # --- parts ---------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            with self._lock:
                for service in self._services.values():
                    self._look_after(service)

    def _look_after(self, service: Service) -> None:
        now = time.monotonic()
        if service.processes[-1].poll() is None:
            return
        if service.ended_at is None:
            service.ended_at = now
        elif now - service.ended_at >= RESTART_SECONDS:
            self._launch(service)

    def _launch(self, service: Service) -> None:
        service.starts += 1
        service.ended_at = None
        with (self.folder / f"{service.name}-{service.starts}.log").open("wb") as log:
            process = subprocess.Popen(
                service.command,
                env={**self._environment, **service.environment},
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        service.processes.append(process)

    def _end(self, services: Sequence[Service]) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for service in services:
                _signal_session(service.processes[-1], number)
            for service in services:
                _wait(service.processes[-1], _STOP_SECONDS)


@contextmanager
def supervisor(folder: Path, environment: Mapping[str, str]) -> Iterator[Supervisor]:
    """Provide a supervisor and end its processes in the end."""
    made = Supervisor(folder, environment)
    try:
        yield made
    finally:
        made.stop()


def _signal_session(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Tell a process, and what it started, to end."""
    if process.poll() is None:
        os.killpg(process.pid, number)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return  # it is told again, less politely
