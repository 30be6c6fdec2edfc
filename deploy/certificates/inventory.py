"""The content of a folder of certificates: when it expires, whether it is consistent, what is missing."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from deploy.certificates.authority import is_signed_by, names_of, read_certificates, read_key
from deploy.certificates.folder import (
    AUTHORITY,
    CA,
    CA_KEY,
    NODE_FILES,
    NODE_KEY,
    NODE_PUBLIC,
    NODES,
    SECRET,
    SERVER,
    SERVER_KEY,
    SUPERLINK,
    SUPERLINK_FILES,
    CertificateFolder,
)
from deploy.certificates.keys import fingerprint, read_private_key, read_public_key
from deploy.certificates.names import SetupError


@dataclass(frozen=True)
class Item:
    """Something that may expire.

    Attributes
    ----------
    file
        Path in the folder.
    what
        What it is, in words.
    expires
        When; None: never.
    """

    file: Path
    what: str
    expires: datetime | None = None


def authorities(folder: CertificateFolder) -> list[x509.Certificate]:
    """Return the CA that signs, then those that are still trusted beside it."""
    return read_certificates(folder.read(AUTHORITY, CA), folder.path / AUTHORITY / CA)


def server(folder: CertificateFolder) -> x509.Certificate:
    """Return the SuperLink's certificate."""
    return read_certificates(folder.read(SUPERLINK, SERVER), folder.path / SUPERLINK / SERVER)[0]


def missing(folder: CertificateFolder) -> list[Path]:
    """Return the files that this set lacks.

    The CA's key is not among them: it may be kept elsewhere until something is signed.
    """
    wanted = [AUTHORITY / CA, *(SUPERLINK / name for name in SUPERLINK_FILES)]
    for node in folder.node_names():
        wanted += [NODES / node / name for name in NODE_FILES]
    return [file for file in wanted if not (folder.path / file).is_file()]


def items(folder: CertificateFolder) -> list[Item]:
    """Return what may expire, and the nodes' keys."""
    found = [_authority(certificate, kept) for kept, certificate in enumerate(authorities(folder))]
    own = server(folder)
    found.append(Item(SUPERLINK / SERVER, f"server, for {', '.join(names_of(own))}", own.not_valid_after_utc))
    for node in folder.node_names():
        file = NODES / node / NODE_PUBLIC
        key = read_public_key(folder.read(NODES / node, NODE_PUBLIC), folder.path / file)
        found.append(Item(file, f"node's key {fingerprint(key)}"))
    return found


def problems(folder: CertificateFolder) -> list[str]:
    """Return what is inconsistent, a line each."""
    return [*_authority_problems(folder), *_superlink_problems(folder), *_node_problems(folder)]


def _authority(certificate: x509.Certificate, kept: int) -> Item:
    name = certificate.subject.rfc4514_string().removeprefix("CN=")
    role = "still trusted until `retire-authority`" if kept else "the CA that signs"
    return Item(AUTHORITY / CA, f"{role}, {name}", certificate.not_valid_after_utc)


def _authority_problems(folder: CertificateFolder) -> Iterator[str]:
    if not folder.has(AUTHORITY, CA_KEY):
        return
    file = folder.path / AUTHORITY / CA_KEY
    if not _same_key(
        read_key(folder.read(AUTHORITY, CA_KEY), file).public_key(), authorities(folder)[0].public_key()
    ):
        yield f"{file}: it is not the key of the first certificate in {CA}"


def _superlink_problems(folder: CertificateFolder) -> Iterator[str]:
    certificate = server(folder)
    key = folder.path / SUPERLINK / SERVER_KEY
    if not _same_key(
        read_key(folder.read(SUPERLINK, SERVER_KEY), key).public_key(), certificate.public_key()
    ):
        yield f"{key}: it is not the key of {SERVER}"
    if not any(is_signed_by(certificate, authority) for authority in authorities(folder)):
        yield f"{folder.path / SUPERLINK / SERVER}: no CA in {AUTHORITY / CA} signed it"
    yield from _part_problems(folder, SUPERLINK)


def _node_problems(folder: CertificateFolder) -> Iterator[str]:
    for node in folder.node_names():
        place = NODES / node
        private, public = folder.path / place / NODE_KEY, folder.path / place / NODE_PUBLIC
        own = read_private_key(folder.read(place, NODE_KEY), private).public_key()
        if not _same_key(own, read_public_key(folder.read(place, NODE_PUBLIC), public)):
            yield f"{public}: it is not the public key of {NODE_KEY}"
        yield from _part_problems(folder, place)


def _part_problems(folder: CertificateFolder, place: Path) -> Iterator[str]:
    if folder.read(place, CA) != folder.read(AUTHORITY, CA):
        yield f"{folder.path / place / CA}: it differs from {AUTHORITY / CA}"
    if not folder.read(place, SECRET):
        yield f"{folder.path / place / SECRET}: it is empty"


def _same_key(one: PublicKeyTypes, other: PublicKeyTypes) -> bool:
    return one == other


def check_complete(folder: CertificateFolder) -> None:
    """Make sure that no file is missing.

    Raises
    ------
    SetupError
        If files are missing; the message lists them.
    """
    if lacking := missing(folder):
        raise SetupError(f"{folder.path}: the set is incomplete, it lacks {', '.join(map(str, lacking))}")
