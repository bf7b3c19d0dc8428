"""Which context a handshake begins with: by the name that the client asks for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from halfsync.certificates import Certificates, SiteCertificates, context_of
from halfsync.hosts import HostTable
from halfsync.pump.descriptors import Descriptor

if TYPE_CHECKING:
    import ssl

NOBODY = -1
"""In the place of a site, for hosts that none has."""


class Contexts:
    """Of all sites that have certificates, and of the default one. A host's site is found as for requests."""

    def __init__(self, certificates: Certificates | None, protocols: Sequence[str]) -> None:
        """Raises ssl.SSLError, OSError."""
        sites = certificates.sites if certificates is not None else ()
        self._sites = sites
        self._contexts: list[ssl.SSLContext] = []
        for site in sites:
            assert certificates is not None
            copies = [_copy(certificates.fd, *span) for span in site.pems]
            context = context_of(site, [f"/proc/self/fd/{copy.fd}" for copy in copies])
            context.set_alpn_protocols(list(protocols))
            self._contexts.append(context)
        default = next((index for index, site in enumerate(sites) if not site.name), NOBODY)
        self._table = HostTable(((index, site.hosts) for index, site in enumerate(sites)), default)
        self.has_guarded = len(sites) > 1 and any(map(_is_guarded, sites))
        """Whether a client that may speak with one site need not be let in by another."""

    def choose(self, name: str) -> tuple[str, ssl.SSLContext] | None:
        """The name of a site, and its context. `name`: of the host, in lower case; "" if the client named
        none. None: nothing is served under it."""
        index = self._table.find(name.encode())
        return None if index == NOBODY else (self._sites[index].name, self._contexts[index])

    def admits(self, site: str, host: bytes) -> bool:
        """Whether a request for a host, as a Host field has it, may come on a connection that was made with
        that site."""
        index = self._table.find(host)
        return index == NOBODY or self._sites[index].name == site or not _is_guarded(self._sites[index])


def _is_guarded(site: SiteCertificates) -> bool:
    return site.cert_reqs != "none" or site.minimum_version != "1.2"


def _copy(fd: int, offset: int, size: int) -> Descriptor:
    """A part of a file as a file in memory of its own: OpenSSL reads files, and from their beginning."""
    copy = Descriptor(os.memfd_create("certificate", os.MFD_CLOEXEC))
    while size:
        sent = os.sendfile(copy.fd, fd, offset, size)
        if not sent:
            raise OSError("the certificates' file is shorter than it should be")
        offset += sent
        size -= sent
    return copy
