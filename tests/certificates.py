"""Certificates for tests, made while they run, by an authority that lives as long as the test process."""

from __future__ import annotations

import ssl
from datetime import datetime
from functools import cache
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

RSA = trustme.KeyType.RSA
ECDSA = trustme.KeyType.ECDSA


@cache
def authority() -> trustme.CA:
    return trustme.CA()


@cache
def issued(
    *hosts: str,
    key_type: trustme.KeyType = ECDSA,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> trustme.LeafCert:
    """A certificate for these hosts."""
    return authority().issue_cert(*hosts, key_type=key_type, not_before=not_before, not_after=not_after)


@cache
def issued_to(person: str) -> trustme.LeafCert:
    """A client's certificate."""
    return authority().issue_cert(person, common_name=person, organization_name="Tests")


def chain_of(leaf: trustme.LeafCert) -> bytes:
    return b"".join(blob.bytes() for blob in leaf.cert_chain_pems)


def key_of(leaf: trustme.LeafCert) -> bytes:
    return leaf.private_key_pem.bytes()


def encrypted_key_of(leaf: trustme.LeafCert, password: bytes) -> bytes:
    key = load_pem_private_key(key_of(leaf), None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password))


def write(folder: Path, leaf: trustme.LeafCert, name: str = "server") -> tuple[str, str]:
    """The files of its chain and its key, and beside them that of the authority, ca.pem. Their names."""
    (folder / f"{name}.pem").write_bytes(chain_of(leaf))
    (folder / f"{name}.key").write_bytes(key_of(leaf))
    (folder / "ca.pem").write_bytes(authority().cert_pem.bytes())
    return f"{name}.pem", f"{name}.key"


def client_context(
    *, protocols: tuple[str, ...] = (), leaf: trustme.LeafCert | None = None, checks: bool = True
) -> ssl.SSLContext:
    """A client's context that trusts the authority. `leaf`: its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    if protocols:
        context.set_alpn_protocols(protocols)
    if leaf is not None:
        leaf.configure_cert(context)
    if not checks:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
