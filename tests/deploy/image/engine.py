"""Podman with images, networks and containers of its own, apart from what the machine has."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.processes import PROJECT

NEEDS = {
    "podman": "podman",
    "runc": "runc",
    "iptables": "iptables",
    "debootstrap": "debootstrap",
    "/usr/libexec/podman/catatonit": "catatonit",
    "/usr/lib/podman/netavark": "netavark",
    "/usr/lib/podman/aardvark-dns": "aardvark-dns",
}
"""Programs, and the Debian packages that bring them."""
PROJECT_NAME = "motley-test"
_MIRROR_VARIABLES = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX")
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def missing() -> str:
    """Say what must be installed; empty if all is there."""
    if os.geteuid() != 0:
        return "needs root"
    absent = sorted({package for program, package in NEEDS.items() if shutil.which(program) is None})
    return f"needs the Debian packages {' '.join(absent)}" if absent else ""


class Engine:
    """Podman in a folder.

    Parameters
    ----------
    folder
        Where everything lies; a short path, for sockets lie there.
    cache
        What the next test may use again: the base and downloads.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self._downloads = cache / "downloads"
        self._downloads.mkdir(parents=True, exist_ok=True)
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/storage"\nrunroot = "{folder}/run"\n'
        )
        # Where podman may not raise limits, lower ones do.
        limits = ", ".join(
            f'"{name}={limit}:{limit}"'
            for name, which in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC))
            for limit in [_at_most(4096, resource.getrlimit(which)[1])]
        )
        (folder / "containers.conf").write_text(
            f"[containers]\ndefault_ulimits = [{limits}]\n"
            f'[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
            f'lock_type = "file"\n'
            f'tmp_dir = "{folder}/tmp"\n'
            f'[network]\nnetwork_backend = "netavark"\nnetwork_config_dir = "{folder}/networks"\n'
        )
        self.environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("MOTLEY_", "COMPOSE_"))
            },
            "CONTAINERS_STORAGE_CONF": f"{folder}/storage.conf",
            "CONTAINERS_CONF": f"{folder}/containers.conf",
            "TMPDIR": str(self._downloads),
        }

    def podman(self, *arguments: str, seconds: float = 120) -> str:
        """Run podman; return what it wrote to its output."""
        return self._run(["podman", *arguments], seconds)

    def succeeds(self, *arguments: str) -> bool:
        """Run podman; tell whether it says yes."""
        return self._done(["podman", *arguments], 120).returncode == 0

    def build(self, context: Path, *flags: str, seconds: float = 900) -> None:
        """Build from a folder."""
        certificates = os.environ.get("SSL_CERT_FILE", _CERTIFICATES)
        mirrors = [
            f"--build-arg={name}={os.environ[name]}" for name in _MIRROR_VARIABLES if name in os.environ
        ]
        self.podman(
            *("build", "--isolation=chroot", "--network=host", "--pull=never", "--layers=false"),
            *(f"--secret=id=ca-bundle,src={certificates}", *mirrors, *flags, str(context)),
            seconds=seconds,
        )

    def compose(self, *arguments: str, seconds: float = 120, **variables: str) -> str:
        """Run podman-compose on a copy of the project's file: its folders are made beside the copy."""
        file = self.folder / "docker-compose.yaml"
        shutil.copyfile(PROJECT / "docker-compose.yaml", file)
        self.environment.update(variables)
        command = [
            sys.executable,
            "-m",
            "podman_compose",
            "--project-name",
            PROJECT_NAME,
            "--file",
            str(file),
        ]
        return self._run([*command, *arguments], seconds)

    def inside(self, service: str, program: str) -> str:
        """Run a Python program in a service's container."""
        return self.podman("exec", container(service), "python", "-c", program)

    def logs(self, service: str) -> str:
        """Return what a service wrote."""
        done = self._done(["podman", "logs", container(service)], 60)
        return done.stdout + done.stderr

    def close(self) -> None:
        """End and remove everything."""
        for command in (
            "rm --all --force --time 0",
            "network prune --force",
            "volume prune --force",
            "rmi --all --force",
        ):
            self.succeeds(*command.split())
        subprocess.run(["umount", f"{self.folder}/storage/overlay"], capture_output=True, check=False)
        shutil.rmtree(self.folder)

    def _run(self, command: list[str], seconds: float) -> str:
        done = self._done(command, seconds)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout

    def _done(self, command: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            check=False,
        )


def container(service: str) -> str:
    """Return a service's container."""
    return f"{PROJECT_NAME}_{service}_1"


def _at_most(wanted: int, limit: int) -> int:
    return wanted if limit == resource.RLIM_INFINITY else min(wanted, limit)
