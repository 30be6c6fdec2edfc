"""The image is built, and docker-compose.yaml runs a federation from it: real containers, networks and users.

The engine is podman, the base a Debian made by debootstrap, since there may be neither Docker nor a registry.
``MOTLEY_IMAGE_CACHE=/some/folder`` keeps the base and downloads for the next time.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.deploy.composition import COMPLETED, HEALTHY, Composition, Service
from tests.deploy.image.engine import Engine, container, missing
from tests.deploy.test_compose_commands import run_from_outside
from tests.support.processes import PROJECT, free_port, wait_for

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

HERE = Path(__file__).parent / "image"
PYTHON = {"python_version": "3.11", "python_full_version": "3.11.2"}
"""Of the base."""
BASE, IMAGE = "localhost/motley-base", "localhost/motley-image"
DECOYS = (
    ".git/config",
    ".env",
    ".venv/bin/python",
    "certificates/nodes/hospital-a/node.key",
    "runs/run/settings.json",
    "data/private.csv",
    "deploy/__pycache__/alive.pyc",
    "docker/certificates/ca.key",
    "server_app/app.py",
)
REACHABLE = """
import socket, sys
for host, port in {pairs}:
    try:
        socket.create_connection((host, port), 3).close()
        sys.stdout.write(f"{{host}}:{{port}} ")
    except OSError:
        pass
"""


@pytest.fixture(scope="module")
def engine():
    folder = Path(tempfile.mkdtemp(prefix="motley-", dir="/var/tmp"))
    kept = os.environ.get("MOTLEY_IMAGE_CACHE")
    cache = Path(kept) if kept else folder / "cache"
    made = Engine(folder, cache)
    try:
        if not (cache / "base.tar").exists():
            subprocess.run([HERE / "make_base.sh", cache], check=True, capture_output=True, timeout=600)
        made.podman("import", "--quiet", str(cache / "base.tar"), BASE)
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def image(engine) -> str:
    file = PROJECT / "docker" / "Dockerfile"
    engine.build(PROJECT, f"--build-arg=BASE={BASE}", f"--file={file}", f"--tag={IMAGE}")
    return IMAGE


@pytest.fixture(scope="module")
def packages(engine, image) -> dict[str, str]:
    program = (HERE / "packages.py").read_text()
    output = engine.podman("run", "--rm", "--read-only", "--network=none", image, "python", "-c", program)
    return json.loads(output)


@pytest.fixture(scope="module")
def added(engine, image) -> set[str]:
    lines = engine.podman("diff", image, BASE).splitlines()
    return {path for change, path in (line.split(" ", 1) for line in lines) if change in "AC"}


def test_nothing_private_reaches_the_build(engine, tmp_path):
    for name in (*DECOYS, "deploy/alive.py", "LICENSE", "pyproject.toml"):
        (tmp_path / "context" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "context" / name).write_text("decoy")
    shutil.copyfile(PROJECT / ".dockerignore", tmp_path / "context" / ".dockerignore")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    engine.build(tmp_path / "context", f"--file={tmp_path}/Dockerfile", f"--output={tmp_path}/seen")
    seen = {
        str(path.relative_to(tmp_path / "seen")) for path in (tmp_path / "seen").rglob("*") if path.is_file()
    }
    assert seen == {"deploy/alive.py", "LICENSE", "pyproject.toml"}


def test_packages_are_the_locks_without_the_developers(packages):
    lines = (PROJECT / "requirements.lock").read_text().splitlines()
    needed = [
        entry for entry in map(Requirement, lines) if entry.marker is None or entry.marker.evaluate(PYTHON)
    ]
    locked = {entry.name.lower(): str(entry.specifier) for entry in needed}
    assert {"torch", "torchvision", "flwr", "ray"} <= packages.keys()
    wrong = {name: version for name, version in packages.items() if locked.get(name) != f"=={version}"}
    assert not wrong
    assert not {"pytest", "mypy", "ruff", "hypothesis", "onnx", "podman-compose", "pip"} & packages.keys()


def test_it_runs_as_a_user_without_rights_and_says_what_it_is_for(engine, image):
    config = json.loads(engine.podman("inspect", image))[0]["Config"]
    assert config["User"] == "10001:10001"
    assert config["Env"][1] == "PYTHONPATH=/opt/motley"
    assert "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1" in config["Env"]
    assert "Entrypoint" not in config
    assert (PROJECT / "docker" / "roles.txt").read_text() in engine.podman(
        "run", "--rm", "--network=none", image
    )


def test_only_what_belongs_there_was_added(added):
    users = {
        f"/etc/{name}{end}"
        for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")
        for end in ("", "-")
    }
    expected = users | {"/etc", "/etc/.pwd.lock", "/opt", "/certificates", "/data", "/public", "/runs"}
    others = {
        path for path in added if not path.startswith(("/opt/venv", "/opt/motley", "/state"))
    } - expected
    assert not others
    own = {path for path in added if path.startswith("/opt/motley/") and path.count("/") == 3}
    assert own == {"/opt/motley/LICENSE", "/opt/motley/roles.txt", "/opt/motley/deploy"}


def test_no_key_and_nothing_of_the_builds_surroundings_is_left(engine, image, added):
    names = {path.rsplit("/", 1)[1] for path in added}
    assert not names & {
        ".git",
        "pip.conf",
        "uv.toml",
        "node.key",
        "ca.key",
        "server.key",
        "executor.secret",
        ".env",
    }
    described = engine.podman("inspect", image)
    assert not re.search(r"PIP_|UV_|INDEX|ca-bundle|https?://", described), described
    left = engine.podman("run", "--rm", "--network=none", "--user=0", image, "ls", "-A", "/root", "/run")
    assert "secrets" not in left
    assert ".cache" not in left


@pytest.fixture(scope="module")
def federation(engine, image, tmp_path_factory) -> tuple[Composition, str]:
    """The compose file's services, all started and healthy; and the Control API's address."""
    compose = Composition(tmp_path_factory.mktemp("compose"))
    control, fleet = (f"127.0.0.1:{free_port()}" for _ in range(2))
    names = {"MOTLEY_IMAGE": image, "MOTLEY_CONTROL": control, "MOTLEY_FLEET": fleet}
    engine.compose("run", "--rm", "certificates", **names)
    for service in compose.in_order():
        for name, condition in service.waits_for.items():
            be_ready(engine, compose.services[name], condition)
        engine.compose("up", "--detach", "--no-deps", service.name)
    for service in compose.in_order():
        if service.health_check:
            be_ready(engine, service, HEALTHY)
    return compose, control


def be_ready(engine: Engine, service: Service, condition: str) -> None:
    """Wait for a container; its health check is run from here, for podman leaves that to systemd."""
    name = container(service.name)
    if condition == COMPLETED:
        assert engine.podman("wait", name).strip() == "0", engine.logs(service.name)
    else:
        wait_for(lambda: engine.succeeds("healthcheck", "run", name), 180, name)


def test_a_federation_runs(engine, federation, tmp_path):
    _, control = federation
    engine.podman("cp", f"{container('superlink')}:/certificates/ca.pem", str(tmp_path / "ca.pem"))
    done = run_from_outside(control, str(tmp_path / "ca.pem"), f"{tmp_path}/outside", sites=4)
    assert done.returncode == 0, done.stdout
    engine.podman("cp", f"{container('serverapp')}:/state/motley/runs", str(tmp_path))
    [folder] = (tmp_path / "runs").iterdir()
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert [line["nodes"]["answered"] for line in rounds] == [4, 4], done.stdout
    state = engine.inside(
        "clientapp-a", "import os; print(*os.listdir('/state/clients/" + folder.name + "'))"
    )
    assert state.split() == ["hospital-a"]


@pytest.mark.usefixtures("federation")
class TestWhatRuns:
    def test_is_shut_in(self, engine):
        for service in ("superlink", "serverapp", "supernode-b", "clientapp-b"):
            status = engine.inside(service, "import sys; sys.stdout.write(open('/proc/self/status').read())")
            facts = dict(line.split(":", 1) for line in status.splitlines())
            assert facts["Uid"].split() == ["10001"] * 4
            assert {facts[name].strip("\t0") for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {""}
            assert facts["NoNewPrivs"].strip() == "1"
            for path in ("/opt/motley/new", "/etc/new", "/certificates/new"):
                assert not engine.succeeds("exec", container(service), "touch", path), (service, path)

    def test_holds_its_own_secrets_only(self, engine):
        held = {
            service: set(engine.podman("exec", container(service), "ls", "/certificates").split())
            for service in ("superlink", "serverapp", "supernode-a", "clientapp-a")
        }
        assert held == {
            "superlink": {"ca.pem", "executor.secret", "server.key", "server.pem"},
            "serverapp": {"ca.pem", "executor.secret"},
            "supernode-a": {"ca.pem", "executor.secret", "node.key", "node.pub"},
            "clientapp-a": {"executor.secret"},
        }

    @pytest.mark.parametrize(
        ("service", "reached"),
        [
            ("clientapp-a", ["runtime:8001"]),
            ("supernode-a", ["superlink:8000", "superlink:9092", "runtime:8001"]),
            ("superlink", ["superlink:8000", "superlink:9092"]),
            ("serverapp", ["superlink:8000", "superlink:9092"]),
        ],
    )
    def test_reaches_whom_it_must_and_nobody_else(self, engine, service, reached):
        superlink = [("superlink", 8000), ("superlink", 9092)]
        pairs = [*superlink, ("runtime", 8001), ("supernode-b", 8001), ("clientapp-b", 8001)]
        assert engine.inside(service, REACHABLE.format(pairs=pairs)).split() == reached

    def test_has_no_way_out_where_an_apps_code_runs(self, engine):
        for service in ("clientapp-a", "serverapp"):
            routes = engine.podman("exec", container(service), "cat", "/proc/net/route").splitlines()[1:]
            assert routes
            assert not [route for route in routes if route.split()[1] == "00000000"], service


def test_all_end_when_told_to_and_start_again(engine, federation):
    compose, _ = federation
    running = [service.name for service in compose.in_order() if service.health_check]
    began = time.monotonic()
    engine.podman("stop", "--time", "30", *(container(name) for name in running))
    assert time.monotonic() - began < 30
    for name in running:
        assert engine.podman("inspect", container(name), "--format={{.State.ExitCode}}").strip() in (
            "0",
            "143",
        )
    for name in ("superlink", "supernode-a", "clientapp-a"):
        engine.podman("start", container(name))
    for name in ("superlink", "supernode-a", "clientapp-a"):
        be_ready(engine, compose.services[name], HEALTHY)
    wait_for(lambda: engine.logs("supernode-a").count("SuperNode ID") == 2, 60, "the node")
    nodes = re.findall(r"SuperNode ID: (\d+)", engine.logs("supernode-a"))
    assert nodes[0] == nodes[1], "a registered node keeps its id"
