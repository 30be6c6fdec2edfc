"""A federation as it is run on real machines: every site a network of its own, TLS, keys, a database."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from tests.support.network import HUB_ADDRESS, Network, network
from tests.support.process_table import children, command_line, descendants, listens
from tests.support.processes import BIN, PROJECT
from tests.support.supervisor import Supervisor, supervisor

API_PORT, FLEET_PORT, NODE_PORT = 8000, 9092, 8001
CONNECTION = "sites"
_LOOK_SECONDS = 0.02
Result = TypeVar("Result")


class Sites:
    """A SuperLink with its launcher at the hub, and at each site a SuperNode with its launcher.

    Parameters
    ----------
    folder
        An empty folder for all files.
    cables
        The network.
    keeper
        What starts the processes.
    names
        The sites.
    registered
        Those whose keys the SuperLink is told.
    """

    def __init__(
        self,
        folder: Path,
        cables: Network,
        keeper: Supervisor,
        names: Sequence[str],
        registered: Sequence[str],
    ) -> None:
        self.folder = folder
        self.network = cables
        self.processes = keeper
        self.names = list(names)
        self._registered = list(registered)
        self.certificates = folder / "certificates"
        self.runs = folder / "runs"
        self._environment = environment(folder)
        (folder / "home").mkdir()
        (folder / "home" / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
            f'address = "{HUB_ADDRESS}:{API_PORT}"\n'
            f'root-certificates = "{self.certificates}/authority/ca.pem"\n'
        )

    # --- starting ------------------------------------------------------------------------------

    def certify(self) -> None:
        """Make the certificates and keys."""
        self.module(
            "deploy.certificates", "create", str(self.certificates),
            "--server-names", f"{HUB_ADDRESS},127.0.0.1", "--nodes", ",".join(self.names),
        )  # fmt: skip

    def start_hub(self) -> None:
        """Start the SuperLink and the ServerApp's launcher; register the nodes' keys."""
        given = self.certificates / "superlink"
        self.processes.start("superlink", self._at(None, superlink_command(given, self.folder / "link.db")))
        secret = ["--superexec-auth-secret-file", str(given / "executor.secret")]
        launcher = [*_program("flower-superexec"), "--runtime-api-address", f"{HUB_ADDRESS}:{API_PORT}"]
        trusted = ["--root-certificates", str(given / "ca.pem")]
        self.processes.start("launcher", self._at(None, [*launcher, *trusted, *secret]))
        keys = [str(self.certificates / "nodes" / name / "node.pub") for name in self._registered]
        self.module(
            "deploy.registration", "--superlink", f"{HUB_ADDRESS}:{API_PORT}", *trusted, "--wait", "60", *keys
        )

    def start_site(self, name: str, node_config: str, launcher: Sequence[str] = (), **changes: str) -> None:
        """Start a site's SuperNode and its launcher.

        Parameters
        ----------
        launcher
            The launcher's program, instead of ``deploy.warm_executor``.
        **changes
            ``superlink``, ``authority`` or ``key``: another address, CA or key than its own.
        """
        given = self.certificates / "nodes" / name
        secret = ["--superexec-auth-secret-file", str(given / "executor.secret")]
        supernode = [
            *_module("deploy.supernode"),
            *("--superlink", changes.get("superlink", f"{HUB_ADDRESS}:{FLEET_PORT}")),
            *("--root-certificates", changes.get("authority", str(given / "ca.pem"))),
            *("--auth-supernode-private-key", changes.get("key", str(given / "node.key"))),
            *("--isolation", "process", "--host", "127.0.0.1", "--port", str(NODE_PORT), *secret),
            *("--node-config", node_config),
        ]
        warm = [*(launcher or _module("deploy.warm_executor")), "--insecure", *secret]
        warm += ["--runtime-api-address", f"127.0.0.1:{NODE_PORT}"]
        home = {"FLWR_HOME": str(self.folder / f"home-{name}")}
        self.processes.start(f"{name}-supernode", self._at(name, supernode), **home)
        self.processes.start(f"{name}-launcher", self._at(name, warm), **home)

    def start_at(self, site: str, name: str, command: Sequence[str]) -> None:
        """Start any other process at a site."""
        self.processes.start(f"{site}-{name}", self._at(site, command))

    # --- running -------------------------------------------------------------------------------

    def start_run(self, run_config: str) -> str:
        """Start a run and return its id."""
        config = f'output-dir="{self.runs}" {run_config}'
        output = self.flwr("run", str(PROJECT), CONNECTION, "--run-config", config)
        found = re.search(r"started run (\d+)", output)
        assert found, output
        return found[1]

    def flwr(self, *arguments: str) -> str:
        """Run one of Flower's commands at the hub; return what it says."""
        return self._call([*_program("flwr"), *arguments])

    def module(self, *command: str) -> str:
        """Run a Python module at the hub; return what it says."""
        return self._call(_module(*command))

    def run_log(self, run_id: str) -> str:
        """Return what a run has logged."""
        return self.flwr("log", run_id, CONNECTION, "--show")

    def run_folders(self) -> list[Path]:
        """Return the folders of all runs so far, oldest first."""
        return sorted(self.runs.iterdir()) if self.runs.exists() else []

    # --- processes -----------------------------------------------------------------------------

    def server_app(self) -> int | None:
        """Return the id of the ServerApp's process, if there is one."""
        started = descendants(self.processes.pid("launcher"))
        return next((pid for pid in started if "flwr-serverapp" in command_line(pid)), None)

    def client_app(self, site: str) -> int | None:
        """Return the id of a site's ClientApp, if one is at work."""
        return next(iter(children(self.processes.pid(f"{site}-launcher"))), None)

    def is_up(self) -> bool:
        """Tell whether the SuperLink listens."""
        return all(listens(self.processes.pid("superlink"), port) for port in (API_PORT, FLEET_PORT))

    # --- parts ---------------------------------------------------------------------------------

    def _at(self, site: str | None, command: Sequence[str]) -> list[str]:
        return [*self.network.inside(site), *command]

    def _call(self, command: Sequence[str]) -> str:
        done = subprocess.run(
            self._at(None, command),
            env=self._environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=90,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}"
        return done.stdout


@contextmanager
def sites(folder: Path, names: Sequence[str], registered: Sequence[str] | None = None) -> Iterator[Sites]:
    """Provide sites with a hub that is up; end and remove all of it in the end.

    Parameters
    ----------
    registered
        The sites whose keys the SuperLink is told; None: all.
    """
    with ExitStack() as stack:
        cables = stack.enter_context(network(names))
        (folder / "path").mkdir(
            parents=True
        )  # `deploy` alone, as in the image: the app comes with its bundle
        (folder / "path" / "deploy").symlink_to(PROJECT / "deploy")
        (folder / "logs").mkdir()
        keeper = stack.enter_context(supervisor(folder / "logs", environment(folder)))
        made = Sites(folder, cables, keeper, names, names if registered is None else registered)
        made.certify()
        made.start_hub()
        yield made


def environment(folder: Path) -> dict[str, str]:
    """Return what all processes find."""
    return {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "path"),
        "FLWR_HOME": str(folder / "home"),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "OMP_NUM_THREADS": "1",
    }


def superlink_command(certificates: Path, database: Path) -> list[str]:
    """Return the SuperLink's command."""
    return [
        *_program("flower-superlink"),
        *("--isolation", "process", "--disable-runtime-dependency-installation"),
        *("--database", str(database), "--host", HUB_ADDRESS, "--port", str(API_PORT)),
        *("--fleet-api-address", f"{HUB_ADDRESS}:{FLEET_PORT}", "--enable-supernode-auth"),
        *(
            "--ssl-ca-certfile",
            str(certificates / "ca.pem"),
            "--ssl-certfile",
            str(certificates / "server.pem"),
        ),
        *("--ssl-keyfile", str(certificates / "server.key")),
        *("--superexec-auth-secret-file", str(certificates / "executor.secret")),
    ]


def node_config(**values: str | int | float) -> str:
    """Write a node-config; underscores in names become dashes."""
    return " ".join(f"{name.replace('_', '-')}={json.dumps(value)}" for name, value in values.items())


def await_result(look: Callable[[], Result], seconds: float, what: str) -> Result:
    """Look until there is something to see, for a bounded time; return it."""
    until = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < until, f"waited {seconds:g} s for {what}"
        time.sleep(_LOOK_SECONDS)
    return seen


def _program(name: str) -> list[str]:
    return [str(BIN / name)]


def _module(*command: str) -> list[str]:
    return [sys.executable, "-m", *command]
