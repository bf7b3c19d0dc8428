"""Which context a handshake begins with: by the name that the client asks for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from halfsync.certificates import Certificates, context_of
from halfsync.pump.descriptors import Descriptor

if TYPE_CHECKING:
    import ssl


class Contexts:
    """Of all certificates: those of exact names, of wildcards, and the default."""

    def __init__(self, certificates: Certificates | None, protocols: Sequence[str]) -> None:
        """Raises ssl.SSLError, OSError."""
        self._exact: dict[str, ssl.SSLContext] = {}
        self._wildcards: dict[str, ssl.SSLContext] = {}  # by what is behind the asterisk: ".example.org"
        self._default: ssl.SSLContext | None = None
        if certificates is None:
            return
        for site in certificates.sites:
            copies = [_copy(certificates.fd, *span) for span in site.pems]
            context = context_of(site, [f"/proc/self/fd/{copy.fd}" for copy in copies])
            context.set_alpn_protocols(list(protocols))
            if not site.name:
                self._default = context
            for host in site.hosts:
                if host.startswith("*."):
                    self._wildcards[host[1:]] = context
                else:
                    self._exact[host] = context

    def choose(self, name: str) -> ssl.SSLContext | None:
        """`name`: in lower case; "" if the client named none. None: nothing is served under it."""
        found = self._exact.get(name)
        if found is not None:
            return found
        _, dot, parent = name.partition(".")
        return self._wildcards.get(dot + parent) or self._default


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
