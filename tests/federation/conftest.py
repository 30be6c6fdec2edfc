"""What holds for all whole runs."""

from collections.abc import Iterator, Sequence

import pytest

import server_app.report
from server_app.round_record import RoundRecord


@pytest.fixture(scope="module", autouse=True)
def without_pictures() -> Iterator[None]:
    """Draw no curves, which takes a third of a small run's time; override where they matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_app.report, "curves", lambda lines: "<svg></svg>")
        patch.setattr(server_app.report, "submodels", _without_levels_nothing)
        yield


def _without_levels_nothing(records: Sequence[RoundRecord]) -> str:
    return "<svg></svg>" if any(record.levels for record in records) else ""
