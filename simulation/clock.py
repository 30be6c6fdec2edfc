"""Time as a simulation has it: time that passes only when someone sleeps, or the real one."""

import time
from collections.abc import Callable
from typing import Protocol

_STEP_SECONDS = 0.1


class SimulationClock(Protocol):
    """Seconds that only go forward, and a pause between two looks at the grid."""

    work_takes_time: bool
    """Whether time goes on while clients work, so that one may be late."""

    def now(self) -> float:
        """Return the time in seconds."""

    def sleep(self) -> None:
        """Pause before looking at the grid again."""


class SimulatedClock:
    """Time that passes only when someone sleeps, and things that happen at their time.

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
        """Let a tenth of a second pass, and what is due by then happen."""
        self.time += _STEP_SECONDS
        due = [event for event in self._events if event[0] <= self.time]
        self._events = [event for event in self._events if event[0] > self.time]
        for _, action in due:
            action()

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Let something happen a while from now."""
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
