"""What a handshake has shown, for handlers: see halfsync/tls/facts.py."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from halfsync.pump.tls.openssl import TLSError
from halfsync.tls.facts import MAX_CERTIFICATE, ClientCertificate, TLSFacts

if TYPE_CHECKING:
    import ssl

_SHORT_NAMES = {
    "businessCategory": "businessCategory",
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "generationQualifier": "generationQualifier",
    "givenName": "GN",
    "initials": "initials",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "street",
    "surname": "SN",
    "title": "title",
    "userId": "UID",
}
"""OpenSSL's, as mod_ssl has them in names of RFC 4514; any other attribute has its long name."""

_SPECIAL = re.compile(r'[,+"\\<>;=]|^[# ]| $')

Name = Iterable[Iterable[tuple[str, str]]]


def facts_of(tls: Any, server_name: str, shown_name: str = "") -> TLSFacts:
    """`tls`: an ssl.SSLObject, or what is in it. `shown_name`: of the server's certificate. Raises
    TLSError."""
    cipher, version, bits = tls.cipher() or ("", "", 0)
    return TLSFacts(
        version=tls.version() or version,
        cipher=cipher,
        cipher_id=_number(cipher, tls.context),
        bits=bits,
        server_name=server_name,
        certificate=_certificate_of(tls),
        shown_name=shown_name,
    )


_numbers: dict[str, int] = {}
"""IANA's, by OpenSSL's names."""


def _number(cipher: str, context: ssl.SSLContext) -> int:
    if cipher not in _numbers:
        _numbers.update({one["name"]: one["id"] & 0xFFFF for one in context.get_ciphers()})
    return _numbers.get(cipher, 0)


def _certificate_of(tls: Any) -> ClientCertificate | None:
    der = tls.getpeercert(True)
    if der is None:
        return None
    if len(der) > MAX_CERTIFICATE:
        raise TLSError(f"the client's certificate has {len(der)} bytes, and may have {MAX_CERTIFICATE}")
    read: dict[str, Any] = tls.getpeercert() or {}
    subject = read.get("subject", ())
    others = read.get("subjectAltName", ())
    return ClientCertificate(
        der=der,
        subject=in_text(subject),
        issuer=in_text(read.get("issuer", ())),
        serial=read.get("serialNumber", ""),
        not_before=read.get("notBefore", ""),
        not_after=read.get("notAfter", ""),
        common_names=tuple(value for part in subject for key, value in part if key == "commonName"),
        emails=tuple(value for kind, value in others if kind == "email"),
        dns_names=tuple(value for kind, value in others if kind == "DNS"),
    )


def in_text(name: Name) -> str:
    """A name, as Python gives it, in the form of RFC 4514: "CN=Ann,O=Example", the last part first."""
    parts = [
        "+".join(f"{_SHORT_NAMES.get(key, key)}={_escaped(value)}" for key, value in part) for part in name
    ]
    return ",".join(reversed(parts))


def _escaped(value: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", value).replace("\0", "\\00")
