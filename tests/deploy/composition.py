"""docker-compose.yaml as podman-compose reads it."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.processes import PROJECT

COMPLETED, HEALTHY = "service_completed_successfully", "service_healthy"
_NO_PODMAN = "#!/bin/sh\necho podman version 5.0.0\n"
"""podman-compose asks for podman's version before it reads a file."""


@dataclass(frozen=True)
class Mount:
    """What a path in a container is.

    Attributes
    ----------
    source
        A folder or file of the host if it begins with ``.`` or ``/``, else a named volume.
    """

    source: str
    target: str
    read_only: bool


@dataclass(frozen=True)
class Service:
    """A service of the file."""

    name: str
    definition: Mapping[str, Any]

    @property
    def command(self) -> list[str]:
        """Entrypoint and command in one."""
        return [*self.definition.get("entrypoint", []), *self.definition.get("command", [])]

    @property
    def health_check(self) -> list[str]:
        """Its health check's command; empty without one."""
        return list(self.definition.get("healthcheck", {}).get("test", ["CMD"]))[1:]

    @property
    def mounts(self) -> list[Mount]:
        """Its volumes, outermost first."""
        parts = [volume.split(":") for volume in self.definition.get("volumes", [])]
        return sorted(
            (Mount(source, target, flags == ["ro"]) for source, target, *flags in parts),
            key=lambda mount: mount.target.count("/"),
        )

    @property
    def networks(self) -> dict[str, set[str]]:
        """The names it answers to, by network."""
        given = self.definition.get("networks", {})
        settings = given if isinstance(given, dict) else dict.fromkeys(given)
        return {
            network: {self.name, *((options or {}).get("aliases", []))}
            for network, options in settings.items()
        }

    @property
    def waits_for(self) -> dict[str, str]:
        """Conditions by service."""
        return {name: wait["condition"] for name, wait in self.definition.get("depends_on", {}).items()}


class Composition:
    """The file, with every profile.

    Parameters
    ----------
    folder
        A folder for the stand-in of podman.
    variables
        What the file's variables are; the rest as by default.
    """

    def __init__(self, folder: Path, **variables: str) -> None:
        content = yaml.safe_load(_config(folder, variables))
        self.services = {name: Service(name, definition) for name, definition in content["services"].items()}
        self.networks: dict[str, Any] = content["networks"]
        self.volumes: dict[str, Any] = content["volumes"]

    def in_order(self, *, profile: str | None = None) -> Iterator[Service]:
        """Iterate over services, each after those that it waits for."""
        waiting = {
            name: service
            for name, service in self.services.items()
            if not service.definition.get("profiles") or profile in service.definition["profiles"]
        }
        while waiting:
            ready = [
                name for name, service in waiting.items() if not waiting.keys() & service.waits_for.keys()
            ]
            assert ready, f"these wait for each other: {sorted(waiting)}"
            for name in ready:
                yield waiting.pop(name)

    def who_is(self, host: str, asking: Service) -> Service:
        """Resolve a host's name as a service would."""
        found = [
            service
            for service in self.services.values()
            for network in service.networks.keys() & asking.networks.keys()
            if host in service.networks[network]
        ]
        assert len({service.name for service in found}) == 1, (
            f"{asking.name} finds {len(found)} hosts named {host}"
        )
        return found[0]


def _config(folder: Path, variables: Mapping[str, str]) -> str:
    stand_in = folder / "podman"
    stand_in.write_text(_NO_PODMAN)
    stand_in.chmod(0o755)
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("MOTLEY_", "COMPOSE_"))}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "podman_compose",
            "--file",
            str(PROJECT / "docker-compose.yaml"),
            "--profile",
            "gpu",
            "config",
        ],
        env={**ours, **variables, "PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
