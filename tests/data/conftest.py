import datasets
import pytest


@pytest.fixture(autouse=True)
def _own_caches(tmp_path_factory, monkeypatch):
    """Keep prepared images and opened data sets out of the home of whoever runs the tests."""
    caches = tmp_path_factory.mktemp("caches")
    monkeypatch.setenv("XDG_CACHE_HOME", str(caches))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", caches / "datasets")
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", caches / "downloads")
    monkeypatch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", caches / "extracted")
