"""How long a process that polls waits between two looks."""

import time


class IdleWait:
    """Waits a share of the time that nothing has come, within bounds.

    What has just been busy is looked at often, since a federation's messages come one after another; what has
    been idle for minutes is looked at rarely, since there may be many such nodes. A message is late by at
    most ``share`` of the time that was waited for it, or by ``least``.

    Parameters
    ----------
    least, most
        Bounds of one wait, in seconds.
    share
        A wait is this share of the idle time so far.
    """

    def __init__(self, least: float, most: float, share: float = 0.1) -> None:
        self._least = least
        self._most = most
        self._share = share
        self._busy_at = time.monotonic()

    def busy(self) -> None:
        """Note that something came."""
        self._busy_at = time.monotonic()

    def seconds(self) -> float:
        """Return how long to wait now."""
        idle = time.monotonic() - self._busy_at
        return min(self._most, max(self._least, idle * self._share))
