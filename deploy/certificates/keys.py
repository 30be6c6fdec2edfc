"""SuperNodes' signing keys, and secrets that two processes share."""

import base64
import hashlib
import secrets
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.certificates.names import SetupError

_SECRET_BYTES = 32
PublicKey = ec.EllipticCurvePublicKey


@dataclass(frozen=True)
class NodeKey:
    """A SuperNode's key pair on P-384, as ``ssh-keygen -t ecdsa -b 384`` makes it.

    Attributes
    ----------
    private, public
        Contents of the two files, in OpenSSH's format.
    """

    private: bytes
    public: bytes


def new_node_key(name: str) -> NodeKey:
    """Make a SuperNode's key pair; the public one's comment is the node's name."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return NodeKey(private, public + b" " + name.encode() + b"\n")


def new_secret() -> bytes:
    """Make a shared secret: 64 hexadecimal digits.

    There is no line break, since Flower takes the file's bytes as they are.
    """
    return secrets.token_hex(_SECRET_BYTES).encode()


def read_public_key(content: bytes, file: object) -> PublicKey:
    """Read a SuperNode's public key.

    Parameters
    ----------
    content
        A public key in OpenSSH's format.
    file
        Its file, for the message.

    Raises
    ------
    SetupError
        If it is not a public key, or of a type that Flower does not accept.
    """
    try:
        key = serialization.load_ssh_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SetupError(
            f"{file}: it is not a public key in OpenSSH's format (ecdsa-sha2-nistp384 …)"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise SetupError(f"{file}: only keys on a NIST curve are allowed (ssh-keygen -t ecdsa -b 384)")
    return key


def read_private_key(content: bytes, file: object) -> ec.EllipticCurvePrivateKey:
    """Read a SuperNode's private key.

    Raises
    ------
    SetupError
        If it is not a private key on a NIST curve, or has a passphrase.
    """
    try:
        key = serialization.load_ssh_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SetupError(
            f"{file}: it is not a private key in OpenSSH's format without a passphrase"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SetupError(f"{file}: only keys on a NIST curve are allowed (ssh-keygen -t ecdsa -b 384)")
    return key


def fingerprint(key: PublicKey) -> str:
    """Return a public key's fingerprint as ``ssh-keygen -l`` shows it."""
    line = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
