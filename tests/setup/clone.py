"""A clone with a lock of one small package, and an index of no other: what set-up does, without a network."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.support.processes import BIN, PROJECT, free_port

MODULE = """
import json, os, sys

def main():
    print(json.dumps([os.path.basename(sys.argv[0]), "{version}", os.getcwd(), *sys.argv[1:]]))
"""
COMMANDS = ("tool", "flwr", "mypy", "pytest", "ruff")


def write_wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    """Write a wheel of a few files."""
    information = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in (*files, f"{information}/RECORD"))
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for file, text in (*files.items(), (f"{information}/RECORD", record)):
            entry = zipfile.ZipInfo(file)
            entry.external_attr = 0o100755 << 16  # pip keeps it, and scripts must be executable
            wheel.writestr(entry, text)


def write_tool(folder: Path, version: str) -> None:
    """Write the package ``tool``: commands that print what they are called with."""
    commands = "".join(f"{name} = tool:main\n" for name in COMMANDS)
    files = {
        "tool.py": MODULE.format(version=version),
        f"tool-{version}.dist-info/entry_points.txt": f"[console_scripts]\n{commands}",
    }
    write_wheel(folder, "tool", version, files)


class Clone:
    """A folder with this project's Makefile and two locks, in an environment of its own."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        for name in ("Makefile", "setup.sh"):
            shutil.copyfile(PROJECT / name, folder / name)
        self.commands = wheels.parent / "commands"  # what stands on the path before the system's own
        self.commands.mkdir(exist_ok=True)
        if not (self.commands / "uv").exists():
            (self.commands / "uv").symlink_to(BIN / "uv")
        self.environment = {
            "PATH": f"{self.commands}:/usr/bin:/bin",
            "HOME": str(wheels.parent / "home"),
            "PYTHON": sys.executable,
            "PYTHONDONTWRITEBYTECODE": "1",
            "UV_CACHE_DIR": str(wheels.parent / "cache"),
            "UV_FIND_LINKS": str(wheels),
            "UV_NO_INDEX": "1",
            "UV_OFFLINE": "1",
            "PIP_NO_INDEX": "1",
            "PIP_CONFIG_FILE": os.devnull,
            "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(free_port()),
        }
        self.lock("1.0")

    def lock(self, version: str, *more: str) -> None:
        """Write both locks; the developers' is told apart by a comment."""
        lines = "".join(f"{line}\n" for line in (f"tool=={version}", *more))
        (self.folder / "requirements.lock").write_text(lines)
        (self.folder / "requirements-dev.lock").write_text(f"# developers\n{lines}")

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ``make`` to its end, whatever that is."""
        return subprocess.run(
            ["make", "--no-print-directory", *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def set_up(self, *arguments: str, **environment: str) -> None:
        """Run ``make setup``, or another target, which must succeed."""
        done = self.make(*(arguments or ("setup",)), **environment)
        assert done.returncode == 0, done.stdout + done.stderr

    def version(self) -> str:
        """Return the version that the environment's own command prints; looking leaves no bytecode there."""
        output = subprocess.run(
            [self.folder / ".venv/bin/tool"],
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(output.stdout)[1]

    def command(self, text: str) -> None:
        """Put a shell script in the place of uv; ``$UV`` in it is uv itself."""
        (self.commands / "uv").unlink()
        (self.commands / "uv").write_text(f"#!/bin/sh\nset -eu\nUV='{BIN / 'uv'}'\n{text}\n")
        (self.commands / "uv").chmod(0o755)

    def seen(self) -> dict[str, int]:
        """Return all entries with the identity of what is there, links not followed."""
        return {str(path.relative_to(self.folder)): path.lstat().st_ino for path in self.folder.rglob("*")}

    def environments(self) -> set[str]:
        """Return the environments of the clone, half-made ones with them."""
        return {path.name for path in self.folder.glob(".venv*")}

    def cached(self) -> list[Path]:
        """Return the environments in the user's cache, half-made ones with them."""
        return list((Path(self.environment["HOME"]) / ".cache/motley/environments").glob("*"))
