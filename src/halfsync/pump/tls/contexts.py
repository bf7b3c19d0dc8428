"""Which context a handshake begins with: by the address to which the client connected, and the name that it
asks for.

Both select a site as they do for requests: a host that no site has is the first one's that is served at that
address. (Else a request could reach a site on a connection that has kept another site's rules.)"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from halfsync.http.hosts import HostTable, name_of
from halfsync.plan.plan import Plan
from halfsync.pump.descriptors import Descriptor
from halfsync.system.copying import copy_part
from halfsync.tls.certificates import SiteCertificates, Span, context_of, covers
from halfsync.tls.http2_ciphers import HTTP2, may_speak_newest, prohibited_in
from halfsync.tls.ticket_keys import LIFE, SECRET, keys_of, new_secret, set_keys
from halfsync.wire.client_hello import offers_tls_1_3

if TYPE_CHECKING:
    import ssl


class KeptRules(NamedTuple):
    """What a client had to keep in its handshake. `name` is that of the site whose rules they are."""

    name: str
    cert_reqs: str
    ca_certs: str | None
    minimum_version: str

    @property
    def are_guarding(self) -> bool:
        """Whether a client that has kept others need not have kept these."""
        return self.cert_reqs != "none" or self.minimum_version != "1.2"


class Terms:
    """What the handshakes of one site's clients begin with."""

    __slots__ = ("context", "digest", "names", "rules", "shown_name", "wants_certificate", "without_http2")

    def __init__(
        self,
        context: ssl.SSLContext | None,
        rules: KeptRules,
        shown_name: str = "",
        names: Collection[str] = (),
        digest: str = "",
    ) -> None:
        self.context = context  # None: the site has no certificate
        self.rules = rules  # that the client has to keep
        self.wants_certificate = rules.cert_reqs != "none"  # of the client: it may have one, or has to
        self.shown_name = shown_name  # of the certificate that the client is shown; "": not known
        self.names = names  # that the certificate is for, in lower case
        self.digest = digest  # of the certificates and their keys
        self.without_http2: ssl.SSLContext | None = None
        """For clients that might choose a cipher suite which HTTP/2 must not be spoken with."""

    def may_speak_http2(self, hello: bytes) -> bool:
        """Whether a client that began with this hello can't choose such a suite."""
        return self.without_http2 is None or (may_speak_newest(self.without_http2) and offers_tls_1_3(hello))


NO_TERMS = Terms(None, KeptRules("", "none", None, "1.2"))
"""For hosts that have no certificate."""


class Contexts:
    """Of all sites that have certificates, and of the default one, which counts for all others."""

    def __init__(self, plan: Plan, protocols: Sequence[str]) -> None:
        """Raises ssl.SSLError, OSError."""
        certificates = plan.certificates
        sites = certificates.sites if certificates is not None else ()
        self._terms: list[Terms] = []
        self.protocols = list(protocols)
        for site in sites:
            assert certificates is not None
            copies = [_copy(certificates.fd, *span) for span in site.pems]
            paths = [f"/proc/self/fd/{copy.fd}" for copy in copies]
            context = context_of(site, paths)
            context.set_alpn_protocols(self.protocols)
            rules = KeptRules(site.name, site.cert_reqs, site.ca_certs, site.minimum_version)
            terms = Terms(context, rules, site.shown_name, frozenset(site.names), site.digest)
            self._terms.append(terms)
            if HTTP2 in protocols and prohibited_in(context):
                other = context_of(site, paths)
                other.set_alpn_protocols([name for name in protocols if name != HTTP2])
                terms.without_http2 = other
        self._have_changed = False  # while clients were connected that may still be
        self._tickets: TicketKeys | None = None
        if certificates is not None and certificates.tickets is not None:
            keyed = [
                (context, site)
                for terms, site in zip(self._terms, sites, strict=True)
                for context in (terms.context, terms.without_http2)
                if context is not None
            ]
            self._tickets = TicketKeys(certificates.fd, certificates.tickets, keyed)
        self.has_guarded = len(sites) > 1 and self._are_guarding
        """Whether a client that is connected need not be let in by every site."""
        self._has_several = len(sites) > 1
        self.configure(plan)

    @property
    def _are_guarding(self) -> bool:
        return any(terms.rules.are_guarding for terms in self._terms)

    @property
    def looks_at_hosts(self) -> bool:
        """Whether each request over HTTP/2 has to be admitted, by its host."""
        return self.has_guarded or self._has_several

    def replace(self, before: Contexts) -> None:
        """Those were in effect until now: clients are connected that have kept their rules."""
        rules = [terms.rules for terms in before._terms]
        self._have_changed = before._have_changed or [terms.rules for terms in self._terms] != rules
        if self._have_changed:
            self.has_guarded = self._are_guarding
        there = {one: one for one in rules}
        for terms in self._terms:
            terms.rules = there.get(terms.rules, terms.rules)  # to find them equal is quick then

    def configure(self, plan: Plan) -> None:
        """Another plan is in effect, with the same certificates."""
        of_names = {terms.rules.name: terms for terms in self._terms}
        default = of_names.get("", NO_TERMS)
        of_sites = [of_names.get(site.name, default) for site in plan.sites]
        self._tables: list[HostTable[Terms]] = [
            HostTable(
                ((of_sites[one], plan.sites[one].hosts) for one in listener.sites),
                of_sites[listener.sites[0]],
            )
            for listener in plan.listeners
        ]

    def rotate_ticket_keys(self, now: float) -> None:
        """If it is time. `now`: seconds since 1970."""
        if self._tickets is not None and not 0 <= now - self._tickets.made < LIFE:
            self._tickets.renew(now)

    def choose(self, listener: int, name: str) -> Terms:
        """`name`: of the host, in lower case; "" if the client named none."""
        return self._tables[listener].find(name.encode())

    def admits(self, listener: int, met: Terms | None, host: bytes) -> bool:
        """Whether a request for a host, as a Host field has it, may come on a connection whose client has
        met these terms in its handshake: those of the host's site, or that site asks for no more."""
        wanted = self._tables[listener].find(host)
        if wanted is met or not wanted.rules.are_guarding:
            return True
        return met is not None and wanted.rules == met.rules  # (as before a reload)

    def is_shown_for(self, listener: int, met: Terms, host: bytes) -> bool:
        """Whether the certificate that the client was shown with these terms is that of the host's site, or
        is for that host, too. Else the client should not use this connection for it (RFC 9113 9.1.1)."""
        wanted = self._tables[listener].find(host)
        if wanted is met or wanted.rules.name == met.rules.name or wanted.digest == met.digest:
            return True
        return covers(met.names, name_of(host).decode("latin-1"))


class TicketKeys:
    """Of all contexts: see ticket_keys.py."""

    def __init__(
        self, fd: int, span: Span, contexts: Sequence[tuple[ssl.SSLContext, SiteCertificates]]
    ) -> None:
        self._file = Descriptor(os.dup(fd))
        self._offset, size = span
        self._contexts = contexts
        self.made = 0.0
        self._set(os.pread(fd, size, self._offset))

    def renew(self, now: float) -> None:
        secret = new_secret(now)
        os.pwrite(self._file.fd, secret, self._offset)
        self._set(secret)

    def _set(self, secret: bytes) -> None:
        self.made, _ = SECRET.unpack(secret)
        for context, site in self._contexts:
            set_keys(context, keys_of(secret, site))


def _copy(fd: int, offset: int, size: int) -> Descriptor:
    """A part of a file as a file in memory of its own: OpenSSL reads files, and from their beginning."""
    copy = Descriptor(os.memfd_create("certificate", os.MFD_CLOEXEC))
    if copy_part(copy.fd, fd, offset, size) < size:
        raise OSError("the certificates' file is shorter than it should be")
    return copy
