"""Another Flower project composes our apps in two files of a few lines, and names things of its own."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.common.config import validate_config

from tests.support.processes import PROJECT

pytestmark = pytest.mark.slow

FILES = {
    "hospital/__init__.py": '"""A hospital\'s project."""\n',
    "hospital/server.py": (
        '"""The ServerApp."""\n\nfrom server_app.app import create_server_app\n\n'
        'app = create_server_app(packages=["hospital"])\n'
    ),
    "hospital/client.py": (
        '"""The ClientApp."""\n\nfrom client_app.app import create_client_app\n\n'
        'app = create_client_app(packages=["hospital"])\n'
    ),
    "hospital/networks.py": (
        '"""Our network."""\n\nimport math\n\nfrom torch import nn\n\n\n'
        "def linear(input_shape, num_classes):\n"
        '    """Return a linear network."""\n'
        "    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), num_classes))\n"
    ),
    "LICENSE": "Ours alone.\n",
    "pyproject.toml": """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "hospital"
version = "1.0.0"
description = "A hospital's project"
license = { file = "LICENSE" }
dependencies = ["flwr[simulation]>=1.39.0,<1.40", "motley"]

[tool.flwr.app]
publisher = "hospital"
fab-format-version = 1
flwr-version-target = "1.39.0"
fab-include = ["hospital/**/*.py", "LICENSE"]

[tool.flwr.app.components]
serverapp = "hospital.server:app"
clientapp = "hospital.client:app"

[tool.flwr.app.config]
strategy = "fedavg"
model = "hospital.networks:linear"
num-rounds = 2

[tool.flwr.app.config.train]
epochs = 1

[tool.flwr.app.config.custom.hospital]
rate = 0.5
""",
}
SCRIPT = """
import json, sys
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from hospital.client import app as client
from hospital.server import app as server
from protocol.errors import SettingsError
from protocol.settings import RunSettings
from simulation.run import simulate
from strategies import compose

assert isinstance(server, ServerApp) and isinstance(client, ClientApp)
settings = RunSettings.parse({**json.loads(sys.argv[1]), "output-dir": sys.argv[2]})
rounds = simulate(settings, clients=2, app=client).rounds()
compose(RunSettings.parse({"custom.hospital.rate": 0.5}))  # their default, though nothing reads it here
refused = ""
try:
    compose(RunSettings.parse({"train.loss": "hospital.losses:mine"}))
except SettingsError as error:
    refused = str(error)
print("FOUND" + json.dumps([rounds, refused]))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospital-project")
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_flower_finds_nothing_wrong_with_its_app(project: Path) -> None:
    config = tomllib.loads((project / "pyproject.toml").read_text())
    checked = validate_config(config, check_module=True, project_dir=project)
    assert checked == (True, [], [])


def test_its_bundle_learns_and_names_its_own_network(project: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    zipfile.ZipFile(BytesIO(build_fab_from_disk(project))).extractall(bundle)
    config = tomllib.loads((bundle / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    flat = {**{key: value for key, value in config.items() if not isinstance(value, dict)}, "train.epochs": 1}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(flat), str(tmp_path / "runs")],
        cwd=bundle,
        env={**os.environ, "PYTHONPATH": f"{bundle}:{PROJECT}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rounds, refused = json.loads(done.stdout.partition("FOUND")[2])
    assert [line["nodes"] for line in rounds] == [{"asked": 2, "answered": 2, "failed": []}] * 2
    assert "there is no module hospital.losses; hospital has hospital.client, hospital.networks" in refused


def test_the_two_files_are_of_a_few_lines() -> None:
    assert all(len(FILES[f"hospital/{side}.py"].splitlines()) <= 5 for side in ("server", "client"))
