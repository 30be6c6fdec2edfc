"""Command lines whose errors are one line."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

from deploy.certificates.names import SetupError

BAD_INPUT = 2
Value = TypeVar("Value")


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors do not repeat the usage."""

    def error(self, message: str) -> NoReturn:
        """Exit with the message."""
        exit_with_error(f"{message.removeprefix('argument ')} (see --help)")


def argument_type(reader: Callable[[str], Value]) -> Callable[[str], Value]:
    """Make the ``type`` of an argument from a function that raises ``SetupError``."""

    def read(text: str) -> Value:
        try:
            return reader(text)
        except SetupError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def exit_with_error(message: object, code: int = BAD_INPUT) -> NoReturn:
    """Exit with a message on standard error."""
    sys.stderr.write(f"{message}\n")
    sys.exit(code)
