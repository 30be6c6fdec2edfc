import pytest


@pytest.fixture(autouse=True)
def _without_fsync(monkeypatch):
    """Spare the disk: these tests pull no plug."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
