"""How long a polling process waits between two polls."""

import time


class IdleWait:
    """Computes waits that are a share of the idle time so far, within bounds.

    A process that has just been busy polls often, since a federation's messages come one after another; one
    that has been idle for minutes polls rarely, since there may be many such nodes. A message is noticed late
    by at most ``share`` of the idle time before it, or by ``least``.

    Parameters
    ----------
    least, most
        Bounds of one wait, in seconds.
    share
        The share of the idle time so far that one wait takes.
    """

    def __init__(self, least: float, most: float, share: float = 0.1) -> None:
        self._least = least
        self._most = most
        self._share = share
        self._busy_at = time.monotonic()

    def busy(self) -> None:
        """Restart the idle time, because there was something to do."""
        self._busy_at = time.monotonic()

    def seconds(self) -> float:
        """Return how long to wait now."""
        idle = time.monotonic() - self._busy_at
        return min(self._most, max(self._least, idle * self._share))
