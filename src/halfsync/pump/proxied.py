"""Connections from a proxy that says first for which client it speaks: the PROXY protocol.

Theory of operation
-------------------
The header is looked at where it is, in the kernel's buffer (MSG_PEEK), and then taken from there, and nothing
more. So whatever follows, TLS or HTTP, is read by the one who reads it on all connections, and nothing is
ever buffered on its way there. A header that comes in pieces is looked at again with each of them: it has
4 KiB at most.

Whoever connects could send one. So it is believed from the proxies of `forwarded_allow_ips` only; and as on
such a listener every client comes through a proxy, a connection without a header is closed, too.
"""

from __future__ import annotations

from collections.abc import Callable

from halfsync.http.forwarded import Trust
from halfsync.pump.before_http import BeforeHttp
from halfsync.pump.clock import Clock
from halfsync.pump.connection import WAIT, Connection, Outcome, WireProtocol
from halfsync.pump.endings import Endings
from halfsync.pump.origin import Origin
from halfsync.pump.quiet_log import QuietLog
from halfsync.pump.transport import PlainTransport
from halfsync.settings.table import Settings
from halfsync.wire.closes import CloseReason
from halfsync.wire.proxy_protocol import MAX_HEADER, ProxyHeaderError, parse


class ProxyHeaders(BeforeHttp):
    """The protocol of a connection in HANDSHAKE at a listener with `proxy_protocol`, until it has said so."""

    def __init__(self, clock: Clock, endings: Endings, http1: WireProtocol, settings: Settings) -> None:
        super().__init__(http1)
        self._clock = clock
        self._endings = endings
        self.go_on: Callable[[Connection], None]  # as with any connection that was accepted: see acceptor.py
        self._log = QuietLog()
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        self._trust = Trust(settings.forwarded_allow_ips, settings.forwarded_headers)

    def step(self, conn: Connection) -> Outcome:
        assert isinstance(conn.transport, PlainTransport)
        try:
            data = conn.transport.peek(MAX_HEADER)
            if not data:
                return self._endings.close(conn, CloseReason.CLIENT_DISCONNECTED)
            if not self._trust.trusts(conn.origin.client):
                return self._refuse(conn, "it is not in forwarded_allow_ips")
            header = parse(data)
            if header is None and not conn.ended:
                return WAIT
            if header is None:
                return self._endings.close(conn, CloseReason.CLIENT_DISCONNECTED)
            conn.transport.skip(header.size)
        except BlockingIOError:
            return WAIT
        except OSError:
            return self._endings.close(conn, CloseReason.CLIENT_DISCONNECTED)
        except ProxyHeaderError as error:
            return self._refuse(conn, str(error))
        if header.client is not None:
            conn.origin = Origin(header.client, header.client_port, conn.origin.listener)
        self.go_on(conn)
        return WAIT

    def _refuse(self, conn: Connection, why: str) -> Outcome:
        sentence = f"closed a connection from {conn.origin}: {why} (proxy_protocol)."
        self._log.say("warning", sentence, self._clock.now)
        return self._endings.close(conn, CloseReason.BAD_PROXY_HEADER)
