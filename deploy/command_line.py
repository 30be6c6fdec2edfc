"""Command lines that say in one line what is wrong."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

from deploy.certificates.names import SetupError

BAD_INPUT = 2
Value = TypeVar("Value")


class OneLineParser(argparse.ArgumentParser):
    """Leaves out the usage when it refuses."""

    def error(self, message: str) -> NoReturn:
        """Leave with the message."""
        refuse(f"{message.removeprefix('argument ')} (--help tells more)")


def read_by(reader: Callable[[str], Value]) -> Callable[[str], Value]:
    """Make a flag's ``type`` of a function that raises ``SetupError``."""

    def read(text: str) -> Value:
        try:
            return reader(text)
        except SetupError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def refuse(message: object, code: int = BAD_INPUT) -> NoReturn:
    """Leave with a message on the standard error stream."""
    sys.stderr.write(f"{message}\n")
    sys.exit(code)
