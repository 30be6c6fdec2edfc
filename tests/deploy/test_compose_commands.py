"""docker-compose.yaml's own commands make a federation: as real processes, with TLS and authentication."""

import json
import os
import subprocess

import pytest

from tests.deploy.composition import COMPLETED, HEALTHY, Composition
from tests.deploy.loopback import Loopback
from tests.support.processes import BIN, PROJECT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(540)]

RUN = "num-rounds=2 train.epochs=1 distillation.epochs=1 public.size=120 public.subset-size=40"
SITES = ("a", "d")
"""All sites are alike but for their names; two of them take half the time."""


def run_from_outside(
    address: str, certificate: str, folder: str, *, sites: int
) -> subprocess.CompletedProcess[str]:
    """Run ``flwr run`` as docs/containers.md says."""
    os.makedirs(folder)
    with open(f"{folder}/config.toml", "w") as config:
        config.write(f'[superlink.compose]\naddress = "{address}"\nroot-certificates = "{certificate}"\n')
    return subprocess.run(
        [
            str(BIN / "flwr"),
            "run",
            str(PROJECT),
            "compose",
            "--stream",
            "--run-config",
            f"{RUN} min-nodes={sites}",
        ],
        env={
            **os.environ,
            "FLWR_HOME": folder,
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        },
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )


def test_the_files_commands_run_a_federation(tmp_path):
    (tmp_path / "parser").mkdir()
    compose = Composition(tmp_path / "parser")
    loopback = Loopback(compose, tmp_path)
    started = [service for service in compose.in_order() if not service.name.endswith(("-b", "-c"))]
    try:
        for service in started:
            loopback.start(service)
        for service in started:
            loopback.wait_for(service, HEALTHY if service.health_check else COMPLETED)
        certificate = loopback.path(compose.services["superlink"], "/certificates/ca.pem")
        done = run_from_outside(
            loopback.address("superlink", "8000"), str(certificate), f"{tmp_path}/outside", sites=len(SITES)
        )
        log = loopback.log("superlink")
    finally:
        took = loopback.stop()

    assert done.returncode == 0, done.stdout
    [folder] = (tmp_path / "volumes" / "runs").iterdir()
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert [line["nodes"]["answered"] for line in rounds] == [2, 2], done.stdout
    assert (folder / "summary.txt").exists()
    for site in SITES:
        assert (
            tmp_path / "volumes" / f"state-{site}" / "clients" / folder.name / f"hospital-{site}"
        ).is_dir()
        assert f"Client hospital-{site} joined" in done.stdout
    assert log.count("Activated node") == len(SITES)
    assert max(took.values()) < 25, took
