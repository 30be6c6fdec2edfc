import pytest

from tests.setup.clone import Clone, write_tool


@pytest.fixture
def clone(request, tmp_path):
    """A fresh clone, in a folder that a test may name, and an index with two versions of its one package."""
    for version in ("1.0", "2.0"):
        write_tool(tmp_path / "wheels", version)
    return Clone(tmp_path / getattr(request, "param", "motley"), tmp_path / "wheels")
