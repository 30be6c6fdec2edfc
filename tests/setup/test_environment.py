"""``make setup`` makes a new environment beside the old one, which takes its place only when it is whole."""

import shutil
import signal
import subprocess

import pytest

from tests.setup.clone import write_wheel
from tests.support.processes import BIN, wait_for

pytestmark = pytest.mark.slow

STAMP = ".venv/.ready"
anywhere = pytest.mark.parametrize("clone", ["motley", "a b/motley"], indirect=True, ids=["plain", "space"])


@anywhere
def test_an_environment_is_made_and_works_where_it_lies(clone):
    clone.set_up()
    assert clone.version() == "1.0"
    assert clone.environments() == {".venv"}


def test_it_goes_on_working_when_the_clone_is_moved(clone):
    clone.set_up()
    clone.folder = clone.folder.rename(clone.folder.with_name("elsewhere"))
    assert clone.version() == "1.0"


@pytest.mark.parametrize("clone", ["a b/motley", "a,b/motley"], indirect=True)
def test_where_flower_could_not_read_its_path_it_lies_in_the_cache(clone):
    clone.set_up()
    (place,) = clone.cached()
    assert (clone.folder / ".venv").readlink() == place
    clone.lock("2.0")
    clone.set_up()
    assert clone.version() == "2.0"
    assert clone.cached() == [place]
    clone.set_up("clean")
    assert clone.cached() == []
    assert clone.environments() == set()


@pytest.mark.parametrize("clone", ["a b/motley"], indirect=True)
def test_a_cache_that_flower_could_not_read_either_is_refused_by_name(clone, tmp_path):
    done = clone.make("setup", XDG_CACHE_HOME=str(tmp_path / "c d"))
    assert done.returncode != 0
    assert f"nor {tmp_path}/c d/motley/environments may have a space or a comma" in done.stderr


def test_a_clone_may_move_between_paths_with_and_without_a_space(clone):
    clone.set_up("setup-dev")
    for name, cached in (("a b", 1), ("c d", 2), ("ab", 2)):
        clone.folder = clone.folder.rename(clone.folder.with_name(name))
        assert clone.version() == "1.0"
        clone.set_up()
        assert clone.version() == "1.0"
        assert (clone.folder / STAMP).read_text().startswith("requirements-dev.lock")
        assert len(clone.cached()) == cached
    clone.lock("2.0")
    clone.set_up()
    assert clone.version() == "2.0"
    assert not (clone.folder / ".venv").is_symlink()


@pytest.mark.parametrize("clone", ["a b/motley"], indirect=True)
def test_a_cache_that_was_emptied_is_filled_again(clone):
    clone.set_up()
    shutil.rmtree(clone.environment["HOME"])
    clone.set_up()
    assert clone.version() == "1.0"


def test_bytecode_is_compiled_even_where_python_writes_none(clone):
    assert clone.environment["PYTHONDONTWRITEBYTECODE"] == "1"
    clone.set_up()
    assert list(clone.folder.glob(".venv/lib/*/site-packages/__pycache__/tool.*.pyc"))


@anywhere
def test_an_unchanged_lock_makes_nothing_anew(clone):
    clone.set_up()
    before = clone.seen()
    clone.set_up()
    assert clone.seen() == before


@anywhere
def test_a_newer_lock_renews_the_environment(clone):
    clone.set_up()
    clone.lock("2.0")
    done = clone.make("setup")
    assert "setup: .venv is renewed" in done.stderr
    assert clone.version() == "2.0"
    assert clone.environments() == {".venv"}


@anywhere
def test_a_newer_lock_without_network_fails_and_leaves_the_old_environment_working(clone):
    clone.set_up()
    before = clone.seen()
    clone.lock("3.0")
    done = clone.make("setup")
    assert done.returncode != 0
    assert "tool==3.0" in done.stderr
    assert "setup: not all of requirements.lock could be installed" in done.stderr
    assert "the environment could not be renewed; .venv is what it was and goes on working" in done.stderr
    assert clone.version() == "1.0"
    assert clone.seen() == before


def test_a_first_set_up_that_fails_leaves_nothing(clone):
    clone.lock("3.0")
    assert clone.make("setup").returncode != 0
    assert clone.environments() == set()


def test_the_developers_environment_serves_users_too(clone):
    clone.set_up("setup-dev")
    before = clone.seen()
    clone.set_up("setup")
    assert clone.seen() == before
    clone.lock("2.0")
    clone.set_up("setup")
    assert (clone.folder / STAMP).read_text().startswith("requirements-dev.lock default\n# developers\n")


def test_a_users_environment_becomes_the_developers(clone):
    clone.set_up("setup")
    assert (clone.folder / STAMP).read_text() == "requirements.lock default\ntool==1.0\n"
    clone.set_up("setup-dev")
    assert (clone.folder / STAMP).read_text() == "requirements-dev.lock default\n# developers\ntool==1.0\n"


@pytest.mark.parametrize("target", ["setup", "setup-dev", "clean"])
def test_a_link_of_the_users_is_never_changed(clone, tmp_path, target):
    clone.set_up()
    (clone.folder / ".venv").rename(tmp_path / "elsewhere")
    (clone.folder / ".venv").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "own.txt").write_text("the user's")
    clone.lock("2.0")
    before = clone.seen(), sorted((tmp_path / "elsewhere").rglob("*"))
    done = clone.make(target)
    assert done.returncode == 0, done.stderr
    assert (clone.seen(), sorted((tmp_path / "elsewhere").rglob("*"))) == before
    assert (clone.folder / ".venv").is_symlink()
    assert clone.version() == "1.0"
    assert target == "clean" or ".venv is a link, so it is yours" in done.stderr


def test_a_link_to_no_environment_is_named_and_left(clone, tmp_path):
    (clone.folder / ".venv").symlink_to(tmp_path / "nowhere")
    done = clone.make("setup")
    assert done.returncode != 0
    assert f".venv is a link to {tmp_path / 'nowhere'}, where no environment is" in done.stderr
    assert (clone.folder / ".venv").is_symlink()
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_set_up_has_not_made_is_left_alone(clone):
    (clone.folder / ".venv").mkdir()
    (clone.folder / ".venv" / "own.txt").write_text("the user's")
    done = clone.make("setup")
    assert done.returncode != 0
    assert ".venv was not made by `make setup`; move it elsewhere, or remove it" in done.stderr
    assert (clone.folder / ".venv" / "own.txt").read_text() == "the user's"


@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_set_up_breaks_neither_the_old_environment_nor_the_next_set_up(clone, way):
    clone.set_up()
    clone.lock("2.0")
    clone.command('case $1 in pip) sleep 60 ;; *) exec "$UV" "$@" ;; esac')
    command = ["sh", "setup.sh", "requirements.lock"]
    process = subprocess.Popen(command, cwd=clone.folder, env=clone.environment, start_new_session=True)
    wait_for(lambda: list(clone.folder.glob(".venv.new.*/bin/python")), 30, "the new environment")
    subprocess.run(["kill", f"-{way.value}", "--", f"-{process.pid}"], check=True)
    assert process.wait(10) != 0
    assert clone.version() == "1.0"
    clone.command('exec "$UV" "$@"')
    clone.set_up()
    assert clone.version() == "2.0"
    assert clone.environments() == {".venv"}


@anywhere
def test_an_environment_that_was_being_replaced_is_put_back(clone):
    clone.set_up()
    ended = subprocess.Popen(["true"])
    ended.wait()
    place = (clone.folder / ".venv").resolve()
    place.rename(f"{place}.old.{ended.pid}")
    clone.lock("3.0")
    assert clone.make("setup").returncode != 0
    assert clone.version() == "1.0"
    assert [path.name for path in place.parent.glob(f"{place.name}*")] == [place.name]


def test_what_another_set_up_is_making_is_left_alone(clone):
    with subprocess.Popen(["sleep", "60"]) as other:
        (clone.folder / f".venv.new.{other.pid}").mkdir()
        clone.set_up()
        assert clone.environments() == {".venv", f".venv.new.{other.pid}"}
        other.kill()


def test_pythons_that_are_too_old_are_refused(clone, tmp_path):
    old = tmp_path / "old python"
    old.write_text('#!/bin/sh\nexec "$REAL" -c "import sys; sys.version_info = (3, 10)\n$2"\n')
    old.chmod(0o755)
    done = clone.make("setup", PYTHON=str(old), REAL=clone.environment["PYTHON"])
    assert done.returncode != 0
    assert "setup: Python 3.11 or newer is needed" in done.stderr
    assert clone.environments() == set()


def test_torch_without_cuda_is_installed_from_its_own_index_without_cudas_packages(clone):
    clone.lock("1.0", "torch==2.15.0", "nvidia-cublas==13.4", "cuda-toolkit==13.2 ; sys_platform == 'linux'")
    clone.command(
        'for given; do last=$given; done; case $1 in pip) printf "%s " "$@" >said; cp "$last" wanted ;; '
        '*) exec "$UV" "$@" ;; esac'
    )
    clone.set_up("setup", "TORCH=cpu")
    assert "pip install --quiet" in (clone.folder / "said").read_text()
    assert "--torch-backend cpu --requirement" in (clone.folder / "said").read_text()
    assert (clone.folder / "wanted").read_text() == "tool==1.0\ntorch==2.15.0\n"
    before = clone.seen()
    clone.set_up("setup")
    assert clone.seen() == before, "the choice stays made"
    clone.set_up("setup", "TORCH=default")
    assert "--torch-backend" not in (clone.folder / "said").read_text()


def test_another_build_of_torch_is_refused_by_name(clone):
    done = clone.make("setup", "TORCH=gpu")
    assert done.returncode != 0
    assert "setup: TORCH=gpu: must be default (what the package index has) or cpu" in done.stderr


def test_where_uv_is_missing_pip_brings_it(clone, tmp_path):
    (clone.commands / "uv").unlink()
    done = clone.make("setup")
    assert done.returncode != 0
    assert "setup: uv is missing, and pip could not bring it" in done.stderr
    assert clone.environments() == set()
    script = f"#!/bin/sh\nexec '{BIN / 'uv'}' \"$@\"\n"
    write_wheel(tmp_path / "wheels", "uv", "1.0", {"uv-1.0.data/scripts/uv": script})
    clone.set_up(PIP_FIND_LINKS=str(tmp_path / "wheels"))
    assert clone.version() == "1.0"
    assert clone.environments() == {".venv"}
