"""What holds for all tests: no deadlines of hypothesis, and cheap garbage collections."""

import gc

import hypothesis

# How long an example takes tells nothing on a busy machine.
hypothesis.settings.register_profile("motley", deadline=None)
hypothesis.settings.load_profile("motley")


def pytest_collection_finish() -> None:
    """Let no garbage collection look through what was imported: several tests, and torch, collect often."""
    gc.collect()
    gc.freeze()
