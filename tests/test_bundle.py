"""What Flower ships to the nodes: the packages, nothing less and nothing more."""

import tomllib
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.common.config import validate_config

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("client_app", "custom", "data", "learning", "models", "protocol", "server_app", "strategies")
ADDED_BY_FLOWER = {"pyproject.toml", "LICENSE", ".info/CONTENT"}


@pytest.fixture(scope="module")
def bundle():
    return build_fab_from_disk(REPOSITORY)


@pytest.mark.slow
def test_the_bundle_holds_the_source_of_the_packages_and_what_flower_adds(bundle):
    sources = {
        file.relative_to(REPOSITORY).as_posix()
        for package in PACKAGES
        for file in (REPOSITORY / package).rglob("*.py")
    }
    assert set(zipfile.ZipFile(BytesIO(bundle)).namelist()) == sources | ADDED_BY_FLOWER


@pytest.mark.slow
def test_the_bundle_is_below_a_megabyte(bundle):
    assert len(bundle) < 1_000_000


def test_flower_finds_nothing_wrong_with_the_app():
    config = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    valid, errors, warnings = validate_config(config, check_module=True, project_dir=REPOSITORY)
    assert (valid, errors, warnings) == (True, [], [])
