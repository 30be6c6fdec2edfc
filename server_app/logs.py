"""How errors that are meant for people look in the log."""

import logging

from protocol.errors import MotleyError


class _MessageOnly(logging.Filter):
    """Shows an error of ours as its message: its traceback would tell a user nothing."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record of such an error; let every record pass."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, MotleyError):
            record.msg, record.args = f"{error}", ()
            record.exc_info, record.exc_text = None, None
        return True


def show_errors_as_messages() -> None:
    """Make Flower's logger show our own errors without a traceback."""
    logger = logging.getLogger("flwr")
    if not any(isinstance(known, _MessageOnly) for known in logger.filters):
        logger.addFilter(_MessageOnly())
