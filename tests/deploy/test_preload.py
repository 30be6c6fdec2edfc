"""What the launcher imports beforehand must survive a fork; each import is in a process of its own."""

import subprocess
import sys

import pytest

from deploy.warm_executor import PRELOADED
from tests.support.processes import PROJECT

pytestmark = pytest.mark.slow

PRELOAD = """
import sys
from deploy.warm_executor import preload
preload(sys.argv[1])
print(*sorted({"json.tool", "preloaded_module"} & sys.modules.keys()), flush=True)
"""
"""Whatever threads and modules other tests have brought into this process, a new one has none of them."""
THEN_ONE_USES_THE_GPU = """
import torch
torch.cuda.is_initialized = lambda: True
preload("json.tool")
"""
STARTS_A_THREAD = (
    "import threading\nthreading.Thread(target=threading.Event().wait, name='busy', daemon=True).start()\n"
)


def preloaded(modules, folder, then=""):
    """Preload modules, of which one may lie in a folder."""
    return subprocess.run(
        [sys.executable, "-c", PRELOAD + then, modules],
        env={"PYTHONPATH": f"{PROJECT}:{folder}"},
        capture_output=True,
        timeout=120,
        text=True,
        check=False,
    )


@pytest.fixture
def module(tmp_path):
    """Write a module; return its name."""

    def write(source):
        (tmp_path / "preloaded_module.py").write_text(source)
        return "preloaded_module"

    return write


def test_modules_are_imported(module, tmp_path):
    done = preloaded(f" json.tool , {module('')},", tmp_path)
    assert (done.returncode, done.stdout.split()) == (0, ["json.tool", "preloaded_module"]), done.stderr


def test_one_that_is_not_installed_is_left_out_with_a_warning(tmp_path):
    done = preloaded("no_such_module_here,json.tool", tmp_path)
    assert (done.returncode, done.stdout.split()) == (0, ["json.tool"]), done.stderr
    assert "--preload: no_such_module_here cannot be imported" in done.stderr


def test_one_that_starts_a_thread_is_refused(module, tmp_path):
    done = preloaded(module(STARTS_A_THREAD), tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "--preload preloaded_module: one of these starts threads (MainThread, busy)" in done.stderr


@pytest.fixture(scope="module")
def by_default(tmp_path_factory):
    """Preload what is preloaded by default, which takes seconds, and then a module that uses the GPU."""
    return preloaded(PRELOADED, tmp_path_factory.mktemp("none"), THEN_ONE_USES_THE_GPU)


def test_what_is_preloaded_by_default_passes(by_default):
    assert by_default.stdout == "\n", by_default.stderr
    assert "cannot be imported" not in by_default.stderr


def test_one_that_uses_the_gpu_is_refused(by_default):
    assert by_default.returncode == 1
    assert "--preload json.tool: one of these uses the GPU" in by_default.stderr


def test_the_app_is_never_imported_beforehand():
    packages = {name.split(".")[0] for name in PRELOADED.split(",")}
    assert not packages & {"client_app", "server_app", "strategies", "models", "data", "protocol"}
