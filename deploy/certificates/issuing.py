"""Makes, renews and retires what is in a folder of certificates."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from deploy.certificates import inventory
from deploy.certificates.authority import (
    Certified,
    certificate_pem,
    is_signed_by,
    names_of,
    new_authority,
    new_server,
    read_key,
)
from deploy.certificates.folder import (
    AUTHORITY,
    CA,
    CA_KEY,
    NODE_KEY,
    NODE_PUBLIC,
    NODES,
    SECRET,
    SERVER,
    SERVER_KEY,
    SUPERLINK,
    CertificateFolder,
    Files,
)
from deploy.certificates.keys import new_node_key, new_secret
from deploy.certificates.names import SetupError


def create(
    folder: CertificateFolder, names: Sequence[str], nodes: Iterable[str], days: int, authority_days: int
) -> None:
    """Make a CA, the SuperLink's certificate and a key for each node.

    Parameters
    ----------
    folder
        The folder, which must be empty.
    names
        DNS names and IP addresses of the SuperLink.
    nodes
        Names of the nodes.
    days, authority_days
        Days for which the SuperLink's certificate and the CA are valid.

    Raises
    ------
    SetupError
        If the folder is not empty, or the CA would expire before the certificate.
    """
    if not folder.is_empty():
        raise SetupError(
            f"{folder.path}: it is not empty and nothing is overwritten; choose a new folder, or add to this "
            "one with `add-node` or --if-missing"
        )
    authority = new_authority(authority_days)
    bundle = authority.certificate_pem()
    folder.install(
        {
            **{NODES / node: _node_files(node, bundle) for node in nodes},
            SUPERLINK: _superlink_files(new_server(authority, names, days), bundle, new_secret()),
            AUTHORITY: {CA_KEY: authority.key_pem(), CA: bundle},
        }
    )


def complete(folder: CertificateFolder, names: Sequence[str], nodes: Iterable[str]) -> list[str]:
    """Add the nodes that a set lacks.

    Parameters
    ----------
    folder
        The folder of the set.
    names
        Names for which the SuperLink's certificate must be valid.
    nodes
        Names of the nodes that the set should have.

    Returns
    -------
    list[str]
        The nodes that were added.

    Raises
    ------
    SetupError
        If files are missing, or the SuperLink's certificate has expired or lacks a name.
    """
    inventory.check_complete(folder)
    certificate = inventory.server(folder)
    file, remedy = folder.path / SUPERLINK / SERVER, f"`renew-server {folder.path}"
    if certificate.not_valid_after_utc <= datetime.now(UTC):
        raise SetupError(
            f"{file}: it expired on {certificate.not_valid_after_utc:%Y-%m-%d}; {remedy}` makes a new one"
        )
    if lacking := set(names) - set(names_of(certificate)):
        raise SetupError(
            f"{file}: it is not valid for {', '.join(sorted(lacking))}; "
            f"{remedy} --server-names {','.join(names)}` makes one that is"
        )
    return add_nodes(folder, [node for node in nodes if node not in folder.node_names()])


def add_nodes(folder: CertificateFolder, nodes: Sequence[str]) -> list[str]:
    """Make keys and secrets for further nodes.

    Raises
    ------
    SetupError
        If a node has a key already.
    """
    bundle = folder.read(AUTHORITY, CA)
    known = {name.lower(): name for name in folder.node_names()}
    for node in nodes:
        if node.lower() in known:
            raise SetupError(
                f"node {node!r}: {folder.path / NODES / known[node.lower()]} exists already and nothing is "
                "overwritten; `renew-node` makes a new key"
            )
    folder.install({NODES / node: _node_files(node, bundle) for node in nodes})
    return list(nodes)


def renew_nodes(folder: CertificateFolder, nodes: Sequence[str]) -> list[Path]:
    """Make new keys and secrets for existing nodes; return where the old ones are now.

    Raises
    ------
    SetupError
        If a node does not exist.
    """
    for node in nodes:
        if node not in folder.node_names():
            known = ", ".join(folder.node_names()) or "none"
            raise SetupError(f"node {node!r}: {folder.path / NODES / node} is missing; nodes here: {known}")
    bundle = folder.read(AUTHORITY, CA)
    return folder.install({NODES / node: _node_files(node, bundle) for node in nodes})


def renew_server(
    folder: CertificateFolder, names: Sequence[str], days: int, *, new_shared_secret: bool
) -> list[Path]:
    """Make a new certificate and key for the SuperLink; return where the old ones are now.

    Parameters
    ----------
    folder
        The folder of the set.
    names
        Its names and addresses; none: those of the current certificate.
    days
        Days for which the certificate is valid.
    new_shared_secret
        Whether to change the secret that it shares with its launcher too.

    Raises
    ------
    SetupError
        If the CA's key is missing or does not match the CA, or the CA expires before the certificate.
    """
    names = names or names_of(inventory.server(folder))
    secret = new_secret() if new_shared_secret else folder.read(SUPERLINK, SECRET)
    made = new_server(_authority(folder), names, days)
    return folder.install({SUPERLINK: _superlink_files(made, folder.read(AUTHORITY, CA), secret)})


def renew_authority(folder: CertificateFolder, days: int) -> list[Path]:
    """Make a new CA, trusted beside the old one, which signed the server's current certificate.

    Returns
    -------
    list[Path]
        Where the old CA is now.

    Raises
    ------
    SetupError
        If a change of the CA has been begun already.
    """
    before = inventory.authorities(folder)
    if len(before) > 1:
        raise SetupError(
            f"{folder.path / AUTHORITY / CA}: it holds {len(before)} CAs, so a change is under way; "
            "finish it with `renew-server` and `retire-authority` first"
        )
    made = new_authority(days)
    bundle = made.certificate_pem() + certificate_pem(*before)
    _distribute(folder, bundle)
    return folder.install({AUTHORITY: {CA_KEY: made.key_pem(), CA: bundle}})


def retire_authority(folder: CertificateFolder) -> int:
    """Trust only the CA that signs from now on; return how many are no longer trusted.

    Raises
    ------
    SetupError
        If there is no other CA, or it signed the SuperLink's current certificate.
    """
    current, *others = inventory.authorities(folder)
    if not others:
        raise SetupError(f"{folder.path / AUTHORITY / CA}: it holds one CA only, there is none to retire")
    if not is_signed_by(inventory.server(folder), current):
        raise SetupError(
            f"{folder.path / SUPERLINK / SERVER}: the CA to be retired signed it; `renew-server` comes first"
        )
    _distribute(folder, certificate_pem(current))
    folder.overwrite(AUTHORITY, CA, certificate_pem(current))
    return len(others)


def _authority(folder: CertificateFolder) -> Certified:
    certificate = inventory.authorities(folder)[0]
    file = folder.path / AUTHORITY / CA_KEY
    if not file.is_file():
        raise SetupError(f"{file}: it is missing; put the CA's key there while something is signed")
    key = read_key(folder.read(AUTHORITY, CA_KEY), file)
    if key.public_key() != certificate.public_key():
        raise SetupError(f"{file}: it is not the key of the first certificate in {file.with_name(CA)}")
    return Certified(certificate, key)


def _distribute(folder: CertificateFolder, bundle: bytes) -> None:
    for place in (SUPERLINK, *(NODES / node for node in folder.node_names())):
        folder.overwrite(place, CA, bundle)


def _superlink_files(server: Certified, bundle: bytes, secret: bytes) -> Files:
    return {CA: bundle, SERVER: server.certificate_pem(), SERVER_KEY: server.key_pem(), SECRET: secret}


def _node_files(node: str, bundle: bytes) -> Files:
    key = new_node_key(node)
    return {CA: bundle, NODE_KEY: key.private, NODE_PUBLIC: key.public, SECRET: new_secret()}
