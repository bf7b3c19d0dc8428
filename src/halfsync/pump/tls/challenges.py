"""What an authority has to find here before it issues a certificate: by http-01 (RFC 8555 8.3) a text at a
path, by tls-alpn-01 (RFC 8737) a certificate in a handshake of a protocol of its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from halfsync.http.hosts import name_of
from halfsync.pump.descriptors import Descriptor
from halfsync.pump.leases.leased import Leased
from halfsync.pump.routes import path_of
from halfsync.wire.messages import Reply
from halfsync.wire.orders import Challenges

if TYPE_CHECKING:
    import ssl

PROTOCOL = "acme-tls/1"
PATH = b"/.well-known/acme-challenge/"


class ShownChallenges:
    def __init__(self) -> None:
        self.texts: dict[bytes, bytes] = {}  # by path
        self.contexts: dict[bytes, ssl.SSLContext] = {}  # by host

    def show(self, order: Challenges) -> None:
        """These, and no others. Raises ssl.SSLError, OSError."""
        self.texts = {PATH + token.encode(): text.encode() for token, text in order.texts.items()}
        self.contexts = {host.encode(): _context_of(pem) for host, pem in order.certificates.items()}

    def response(self, target: bytes) -> Leased | None:
        """None: it is no challenge's."""
        text = self.texts.get(path_of(target))
        if text is None:
            return None
        fields = b"Content-Type: application/octet-stream\r\n"
        return Leased(Reply(0, 200, "OK", fields, len(text), text))

    def context(self, server_name: str, protocols: tuple[bytes, ...] | None) -> ssl.SSLContext | None:
        """For a handshake that asks for a challenge; None: it is another one."""
        if not self.contexts or protocols != (PROTOCOL.encode(),):
            return None
        return self.contexts.get(name_of(server_name.encode()))


def _context_of(pem: bytes) -> ssl.SSLContext:
    import ssl

    copy = Descriptor(os.memfd_create("challenge", os.MFD_CLOEXEC))
    os.write(copy.fd, pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"/proc/self/fd/{copy.fd}")
    context.set_alpn_protocols([PROTOCOL])
    return context
