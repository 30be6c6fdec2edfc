"""Reads the arguments that end up in certificates, files and names of folders."""

import ipaddress
import re
from collections.abc import Callable

_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_OWNER = re.compile(r"(\d{1,10}):(\d{1,10})")
_LONGEST_HOST = 253
_HIGHEST_ID = 2**32 - 2
MOST_DAYS = 36500


class SetupError(ValueError):
    """What was asked for cannot be done; the message names the thing, the value and what is allowed."""


def server_names(text: str) -> tuple[str, ...]:
    """Read the names and addresses under which the SuperLink will be reached.

    Parameters
    ----------
    text
        DNS names and IP addresses, separated by commas.

    Returns
    -------
    tuple[str, ...]
        DNS names in lower case, addresses in their shortest form.

    Raises
    ------
    SetupError
        If one is neither, or is listed twice.
    """
    return _listed(text, "server name", _server_name)


def node_names(text: str) -> tuple[str, ...]:
    """Read names of nodes, separated by commas.

    Raises
    ------
    SetupError
        If one cannot name a folder, or is listed twice.
    """
    return _listed(text, "node", node_name)


def node_name(text: str) -> str:
    """Read a node's name.

    Raises
    ------
    SetupError
        If it cannot name a folder on every file system.
    """
    if not _NODE.fullmatch(text):
        raise SetupError(
            f"node {text!r}: it must begin with a letter or a digit and hold only letters, digits, dots, "
            "dashes and underscores, 64 at most: it names a folder"
        )
    return text


def is_address(name: str) -> bool:
    """Tell an IP address from a DNS name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def days(text: str) -> int:
    """Read a number of days.

    Raises
    ------
    SetupError
        If it is not a whole number from 1 to ``MOST_DAYS``.
    """
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST_DAYS:
        raise SetupError(f"{text!r}: must be a whole number from 1 to {MOST_DAYS}")
    return int(text)


def owner(text: str) -> tuple[int, int]:
    """Read UID:GID.

    Raises
    ------
    SetupError
        If it is not two numbers.
    """
    numbers = _OWNER.fullmatch(text)
    if numbers is None or max(map(int, numbers.groups())) > _HIGHEST_ID:
        raise SetupError(f"{text!r}: must be two numbers UID:GID, such as 10001:10001")
    return int(numbers[1]), int(numbers[2])


def _listed(text: str, what: str, read: Callable[[str], str]) -> tuple[str, ...]:
    names: dict[str, str] = {}
    for part in text.split(","):
        name = read(part.strip())
        if name.lower() in names:
            other = names[name.lower()]
            raise SetupError(
                f"{what} {name!r}: it is listed twice (also as {other!r}); each may be listed once"
            )
        names[name.lower()] = name
    return tuple(names.values())


def _server_name(text: str) -> str:
    if is_address(text) and "%" not in text:
        return str(ipaddress.ip_address(text))
    name = text.lower()
    labels = name.split(".")
    if len(name) > _LONGEST_HOST or labels[-1].isdigit() or not all(map(_LABEL.fullmatch, labels)):
        raise SetupError(
            f"server name {text!r}: must be a DNS name (letters, digits and inner dashes between dots; no "
            "wildcard, no port) or an IP address"
        )
    return name
