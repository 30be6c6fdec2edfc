"""One federation of real processes for all fault tests: starting it costs more than most faults."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.settings import CLIENTS, HOSTILE, node_settings
from tests.faults.story import Story
from tests.support.network import HUB_ADDRESS, lacking
from tests.support.sites import FLEET_PORT, Sites, node_config, sites

STRANGERS = ("other-ca", "no-key", "old-code", "other-pool")
"""Sites of nodes that must be refused; each has a cable."""
REGISTERED = (*CLIENTS, "old-code", "other-pool")
DISK = "hospital-b"
"""Whose state lies on a small disk of its own."""
RELAYED = "hospital-b"
"""Who reaches the SuperLink over a relay."""
_DISK_SIZE = "3m"
_SUPPORT = Path(__file__).parents[1] / "support"


def state_of(federation: Sites, client: str) -> Path:
    """Return the folder of a client's state."""
    return federation.folder / "state" / client


def orders_of(federation: Sites) -> Path:
    """Return the file that tells the hostile node what to send."""
    return federation.folder / "orders"


def delay_of(federation: Sites) -> Path:
    """Return the file that holds the relay's delay."""
    return federation.folder / "delay"


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """Provide three honest clients and a hostile one, all up."""
    if reason := lacking():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("federation")
    with sites(folder, [*CLIENTS, *STRANGERS], registered=REGISTERED) as made:
        disk = state_of(made, DISK)
        disk.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_SIZE}", "none", str(disk)], check=True)
        try:
            _start(made)
            yield made
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture(scope="class")
def story(federation: Sites, request: pytest.FixtureRequest) -> Story:
    """Provide the run of a class of chapters."""
    told = Story(federation, request.cls.settings)
    told.begin()
    told.reaches(2, seconds=240)
    return told


def _start(federation: Sites) -> None:
    delay = delay_of(federation)
    delay.write_text("0")
    federation.start_at(
        RELAYED,
        "relay",
        [
            sys.executable,
            str(_SUPPORT / "relay.py"),
            str(FLEET_PORT),
            f"{HUB_ADDRESS}:{FLEET_PORT}",
            str(delay),
        ],
    )
    hostile = [sys.executable, str(_SUPPORT / "hostile.py"), str(orders_of(federation))]
    for client in CLIENTS:
        config = node_config(**node_settings(client, state_of(federation, client)))
        launcher = hostile if client == HOSTILE else ()
        superlink = f"127.0.0.1:{FLEET_PORT}" if client == RELAYED else f"{HUB_ADDRESS}:{FLEET_PORT}"
        federation.start_site(client, config, launcher, superlink=superlink)
