"""Keys of TLS session tickets, by which clients resume sessions: the same before and after a reload, and in
the pump that takes the place of one that died.

Theory of operation
-------------------
OpenSSL makes keys of its own for each context, so that no other process's, nor a later context of this one,
can read a ticket; it has a call to set others (SSL_CTX_set_tlsext_ticket_keys), and Python has none. So it is
called by ctypes, in the very library that Python's `_ssl` uses, with the pointer that an SSLContext begins
with. That layout is old, but nobody promises it. Hence three guards: it is done with versions alone for which
this was tried (3.11 to 3.14); a child that lives for a moment tries it first, with a context of its own,
and reads the keys back (a wrong pointer crashes the child, and nobody else); and where that fails, sessions
end with their context, which costs clients a full handshake and nothing more.

The *secret*, of which all keys are made, is in the certificates' file in memory, which the pump alone has.
The child writes it; so it is in no other process's memory. A reload copies it from file to file. The pump
makes another one every LIFE seconds, which ends the tickets before.

Each site has keys of its own: else a session of one that asks for no client certificate would do for one that
requires it. They depend on what a client had to show, and not on the server's certificate, which may be
renewed, and on the cipher suites that are spoken.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import struct
import sys
from typing import TYPE_CHECKING, Any

from halfsync.tls.certificates import SiteCertificates

if TYPE_CHECKING:
    import ssl

LIFE = 12 * 3600.0
"""Seconds of one secret."""
SECRET = struct.Struct("d64s")
"""When it was made (seconds since 1970), and what it is."""

CHECKED = ((3, 11), (3, 14))
"""Versions of CPython, from and up to, in whose SSLContext the pointer is where we take it."""

_SIZE = 80
"""Bytes of a name, of a key for HMAC-SHA256 and of one for AES-256 (OpenSSL 1.1.1 and 3)."""
_GET, _SET = 58, 59  # SSL_CTRL_GET_TLSEXT_TICKET_KEYS and SET


def new_secret(now: float) -> bytes:
    return SECRET.pack(now, os.urandom(64))


def keys_of(secret: bytes, site: SiteCertificates) -> bytes:
    # (OpenSSL resumes a session of TLS 1.2 with its own cipher suite, whatever the context's are.)
    kept = (site.name, site.hosts, site.ca_certs, site.cert_reqs, site.minimum_version, site.ciphers)
    told = repr(kept).encode()
    return b"".join(
        hashlib.blake2b(told, key=secret[-64:], digest_size=40, person=person).digest()
        for person in (b"tickets-1", b"tickets-2")
    )


def is_usable() -> bool:
    """Tries it. To be called in a child: it may crash."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    keys = bytes(range(_SIZE))
    if not set_keys(context, keys):
        return False
    read = ctypes.create_string_buffer(_SIZE)
    return bool(_control()(_pointer(context), _GET, _SIZE, read) == 1 and read.raw == keys)


def set_keys(context: ssl.SSLContext, keys: bytes) -> bool:
    """Whether the context has them now. Only where `is_usable`."""
    control = _control()
    if control is None:
        return False
    size = control(_pointer(context), _GET, 0, None)
    return bool(size == len(keys) == _SIZE and control(_pointer(context), _SET, _SIZE, keys) == 1)


def _control() -> Any:
    """SSL_CTX_ctrl of the library that Python uses; None if it is not to be had."""
    import _ssl

    file = getattr(_ssl, "__file__", None)
    least, most = CHECKED
    if file is None or sys.implementation.name != "cpython" or not least <= sys.version_info[:2] <= most:
        return None
    try:
        control = ctypes.CDLL(file).SSL_CTX_ctrl  # found in what that file depends on
    except (OSError, AttributeError):
        return None
    control.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p)
    control.restype = ctypes.c_long
    return control


def _pointer(context: ssl.SSLContext) -> ctypes.c_void_p:
    """The SSL_CTX of a context: what stands behind the head that every object has."""
    return ctypes.c_void_p.from_address(id(context) + object.__basicsize__)
