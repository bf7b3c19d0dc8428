"""Which cipher suites HTTP/2 may be spoken with (RFC 9113 9.2.2).

Its appendix A lists those of TLS 1.2 that are prohibited: all whose keys are not ephemeral, and all that do
not encrypt and authenticate in one step (AEAD). Browsers end a connection that uses one of them with HTTP/2.
All those of TLS 1.3 are good.

Which suite a handshake will choose is not known before; with TLS 1.3 it is a good one in any case. So where a
site's `ciphers` has a prohibited one, HTTP/2 is offered to clients that speak TLS 1.3, and HTTP/1.1 alone to
the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

HTTP2 = "h2"
"""In ALPN."""
_EPHEMERAL = ("ECDHE-", "DHE-", "TLS_")  # (TLS 1.3's names begin with the last)
_AEAD = ("GCM", "CCM", "CHACHA20")


def suits_http2(cipher: str) -> bool:
    """By its name, as OpenSSL has it."""
    return cipher.startswith(_EPHEMERAL) and any(kind in cipher for kind in _AEAD)


def prohibited_in(context: ssl.SSLContext) -> list[str]:
    """Names of those that clients of this context may choose."""
    if context.minimum_version >= _TLS_1_3:
        return []
    return [one["name"] for one in context.get_ciphers() if not suits_http2(one["name"])]


def may_speak_newest(context: ssl.SSLContext) -> bool:
    """Whether TLS 1.3 is not turned off for the whole system (MaxProtocol in OpenSSL's configuration)."""
    return context.maximum_version < 0 or context.maximum_version >= _TLS_1_3


_TLS_1_3 = 0x0304
