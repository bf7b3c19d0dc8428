"""OpenSSL's side of a connection, beneath TLSTransport: how it is made, and what its errors say."""

from __future__ import annotations

from _ssl import MemoryBIO, SSLError
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl  # never at run time: see transport.py

HANDSHAKE_FAILURE = 40
UNRECOGNIZED_NAME = 112
NO_APPLICATION_PROTOCOL = 120
"""Alerts (RFC 8446 6)."""


class TLSError(OSError):
    """The client broke the protocol, or can't agree with us."""


def server_side(context: ssl.SSLContext, incoming: MemoryBIO, outgoing: MemoryBIO) -> Any:
    """The server's side of a connection, without the `ssl.SSLObject` around it, if that is possible: its
    methods only call these (0.1 µs each), and it takes 2 µs to make in a handshake."""
    wrap = getattr(context, "_wrap_bio", None)
    if wrap is not None:
        return wrap(incoming, outgoing, True)
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    return _Inner(tls)


class _Inner:
    """The same where Python shows nothing of the kind."""

    def __init__(self, tls: ssl.SSLObject) -> None:
        self._tls = tls
        self.shutdown = tls.unwrap

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tls, name)


def reason_of(error: SSLError) -> str:
    """In words: "no shared cipher", "certificate verify failed: certificate has expired"."""
    words = (error.reason or str(error)).lower().replace("_", " ")
    why = getattr(error, "verify_message", "")
    return f"{words}: {why}" if why else words


def alert(description: int) -> bytes:
    """A fatal alert before a handshake has begun (RFC 8446 6)."""
    return bytes((21, 3, 1, 0, 2, 2, description))
