"""What an operator is told about a folder of certificates: who gets what, what comes next, what expires."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from deploy.certificates.folder import (
    AUTHORITY,
    CA,
    CA_KEY,
    NODE_PUBLIC,
    NODES,
    SECRET,
    SECRET_FILES,
    SUPERLINK,
    CertificateFolder,
)
from deploy.certificates.inventory import Item


def of_everything(folder: CertificateFolder) -> str:
    """Say who gets what."""
    superlink = {SUPERLINK: f"the SuperLink's host; {SECRET} also to the ServerApp's launcher"}
    return _instructions(folder, superlink | _nodes(folder.node_names()))


def of_nodes(folder: CertificateFolder, nodes: Sequence[str]) -> str:
    """Say what new nodes, or nodes with new keys, get."""
    return _instructions(folder, _nodes(nodes))


def after_renewed_nodes(retired: Sequence[Path]) -> str:
    """Say how to unregister the old keys."""
    keys = " ".join(str(place / NODE_PUBLIC) for place in retired)
    command = f"deploy.registration … --unregister {keys}"
    return f"Once a node runs with its new key, unregister the old one: {command}"


def of_server(folder: CertificateFolder, expires: datetime, *, new_secret: bool) -> str:
    """Say where the SuperLink's new certificate goes.

    Parameters
    ----------
    folder
        The folder of certificates.
    expires
        When the new certificate expires.
    new_secret
        Whether the secret that the SuperLink shares with the ServerApp's launcher is new too.
    """
    also = f", and the ServerApp's launcher with the new {SECRET}" if new_secret else ""
    return (
        f"It is valid until {expires:%Y-%m-%d}. Replace the SuperLink's files by those in "
        f"{folder.path / SUPERLINK} and restart it{also}. Nodes need nothing new."
    )


def of_new_authority(folder: CertificateFolder) -> str:
    """Say how a change of the CA continues."""
    return (
        "Now, in this order:\n"
        f"  1. give {folder.path / AUTHORITY / CA} to all nodes and all users of `flwr`; restart the nodes\n"
        f"  2. `renew-server {folder.path}`, and restart the SuperLink with the new files\n"
        f"  3. `retire-authority {folder.path}`, and give {CA} to all once more"
    )


def of_retired_authority(folder: CertificateFolder) -> str:
    """Say who gets the CA's certificate."""
    return f"Give {folder.path / AUTHORITY / CA} to all nodes and all users of `flwr`; restart the nodes."


def of_retired(retired: Sequence[Path]) -> str:
    """Say where replaced files are."""
    return "\n".join(
        f"The previous files are in {place}; delete them when nothing uses them any more."
        for place in retired
    )


def line(item: Item) -> str:
    """Say when something expires."""
    expires = (
        "does not expire"
        if item.expires is None
        else f"expires {item.expires:%Y-%m-%d}, in {days_left(item):.0f} days"
    )
    return f"{item.file!s:<30} {expires:<30} {item.what}"


def days_left(item: Item) -> float:
    """Return the whole days until something expires."""
    return float("inf") if item.expires is None else (item.expires - datetime.now(UTC)).days


def _nodes(nodes: Sequence[str]) -> dict[Path, str]:
    return {NODES / node: node for node in nodes}


def _instructions(folder: CertificateFolder, places: dict[Path, str]) -> str:
    width = max((len(str(folder.path / place)) for place in places), default=0)
    authority = folder.path / AUTHORITY
    return "\n".join(
        [
            "Give each folder to one machine only, over a channel that nobody else reads:",
            *(f"  {folder.path / place!s:<{width}}  to {whom}" for place, whom in places.items()),
            f"Keep {authority / CA_KEY} where you sign: whoever has it can pretend to be the SuperLink.",
            f"Secret: {', '.join(SECRET_FILES)}. Not secret: *.pem and {NODE_PUBLIC}.",
            "Register the nodes: python -m deploy.registration --superlink HOST:8000 --root-certificates "
            f"{authority / CA} {folder.path / NODES}/*/{NODE_PUBLIC}",
        ]
    )
