"""What a person is told about a folder of certificates: who gets what, what comes next, what ends when."""

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
    return _handed(folder, superlink | _nodes(folder.node_names()))


def of_nodes(folder: CertificateFolder, nodes: Sequence[str]) -> str:
    """Say what new nodes, or nodes with new keys, get."""
    return _handed(folder, _nodes(nodes))


def after_renewed_nodes(retired: Sequence[Path]) -> str:
    """Say how old keys are taken out of use."""
    keys = " ".join(str(place / NODE_PUBLIC) for place in retired)
    return (
        f"Once a node runs with its new key, take the old one out: deploy.registration … --unregister {keys}"
    )


def of_server(folder: CertificateFolder, ends: datetime, *, new_secret: bool) -> str:
    """Say where the SuperLink's new certificate goes."""
    also = f", and the ServerApp's launcher: {SECRET} is new" if new_secret else ""
    return (
        f"It holds until {ends:%Y-%m-%d}. Put {folder.path / SUPERLINK} in the place of the SuperLink's and "
        f"restart it{also}. Nodes need nothing new."
    )


def of_new_authority(folder: CertificateFolder) -> str:
    """Say how a change of the CA goes on."""
    return (
        "Now, in this order:\n"
        f"  1. give {folder.path / AUTHORITY / CA} to all nodes and all who use `flwr`; restart the nodes\n"
        f"  2. `renew-server {folder.path}`, and restart the SuperLink with what it makes\n"
        f"  3. `retire-authority {folder.path}`, and give {CA} out once more"
    )


def of_retired_authority(folder: CertificateFolder) -> str:
    """Say who gets the CA's certificate."""
    return f"Give {folder.path / AUTHORITY / CA} to every node and to whoever uses `flwr`; restart the nodes."


def of_retired(retired: Sequence[Path]) -> str:
    """Say where old parts lie."""
    return "\n".join(
        f"What was there before is in {place}; delete it when nothing uses it any more." for place in retired
    )


def line(item: Item) -> str:
    """Say when something ends."""
    ends = (
        "does not end" if item.ends is None else f"ends {item.ends:%Y-%m-%d}, in {days_left(item):.0f} days"
    )
    return f"{item.file!s:<30} {ends:<30} {item.what}"


def days_left(item: Item) -> float:
    """Return the whole days until something ends."""
    return float("inf") if item.ends is None else (item.ends - datetime.now(UTC)).days


def _nodes(nodes: Sequence[str]) -> dict[Path, str]:
    return {NODES / node: node for node in nodes}


def _handed(folder: CertificateFolder, places: dict[Path, str]) -> str:
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
