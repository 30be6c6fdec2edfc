"""The services of docker-compose.yaml as processes on loopback: the same commands, other places.

A path in a container becomes a folder, an address a port of loopback, by what the file says of mounts and
networks.
"""

import os
import re
import subprocess
import time
from collections import defaultdict
from pathlib import Path

from tests.deploy.composition import COMPLETED, Composition, Service
from tests.support.processes import BIN, PROJECT, free_port

_ADDRESS = re.compile(r"(?<![\w.-])([a-z][a-z-]*|0\.0\.0\.0|127\.0\.0\.1):(\d{4})\b")
_PATH = re.compile(r"(?<![\w.])/(?:certificates|state|tmp|data|public)\b[^\s'\"]*")


class Loopback:
    """Processes in the places of a file's services.

    Parameters
    ----------
    composition
        The file.
    folder
        Where containers' folders lie; ``certificates`` among them.
    """

    def __init__(self, composition: Composition, folder: Path) -> None:
        self._composition = composition
        self._folder = folder
        self._ports: dict[tuple[str, str], int] = defaultdict(free_port)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.code = folder / "opt"
        self.code.mkdir()
        (self.code / "deploy").symlink_to(PROJECT / "deploy")

    def start(self, service: Service) -> None:
        """Start a service when those that it waits for are ready."""
        for name, condition in service.waits_for.items():
            self.wait_for(self._composition.services[name], condition)
        self._lay_out(service)
        command = [self._word(service, word) for word in service.command]
        with (self._folder / f"{service.name}.log").open("wb") as log:
            self._processes[service.name] = subprocess.Popen(
                command,
                env=self._environment(service),
                cwd=self.code,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def wait_for(self, service: Service, condition: str) -> None:
        """Wait until a service has completed or is healthy."""
        process = self._processes[service.name]
        if condition == COMPLETED:
            assert process.wait(180) == 0, self.log(service.name)
            return
        until = time.monotonic() + 180
        while not self.is_healthy(service):
            assert process.poll() is None, self.log(service.name)
            assert time.monotonic() < until, (
                f"{service.name} does not become healthy: {self.log(service.name)}"
            )
            time.sleep(0.5)

    def is_healthy(self, service: Service) -> bool:
        """Run a service's health check."""
        command = [self._word(service, word) for word in service.health_check]
        done = subprocess.run(
            command, env=self._environment(service), cwd=self.code, capture_output=True, check=False
        )
        return done.returncode == 0

    def address(self, name: str, port: str) -> str:
        """Return where a service's port is here."""
        return f"127.0.0.1:{self._ports[name, port]}"

    def path(self, service: Service, path: str) -> Path:
        """Return where a container's path is here."""
        for mount in reversed(service.mounts):
            if path == mount.target or path.startswith(f"{mount.target}/"):
                source = (
                    self._folder / mount.source
                    if mount.source[0] in "./"
                    else self._folder / "volumes" / mount.source
                )
                return source / path.removeprefix(mount.target).lstrip("/")
        return self._folder / "containers" / service.name / path.lstrip("/")

    def log(self, name: str) -> str:
        """Return what a service wrote."""
        return (self._folder / f"{name}.log").read_text()

    def stop(self) -> dict[str, float]:
        """End all, those that wait for others first; return the seconds each took."""
        took = {}
        for name, process in reversed(self._processes.items()):
            began = time.monotonic()
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            took[name] = time.monotonic() - began
        return took

    def _lay_out(self, service: Service) -> None:
        """Make the folders of a container; a mount within a mount becomes a link."""
        for target in ("/tmp", "/state"):
            self.path(service, target).mkdir(parents=True, exist_ok=True)
        for mount in service.mounts:
            here = self.path(service, mount.target)
            if not here.exists():
                here.mkdir(parents=True)
            outer = [other for other in service.mounts if mount.target.startswith(f"{other.target}/")]
            if outer and not mount.source.startswith((".", "/")):
                place = self.path(service, outer[0].target) / mount.target.removeprefix(
                    outer[0].target
                ).lstrip("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(here)

    def _word(self, service: Service, word: str) -> str:
        if word.startswith("--owner="):
            return f"--owner={os.getuid()}:{os.getgid()}"
        if word.startswith("--host="):
            return "--host=127.0.0.1"
        if word.startswith("--port="):
            return f"--port={self._ports[service.name, word.removeprefix('--port=')]}"
        word = _ADDRESS.sub(lambda found: self._address(service, *found.groups()), word)
        reader = self._reader(service) if word.startswith("client-name=") else service
        return _PATH.sub(lambda found: str(self.path(reader, found[0])), word)

    def _reader(self, supernode: Service) -> Service:
        """Return who reads a SuperNode's node-config: its ClientApp."""
        [reader] = (
            service for service in self._composition.services.values() if supernode.name in service.waits_for
        )
        return reader

    def _address(self, service: Service, host: str, port: str) -> str:
        own = host in ("0.0.0.0", "127.0.0.1")
        return self.address(service.name if own else self._composition.who_is(host, service).name, port)

    def _environment(self, service: Service) -> dict[str, str]:
        home = self.path(service, "/state")
        return {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.code),
            "HOME": str(home),
            "FLWR_HOME": str(home / "flwr"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
        }
