"""What the launcher imports beforehand must survive a fork."""

import gc
import sys
import threading

import pytest
import torch

from deploy.warm_executor import PRELOADED, preload


@pytest.fixture(autouse=True)
def unfrozen(monkeypatch):
    monkeypatch.setattr(gc, "freeze", lambda: None)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module; return its name."""

    def write(source):
        (tmp_path / "preloaded_module.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "preloaded_module", raising=False)
        return "preloaded_module"

    return write


def test_modules_are_imported(module):
    preload(f" json , {module('')},")
    assert "preloaded_module" in sys.modules


def test_one_that_is_not_installed_is_left_out_with_a_warning(caplog, monkeypatch):
    monkeypatch.setattr("deploy.warm_executor.log.propagate", True)
    preload("no_such_module_here,json")
    assert "--preload: no_such_module_here cannot be imported" in caplog.text


def test_one_that_uses_the_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(SystemExit, match="--preload json: one of these uses the GPU"):
        preload("json")


def test_one_that_starts_a_thread_is_refused(module):
    stop = threading.Event()
    sys.modules["stop_event"] = stop
    name = module(
        "import sys, threading\n"
        "threading.Thread(target=sys.modules['stop_event'].wait, name='busy', daemon=True).start()"
    )
    try:
        with pytest.raises(SystemExit, match=r"one of these starts threads \(.*busy.*\)"):
            preload(name)
    finally:
        stop.set()
        del sys.modules["stop_event"]


def test_the_app_is_never_imported_beforehand():
    packages = {name.split(".")[0] for name in PRELOADED.split(",")}
    assert not packages & {"client_app", "server_app", "strategies", "models", "data", "protocol"}
