"""The clock of the round loop, which simulations and tests can replace."""

import time
from typing import Protocol

_POLL_SECONDS = 0.1


class Clock(Protocol):
    """A monotonic clock, and a pause between polls of the grid."""

    def now(self) -> float:
        """Return the time in seconds."""

    def sleep(self) -> None:
        """Pause before the next poll."""


class WallClock:
    """The real time."""

    def now(self) -> float:
        """Return the time in seconds."""
        return time.monotonic()

    def sleep(self) -> None:
        """Pause a tenth of a second."""
        time.sleep(_POLL_SECONDS)
