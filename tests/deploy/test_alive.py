"""The check behind probes and health checks."""

import os
import subprocess
import sys
import time

import pytest
from flwr.supercore.grpc_health import run_health_server_grpc_no_tls

from deploy.alive import health_problem
from tests.support.processes import free_port


def test_a_health_service_is_asked():
    address = f"127.0.0.1:{free_port()}"
    server = run_health_server_grpc_no_tls(address)
    try:
        assert health_problem(address, 5) == ""
    finally:
        server.stop(0).wait()
    assert health_problem(address, 1) in {f"{address}: UNAVAILABLE", f"{address}: DEADLINE_EXCEEDED"}


@pytest.mark.parametrize(("age", "says"), [(0, ""), (29, ""), (31, "31 s ago, 30 s are allowed")])
def test_a_file_must_have_been_touched_lately(tmp_path, age, says):
    file = tmp_path / "alive"
    file.touch()
    then = time.time() - age
    os.utime(file, (then, then))
    found = health_problem(str(file), 30)
    assert says in found
    assert bool(found) == bool(says)


def test_a_missing_file_is_no_sign_of_life(tmp_path):
    command = [sys.executable, "-m", "deploy.alive", str(tmp_path / "alive")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "No such file or directory" in ended.stderr
