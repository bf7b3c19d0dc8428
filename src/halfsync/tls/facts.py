"""What is known of a connection over TLS and of its client's certificate: worked out once in the pump, and
read by handlers. No I/O.

It goes with each of the connection's requests as bytes, which handlers take for a key: for a connection that
sends many, they are decoded once.
"""

from __future__ import annotations

from base64 import b64encode
from functools import lru_cache
from hashlib import sha256

import msgspec

MAX_CERTIFICATE = 8 * 1024
"""Bytes (DER) of a client's certificate that is accepted. Usual ones have 1 to 2 KiB; and with the largest
head and body beside it, it has to fit one packet (MAX_PACKET)."""
MAX_KNOWN = 1024
"""Connections whose facts a worker keeps decoded."""


class ClientCertificate(msgspec.Struct, frozen=True, array_like=True):
    """One that was verified. Names are as in RFC 4514: "CN=Ann,O=Example"."""

    der: bytes
    subject: str
    issuer: str
    serial: str  # hexadecimal, upper case
    not_before: str  # as OpenSSL prints it: "Nov 26 10:00:00 2026 GMT"
    not_after: str
    common_names: tuple[str, ...]
    emails: tuple[str, ...]  # of subjectAltName
    dns_names: tuple[str, ...]

    @property
    def pem(self) -> str:
        text = b64encode(self.der).decode()
        lines = [text[at : at + 64] for at in range(0, len(text), 64)]
        return "\n".join(("-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""))


class TLSFacts(msgspec.Struct, frozen=True, array_like=True):
    version: str  # "TLSv1.3"
    cipher: str  # as OpenSSL calls it: "TLS_AES_256_GCM_SHA384"
    cipher_id: int  # IANA's number of it
    bits: int  # of its key
    server_name: str  # that the client asked for (SNI); "" if it named none
    certificate: ClientCertificate | None = None  # None: it has shown none
    shown_name: str = ""  # of the server's own (see certificates.name_of); "": it is not known


encode = msgspec.msgpack.Encoder().encode
decode = lru_cache(MAX_KNOWN)(msgspec.msgpack.Decoder(TLSFacts).decode)


@lru_cache(MAX_KNOWN)
def variables(encoded: bytes) -> dict[str, str]:
    """What a WSGI application finds in its environ, by Apache's names (mod_ssl). Not to be changed."""
    facts = decode(encoded)
    found = {
        "SSL_PROTOCOL": facts.version,
        "SSL_CIPHER": facts.cipher,
        "SSL_CIPHER_USEKEYSIZE": str(facts.bits),
        "SSL_TLS_SNI": facts.server_name,
        "SSL_CLIENT_VERIFY": "NONE",
    }
    if facts.certificate is not None:
        found |= _of_client(facts.certificate)
    # PEP 3333: bytes, here UTF-8's, as Latin-1
    return {name: value.encode().decode("latin-1") for name, value in found.items()}


def _of_client(shown: ClientCertificate) -> dict[str, str]:
    found = {
        "SSL_CLIENT_VERIFY": "SUCCESS",
        "SSL_CLIENT_S_DN": shown.subject,
        "SSL_CLIENT_I_DN": shown.issuer,
        "SSL_CLIENT_M_SERIAL": shown.serial,
        "SSL_CLIENT_V_START": shown.not_before,
        "SSL_CLIENT_V_END": shown.not_after,
        "SSL_CLIENT_CERT": shown.pem,
        "SSL_CLIENT_FINGERPRINT": sha256(shown.der).hexdigest(),
    }
    for name, values in (
        ("SSL_CLIENT_S_DN_CN", shown.common_names),
        ("SSL_CLIENT_SAN_Email", shown.emails),
        ("SSL_CLIENT_SAN_DNS", shown.dns_names),
    ):
        for place, value in enumerate(values):
            found[f"{name}_{place}" if place or "_SAN_" in name else name] = value
    return found
