"""Starts ClientApps quickly: a launcher for SuperNodes that run with ``--isolation process``.

Flower's own launcher, ``flower-superexec``, starts a new Python for each message, which spends seconds
importing torch. This one has imported it once and forks: each message still has a process of its own that
ends with it, so nothing leaks from one to the next. The app itself is never imported here, since its code
travels with each run.

If a ClientApp dies, by a signal or for lack of memory, its message is answered with an error at once; Flower
notices after a minute. If the SuperNode is gone, nobody could take an answer, so its ClientApp is ended too.

This works only where processes can be forked (not on Windows).
"""

import argparse
import gc
import logging
import os
import signal
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from types import FrameType

import httpx
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.utils import disable_process_dumping

from deploy.client_process import ClientProcess
from deploy.idle import IdleWait
from deploy.runtime_api import RuntimeApi

log = logging.getLogger("flwr")

PRELOADED = (
    "torch,torchvision,numpy,pydantic.main,pydantic.fields,pydantic.functional_validators,safetensors.torch,"
    "datasets,flwr_datasets.partitioner,sklearn.datasets,pyarrow.parquet,flwr.clientapp,flwr.serverapp"
)
"""The third-party modules that Motley's ClientApp imports and that take longest."""
POLL_SECONDS = 0.1
IDLE_POLL_SECONDS = 1.0
ALIVE_SECONDS = 5.0
"""Least time between two checks of the SuperNode, and between two touches of the alive-file."""


class WarmExecutor:
    """Fetches tasks from a SuperNode and starts a process for each.

    Parameters
    ----------
    api
        The SuperNode's Runtime API.
    memory_limit
        Bytes of memory that a ClientApp may take; None: no limit.
    poll_seconds
        Seconds between two polls while messages come; the wait grows to 1 s while none do.
    alive_file
        Touched when the SuperNode has answered; None: no file.
    """

    def __init__(
        self,
        api: RuntimeApi,
        memory_limit: int | None = None,
        poll_seconds: float = POLL_SECONDS,
        alive_file: Path | None = None,
    ) -> None:
        self._api = api
        self._memory_limit = memory_limit
        self._wait = IdleWait(poll_seconds, max(poll_seconds, IDLE_POLL_SECONDS))
        self._poll_seconds = poll_seconds
        self._alive_file = alive_file
        self._alive_at = -ALIVE_SECONDS
        self._child: ClientProcess | None = None
        self._reachable = True
        self._stopping = False

    def stop(self, signal_number: int, frame: FrameType | None) -> None:
        """Take no further task and end the current one; a signal handler."""
        del signal_number, frame
        self._stopping = True

    def run(self) -> None:
        """Serve until ``stop`` is called."""
        while not self._stopping:
            if self._child is None:
                self._fetch()
            if self._child is None:
                time.sleep(self._wait.seconds())
            else:
                self._watch(self._child)
        if self._child is not None:
            self._child.end("its launcher was told to stop")
            self._child.report(self._api)

    def _fetch(self) -> None:
        """Ask the SuperNode for a task; start a process for it."""
        request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
        try:
            answer = self._api.client.AcquireTask(request)
        except httpx.HTTPError as error:
            self._mark_unreachable(error)
            return
        self._mark_reachable()
        if answer.HasField("task") and answer.token:
            self._child = ClientProcess(self._api, answer.token, answer.task.task_id)
            self._wait.busy()

    def _watch(self, child: ClientProcess) -> None:
        """Wait a moment for a process; check whether it has ended, its memory and its SuperNode."""
        if child.wait(self._poll_seconds):
            child.report(self._api)
            self._child = None
            self._wait.busy()
        elif self._memory_limit is not None and child.memory() > self._memory_limit:
            child.end(
                f"it took {child.memory() / 1e9:.2f} GB of memory, "
                f"{self._memory_limit / 1e9:g} GB are allowed (--memory-limit)"
            )
        else:
            self._check_supernode(child)

    def _check_supernode(self, child: ClientProcess) -> None:
        """End a process whose SuperNode died, since no two processes may use the node's state at once.

        Only a refused connection means that it died; one that does not answer may be slow.
        """
        if time.monotonic() - self._alive_at < ALIVE_SECONDS:
            return
        try:
            self._api.check_reachable()
        except httpx.ConnectError as error:
            self._mark_unreachable(error)
            child.end("its SuperNode is gone")
        except httpx.HTTPError as error:
            self._mark_unreachable(error)
        else:
            self._mark_reachable()

    def _mark_reachable(self) -> None:
        if not self._reachable:
            log.info("The SuperNode at %s answers again", self._api.address)
        self._reachable = True
        now = time.monotonic()
        if now - self._alive_at >= ALIVE_SECONDS:
            self._alive_at = now
            if self._alive_file is not None:
                self._alive_file.touch()

    def _mark_unreachable(self, error: httpx.HTTPError) -> None:
        if self._reachable:
            log.warning("The SuperNode at %s does not answer: %s; still trying", self._api.address, error)
        self._reachable = False


def preload(modules: str) -> None:
    """Import the modules that ClientApps need, so that forked processes have them already.

    Parameters
    ----------
    modules
        Names separated by commas; one that cannot be imported is left out.

    Raises
    ------
    SystemExit
        If an import used a GPU or started threads: a forked process could not use either.
    """
    for name in filter(None, (name.strip() for name in modules.split(","))):
        try:
            import_module(name)
        except ImportError as error:
            log.warning("--preload: %s cannot be imported and is left out: %s", name, error)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        sys.exit(f"--preload {modules}: one of these uses the GPU when it is imported; leave it out")
    if threading.active_count() > 1:
        names = ", ".join(thread.name for thread in threading.enumerate())
        sys.exit(
            f"--preload {modules}: one of these starts threads ({names}), which do not survive a fork; leave "
            "it out"
        )
    gc.collect()
    gc.freeze()  # the garbage collector no longer writes to this memory, so children go on sharing it


def parser() -> argparse.ArgumentParser:
    """Return the command's parser; flags that ``flower-superexec`` has too have the same names."""
    made = argparse.ArgumentParser(
        prog="python -m deploy.warm_executor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--runtime-api-address", required=True, help="HOST:PORT of the SuperNode's Runtime API")
    security = made.add_mutually_exclusive_group(required=True)
    security.add_argument(
        "--insecure", action="store_true", help="plain HTTP, for loopback or an isolated network"
    )
    security.add_argument(
        "--root-certificates", type=Path, help="PEM file of the CA that signed the API's certificate"
    )
    made.add_argument(
        "--superexec-auth-secret-file", type=Path, help="file of the secret shared with the SuperNode"
    )
    made.add_argument(
        "--memory-limit",
        type=_positive,
        help="GB of memory a ClientApp may take; it is ended if it takes more",
    )
    made.add_argument(
        "--poll-interval", type=_positive, default=POLL_SECONDS, help="seconds between two polls for a task"
    )
    made.add_argument(
        "--preload", default=PRELOADED, help=f"modules to import beforehand (default: {PRELOADED})"
    )
    made.add_argument("--alive-file", type=Path, help="file to touch while the SuperNode answers; for probes")
    return made


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: must be more than 0")
    return value


def _secret(file: Path | None) -> bytes | None:
    if file is None:
        return None
    try:
        secret = file.read_bytes()
    except OSError as error:
        sys.exit(f"--superexec-auth-secret-file {file}: {error.strerror}")
    return secret or sys.exit(f"--superexec-auth-secret-file {file}: it is empty")


def main() -> None:
    """Run the launcher."""
    arguments = parser().parse_args()
    disable_process_dumping(strict=False)  # tokens and private data are in these processes' memory
    certificates = arguments.root_certificates
    if certificates is not None and not certificates.is_file():
        sys.exit(f"--root-certificates {certificates}: no such file")
    api = RuntimeApi(
        arguments.runtime_api_address,
        None if certificates is None else certificates.read_bytes(),
        _secret(arguments.superexec_auth_secret_file),
    )
    preload(arguments.preload)
    limit = None if arguments.memory_limit is None else int(arguments.memory_limit * 1e9)
    executor = WarmExecutor(api, limit, arguments.poll_interval, arguments.alive_file)
    signal.signal(signal.SIGTERM, executor.stop)
    signal.signal(signal.SIGINT, executor.stop)
    log.info("Ready to start ClientApps for the SuperNode at %s (process %d)", api.address, os.getpid())
    executor.run()


if __name__ == "__main__":
    main()
