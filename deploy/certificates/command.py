"""Make and renew the certificates, keys and secrets of a federation.

They are a CA of the federation's own, the SuperLink's certificate, and for each SuperNode a key that it signs
its requests with. docs/certificates.md says who gets what and how each is renewed.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.certificates import handover, inventory, issuing, names
from deploy.certificates.folder import CertificateFolder
from deploy.certificates.names import SetupError
from deploy.command_line import OneLineParser, argument_type, exit_with_error

Arguments = argparse.Namespace


def create(folder: CertificateFolder, given: Arguments) -> str:
    """Make a set of certificates and keys; with --if-missing, complete an existing set."""
    with folder.locked(make=True):
        if given.if_missing and not folder.is_empty():
            added = issuing.complete(folder, given.server_names, given.nodes)
            _change_owner(folder, given)
            return f"{folder.path}: the set is complete" + (f"; added {', '.join(added)}" if added else "")
        issuing.create(folder, given.server_names, given.nodes, given.days, given.authority_days)
        _change_owner(folder, given)
        return f"{folder.path}: made\n\n{handover.of_everything(folder)}"


def add_node(folder: CertificateFolder, given: Arguments) -> str:
    """Make keys and secrets for further nodes."""
    with folder.locked():
        issuing.add_nodes(folder, given.nodes)
        _change_owner(folder, given)
    return f"{folder.path}: added {', '.join(given.nodes)}\n\n{handover.of_nodes(folder, given.nodes)}"


def renew_node(folder: CertificateFolder, given: Arguments) -> str:
    """Make new keys and secrets for existing nodes."""
    with folder.locked():
        retired = issuing.renew_nodes(folder, given.nodes)
        _change_owner(folder, given)
    made = f"{folder.path}: new keys for {', '.join(given.nodes)}"
    told = (
        handover.of_nodes(folder, given.nodes),
        handover.after_renewed_nodes(retired),
        handover.of_retired(retired),
    )
    return "\n".join((made, "", *told))


def renew_server(folder: CertificateFolder, given: Arguments) -> str:
    """Make a new certificate and key for the SuperLink."""
    with folder.locked():
        retired = issuing.renew_server(
            folder, given.server_names, given.days, new_shared_secret=given.new_secret
        )
        _change_owner(folder, given)
        expires = inventory.server(folder).not_valid_after_utc
    made = f"{folder.path}: new certificate for the SuperLink"
    told = handover.of_server(folder, expires, new_secret=given.new_secret), handover.of_retired(retired)
    return "\n".join((made, *told))


def renew_authority(folder: CertificateFolder, given: Arguments) -> str:
    """Begin a change of the CA: trust a new one beside the old one."""
    with folder.locked():
        retired = issuing.renew_authority(folder, given.authority_days)
        _change_owner(folder, given)
    made = f"{folder.path}: a new CA is trusted beside the old one"
    return "\n".join((made, handover.of_retired(retired), handover.of_new_authority(folder)))


def retire_authority(folder: CertificateFolder, given: Arguments) -> str:
    """End a change of the CA: trust the new one only."""
    with folder.locked():
        count = issuing.retire_authority(folder)
        _change_owner(folder, given)
    return f"{folder.path}: no longer trusted: {count} old CA\n{handover.of_retired_authority(folder)}"


def status(folder: CertificateFolder, given: Arguments) -> str:
    """List when things expire; exit with 1 if something is wrong or expires soon."""
    with folder.locked():
        inventory.check_complete(folder)
        found, wrong = inventory.items(folder), inventory.problems(folder)
    wrong += [
        f"{folder.path / item.file}: it expires within {given.days} days"
        for item in found
        if handover.days_left(item) < given.days
    ]
    text = "\n".join((*map(handover.line, found), *wrong))
    if wrong:
        sys.stdout.write(f"{text}\n")
        sys.exit(1)
    return text


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    made = OneLineParser(prog="python -m deploy.certificates", description=__doc__)
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    for command, add_flags in (
        (create, _create_flags),
        (add_node, _node_flags),
        (renew_node, _node_flags),
        (renew_server, _server_flags),
        (renew_authority, _authority_flags),
        (retire_authority, _owner_flag),
        (status, _status_flags),
    ):
        name = command.__name__.replace("_", "-")
        of_command = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        of_command.add_argument("folder", type=Path, help="folder of the certificates")
        of_command.set_defaults(command=command)
        add_flags(of_command)
    return made


def _create_flags(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--server-names",
        required=True,
        type=argument_type(names.server_names),
        help="DNS names and IPs of the SuperLink: a,b",
    )
    made.add_argument(
        "--nodes", default=(), type=argument_type(names.node_names), help="names of the nodes: a,b"
    )
    made.add_argument(
        "--days",
        default=365,
        type=argument_type(names.days),
        help="days for which the SuperLink's certificate is valid",
    )
    made.add_argument(
        "--if-missing", action="store_true", help="keep an existing set, and add the nodes that it lacks"
    )
    _authority_flags(made)


def _node_flags(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--nodes", required=True, type=argument_type(names.node_names), help="names of the nodes: a,b"
    )
    _owner_flag(made)


def _server_flags(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--server-names",
        default=(),
        type=argument_type(names.server_names),
        help="DNS names and IPs; default: those of the current certificate",
    )
    made.add_argument(
        "--days", default=365, type=argument_type(names.days), help="days for which the certificate is valid"
    )
    made.add_argument(
        "--new-secret", action="store_true", help="also make a new executor.secret for the SuperLink"
    )
    _owner_flag(made)


def _authority_flags(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--authority-days",
        default=3650,
        type=argument_type(names.days),
        help="days for which the CA is valid",
    )
    _owner_flag(made)


def _owner_flag(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--owner", type=argument_type(names.owner), help="UID:GID that becomes the owner of all files"
    )


def _status_flags(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--days",
        default=30,
        type=argument_type(names.days),
        help="report what expires within so many days",
    )


def _change_owner(folder: CertificateFolder, given: Arguments) -> None:
    if given.owner is not None:
        folder.change_owner(given.owner)


def _check_owner(owner: tuple[int, int] | None) -> None:
    if owner is not None and os.geteuid() != 0 and owner != (os.geteuid(), os.getegid()):
        raise SetupError(
            f"--owner {owner[0]}:{owner[1]}: only root may give files to another user; run it as root"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit with 2 if it cannot be done."""
    given = parser().parse_args(arguments)
    try:
        _check_owner(getattr(given, "owner", None))
        text = given.command(CertificateFolder(given.folder), given)
    except SetupError as error:
        exit_with_error(error)
    except OSError as error:
        exit_with_error(f"{error.filename or given.folder}: {error.strerror}")
    sys.stdout.write(f"{text}\n")
