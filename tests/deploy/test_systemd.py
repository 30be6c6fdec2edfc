"""The unit files: systemd accepts them, the commands take their flags, and what they start works together."""

import os
import shutil
import subprocess
from importlib import import_module

import pytest

from deploy import supernode, warm_executor
from tests.deploy.secured import make_certificates, secured
from tests.deploy.units import SYSTEMD, Unit
from tests.support.processes import BIN, free_port, is_open, wait_for

SUPERLINK, SERVERAPP = "motley-superlink", "motley-serverapp"
SUPERNODE, CLIENTAPP = "motley-supernode@", "motley-clientapp@"
UNITS = (SUPERLINK, SERVERAPP, SUPERNODE, CLIENTAPP)
PARSERS = {
    SUPERLINK: import_module("flwr.superlink.cli.flower_superlink")._parse_args_run_superlink,
    SERVERAPP: import_module("flwr.supercore.cli.flower_superexec")._parse_args,
    SUPERNODE: supernode.parser,
    CLIENTAPP: warm_executor.parser,
}
GIVEN = {"CREDENTIALS_DIRECTORY": "/run/credentials/unit", "STATE_DIRECTORY": "/var/lib/x"}
GIVEN |= {"RUNTIME_DIRECTORY": "/run/x", "SUPERLINK": "fl.example.org:9092"}
VENV = "/opt/motley/venv/bin"
with_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze: package systemd"
)


@pytest.fixture
def copies(tmp_path):
    """Provide the units with the commands that are installed here, since systemd looks whether they exist."""
    for unit in SYSTEMD.glob("*.service"):
        (tmp_path / unit.name).write_text(unit.read_text().replace(VENV, str(BIN)))
    return tmp_path


@with_systemd
def test_systemd_has_no_complaint(copies):
    units = [str(copies / f"{unit}.service") for unit in UNITS]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


@with_systemd
@pytest.mark.parametrize(
    ("unit", "tenths"), [(SUPERLINK, 20), (SERVERAPP, 35), (SUPERNODE, 20), (CLIENTAPP, 35)]
)
def test_systemd_finds_them_little_exposed(copies, unit, tenths):
    file = copies / f"{unit}.service"
    command = [
        "systemd-analyze",
        "security",
        "--offline=true",
        f"--threshold={tenths}",
        "--no-pager",
        str(file),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-500:]


@pytest.mark.parametrize("name", UNITS)
def test_the_command_takes_the_flags(name):
    unit = Unit(name)
    executable, *arguments = unit.command(unit.environment() | GIVEN)
    modules = arguments[1:2] if arguments[0] == "-m" else []
    module = {SUPERNODE: ["deploy.supernode"], CLIENTAPP: ["deploy.warm_executor"]}.get(name, [])
    assert executable.startswith(f"{VENV}/")
    assert modules == module
    parsed = PARSERS[name]().parse_args(arguments[2 * len(modules) :])
    assert str(parsed.superexec_auth_secret_file) == "/run/credentials/unit/executor.secret"


@pytest.mark.parametrize("name", UNITS)
def test_every_file_that_a_command_is_given_is_one_that_systemd_hands_over(name):
    unit = Unit(name)
    directory = GIVEN["CREDENTIALS_DIRECTORY"]
    words = unit.command(unit.environment() | GIVEN)
    given = {word.removeprefix(f"{directory}/") for word in words if word.startswith(directory)}
    assert given == unit.credentials().keys()
    assert not [word for word in words if word.startswith("/etc")]


def test_what_runs_app_code_is_another_user_and_is_given_no_private_key():
    holders, apps = (SUPERLINK, SUPERNODE), (SERVERAPP, CLIENTAPP)
    assert {Unit(name).get("User") for name in holders} == {"motley"}
    assert {Unit(name).get("User") for name in apps} == {"motley-app"}
    users = (SYSTEMD / "motley.sysusers.conf").read_text()
    assert all(f"\nu {user} " in users for user in ("motley", "motley-app"))
    for name in apps:
        assert not {"node.key", "server.key", "ca.key"} & Unit(name).credentials().keys()
        assert Unit(name).get("IPAddressDeny") == "any"
        assert Unit(name).get("CapabilityBoundingSet") == ""


@pytest.mark.parametrize("name", [SERVERAPP, CLIENTAPP])
def test_a_launcher_finds_the_commands_that_it_starts(name):
    assert Unit(name).environment()["PATH"].split(":")[0] == VENV


def start(flower, name, etc, log):
    """Start what a unit's ExecStart says, with files in the places that systemd would fill."""
    unit = Unit(name)
    folders = {key: flower.folder / log / key for key in GIVEN if key.endswith("_DIRECTORY")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    for credential, source in unit.credentials().items():
        shutil.copy(source.replace("/etc/motley", str(etc)), folders["CREDENTIALS_DIRECTORY"] / credential)
    lines = [
        line
        for file in unit.all("EnvironmentFile")
        for line in (etc / file.removeprefix("-").removeprefix("/etc/motley/")).read_text().split()
    ]
    variables = unit.environment() | dict(line.split("=", 1) for line in lines)
    command = unit.command(variables | {key: str(folder) for key, folder in folders.items()})
    process = flower.start(log, [command[0].replace(VENV, str(BIN)), *command[1:]])
    return process, folders


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_what_the_units_start_works_together(tmp_path):
    etc = make_certificates(tmp_path / "etc", nodes="hospital-a")
    node = etc / "nodes" / "hospital-a"
    with secured(tmp_path / "flower", etc) as flower:
        (etc / "superlink/superlink.env").write_text(
            f"CONTROL_PORT={flower.http_port}\nFLEET_ADDRESS=127.0.0.1:{flower.fleet_port}\nHEALTH_PORT={free_port()}\n"
        )
        ports = f"RUNTIME_PORT={free_port()}\nHEALTH_PORT={free_port()}\n"
        (node / "node.env").write_text(f"SUPERLINK=localhost:{flower.fleet_port}\n{ports}")
        (node / "node.config").write_text("# who this is\nclient-name='hospital-a'\ndevice='cpu'\n")
        start(flower, SUPERLINK, etc, "superlink")
        wait_for(lambda: is_open(flower.http_port), 60, "the SuperLink")
        flower.register(flower.public_key("hospital-a"))
        launcher, _ = start(flower, SERVERAPP, etc, "serverapp")
        start(flower, SUPERNODE, etc, "supernode")
        _, folders = start(flower, CLIENTAPP, etc, "clientapp")
        flower.wait_for_line("supernode", "SuperNode ID:")
        wait_for(
            (folders["RUNTIME_DIRECTORY"] / "alive").exists, 60, "the SuperNode's answer to the launcher"
        )
        assert launcher.poll() is None
        assert os.listdir(flower.folder / "clientapp" / "CREDENTIALS_DIRECTORY") == ["executor.secret"]
