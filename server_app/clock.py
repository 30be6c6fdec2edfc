"""Time as the round loop sees it, so that tests can make it pass."""

import time
from typing import Protocol

_POLL_SECONDS = 0.1


class Clock(Protocol):
    """Seconds that only go forward, and a pause between two looks at the grid."""

    def now(self) -> float:
        """Return the time in seconds."""

    def sleep(self) -> None:
        """Pause before looking again."""


class WallClock:
    """The real time."""

    def now(self) -> float:
        """Return the time in seconds."""
        return time.monotonic()

    def sleep(self) -> None:
        """Pause a tenth of a second."""
        time.sleep(_POLL_SECONDS)
