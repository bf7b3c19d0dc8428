"""A connection that has become a tunnel: what the client sends goes to a socket, and what the socket gives to
the client, uninterpreted, both ways at once. After an upgrade (101).

Theory of operation
-------------------
Each way holds one buffer, of one read (64 KiB). While the other side does not take it, nothing more is read,
so the kernel's own flow control goes through, and a tunnel costs no more than two buffers, whatever it
carries.

Each way ends by itself: the end of file of one side is passed on to the other behind the last byte (a
half-close), and the tunnel is over when both ways have. If the socket's other end is closed altogether,
nothing can be passed to it any more: then what it had given is sent, and that is all.

The socket's open file description may be shared with the application, which can clear O_NONBLOCK at any time.
So each call says by itself that it does not wait (MSG_DONTWAIT).

At a stop, the socket is told that nothing more comes from the client: most protocols then say goodbye and
close. What is open at `graceful_timeout` is cut off.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from contextlib import suppress

from halfsync.pump.clock import Clock
from halfsync.pump.connection import GONE, MORE, NEVER, WAIT, Connection, Exchange, Mark, Outcome
from halfsync.pump.endings import Endings
from halfsync.pump.http1.responses import Http1Responses
from halfsync.pump.output import Output
from halfsync.pump.poller import Poller
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.sendables import Framing
from halfsync.pump.states import (
    BUSY,
    LINGERING,
    RESPONSE,
    TAKEN,
    TUNNEL,
    ConnectionEvent,
    TunnelEvent,
    TunnelState,
)
from halfsync.pump.tunnel_ends import TunnelEnds
from halfsync.wire.closes import CloseReason
from halfsync.wire.http1_responses import status_line
from halfsync.wire.messages import Reply

SIZE = 64 * 1024
"""Bytes of one read, and so of what may wait on each way."""
SHARES = 16
"""Reads of each way in one step, before other connections have theirs."""
NO_WAIT = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
CLIENTS_WAY = (TunnelState.OPEN, TunnelState.PEER_ENDED)
PEERS_WAY = (TunnelState.OPEN, TunnelState.CLIENT_ENDED)
"""The states in which it is open."""


class Tunnels:
    """See WireProtocol; what makes responses is HTTP/1.1's, of which there is none any more."""

    def __init__(
        self,
        clock: Clock,
        poller: Poller,
        run_queue: RunQueue,
        endings: Endings,
        output: Output,
        responses: Http1Responses,
        timeout: float,
    ) -> None:
        self._clock = clock
        self._poller = poller
        self._run_queue = run_queue
        self._endings = endings
        self._output = output
        self._responses = responses
        self.timeout = timeout
        self.draining = False
        self.begin = responses.begin
        self.add = responses.add
        self.end = responses.end
        self.abort = responses.abort
        self.refuse = responses.refuse
        self.repeat = responses.repeat
        self.respond_small = responses.respond_small
        self.accept = responses.accept
        self.framed = responses.framed
        self.hint = responses.hint
        self.trailers = responses.trailers

    def grant(self, exchange: Exchange, size: int) -> None:
        """There is no request body."""

    def switch(self, exchange: Exchange, reply: Reply, ends: TunnelEnds) -> None:
        """To the client that asked for it (WORKING): the head of a 101, and then the tunnel."""
        conn = exchange.conn
        assert conn is not None
        exchange.move(RESPONSE)
        exchange.status = reply.status
        exchange.tunnel = ends
        exchange.wire_before, exchange.body_before = conn.wire_bytes, conn.body_bytes
        exchange.body_owed = 0
        ends.stopping = self.draining
        conn.protocol = self
        head = status_line(101, "") + reply.fields + exchange.own_fields(reply.fields) + b"\r\n"
        conn.out = deque((Framing(head), Mark(exchange)))
        self._output.time_sending(conn, exchange)
        self._run_queue.ready(conn)

    def exchange_ended(self, conn: Connection, exchange: Exchange) -> Outcome:
        """The head was taken: the tunnel begins."""
        ends = exchange.tunnel
        assert ends is not None
        conn.move(ConnectionEvent.SWITCHED)
        conn.readable = True
        ends.moved_at = self._clock.now
        conn.deadline = self._clock.now + self.timeout if self.timeout else NEVER

        def event(mask: int) -> None:
            ends.readable = ends.readable or bool(mask & ~select.EPOLLOUT)
            ends.hung_up = ends.hung_up or bool(mask & (select.EPOLLHUP | select.EPOLLERR))
            self._run_queue.ready(conn)

        self._poller.watch(ends.peer.fileno(), event, EVENTS)
        ends.watched = True
        return MORE

    def expired(self, conn: Connection, now: float) -> None:
        """Its deadline has come (TUNNEL)."""
        assert conn.exchange is not None
        assert conn.exchange.tunnel is not None
        conn.deadline = conn.exchange.tunnel.moved_at + self.timeout if self.timeout else NEVER
        if conn.deadline <= now:
            self._endings.reset(conn, CloseReason.TUNNEL_TIMEOUT)

    def hung_up(self, conn: Connection, mask: int) -> None:
        """The client will take nothing more (TUNNEL): it has reset the connection, or closed it altogether.
        What it had sent before a close still counts."""
        assert conn.exchange is not None
        assert conn.exchange.tunnel is not None
        if mask & select.EPOLLERR or conn.exchange.tunnel.state is TunnelState.CLIENT_ENDED:
            self._endings.reset(conn, CloseReason.CLIENT_DISCONNECTED)
        else:
            self._run_queue.ready(conn)

    def stop(self, conn: Connection) -> None:
        """The server stops (TUNNEL)."""
        assert conn.exchange is not None
        assert conn.exchange.tunnel is not None
        conn.exchange.tunnel.stopping = True
        self._run_queue.ready(conn)

    # --- steps -------------------------------------------------------------------------------------

    def step(self, conn: Connection) -> Outcome:
        if conn.state is TUNNEL:
            return self._relay(conn)
        if conn.state is BUSY:
            return self._output.send(conn)
        return self._output.linger(conn) if conn.state is LINGERING else GONE

    def _relay(self, conn: Connection) -> Outcome:
        """The step of TUNNEL."""
        exchange = conn.exchange
        assert exchange is not None
        ends = exchange.tunnel
        assert ends is not None
        try:
            for _ in range(SHARES):
                moved = ends.state in CLIENTS_WAY and self._to_peer(conn, ends)
                moved = (ends.state in PEERS_WAY and self._to_client(conn, ends)) or moved
                if ends.state is TunnelState.OVER:
                    return self._over(conn, exchange, ends)
                if not moved:
                    return WAIT
        except OSError:  # of the client's side
            return self._endings.reset(conn, CloseReason.CLIENT_DISCONNECTED)
        self._run_queue.again(conn)
        return WAIT

    def _to_peer(self, conn: Connection, ends: TunnelEnds) -> bool:
        """Whether anything moved. Raises OSError if the client has disconnected."""
        if not conn.inbox and not self._read(conn, ends):
            if not (ends.stopping or conn.is_read_to_end):
                return self._hung_up(ends)
            with suppress(OSError):
                ends.peer.shutdown(socket.SHUT_WR)
            ends.move(TunnelEvent.CLIENT_END)
            return True
        try:
            sent = ends.peer.send(conn.inbox, NO_WAIT)
        except BlockingIOError:
            return False
        except OSError:  # nobody takes it any more
            ends.move(TunnelEvent.CLIENT_END)
            return True
        conn.inbox = conn.inbox[sent:]
        ends.moved_at = self._clock.now
        return True

    @staticmethod
    def _hung_up(ends: TunnelEnds) -> bool:
        """If the socket's other end is closed, and all that it gave was taken: nobody waits for the
        client."""
        if ends.hung_up and ends.state is TunnelState.PEER_ENDED:
            ends.move(TunnelEvent.CLIENT_END)
        return False

    @staticmethod
    def _read(conn: Connection, ends: TunnelEnds) -> bool:
        """From the client; whether anything came."""
        if ends.stopping or not conn.readable:
            return False
        try:
            conn.inbox = conn.transport.recv(SIZE)
        except BlockingIOError:
            conn.readable = False
            return False
        if not conn.inbox:
            conn.ended, conn.readable = True, False
        return bool(conn.inbox)

    def _to_client(self, conn: Connection, ends: TunnelEnds) -> bool:
        """Whether anything moved. Raises OSError if the client has disconnected."""
        if not ends.to_client:
            if not ends.readable:
                return False
            try:
                ends.to_client = ends.peer.recv(SIZE, NO_WAIT)
            except BlockingIOError:
                ends.readable = False
                return False
            except OSError:
                pass
            if not ends.to_client:
                try:
                    conn.transport.finish()
                except BlockingIOError:
                    return False
                ends.move(TunnelEvent.PEER_END)
                return True
        try:
            sent = conn.transport.send(ends.to_client)
        except BlockingIOError:
            return False
        conn.wire_bytes += sent
        conn.body_bytes += sent
        ends.to_client = ends.to_client[sent:]
        ends.moved_at = self._clock.now
        return True

    def _over(self, conn: Connection, exchange: Exchange, ends: TunnelEnds) -> Outcome:
        """Both ways have ended. What the client may send still is read and dropped for a moment: else a reset
        could destroy what it has not read."""
        exchange.move(TAKEN)
        exchange.reason = CloseReason.TUNNEL_ENDED
        ends.close(self._poller)
        conn.exchange = None
        self._endings.log(exchange)
        if conn.is_read_to_end:
            return self._endings.close(conn, CloseReason.TUNNEL_ENDED)
        conn.move(ConnectionEvent.ENDED_LAST)
        conn.inbox = b""
        conn.readable = True
        conn.deadline = self._clock.now + self._responses.linger_timeout
        return MORE
