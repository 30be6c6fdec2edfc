"""Users' lock and developers' lock: what a run needs, and that with what tests and checks need."""

import re
import tomllib
from importlib.metadata import distributions

import pytest
from packaging.requirements import Requirement

from tests.support.processes import PROJECT

LOCKS = {name: (PROJECT / name).read_text() for name in ("requirements.lock", "requirements-dev.lock")}
USERS, DEVELOPERS = (
    [Requirement(line) for line in LOCKS[name].splitlines()]
    for name in ("requirements.lock", "requirements-dev.lock")
)
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
CUDA = re.compile(re.search(r"^cuda='(.*?)'", (PROJECT / "setup.sh").read_text(), flags=re.MULTILINE)[1])


def names(requirements):
    return {requirement.name.lower().replace("_", "-") for requirement in requirements}


def needed(distribution):
    """Return the names of what an installed package needs here, without its extras."""
    found = [Requirement(line) for line in distribution.requires or ()]
    return names(one for one in found if one.marker is None or one.marker.evaluate({"extra": ""}))


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_names_versions_and_markers_only(lock):
    for line in LOCKS[lock].splitlines():
        assert re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*( ; [^@/]+)?", line), line


def test_both_locks_agree_on_what_they_share():
    versions = {(one.name, str(one.specifier)) for one in DEVELOPERS}
    assert {(one.name, str(one.specifier)) for one in USERS} <= versions


def test_users_are_spared_what_only_developers_need():
    dependencies = names(map(Requirement, PYPROJECT["project"]["dependencies"]))
    developers = names(map(Requirement, PYPROJECT["dependency-groups"]["dev"]))
    assert dependencies <= names(USERS)
    assert developers <= names(DEVELOPERS)
    assert not names(USERS) & {
        "pytest",
        "mypy",
        "ruff",
        "hypothesis",
        "podman-compose",
        "onnx",
        "onnxruntime",
        "timm",
    }
    assert names(USERS) & developers <= {"pyyaml", "packaging"}, "a run needs these two anyway"


def test_nothing_needs_what_the_choice_of_torch_without_cuda_leaves_out():
    left_out = {name for name in names(DEVELOPERS) if CUDA.match(f"{name}==")}
    assert {"nvidia-cublas", "nvidia-nccl-cu13", "cuda-toolkit", "triton"} <= left_out
    kept = [one for one in distributions() if one.metadata["Name"].lower().replace("_", "-") not in left_out]
    assert {one.metadata["Name"] for one in kept if needed(one) & left_out} <= {"torch"}
