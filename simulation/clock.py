"""Time that passes only when someone sleeps, so that a simulation never waits."""

from collections.abc import Callable


class SimulatedClock:
    """Time that passes only when someone sleeps, and things that happen at their time."""

    def __init__(self) -> None:
        self.time = 0.0
        self._events: list[tuple[float, Callable[[], object]]] = []

    def now(self) -> float:
        """Return the time in seconds."""
        return self.time

    def sleep(self) -> None:
        """Let a tenth of a second pass, and what is due by then happen."""
        self.time += 0.1
        due = [event for event in self._events if event[0] <= self.time]
        self._events = [event for event in self._events if event[0] > self.time]
        for _, action in due:
            action()

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Let something happen a while from now."""
        self._events.append((self.time + seconds, action))
