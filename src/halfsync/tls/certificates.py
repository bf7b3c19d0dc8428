"""Certificates with their keys, as the parent read them and the pump uses them.

The parent reads the files, before privileges are given up, and copies them from descriptor to descriptor
into one file in memory: so a key is never among the parent's own data, which every worker inherits. The
file's descriptor is the pump's alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
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

MOST_FORMER = 64
"""Certificates of before that are remembered; 1 to 2 KiB each."""


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
    shown: tuple[str, ...] = ()  # PEM: each one without key and chain; "" if it can't be told which that is
    names: tuple[str, ...] = ()  # that any of them is for, in lower case: "a.example", "*.a.example"

    @property
    def shown_name(self) -> str:
        """`name_of` what every client is shown. "": it is not known, since clients choose among several."""
        return name_of(self.shown[0]) if len(self.shown) == 1 and self.shown[0] else ""


@dataclass(frozen=True, slots=True)
class Certificates:
    """All of them. Two are equal if what is in their files is."""

    sites: tuple[SiteCertificates, ...]
    fd: int = field(compare=False)  # the file in memory
    tickets: Span | None = field(
        default=None, compare=False
    )  # where the tickets' secret is; None: there is none
    former: tuple[str, ...] = field(default=(), compare=False)
    """PEM: what was shown before a reload, the latest last. Clients that are connected go on with it."""

    def at(self, fd: int) -> Certificates:
        """The same, in another process."""
        return replace(self, fd=fd)

    def following(self, before: Certificates | None) -> Certificates:
        """The same, after those."""
        if before is None:
            return self
        was = [pem for site in before.sites for pem in site.shown if pem]
        former = dict.fromkeys((*before.former, *was))
        return replace(self, former=tuple(former)[-MOST_FORMER:])

    @property
    def shown(self) -> dict[str, str]:
        """What clients are shown, and were before, in PEM by `name_of`."""
        now = [pem for site in self.sites for pem in site.shown if pem]
        return {name_of(pem): pem for pem in (*self.former, *now)}


def name_of(pem: str) -> str:
    """A short name of a certificate, by which the facts of a connection tell it."""
    return hashlib.sha256(pem.encode()).hexdigest()[:16]


def covers(names: Collection[str], host: str) -> bool:
    """Whether a certificate with these names is for this host. All in lower case."""
    return host in names or f"*.{host.partition('.')[2]}" in names


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
