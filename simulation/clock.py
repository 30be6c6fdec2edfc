"""Clocks of a simulation: simulated time, which only passes while someone sleeps, or real time."""

import time
from collections.abc import Callable
from typing import Protocol

_STEP_SECONDS = 0.1


class SimulationClock(Protocol):
    """A monotonic clock, and a pause between polls of the grid."""

    work_takes_time: bool
    """Whether time passes while clients work, so that a reply may be late."""

    def now(self) -> float:
        """Return the time in seconds."""

    def sleep(self) -> None:
        """Pause before the next poll."""


class SimulatedClock:
    """Simulated time, which passes only when someone sleeps, and scheduled events.

    Work takes no time: a client is late only if a fault makes it so, however slow this machine is.
    """

    work_takes_time = False

    def __init__(self) -> None:
        self.time = 0.0
        self._events: list[tuple[float, Callable[[], object]]] = []

    def now(self) -> float:
        """Return the time in seconds."""
        return self.time

    def sleep(self) -> None:
        """Advance time by a tenth of a second, and run the events that are due."""
        self.time += _STEP_SECONDS
        due = [event for event in self._events if event[0] <= self.time]
        self._events = [event for event in self._events if event[0] > self.time]
        for _, action in due:
            action()

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Schedule an event."""
        self._events.append((self.time + seconds, action))


class RealClock:
    """The real time. A pause ends early when a reply has come, so that no worker waits for the server.

    Parameters
    ----------
    wait
        Waits for a reply, at most as many seconds as it is given.
    """

    work_takes_time = True

    def __init__(self, wait: Callable[[float], object]) -> None:
        self._wait = wait

    def now(self) -> float:
        """Return the time in seconds."""
        return time.monotonic()

    def sleep(self) -> None:
        """Wait for a reply, at most a tenth of a second."""
        self._wait(_STEP_SECONDS)
