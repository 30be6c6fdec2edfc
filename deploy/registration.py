"""Registers SuperNodes' public keys at a SuperLink, once each.

``python -m deploy.registration --superlink HOST:8000 --root-certificates ca.pem FOLDER/nodes/*/node.pub``

A SuperLink with ``--enable-supernode-auth`` accepts only nodes whose key is registered. Keys that are
registered already stay as they are, so the command may be repeated. Without a file it lists the nodes. ``flwr
supernode`` talks to the same service, but its list shows neither a node's name nor its key.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from deploy.certificates.authority import certificate_pem, read_certificates
from deploy.certificates.folder import NODE_PUBLIC
from deploy.certificates.keys import read_public_key
from deploy.certificates.names import SetupError, node_name
from deploy.command_line import OneLineParser, argument_type, exit_with_error
from deploy.node_register import NamedKey, NodeRegister, SuperLinkError

REFUSED = 1


def read_node(file: Path) -> NamedKey:
    """Read the file of a public key.

    The node's name is that of the folder of its ``node.pub``, or of the file itself (``hospital-a.pub``).

    Raises
    ------
    SetupError
        If it cannot be read, is not a public key, or its name is not allowed as a node's.
    """
    key = public_key_to_bytes(read_public_key(_read(file), file))
    name = file.resolve().parent.name if file.name == NODE_PUBLIC else file.stem
    return NamedKey(node_name(name), key)


def describe(node: NodeInfo) -> str:
    """Describe a registered node in a line."""
    return f"{node.name or '(no name)':<24} {node.status:<13} node {node.node_id}"


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    made = OneLineParser(
        prog="python -m deploy.registration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--superlink",
        required=True,
        type=argument_type(_address),
        metavar="HOST:PORT",
        help="its Control API, usually at port 8000",
    )
    trust = made.add_mutually_exclusive_group(required=True)
    trust.add_argument("--root-certificates", type=Path, help="ca.pem")
    trust.add_argument("--insecure", action="store_true", help="plain HTTP, for a trial on one machine")
    made.add_argument(
        "--wait",
        type=argument_type(_seconds),
        default=0,
        metavar="SECONDS",
        help="how long to wait for the SuperLink",
    )
    made.add_argument(
        "--unregister",
        action="store_true",
        help="unregister the nodes instead; their keys cannot be registered again",
    )
    made.add_argument(
        "files", nargs="*", type=Path, metavar="node.pub", help="public keys; none: list the nodes"
    )
    return made


def _run(given: argparse.Namespace) -> None:
    nodes = [read_node(file) for file in given.files]
    if given.unregister and not nodes:
        raise SetupError("--unregister: name the public keys of the nodes to unregister")
    trusted = None if given.insecure else _read_trusted(given.root_certificates)
    with closing(NodeRegister(given.superlink, trusted, given.wait)) as register:
        _list_or_change(register, nodes, unregister=given.unregister)


def _list_or_change(register: NodeRegister, nodes: Sequence[NamedKey], *, unregister: bool) -> None:
    if not nodes:
        sys.stdout.writelines(f"{describe(node)}\n" for node in register.nodes())
    for node in nodes:
        line = register.unregister(node) if unregister else register.register(node)
        sys.stdout.write(f"{line}\n")


def _read_trusted(file: Path) -> bytes:
    content = _read(file)
    return certificate_pem(*read_certificates(content, file))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SetupError(f"{file}: {error.strerror}") from error


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise SetupError(f"{text!r}: must be HOST:PORT")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < float("inf"):
        raise SetupError(f"{text!r}: must be a number of seconds, 0 or more")
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit with 2 for bad input, with 1 if the SuperLink cannot be reached or refuses."""
    try:
        _run(parser().parse_args(arguments))
    except SetupError as error:
        exit_with_error(error)
    except SuperLinkError as error:
        exit_with_error(error, REFUSED)


if __name__ == "__main__":
    main()
