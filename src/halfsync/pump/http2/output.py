"""Sends on HTTP/2 connections: streams' queues become frames on the connection's, and that goes to the
socket.

Theory of operation
-------------------
Frames are made late: at most AHEAD bytes of them wait for the socket, so that what becomes urgent, or is
reset, need not wait behind megabytes. A stream that has something to send is `ready`; the most urgent one
(RFC 9218) may frame the next piece, up to 16 KiB and up to both windows. Of streams alike in urgency, those
whose parts are of use by themselves take turns, a frame each; others get TURN bytes each. A stream that a
window keeps back is `shut`, until the client opens it.

A file's bytes stay a span of the file on the connection's queue too, behind the nine bytes of their frame,
and go by sendfile(2), if nobody can change the file; else they are read. (If such a file turns out to be
shorter all the same, the frame can't be completed, and that ends the connection.)
"""

from __future__ import annotations

import os
from collections import deque

from halfsync.pump.access import AccessLog
from halfsync.pump.changing import ChangingFiles, FileChangedError
from halfsync.pump.clock import Clock
from halfsync.pump.connection import Connection, Exchange, Mark, Queued
from halfsync.pump.endings import Endings
from halfsync.pump.http2.streams import TURN, Block, Session, Stream, TakenMark
from halfsync.pump.internal_errors import InternalErrors
from halfsync.pump.output import Output, ShrunkError, in_memory
from halfsync.pump.sendables import FileSpan, PipeEnd
from halfsync.pump.states import SENDING, TAKEN
from halfsync.wire.closes import KEPT, CloseReason
from halfsync.wire.http2_frames import SETTINGS_ACK, ErrorCode
from halfsync.wire.http2_responses import fields_block

AHEAD = 64 * 1024
"""Bytes that may be framed and not taken by the socket, before no stream may frame more."""
ROUNDS = 16
"""Times AHEAD that one connection may send in one step: 1 MiB, as for HTTP/1.1."""

STOP_AFTER = 1.0
"""Seconds that a client which has its response may go on with its request; what it sends is dropped, and its
window is not opened. END_STREAM is kept back so long, or until the request ends; then the client is told to
stop (RST_STREAM, NO_ERROR). If these come with the response, curl 7.88 and others drop it, and if END_STREAM
comes before they stop by themselves, they wait for ever."""


class Http2Output:
    def __init__(
        self,
        clock: Clock,
        endings: Endings,
        errors: InternalErrors,
        access: AccessLog,
        output: Output,
        changing: ChangingFiles,
    ) -> None:
        self._clock = clock
        self._endings = endings
        self._errors = errors
        self._access = access
        self._output = output
        self._changing = changing

    # --- the connection ----------------------------------------------------------------------------

    def send(self, conn: Connection, session: Session) -> bool:
        """Frame and send what can be. Whether there is more to do now that has to wait for its next share."""
        for _ in range(ROUNDS):
            self._frame(conn, session)
            if not conn.out or not self.flush(conn, session):
                return False
        return bool(session.ready)

    def put(self, conn: Connection, session: Session, wire: bytes) -> None:
        """Frames, behind all that was framed before."""
        assert conn.out is not None
        conn.out.append(wire)
        session.framed += len(wire)

    def put_controls(self, conn: Connection, session: Session) -> None:
        """The protocol's own frames."""
        wire = session.wire.out
        if wire:
            session.controls += len(wire)
            self.put(conn, session, b"".join(wire))
            wire.clear()

    def put_acknowledgement(self, conn: Connection, session: Session) -> None:
        """That of SETTINGS comes before what they allow (RFC 9113 6.5.3): some clients count so."""
        wire = session.wire.out
        if SETTINGS_ACK in wire:
            end = len(wire) - wire[::-1].index(SETTINGS_ACK)
            behind = wire[end:]
            del wire[end:]
            self.put_controls(conn, session)
            wire += behind

    def flush(self, conn: Connection, session: Session) -> bool:
        """Give the queue to the socket; whether that took all. Raises OSError, ShrunkError."""
        out = conn.out
        assert out is not None
        try:
            while out:
                first = out[0]
                if isinstance(first, FileSpan):
                    self._send_span(conn, out, first)
                else:
                    self._output.send_memory(conn, out)
                if session.marks:
                    self._reach(conn, session)
        except BlockingIOError:
            return False
        session.controls = 0
        return True

    def _send_span(self, conn: Connection, out: deque[Queued], span: FileSpan) -> None:
        sent = conn.transport.send_file(span.file.fd, span.offset, span.count)
        if sent == 0:
            raise ShrunkError
        conn.wire_bytes += sent
        span.offset += sent
        span.count -= sent
        if span.count == 0:
            out.popleft()

    def _reach(self, conn: Connection, session: Session) -> None:
        """Count what the socket took, by stream."""
        marks = session.marks
        taken = conn.wire_bytes
        while marks and marks[0].position <= taken:
            mark = marks.popleft()
            if mark.record is not None:
                if self._access.enabled:
                    self._access.records.append(mark.record)
                continue
            stream = mark.stream
            assert stream is not None
            stream.wire_bytes += mark.wire
            stream.body_bytes += mark.body
            if mark.ends and stream.exchange is not None:
                self._exchange_ended(stream, stream.exchange)

    def _exchange_ended(self, stream: Stream, exchange: Exchange) -> None:
        exchange.move(TAKEN)
        self._endings.log(exchange)
        stream.exchange = None
        self._endings.close(stream, KEPT)

    # --- streams -----------------------------------------------------------------------------------

    def _frame(self, conn: Connection, session: Session) -> None:
        """Give streams their turns."""
        ready = session.ready
        kept_back = False
        while ready and session.framed - conn.wire_bytes < AHEAD:
            if session.wire.window <= 0 and not kept_back:
                kept_back = True
                _keep_back(session)
                continue
            stream = session.most_urgent()
            before = session.framed
            try:
                self._frame_one(conn, session, stream)
            except FileChangedError:
                self._endings.reset(stream, CloseReason.FILE_CHANGED)
            except ShrunkError:
                self._endings.reset(stream, CloseReason.FILE_SHRANK)
            except OSError as error:
                self._errors.report(f"cannot read what is being sent to {conn.origin}: {error.strerror}")
                self._endings.reset(stream, CloseReason.INTERNAL_ERROR)
            stream.share -= session.framed - before
            if stream.share <= 0 or stream.state_of.incremental:
                stream.share = TURN
                if stream in ready:  # its next turn comes after the others'
                    del ready[stream]
                    ready[stream] = None

    def _frame_one(self, conn: Connection, session: Session, stream: Stream) -> None:
        """Frame the next piece of a stream's response; or take it off the ready ones. Raises OSError,
        FileChangedError."""
        exchange, out = stream.exchange, stream.out
        if exchange is None or out is None or exchange.state is not SENDING or stream.is_framed:
            session.ready.pop(stream, None)
            return
        if not out:
            session.ready.pop(stream, None)
            self._output.wait_for_more(stream, exchange)
            return
        first = out[0]
        if isinstance(first, Block):
            out.popleft()
            self._put_headers(conn, session, stream, first, end=_ends_with(stream, exchange, out))
        elif isinstance(first, Mark):
            self._at_end(conn, session, stream, first)
        elif isinstance(first, PipeEnd):
            if self._output.read_pipe(stream, out, first) < 0:
                session.ready.pop(stream, None)
                self._output.wait_for_more(stream, exchange)
        else:
            self._frame_data(conn, session, stream, exchange, out)

    def _put_headers(
        self, conn: Connection, session: Session, stream: Stream, block: bytes, *, end: bool
    ) -> None:
        stream.state_of.answered = True
        wire = session.wire.headers(stream.state_of, block, end=end)
        self.put(conn, session, wire)
        self._mark(session, stream, len(wire), 0, end)

    def _at_end(self, conn: Connection, session: Session, stream: Stream, mark: Mark) -> None:
        reason = mark.reason
        if reason is KEPT and mark.exchange.body_owed > 0:
            reason = CloseReason.REPLY_CUT_SHORT
        if reason is not KEPT:
            self._endings.reset(stream, reason)
            return
        state = stream.state_of
        if not state.remote_closed:
            if mark.exchange.head.upgrades:
                self._end_first(conn, session, stream)
            if not self._has_waited(stream):
                session.ready.pop(stream, None)
                return
        wire = b""
        if not state.local_closed:
            if mark.exchange.trailers:
                wire = session.wire.headers(state, fields_block(mark.exchange.trailers), end=True)
            else:
                wire = session.wire.data(state, 0, end=True)
            self.put(conn, session, wire)
        self._mark(session, stream, len(wire), 0, True)
        if not wire:  # it may be taken already
            self._reach(conn, session)

    def _end_first(self, conn: Connection, session: Session, stream: Stream) -> None:
        """RFC 8441 5 and RFC 6455 7.1.1: of a WebSocket that is closed, the client ends its side after ours;
        and of one that is refused, it waits for the response. (What is kept back is RST_STREAM alone.)"""
        if not stream.state_of.local_closed:
            wire = session.wire.data(stream.state_of, 0, end=True)
            self.put(conn, session, wire)
            self._mark(session, stream, len(wire), 0, False)

    def _has_waited(self, stream: Stream) -> bool:
        """See STOP_AFTER. The sweep looks again (Timeouts)."""
        now = self._clock.now
        if not stream.stop_at:
            stream.stop_at = now + STOP_AFTER
            stream.deadline = min(stream.deadline, stream.stop_at)
        return now >= stream.stop_at

    def _frame_data(
        self, conn: Connection, session: Session, stream: Stream, exchange: Exchange, out: deque[Queued]
    ) -> None:
        room = session.wire.room(stream.state_of)
        if room <= 0:
            session.ready.pop(stream, None)
            session.shut[stream] = None
            stream.window_shut = True
            return
        first = out[0]
        pieces: list[Queued]
        if isinstance(first, FileSpan):
            if not self._output.is_at_hand(stream, first):
                session.ready.pop(stream, None)
                self._output.wait_for_more(stream, exchange)
                return
            size, pieces = self._cut_span(conn, out, first, room)
        else:
            size, pieces = _cut_memory(out, room)
        end = _ends_with(stream, exchange, out)
        header = session.wire.data(stream.state_of, size, end=end)
        assert conn.out is not None
        conn.out.append(header)
        conn.out.extend(pieces)
        session.framed += len(header) + size
        self._mark(session, stream, len(header) + size, size, end)

    def _cut_span(
        self, conn: Connection, out: deque[Queued], span: FileSpan, room: int
    ) -> tuple[int, list[Queued]]:
        """The next `room` bytes of a file. Raises OSError, FileChangedError, ShrunkError."""
        size = min(span.count, room)
        piece: bytes | memoryview | FileSpan
        if span.stamp is not None:
            piece = bytes(self._changing.read(span, span.stamp, room))
        elif conn.transport.sends_files:
            piece = FileSpan(span.file, span.offset, size)
        elif (memory := in_memory(span)) is not None:
            piece = memory[:size]
        else:
            piece = os.pread(span.file.fd, size, span.offset)
        if isinstance(piece, bytes):
            size = len(piece)
            if not size:
                raise ShrunkError
        span.offset += size
        span.count -= size
        if not span.count:
            out.popleft()
        return size, [piece]

    def _mark(self, session: Session, stream: Stream, wire: int, body: int, ends: bool) -> None:
        session.marks.append(TakenMark(session.framed, stream, wire, body, ends))
        if not ends:
            return
        session.ready.pop(stream, None)
        stream.stop_at = 0.0
        if not stream.state_of.remote_closed:  # the rest of the request is of no use (RFC 9113 8.1)
            session.wire.reset(stream.state_of, ErrorCode.NO_ERROR)


def _keep_back(session: Session) -> None:
    """The connection's window is shut: what only it keeps back is set aside in one go. (To select each of 100
    streams first, by its urgency, took 1 ms for each byte by which a client opened the window.)"""
    for stream in list(session.ready):
        exchange, out = stream.exchange, stream.out
        if exchange is None or exchange.state is not SENDING or stream.is_framed or not out:
            continue
        if isinstance(out[0], (bytes, memoryview, FileSpan)) and not isinstance(out[0], Block):
            del session.ready[stream]
            session.shut[stream] = None
            stream.window_shut = True


def _ends_with(stream: Stream, exchange: Exchange, out: deque[Queued]) -> bool:
    """Whether the response is complete with what was just taken off its queue, and may say so."""
    if len(out) != 1 or exchange.body_owed > 0 or exchange.trailers or not stream.state_of.remote_closed:
        return False
    last = out[0]
    return isinstance(last, Mark) and last.reason is KEPT


def _cut_memory(out: deque[Queued], room: int) -> tuple[int, list[Queued]]:
    """Up to `room` bytes of memory off the head of a queue."""
    size = 0
    pieces: list[Queued] = []
    while out and size < room:
        item = out[0]
        if not isinstance(item, (bytes, memoryview)):
            break
        left = room - size
        if len(item) > left:
            view = memoryview(item)
            pieces.append(view[:left])
            out[0] = view[left:]
            size += left
        else:
            pieces.append(item)
            out.popleft()
            size += len(item)
    return size, pieces
