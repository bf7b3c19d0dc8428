"""Certificates with their keys, as the parent read them and the pump uses them.

The parent reads the files, before privileges are given up, and copies them from descriptor to descriptor
into one file in memory: so a key is never among the parent's own data, which every worker inherits. The
file's descriptor is the pump's alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

INTERMEDIATE = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:"
    "DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384:DHE-RSA-CHACHA20-POLY1305"
)
"""Mozilla's "intermediate" (Server Side TLS 5.7), of TLS 1.2. The three suites of TLS 1.3 are OpenSSL's
own."""

Span = tuple[int, int]
"""Offset and size."""


@dataclass(frozen=True, slots=True)
class SiteCertificates:
    """What is shown to clients that ask for one of `hosts`."""

    name: str  # of the site; "" for the default
    hosts: tuple[str, ...]  # in lower case; "*.example.org" for any one label before it
    pems: tuple[Span, ...]  # in the file: a key and its certificate chain each; of different kinds
    digest: str  # of what is there
    password: str | None = field(default=None, repr=False)  # of the keys
    ca_certs: str | None = None  # PEM: whose client certificates are accepted
    cert_reqs: str = "none"  # or "optional", "required"
    minimum_version: str = "1.2"  # or "1.3"
    ciphers: str = ""  # "": INTERMEDIATE
    expire: tuple[float, ...] = ()  # when each of them does, in seconds since 1970


@dataclass(frozen=True, slots=True)
class Certificates:
    """All of them. Two are equal if what is in their files is."""

    sites: tuple[SiteCertificates, ...]
    fd: int = field(compare=False)  # the file in memory
    tickets: Span | None = field(
        default=None, compare=False
    )  # where the tickets' secret is; None: there is none

    def at(self, fd: int) -> Certificates:
        """The same, in another process."""
        return replace(self, fd=fd)


def context_of(site: SiteCertificates, pems: Sequence[str]) -> ssl.SSLContext:
    """A server's context. `pems`: paths of the files that `site.pems` names. Raises ssl.SSLError, OSError."""
    # Not at the top: workers have this file in memory, and gevent can't patch an `ssl` that is there before
    # it.
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = getattr(ssl.TLSVersion, f"TLSv{site.minimum_version.replace('.', '_')}")
    context.set_ciphers(site.ciphers or INTERMEDIATE)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # Mozilla: of the list all are good, and the client knows best which is fast for it.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    # OpenSSL's two take 45 µs and 500 bytes. A client that uses its ticket gets another one with that.
    context.num_tickets = 1
    for path in pems:
        # Given a function, OpenSSL never asks on the terminal.
        context.load_cert_chain(path, password=lambda: site.password or "")
    if site.ca_certs:
        context.load_verify_locations(cadata=site.ca_certs)
    context.verify_mode = getattr(ssl.VerifyMode, f"CERT_{site.cert_reqs.upper()}")
    return context
