"""How errors whose message is meant for the user appear in the log."""

import logging

from protocol.errors import MotleyError


class _MessageOnly(logging.Filter):
    """Shows a `MotleyError` as its message alone, which says all that a user needs."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record of such an error; no record is dropped."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, MotleyError):
            record.msg, record.args = f"{error}", ()
            record.exc_info, record.exc_text = None, None
        return True


def show_errors_as_messages() -> None:
    """Make Flower's logger show every `MotleyError` without a traceback."""
    logger = logging.getLogger("flwr")
    if not any(isinstance(known, _MessageOnly) for known in logger.filters):
        logger.addFilter(_MessageOnly())
