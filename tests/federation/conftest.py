"""What holds for all whole runs."""

from collections.abc import Iterator

import pytest

import server_app.report


@pytest.fixture(scope="module", autouse=True)
def without_pictures() -> Iterator[None]:
    """Draw no curves, which takes a third of a small run's time; override where they matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_app.report, "curves", lambda lines: "<svg></svg>")
        patch.setattr(server_app.report, "submodels", lambda lines: "<svg></svg>" * ("levels" in lines[-1]))
        yield
