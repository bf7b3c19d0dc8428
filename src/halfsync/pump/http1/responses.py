"""HTTP/1.1 responses on a connection: what a response is framed into, and what its end means.

The four calls by which every response is made, whoever makes it (a worker, a lease, we ourselves): `begin`,
`add`, `end`, `abort`. The others are made of them, or are short cuts for what is common. Whoever calls them
says `ready` to the run queue afterwards, if it is not in a step of that connection.

Framing looks at an object's length and at nothing else of it; `output` alone knows how each kind is sent.
Whatever a handler gives, no more goes out than Content-Length says (`body_owed`), and nothing where a
response has no body.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from halfsync.pump.bodies.stream import BodyStream
from halfsync.pump.clock import Clock
from halfsync.pump.connection import MORE, WAIT, BodyEnd, Connection, Exchange, Mark, Object, Outcome, Queued
from halfsync.pump.endings import Endings
from halfsync.pump.http1.small_parts import SmallParts
from halfsync.pump.leases.leased import Leased
from halfsync.pump.output import Output
from halfsync.pump.own_responses import OwnResponses
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.sendables import FileSpan, Framing, PipeEnd
from halfsync.pump.states import EXCHANGE_ENDED, RESPONSE, TAKEN, BodyEvent, ConnectionEvent
from halfsync.pump.transport import INITIAL_WINDOW
from halfsync.settings.table import Settings
from halfsync.wire.closes import KEPT, CloseReason
from halfsync.wire.http1 import is_unread_head_request, without_empty_lines
from halfsync.wire.http1_responses import (
    BODILESS,
    LAST_CHUNK,
    connection_line,
    head_start,
    status_line,
    wants_trailers,
)
from halfsync.wire.messages import ABORTED, UNFINISHED, Reply
from halfsync.wire.refusals import Refusal

SMALL = 16 * 1024
SMALL_FIELDS = 1024
"""Bytes of a body, and of field lines, up to which a response is sent as one string."""


UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"


class Http1Responses:
    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        run_queue: RunQueue,
        endings: Endings,
        output: Output,
        own: OwnResponses,
    ) -> None:
        self._own = own
        self._clock = clock
        self._run_queue = run_queue
        self._endings = endings
        self._output = output
        self.small_parts = SmallParts(clock, run_queue, endings, output)
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        self._settings = settings
        self.keeps_alive = settings.keep_alive > 0  # whether a connection may be kept at all
        self.linger_timeout = settings.linger_timeout

    def begin(self, exchange: Exchange, reply: Reply) -> None:
        """Frame the head of `reply`."""
        conn = exchange.conn
        assert conn is not None
        head = exchange.head
        minor = head.minor
        to_head = head.method == b"HEAD"
        keep = head.keep_alive and self.keeps_alive and not reply.close
        if exchange.stream is not None and reply.ending is not UNFINISHED and not exchange.stream.is_whole:
            keep = False  # the rest of the body will not be read
        status = reply.status
        line = status_line(status, reply.reason)
        exchange.move(RESPONSE)  # not before: what can't be framed can still get another response
        exchange.status = status
        length_line = b""
        if status in BODILESS:
            exchange.body_owed = 0
        elif reply.length >= 0:
            exchange.body_owed = reply.length
            length_line = b"Content-Length: %d\r\n" % reply.length
        elif to_head:
            pass  # of a size that is not known: nothing is said of it
        elif minor:
            exchange.body_end = BodyEnd.CHUNKS
            length_line = b"Transfer-Encoding: chunked\r\n"
        else:
            exchange.body_end = BodyEnd.CLOSE
            keep = False
            self._end_by_reset(conn)
        if to_head:
            exchange.body_owed = 0
        if keep:
            exchange.then = EXCHANGE_ENDED
        lines = (
            line,
            reply.fields,
            exchange.own_fields(reply.fields) if exchange.id_line else b"",
            length_line,
            b"" if reply.dated else self._clock.date_line,
            connection_line(keep, minor),
            b"\r\n",
        )
        self._start_output(conn, exchange, b"".join(lines))

    def _start_output(self, conn: Connection, exchange: Exchange, head: bytes) -> None:
        exchange.wire_before = conn.wire_bytes
        exchange.body_before = conn.body_bytes
        exchange.moved = 0  # what was counted while the request's body came
        exchange.timed = 0.0
        conn.out = deque((Framing(head),))
        self._output.time_sending(conn, exchange)

    @staticmethod
    def _end_by_reset(conn: Connection) -> None:
        """Only the close will tell the client that this response is whole. So that it can't be taken for
        whole if we die in the middle, the kernel is told now to reset the connection at any close; the
        orderly end takes that back. (On a unix socket there is no reset.)"""
        try:
            conn.transport.reset_at_close(True)
        except OSError:
            pass  # the client has disconnected, which the next send tells

    def hint(self, exchange: Exchange, fields: bytes) -> None:
        """RFC 8297. Nothing of ours is unsent when there is no response yet, except for what the socket took
        of earlier ones: so if it does not take the whole of this at once, the client is slow, and hints are
        no use to it."""
        conn = exchange.conn
        assert conn is not None
        if not exchange.head.minor:
            return
        try:
            conn.transport.offer(b"HTTP/1.1 103 Early Hints\r\n" + fields + b"\r\n")
        except OSError:
            self._endings.close(conn, CloseReason.CLIENT_DISCONNECTED)

    def add(self, exchange: Exchange, objects: Iterable[Object]) -> None:
        """Frame more of a body."""
        conn = exchange.conn
        assert conn is not None
        out = conn.out
        assert out is not None
        for item in objects:
            if isinstance(item, FileSpan):
                out.extend(self._framed_span(exchange, item))
            elif isinstance(item, PipeEnd):
                if exchange.body_owed:
                    out.append(item)
                    self._output.watch_pipe(conn, item)
            else:
                out.extend(self.framed(exchange, item))

    def framed(self, exchange: Exchange, data: bytes) -> list[bytes]:
        size = grant(exchange, len(data))
        if not size:
            return []
        if exchange.body_end is BodyEnd.CHUNKS:
            return [Framing(b"%x\r\n" % size), data, Framing(b"\r\n")]
        return [data if size == len(data) else data[:size]]

    def _framed_span(self, exchange: Exchange, span: FileSpan) -> list[bytes | FileSpan]:
        size = grant(exchange, span.count)
        if not size:
            return []
        assert exchange.conn is not None
        assert exchange.conn.out is not None
        out = exchange.conn.out
        if exchange.body_end is BodyEnd.CHUNKS:
            return _chunk_of_file(out, span)
        span.count = size
        last = out[-1] if out else None
        if isinstance(last, FileSpan) and last.continues_with(span):
            last.count += size  # many small pieces that wait for a slow client are one
            return []
        return [span]

    def trailers(self, exchange: Exchange, fields: bytes) -> None:
        """Only chunks can have them, and only a client that says so gets them (RFC 9110 6.5.1)."""
        if exchange.body_end is BodyEnd.CHUNKS and wants_trailers(exchange.head.raw):
            exchange.trailers = fields

    def end(self, exchange: Exchange, reason: CloseReason = KEPT) -> None:
        """The body is over; with a `reason` it is not whole, and the client is to see that when it has what
        there is."""
        conn = exchange.conn
        assert conn is not None
        assert conn.out is not None
        if exchange.body_end is BodyEnd.CHUNKS and reason is KEPT:
            last = b"0\r\n%b\r\n" % exchange.trailers if exchange.trailers else LAST_CHUNK
            conn.out.append(Framing(last))
        conn.out.append(Mark(exchange, reason))
        if exchange.stream is not None and not exchange.stream.is_over:
            drop_body(exchange, exchange.stream)

    def abort(self, exchange: Exchange, reason: CloseReason) -> None:
        """It will never be whole, and the client sees that at once."""
        if exchange.conn is not None:
            self._endings.reset(exchange.conn, reason)

    def refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        """A response of our own, like any other. After one that closes, nothing behind it is acted on."""
        conn = exchange.conn
        assert conn is not None
        if refusal.close:
            exchange.reason = CloseReason.REFUSED
            conn.readable = conn.readable or bool(conn.inbox)  # there is something unread: linger
            conn.inbox = b""
            conn.scanned = 0
        if refusal.is_counted:
            self._endings.refused(exchange, refusal)
        fields, body = self._own.of(exchange, refusal)
        close = refusal.close or not exchange.head.method
        self.begin(exchange, Reply(0, refusal.status, "", fields, len(body), close=close))
        if is_unread_head_request(exchange.head):
            exchange.body_owed = 0
        self.add(exchange, (body,))
        self.end(exchange)

    def repeat(self, exchange: Exchange, leased: Leased) -> None:
        """A whole response from a lease. One in memory, and small, is sent at once: see `respond_small`."""
        body = b"" if leased.head_only else leased.body
        in_memory = leased.file is None or leased.head_only
        if not in_memory or len(body) > SMALL:
            self.queue(exchange, leased)
            return
        conn = exchange.conn
        assert conn is not None
        head = self._leased_head(exchange, leased)
        wire = head + body
        exchange.wire_before = conn.wire_bytes
        exchange.body_before = conn.body_bytes
        transport = conn.transport
        try:
            sent = transport.send(wire) if exchange.then is EXCHANGE_ENDED else transport.send_last(wire)
        except OSError:
            sent = 0  # to be found out again, and dealt with, where all sends are
        if sent == len(wire):
            conn.wire_bytes += sent
            conn.body_bytes += len(body)
            self.exchange_ended(conn, exchange)
        else:
            self._queue_small(conn, exchange, wire, len(body), sent)

    def queue(self, exchange: Exchange, leased: Leased) -> None:
        """A whole response from a lease, to be sent in the next step."""
        conn = exchange.conn
        assert conn is not None
        self._start_output(conn, exchange, self._leased_head(exchange, leased))
        if not leased.head_only:
            self.add(exchange, leased.objects())
        self.end(exchange)

    def _leased_head(self, exchange: Exchange, leased: Leased) -> bytes:
        """All but what differs by connection is framed."""
        head = exchange.head
        keep = head.keep_alive and self.keeps_alive
        if keep:
            exchange.then = EXCHANGE_ENDED
        exchange.move(RESPONSE)
        exchange.status = leased.status
        date_line = b"" if leased.dated else self._clock.date_line
        lines = connection_line(keep, head.minor)
        if exchange.id_line:
            lines += exchange.own_fields(leased.fields)
        return leased.head(date_line, lines)

    def accept(self, exchange: Exchange, accept: bytes, fields: bytes) -> None:
        """RFC 6455 4.2.2."""
        conn = exchange.conn
        assert conn is not None
        exchange.move(RESPONSE)
        exchange.status = 101
        exchange.body_owed = -1
        own = exchange.own_fields(fields) if exchange.id_line else b""
        start = status_line(101, "")
        lines = (start, b"Sec-WebSocket-Accept: ", accept, b"\r\n", UPGRADE, fields, own, b"\r\n")
        self._start_output(conn, exchange, b"".join(lines))

    def respond_small(self, exchange: Exchange, reply: Reply) -> bool:
        """The common response, if this is one: all of it in memory, small, with a length, on a kept
        connection. One write of one string, for to join a few kilobytes costs less than to gather them.
        False: it is another, and nothing was done."""
        body = reply.body
        if (
            not (reply.length == len(body) <= SMALL and exchange.head.plain and self.keeps_alive)
            or reply.objects
            or reply.dated
            or reply.close
            or reply.status in BODILESS
            or len(reply.fields) > SMALL_FIELDS
        ):
            return False
        conn = exchange.conn
        assert conn is not None
        start = head_start(reply.status, reply.reason, reply.fields, reply.length)
        wire = start + self._clock.date_end + body
        exchange.move(RESPONSE)
        exchange.status = reply.status
        exchange.then = EXCHANGE_ENDED
        exchange.wire_before = conn.wire_bytes
        exchange.body_before = conn.body_bytes
        try:
            sent = conn.transport.send(wire)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._endings.close(conn, CloseReason.CLIENT_DISCONNECTED)
            return True
        if sent == len(wire):
            conn.wire_bytes += sent
            conn.body_bytes += reply.length
            if self.exchange_ended(conn, exchange) is MORE:
                self._run_queue.ready(conn)
            return True
        self._queue_small(conn, exchange, wire, len(body), sent)
        return True

    def go_on_with_small(self, exchange: Exchange, wire: bytes, body_size: int, sent: int) -> None:
        """A small response of which the socket took `sent` bytes, and not all (WORKING)."""
        conn = exchange.conn
        assert conn is not None
        exchange.move(RESPONSE)
        exchange.then = EXCHANGE_ENDED
        exchange.wire_before = conn.wire_bytes
        exchange.body_before = conn.body_bytes
        self._queue_small(conn, exchange, wire, body_size, sent)

    def _queue_small(
        self, conn: Connection, exchange: Exchange, wire: bytes, body_size: int, sent: int
    ) -> None:
        exchange.body_owed = 0
        head_size = len(wire) - body_size
        conn.out = deque((Framing(wire[:head_size]),))
        if body_size:
            conn.out.append(wire[head_size:])
        conn.out.append(Mark(exchange))
        self._output.taken(conn, sent)
        self._output.time_sending(conn, exchange)
        self._run_queue.ready(conn)  # not every transport that takes a part is full

    # --- the end of an exchange --------------------------------------------------------------------

    def exchange_ended(self, conn: Connection, exchange: Exchange) -> Outcome:
        """The whole response was taken."""
        exchange.move(TAKEN)
        conn.exchange = None
        if exchange.then is EXCHANGE_ENDED and self.keeps_alive:
            self._endings.log(exchange)
            conn.request_count += 1
            if conn.inbox:
                return self._go_on_with_inbox(conn)
            conn.move(EXCHANGE_ENDED)
            conn.deadline = self._clock.now + self._settings.keep_alive
            return MORE if conn.readable else WAIT
        if exchange.reason is KEPT:
            kept = exchange.then is EXCHANGE_ENDED
            exchange.reason = CloseReason.DRAINING if kept else CloseReason.ANSWERED
        self._endings.log(exchange)
        conn.move(ConnectionEvent.ENDED_LAST)
        asked = exchange.reason is CloseReason.ANSWERED and (exchange.head.closes or not exchange.head.minor)
        if exchange.body_end is BodyEnd.CLOSE:
            try:
                conn.transport.reset_at_close(False)
            except OSError:
                return self._endings.close(conn, CloseReason.CLIENT_DISCONNECTED)
        return self.end_in_good_order(conn, asked=asked)

    def _go_on_with_inbox(self, conn: Connection) -> Outcome:
        """The client has sent more than the request that was served. Empty lines behind a body are
        no beginning of a request (RFC 9112 2.2)."""
        conn.inbox = without_empty_lines(conn.inbox)
        pipelined = bool(conn.inbox)
        conn.move(ConnectionEvent.ENDED_PIPELINED if pipelined else EXCHANGE_ENDED)
        settings = self._settings
        begun = pipelined and conn.inbox != b"\r"  # that is half of an empty line
        conn.deadline = self._clock.now + (settings.head_timeout if begun else settings.keep_alive)
        return MORE

    def end_in_good_order(self, conn: Connection, *, asked: bool) -> Outcome:
        """RFC 9112 9.6. If bytes of the client's were unread, close(2) would send a reset, which
        can destroy the response before the client has read it. A client that has asked for the close
        itself, and of which everything was read, should send nothing more: there a plain close will do, if
        little is left that is not on its way. (Whatever it sent all the same, a close_notify for one, would
        be answered with a reset, and the rest of the response be lost.)"""
        timeout = self.linger_timeout
        may_close = asked and not (conn.inbox or conn.readable)
        read = may_close and conn.transport.held_back() <= INITIAL_WINDOW
        try:
            if read and conn.transport.ends_by_close:
                return self._endings.close(conn, CloseReason.ANSWERED)
            conn.transport.finish(closing=read)
            if read:  # all that may still come is the client's close_notify, in reply to ours
                return self._endings.close(conn, CloseReason.ANSWERED)
        except BlockingIOError:  # the client has yet to read more of the response: `linger` tries again
            timeout = self._settings.send_timeout
        except OSError:
            return self._endings.close(conn, CloseReason.CLIENT_DISCONNECTED)
        conn.inbox = b""
        conn.deadline = self._clock.now + timeout
        return MORE


def drop_body(exchange: Exchange, stream: BodyStream) -> None:
    """The response is over, and the request's body has not all come: nobody reads the rest, so with HTTP/1.1
    the connection is closed behind the response."""
    assert exchange.route is not None
    stream.move(BodyEvent.DROPPED)
    exchange.then = ConnectionEvent.ENDED_LAST
    if exchange.reason is KEPT:
        exchange.reason = CloseReason.BODY_NOT_READ
    exchange.route.backend.pass_on(exchange, stream.size, b"", ABORTED)


def grant(exchange: Exchange, size: int) -> int:
    """How much of `size` more bytes may be sent. `body_owed` is negative if no length was announced."""
    if exchange.body_owed >= 0:
        size = min(size, exchange.body_owed)
        exchange.body_owed -= size
    return size


def _chunk_of_file(out: deque[Queued], span: FileSpan) -> list[bytes | FileSpan]:
    """One chunk; joined with the one before, if that is the same file's and nothing of it is sent: many small
    pieces that wait for a slow client are one."""
    if len(out) > 3:  # the first object may be on its way already
        before = out[-2]
        if isinstance(before, FileSpan) and before.continues_with(span):
            before.count += span.count
            out[-3] = Framing(b"%x\r\n" % before.count)
            return []
    return [Framing(b"%x\r\n" % span.count), span, Framing(b"\r\n")]
