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
{before}
preload(sys.argv[1])
print(*sorted({{"json.tool", "preloaded_module"}} & sys.modules.keys()))
"""
"""Whatever threads and modules other tests have brought into this process, a new one has none of them."""
USES_THE_GPU = "import torch; torch.cuda.is_initialized = lambda: True"
STARTS_A_THREAD = (
    "import threading\nthreading.Thread(target=threading.Event().wait, name='busy', daemon=True).start()\n"
)


def preloaded(modules, folder, before=""):
    """Preload modules, of which one may lie in a folder."""
    return subprocess.run(
        [sys.executable, "-c", PRELOAD.format(before=before), modules],
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


def test_one_that_uses_the_gpu_is_refused(tmp_path):
    done = preloaded("json.tool", tmp_path, before=USES_THE_GPU)
    assert (done.returncode, done.stdout) == (1, "")
    assert "--preload json.tool: one of these uses the GPU" in done.stderr


def test_one_that_starts_a_thread_is_refused(module, tmp_path):
    done = preloaded(module(STARTS_A_THREAD), tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "--preload preloaded_module: one of these starts threads (MainThread, busy)" in done.stderr


def test_what_is_preloaded_by_default_passes(tmp_path):
    done = preloaded(PRELOADED, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cannot be imported" not in done.stderr


def test_the_app_is_never_imported_beforehand():
    packages = {name.split(".")[0] for name in PRELOADED.split(",")}
    assert not packages & {"client_app", "server_app", "strategies", "models", "data", "protocol"}
