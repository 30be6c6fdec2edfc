"""Nodes that must not take part: another CA, no key, older code, another public pool. The others go on."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.data.on_disk import encoded, image_parquet
from tests.faults.conftest import state_of
from tests.faults.settings import CLIENTS, SCARLET
from tests.faults.story import Story
from tests.support.processes import PROJECT
from tests.support.sites import Sites, await_result, node_config

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

PACKAGES = ("server_app", "client_app", "strategies", "models", "data", "protocol")
POOL_SIZE = 120
ROUNDS = 4


def pool(folder: Path, seed: int) -> Path:
    """Write a public pool of grey images."""
    folder.mkdir()
    pixels = np.random.default_rng(seed).integers(0, 256, (POOL_SIZE, 8, 8), dtype=np.uint8)
    return image_parquet(folder, [encoded(image) for image in pixels], labels=None, name="pool.parquet")


def older_app(folder: Path) -> Path:
    """Copy the app and change a line, as an older version differs."""
    for package in PACKAGES:
        shutil.copytree(PROJECT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    source = folder / "strategies" / "clock.py"
    source.write_text(source.read_text().replace("0.1", "0.2"))
    return folder


@pytest.fixture(scope="module")
def story(federation: Sites, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Provide a run whose public pool is a file of its own."""
    folder = tmp_path_factory.mktemp("strangers")
    own, other = pool(folder / "own", 0), pool(folder / "other", 1)
    settings = {**SCARLET, "num-rounds": ROUNDS, "public.source": str(own), "public.size": POOL_SIZE}
    told = Story(federation, {**settings, "public.subset-size": 40, "train.epochs": 1})
    start_strangers(federation, folder, other)
    told.begin()
    return told


def start_strangers(federation: Sites, folder: Path, other_pool: Path) -> None:
    """Start the four nodes that must be refused."""

    def config(client: str, **more: str) -> str:
        names = {"client-name": client, "state-dir": str(state_of(federation, client)), **more}
        return node_config(**names, partition_id=0, num_partitions=len(CLIENTS))

    federation.module(
        "deploy.certificates", "create", str(folder / "theirs"), "--server-names", "10.77.0.1", "--nodes", "x"
    )
    theirs = str(folder / "theirs" / "authority" / "ca.pem")
    federation.start_site("other-ca", config("other-ca"), authority=theirs)
    federation.start_site("no-key", config("no-key"))
    federation.start_site("other-pool", config("other-pool", public_path=str(other_pool)))
    path = f"{older_app(folder / 'older')}:{federation.folder / 'path'}"
    older = ["env", f"PYTHONPATH={path}", sys.executable, "-m", "deploy.warm_executor"]
    federation.start_site("old-code", config("old-code"), [*older, "--preload", "torch,client_app.app"])


def refusals(story: Story, client: str) -> list[str]:
    """Return what the run's log says of a refused client."""
    return [line for line in story.log().splitlines() if "refused" in line and f"'{client}'" in line]


def test_a_node_that_trusts_another_ca_does_not_connect(story):
    processes = story.federation.processes
    await_result(lambda: processes.starts("other-ca-supernode") > 1, 90, "the end of that SuperNode")
    said = processes.log("other-ca-supernode")
    processes.dismiss("other-ca-supernode")
    processes.dismiss("other-ca-launcher")
    assert "CERTIFICATE_VERIFY_FAILED" in said or "handshake" in said.lower()


def test_a_node_whose_key_is_not_registered_is_sent_away(story):
    processes = story.federation.processes
    await_result(lambda: processes.starts("no-key-supernode") > 1, 90, "the end of that SuperNode")
    said = processes.log("no-key-supernode")
    processes.dismiss("no-key-supernode")
    processes.dismiss("no-key-launcher")
    story.keep("unregistered key: said", said[-300:])
    assert "Failed to initialize the connection" in said


@pytest.mark.parametrize(
    ("client", "why"), [("other-pool", "its public pool is"), ("old-code", "its code is")]
)
def test_a_node_that_differs_is_refused_at_its_hello_with_both_sides_named(story, client, why):
    lines = await_result(lambda: refusals(story, client), 150, f"the refusal of {client}")
    story.federation.processes.dismiss(f"{client}-supernode")
    story.federation.processes.dismiss(f"{client}-launcher")
    assert f"client '{client}': {why}" in lines[0]
    assert "the server's is" in lines[0]


def test_the_others_go_on(story):
    await_result((story.folder() / "summary.txt").exists, 150, "the end of the run")
    assert [line["nodes"]["answered"] for line in story.lines()] == [len(CLIENTS)] * ROUNDS
