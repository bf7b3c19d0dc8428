"""Certificates and keys in `acme_folder`: made, read, and written so that no file is ever half there."""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

PLACEHOLDER = timedelta(days=7)
"""How long a certificate is valid that stands in until there is one of the authority."""


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def account_key(path: str) -> ec.EllipticCurvePrivateKey:
    """The one in this file, made if there is none. Raises OSError, ValueError."""
    try:
        with open(path, "rb") as file:
            found = load_pem_private_key(file.read(), None)
    except FileNotFoundError:
        key = new_key()
        write(path, pem_of(key))
        return key
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path} has no key of an elliptic curve in it")
    return found


def self_signed(hosts: Sequence[str], *extensions: x509.ExtensionType) -> bytes:
    """A key, and a certificate that it has signed itself. PEM. `extensions` are critical."""
    key = new_key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "halfsync")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + PLACEHOLDER)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return pem_of(key) + builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def write(path: str, data: bytes) -> None:
    """For the owner alone. Raises OSError."""
    os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, 0o600)
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(temporary, path)


def identifier(path: str, hosts: Sequence[str]) -> str:
    """Of the certificate in this file (RFC 9773 4.1), if it is for one of these hosts; "" if there is none,
    or it is no authority's."""
    try:
        with open(path, "rb") as file:
            found = x509.load_pem_x509_certificates(file.read())[0]
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        key = found.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except (OSError, ValueError, IndexError, x509.ExtensionNotFound):
        return ""
    if key is None or found.issuer == found.subject:
        return ""
    if set(names.get_values_for_type(x509.DNSName)).isdisjoint(hosts):
        return ""
    number = found.serial_number
    serial = number.to_bytes(number.bit_length() // 8 + 1, "big")  # as in DER: the first bit is a sign
    return ".".join(urlsafe_b64encode(one).decode().rstrip("=") for one in (key, serial))


def renew_at(path: str, hosts: Sequence[str]) -> float:
    """Seconds since 1970 when the certificate in this file is to be replaced: when a third of its time is
    left; 0 if it is for other hosts, no authority's, or not to be read."""
    try:
        with open(path, "rb") as file:
            found = x509.load_pem_x509_certificates(file.read())[0]
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, IndexError, x509.ExtensionNotFound):
        return 0.0
    if found.issuer == found.subject or set(names.get_values_for_type(x509.DNSName)) != set(hosts):
        return 0.0
    begin, end = found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()
    return end - (end - begin) / 3
