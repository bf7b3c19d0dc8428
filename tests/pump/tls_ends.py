"""TLS on a test's stage: certificates in memory for the pump, and a client's socket that speaks it.

The client's is no `ssl.SSLSocket`, which can't be told apart from a plain one in what matters here: whether
the connection ended with a close_notify, and what lies in which record."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any

import trustme

from halfsync.tls.certificates import Certificates, SiteCertificates
from tests.certificates import authority, chain_of, client_context, issued, key_of
from tests.pump.prompt import PromptSocket

TIMEOUT = 60.0
HOST = "a"
"""The host that tests ask for, if they do not care."""


def site(
    name: str = "", *hosts: str, leaves: tuple[trustme.LeafCert, ...] = (), **more: Any
) -> tuple[SiteCertificates, bytes]:
    """A site's certificates without their places, and what is in the file."""
    leaves = leaves or (issued(*(hosts or (HOST, "127.0.0.1"))),)
    pems = [key_of(leaf) + chain_of(leaf) for leaf in leaves]
    spans, at = [], 0
    for pem in pems:
        spans.append((at, len(pem)))
        at += len(pem)
    if more.get("cert_reqs", "none") != "none":
        more.setdefault("ca_certs", authority().cert_pem.bytes().decode())
    return SiteCertificates(name, hosts, tuple(spans), "digest", **more), b"".join(pems)


def certificates(*sites: tuple[SiteCertificates, bytes]) -> Certificates:
    """All of them, in a file in memory."""
    fd = os.memfd_create("certificates", os.MFD_CLOEXEC)
    found = []
    at = 0
    for one, data in sites or (site(),):
        os.write(fd, data)
        pems = tuple((at + offset, size) for offset, size in one.pems)
        at += len(data)
        found.append(
            SiteCertificates(
                one.name,
                one.hosts,
                pems,
                one.digest,
                one.password,
                one.ca_certs,
                one.cert_reqs,
                one.minimum_version,
                one.ciphers,
            )
        )
    return Certificates(tuple(found), fd)


class TLSSocket:
    """A client's end: a few of a socket's methods, and it never waits, except for its handshake."""

    def __init__(
        self,
        sock: socket.socket,
        turn: Callable[[], object],
        context: ssl.SSLContext | None = None,
        name: str = HOST,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self.raw = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = (context or client_context()).wrap_bio(
            self.incoming, self.outgoing, server_hostname=name or None, session=session
        )
        self._unsent = b""
        self.said_goodbye = False  # the server sent a close_notify
        give_up = time.monotonic() + TIMEOUT
        try:
            while not self._shaken():
                turn()
                assert time.monotonic() < give_up, "no handshake"
        except BaseException:
            sock.close()
            raise

    def _shaken(self) -> bool:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self.flush()
            self._fill()
            return False
        except ssl.SSLError:
            self.flush()
            raise
        self.flush()
        return True

    def _fill(self) -> bool:
        """Whether anything came. Raises OSError at the end, if there was no close_notify."""
        try:
            receive = getattr(self.raw, "recv_promptly", self.raw.recv)
            data = receive(65536)
        except BlockingIOError:
            return False
        if not data:
            raise ConnectionResetError("the end, without a close_notify")
        self.incoming.write(data)
        return True

    def flush(self) -> bool:
        """Whether all that is encrypted is sent."""
        self._unsent += self.outgoing.read()
        while self._unsent:
            try:
                self._unsent = self._unsent[self.raw.send(self._unsent) :]
            except BlockingIOError:
                return False
        return True

    def send(self, data: bytes | memoryview) -> int:
        if not self.flush():
            raise BlockingIOError
        size = self.tls.write(data)
        self.flush()
        return size

    def find_peer(self, candidates: Iterable[Any]) -> None:
        """PromptSocket's."""
        if isinstance(self.raw, PromptSocket):
            self.raw.find_peer(candidates)

    def recv_promptly(self, size: int) -> bytes:
        """PromptSocket's; of all records that are there, as a plain socket gives all bytes."""
        pieces = [self.recv(size)]
        size -= len(pieces[0])
        with contextlib.suppress(OSError):  # an end is found again
            while size and pieces[-1]:
                pieces.append(self.recv(size))
                size -= len(pieces[-1])
        return b"".join(pieces)

    def sendall(self, data: bytes) -> None:
        while data:
            data = data[self.send(data) :]

    def recv(self, size: int) -> bytes:
        while True:
            try:
                data = self.tls.read(size)
                self.said_goodbye = not data
                return data
            except ssl.SSLWantReadError:
                with contextlib.suppress(OSError):  # what came before a reset can be read all the same
                    self.flush()
                if not self._fill():
                    raise BlockingIOError from None
            except ssl.SSLZeroReturnError:
                self.said_goodbye = True
                return b""

    def shutdown(self, how: int) -> None:
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        with contextlib.suppress(OSError):  # the server has closed, and has no use for our close_notify
            self.flush()
            self.raw.shutdown(how)

    def close(self) -> None:
        self.raw.close()

    def fileno(self) -> int:
        return self.raw.fileno()

    def setblocking(self, flag: bool) -> None:
        """Of use for sends alone."""
        self.raw.setblocking(flag)

    def settimeout(self, seconds: float) -> None:
        self.raw.settimeout(seconds)

    def setsockopt(self, *arguments: Any) -> None:
        self.raw.setsockopt(*arguments)

    def getsockname(self) -> Any:
        return self.raw.getsockname()
