"""A connection with the `limit_store` over TLS, for which the URL says rediss://."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator

from halfsync.settings.store_url import StoreUrl


def context_of(url: StoreUrl) -> ssl.SSLContext:
    """Reads files: not for the event loop's thread. Raises OSError, whose `strerror` names the file."""
    with _reading(url.ca_certs):
        context = ssl.create_default_context(cafile=url.ca_certs or None)
    if not url.verifies:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if url.certfile:
        with _reading(f"{url.certfile} {url.keyfile}".rstrip()):
            context.load_cert_chain(url.certfile, url.keyfile or None)
    return context


@contextlib.contextmanager
def _reading(files: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{files}: {in_words(error)}") from None


class TlsSocket:
    """What LimitStore has of a socket. The handshake is made by whichever call comes first; none waits: they
    raise BlockingIOError as a socket's do."""

    def __init__(self, connected: socket.socket, context: ssl.SSLContext, host: str) -> None:
        """Takes the socket over, which does not block. Raises OSError."""
        self._tls = context.wrap_socket(connected, server_hostname=host, do_handshake_on_connect=False)
        self.waits_to_read = False
        """Whether what is to be sent has to wait until something has been received."""

    def fileno(self) -> int:
        return self._tls.fileno()

    def getsockopt(self, level: int, option: int) -> int:
        return self._tls.getsockopt(level, option)

    def close(self) -> None:
        self._tls.close()

    def send(self, data: bytes) -> int:
        with self._unblocked():
            self._tls.do_handshake()  # nothing, when it has been made
            return self._tls.send(data) if data else 0
        raise BlockingIOError

    def recv(self, size: int) -> bytes:
        """To be called until it raises BlockingIOError: what it has read and not given shows in no poll."""
        with self._unblocked():
            self._tls.do_handshake()
            return self._tls.recv(size)
        raise BlockingIOError

    @contextlib.contextmanager
    def _unblocked(self) -> Iterator[None]:
        self.waits_to_read = False
        try:
            yield
        except ssl.SSLWantReadError:
            self.waits_to_read = True
        except ssl.SSLWantWriteError:
            pass
        except ssl.SSLError as error:
            raise OSError(error.errno, in_words(error)) from None


def in_words(error: OSError) -> str:
    """Why a handshake failed, or the files for it can't be had."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate can't be trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).lower().replace('_', ' ')}"
    return error.strerror or str(error)
