"""A federation's own certificate authority (CA), and the SuperLink's certificate that it signs."""

import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deploy.certificates.names import SetupError, is_address

_LEEWAY = timedelta(days=1)
"""A certificate is valid from so long before it is made, since a site's clock may be slow."""

_KEY_USES = {
    "digital_signature": False,
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "key_cert_sign": False,
    "crl_sign": False,
    "encipher_only": False,
    "decipher_only": False,
}


@dataclass(frozen=True)
class Certified:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def certificate_pem(self) -> bytes:
        """Return the content of a certificate's file."""
        return certificate_pem(self.certificate)

    def key_pem(self) -> bytes:
        """Return the content of a key's file (PKCS #8, no passphrase)."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def new_authority(days: int) -> Certified:
    """Make a CA that may sign servers' certificates but no other CA's.

    Its name has a random part, so that programs do not confuse it with the CA that it replaces.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name(f"Motley CA {secrets.token_hex(4)}")
    builder = (
        _builder(name, key, datetime.now(UTC) + timedelta(days=days))
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**{**_KEY_USES, "key_cert_sign": True, "crl_sign": True}), critical=True)
    )
    return Certified(builder.sign(key, hashes.SHA384()), key)


def new_server(authority: Certified, names: Sequence[str], days: int) -> Certified:
    """Make the SuperLink's certificate.

    Parameters
    ----------
    authority
        The CA that signs it.
    names
        DNS names and IP addresses under which the SuperLink will be reached.
    days
        Days for which it is valid.

    Raises
    ------
    SetupError
        If the CA's own certificate would expire first.
    """
    expires = datetime.now(UTC) + timedelta(days=days)
    _check_expiry(authority.certificate, days, expires)
    key = ec.generate_private_key(ec.SECP384R1())
    identifier = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
    builder = (
        _builder(_name("Motley SuperLink"), key, expires)
        .issuer_name(authority.certificate.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**{**_KEY_USES, "digital_signature": True}), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(alternatives, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
    )
    return Certified(builder.sign(authority.key, hashes.SHA384()), key)


def certificate_pem(*certificates: x509.Certificate) -> bytes:
    """Return the content of a file that holds these certificates."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def read_certificates(content: bytes, file: object) -> list[x509.Certificate]:
    """Read a file of certificates.

    Raises
    ------
    SetupError
        If it does not hold certificates.
    """
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise SetupError(f"{file}: it is not a certificate in PEM format") from error


def read_key(content: bytes, file: object) -> ec.EllipticCurvePrivateKey:
    """Read a CA's or a server's private key.

    Raises
    ------
    SetupError
        If it is not a private key on an elliptic curve without a passphrase.
    """
    try:
        key = serialization.load_pem_private_key(content, None)
    except (ValueError, TypeError) as error:
        raise SetupError(f"{file}: it is not a private key in PEM format without a passphrase") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SetupError(f"{file}: only a key on an elliptic curve is allowed")
    return key


def is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Tell whether a CA signed a certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the names and addresses for which a certificate is valid; empty if it states none."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names)


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, expires: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - _LEEWAY)
        .not_valid_after(expires)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _check_expiry(authority: x509.Certificate, days: int, expires: datetime) -> None:
    latest = authority.not_valid_after_utc
    if expires > latest:
        left = (latest - datetime.now(UTC)).days
        allowed = f"1 to {left} days are allowed" if left > 0 else "nothing more can be signed with it"
        raise SetupError(
            f"--days {days}: the CA itself expires on {latest:%Y-%m-%d}, so {allowed}; "
            "`renew-authority` makes a new CA"
        )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(name: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(name)) if is_address(name) else x509.DNSName(name)
