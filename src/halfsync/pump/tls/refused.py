"""Clients whose handshake has failed at what they have sent last, until they know why.

With TLS 1.3 a client that has sent its certificate is done with its handshake, and goes on to its requests
before anybody has looked at that. If the socket was closed meanwhile, a reset would answer them, and a client
that still sends (curl with HTTP/2) would never read the alert which says what is wrong with the certificate.
So our way is shut behind the alert, and what comes is dropped until the client closes, as behind a last
response (RFC 9112 9.6).
"""

from __future__ import annotations

from halfsync.pump.before_http import BeforeHttp
from halfsync.pump.clock import Clock
from halfsync.pump.connection import Connection, Outcome, WireProtocol
from halfsync.pump.endings import Endings
from halfsync.pump.output import Output
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.states import ConnectionEvent
from halfsync.pump.tls.transport import TLSTransport
from halfsync.wire.closes import CloseReason

TIME_TO_READ = 2.0
"""Seconds until the socket of a client that does not close is closed all the same."""


class RefusedClients(BeforeHttp):
    """Their protocol."""

    def __init__(
        self,
        clock: Clock,
        run_queue: RunQueue,
        endings: Endings,
        output: Output,
        http1: WireProtocol,
    ) -> None:
        super().__init__(http1)
        self._clock = clock
        self._run_queue = run_queue
        self._endings = endings
        self._output = output

    def take(self, conn: Connection, transport: TLSTransport) -> None:
        """The alert is sent."""
        plain = transport.plain
        try:
            plain.finish()
        except OSError:  # the client has gone
            self._endings.close(conn, CloseReason.HANDSHAKE_FAILED)
            return
        conn.move(ConnectionEvent.ENDED_LAST)
        conn.transport = plain  # what OpenSSL holds for it is let go of
        conn.protocol = self
        conn.inbox = b""
        conn.readable = True
        conn.deadline = self._clock.now + TIME_TO_READ
        self._run_queue.ready(conn)

    def step(self, conn: Connection) -> Outcome:
        return self._output.linger(conn, CloseReason.HANDSHAKE_FAILED)
