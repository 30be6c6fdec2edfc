"""Whether a part of the federation is alive: the check behind probes and health checks.

``python -m deploy.alive 127.0.0.1:9099`` asks a process's gRPC health service (``--health-server-address``);
``python -m deploy.alive /tmp/alive --seconds 30`` checks the age of a file that a process touches. It exits
with 0 if alive, otherwise with 1 and a line that says why.
"""

import argparse
import sys
import time
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    made = argparse.ArgumentParser(prog="python -m deploy.alive", description=__doc__)
    made.add_argument(
        "what", help="HOST:PORT of a gRPC health service, or the path of a file that is touched"
    )
    made.add_argument(
        "--seconds",
        type=float,
        default=30,
        help="how old the file may be, and how long to wait for an answer",
    )
    return made


def health_problem(what: str, seconds: float) -> str:
    """Return what is wrong; empty if alive.

    Parameters
    ----------
    what
        An address of a gRPC health service, or the absolute path of a file.
    seconds
        How old the file may be; how long an answer may take.
    """
    return _file_problem(Path(what), seconds) if "/" in what else _service_problem(what, seconds)


def _file_problem(path: Path, seconds: float) -> str:
    try:
        age = time.time() - path.stat().st_mtime
    except OSError as error:
        return f"{path}: {error.strerror}"
    return f"{path}: last touched {age:.0f} s ago, {seconds:g} s are allowed" if age > seconds else ""


def _service_problem(address: str, seconds: float) -> str:
    with grpc.insecure_channel(address) as channel:
        service = health_pb2_grpc.HealthStub(channel)
        try:
            answer = service.Check(health_pb2.HealthCheckRequest(), timeout=seconds)
        except grpc.RpcError as error:
            return f"{address}: {error.code().name}"
    serving = health_pb2.HealthCheckResponse.SERVING
    return "" if answer.status == serving else f"{address}: health service answered {answer.status}"


def main() -> None:
    """Run the command."""
    arguments = parser().parse_args()
    sys.exit(health_problem(arguments.what, arguments.seconds) or 0)


if __name__ == "__main__":
    main()
