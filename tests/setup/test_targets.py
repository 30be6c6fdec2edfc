"""What the Makefile's targets run, with and without a space in the path, and which of them set nothing up."""

import json
import re

import pytest

from tests.support.processes import PROJECT

MAKEFILE = (PROJECT / "Makefile").read_text()
anywhere = pytest.mark.parametrize("clone", ["motley", "a b/motley"], indirect=True, ids=["plain", "space"])
TARGETS = re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE)


def commands(done):
    """Return what the commands of a target printed of themselves: name, version, folder, arguments."""
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


@anywhere
@pytest.mark.parametrize("target", ["help", "stop", "clean"])
def test_what_only_looks_or_ends_sets_nothing_up(clone, target):
    before = clone.seen()
    assert clone.make(target).returncode == 0
    assert clone.seen() == before


def test_pinning_versions_sets_nothing_up(clone):
    done = clone.make("--dry-run", "lock")
    assert done.returncode == 0
    assert "pip compile" in done.stdout
    assert "setup.sh" not in done.stdout


def test_stop_tells_when_nothing_runs(clone):
    assert clone.make("stop").stdout == "no local SuperLink is running\n"


@pytest.mark.slow
def test_clean_removes_the_environment_and_what_is_left_of_others(clone):
    clone.set_up()
    (clone.folder / ".venv.new.1").mkdir()
    assert clone.make("clean").returncode == 0
    assert clone.environments() == set()


@pytest.mark.parametrize("arguments", [(), ("help",)])
def test_each_target_is_told_in_a_line(clone, arguments):
    lines = clone.make(*arguments).stdout.splitlines()
    assert [line.split()[0] for line in lines] == TARGETS
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)


def test_no_target_is_taken_for_a_file():
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)", MAKEFILE, flags=re.MULTILINE)[1]
    assert sorted(phony.replace("\\\n", " ").split()) == sorted(TARGETS)


@pytest.mark.slow
@anywhere
def test_runs_are_started_in_an_empty_folder_of_the_clone(clone):
    ((name, _, folder, run, app, *flags),) = commands(clone.make("smoke"))
    assert (name, run, app) == ("flwr", "run", "..")
    assert folder == str(clone.folder / ".superlink")
    assert not list((clone.folder / ".superlink").iterdir())
    assert flags[-2:] == ["--run-config", "../recipes/smoke.toml"]


@pytest.mark.slow
@anywhere
@pytest.mark.parametrize("target", ["test-fast", "test", "test-deploy"])
def test_tests_run_in_the_developers_environment(clone, target):
    ((name, _, folder, *_),) = commands(clone.make(target))
    assert (name, folder) == ("pytest", str(clone.folder))
    assert (clone.folder / ".venv" / ".ready").read_text().startswith("requirements-dev.lock")


@pytest.mark.slow
@anywhere
def test_lint_runs_ruff_and_mypy(clone):
    called = [(name, *arguments) for name, _, _, *arguments in commands(clone.make("lint"))]
    assert called == [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)]
