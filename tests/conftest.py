"""What holds for all tests: no deadlines of hypothesis, cheap garbage collections, no wait for the disk."""

import gc
from collections.abc import Iterator

import hypothesis
import pytest

# How long an example takes tells nothing on a busy machine.
hypothesis.settings.register_profile("motley", deadline=None)
hypothesis.settings.load_profile("motley")


def pytest_collection_finish() -> None:
    """Let no garbage collection look through what was imported: several tests, and torch, collect often."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the interpreter clear it away at its end; compiled modules complain of what is left."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _without_fsync() -> Iterator[None]:
    """Wait for no disk: power is never lost in a test, and a small run has a hundred such waits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield
