"""Responses from leases on HTTP/2 connections: two frames behind each other, with no stream or exchange made.

Theory of operation
-------------------
`serve` is the hot path, as `Pump._turn` has one for HTTP/1.1: requests whose header blocks are known by their
bytes, one read, and one send for all of them. It begins and ends in the states of the general road, between
two frames: from the first frame on that it does not take, what was read is left in the inbox for a step.

`repeat` is for a request that came by the general road, where other streams may have something to send.
"""

from __future__ import annotations

import time

from halfsync.pump.access import AccessLog
from halfsync.pump.clock import Clock
from halfsync.pump.connection import Connection, Record
from halfsync.pump.endings import Endings
from halfsync.pump.http2.output import AHEAD, Http2Output
from halfsync.pump.http2.responses import leased_block
from halfsync.pump.http2.streams import Session, TakenMark
from halfsync.pump.leases.leased import Leased
from halfsync.pump.run_queue import RunQueue
from halfsync.scoreboard.counts import BYTES_SENT, LEASE_HITS
from halfsync.wire.http1 import RequestHead
from halfsync.wire.http2_frames import END_HEADERS, END_STREAM, FRAME_HEADER, FRAME_SIZE, HEADERS
from halfsync.wire.http2_state import MOST_UPDATES, UPDATES_A_FRAME, StreamState

RECV_SIZE = 64 * 1024
_REQUEST = HEADERS << 8 | END_STREAM | END_HEADERS
"""Kind and flags of a frame that is a whole request, with nothing but its header block in it."""


class Http2Leased:
    keep_alive = 0.0

    def __init__(
        self,
        clock: Clock,
        run_queue: RunQueue,
        endings: Endings,
        access: AccessLog,
        frames: Http2Output,
    ) -> None:
        self._clock = clock
        self._run_queue = run_queue
        self._endings = endings
        self._access = access
        self._frames = frames

    def serve(self, conn: Connection) -> bool:  # noqa: C901 (the hot path: a call costs 60 ns)
        """There is something to read, and nothing else is the matter. False: nothing was done, and a step is
        to do it."""
        session = conn.session
        assert isinstance(session, Session)
        wire = session.wire
        if (
            conn.out
            or conn.inbox
            or session.ready
            or session.closing
            or wire.buffer
            or wire.block is not None
            or wire.says_no_table
        ):
            return False
        try:
            data = conn.transport.recv(RECV_SIZE)
        except BlockingIOError:
            return True
        except OSError:
            data = b""  # to be found out again, and dealt with, where all reads are
        clock = self._clock
        now = clock.now
        endings = self._endings
        log_cookies, log_times, enabled = endings.log_cookies, endings.log_times, self._access.enabled
        known = conn.known.http2
        blocks, admitted = wire.blocks, session.admitted
        has_room = len(wire.streams) + wire.pending_resets < wire.limits.streams
        batch = min(AHEAD, conn.transport.send_size) - FRAME_SIZE
        pieces: list[bytes] = []
        unsaid: list[Record] = []
        at, size, framed = 0, len(data), 0
        while has_room and size - at > FRAME_HEADER:
            header = int.from_bytes(data[at : at + FRAME_HEADER], "big")
            end = at + FRAME_HEADER + (header >> 48)
            stream_id = header & 0x7FFFFFFF
            if (
                header >> 32 & 0xFFFF != _REQUEST
                or end > size
                or stream_id != wire.last_stream + 2
                or stream_id >= wire.refuses_from
            ):
                break
            block = data[at + FRAME_HEADER : end]
            head = blocks.get(block) or wire.known(block)
            found = None if head is None else known.get(head)
            if head is None or found is None or (admitted is not None and head.host != admitted):
                break
            leased, logged = found
            body = b"" if leased.head_only else leased.body
            length = len(body)
            if now >= leased.renew_at or length > wire.window or length > wire.stream_window:
                break
            block = leased.block if now < leased.block_until else leased_block(leased, clock)
            if len(block) > FRAME_SIZE or length > FRAME_SIZE:
                break
            at = end
            wire.last_stream = stream_id
            number = stream_id.to_bytes(4, "big")
            if length:
                piece = b"".join((leased.block_start, number, block, leased.data_start, number, body))
                wire.window -= length
                if wire.updates < MOST_UPDATES:
                    wire.updates += UPDATES_A_FRAME
            else:
                piece = leased.block_start + number + block
            count = len(piece)
            if enabled:
                record = (
                    clock.wall,
                    conn.origin.logged,
                    head.raw if log_cookies else logged,
                    leased.status,
                    length,
                    count,
                    -1,
                    -1,
                    int((time.monotonic() - now) * 1e6) if log_times else 0,
                    0,
                    conn.request_count,
                )
            conn.request_count += 1
            if at == size < RECV_SIZE and not pieces:
                # It came alone, as most do where there are many connections: what follows does the same for
                # several, and takes 0.3 µs more.
                try:
                    sent = conn.transport.send(piece)
                except OSError:
                    sent = 0
                if sent == count:
                    session.framed += count
                    conn.wire_bytes += count
                    words = endings.counts.words
                    words[LEASE_HITS] += 1
                    words[BYTES_SENT] += count
                    if enabled:
                        self._access.records.append(record)
                    if not session.streams:
                        conn.deadline = now + self.keep_alive
                    return True
                self._sent(conn, session, piece, sent, 1, [record] if enabled else [])
                break
            pieces.append(piece)
            framed += count
            if enabled:
                unsaid.append(record)
            if framed >= batch:
                if not self._send(conn, session, pieces, unsaid):
                    break
                pieces, unsaid, framed = [], [], 0
        if pieces and not conn.out and self._send(conn, session, pieces, unsaid) and not session.streams:
            conn.deadline = now + self.keep_alive
        if at != size or not 0 < size < RECV_SIZE or conn.out:
            conn.inbox = data[at:]
            conn.readable = not data or not conn.transport.drained(size, RECV_SIZE)
            self._run_queue.ready(conn)
        return True

    def _send(self, conn: Connection, session: Session, pieces: list[bytes], unsaid: list[Record]) -> bool:
        """Whether the transport took them all. What it did not take is put on the queue, which was empty, and
        what was not taken whole is not yet in the access log."""
        wire = b"".join(pieces)
        try:
            sent = conn.transport.send(wire)
        except OSError:
            sent = 0  # to be found out again, and dealt with, where all sends are
        return self._sent(conn, session, wire, sent, len(pieces), unsaid)

    def _sent(
        self,
        conn: Connection,
        session: Session,
        wire: bytes,
        sent: int,
        responses: int,
        unsaid: list[Record],
    ) -> bool:
        """The transport took so much of that many responses: see `_send`."""
        position = session.framed
        session.framed += len(wire)
        words = self._endings.counts.words
        words[LEASE_HITS] += responses
        words[BYTES_SENT] += len(wire)
        conn.wire_bytes += sent
        if sent == len(wire):
            self._access.records += unsaid
            return True
        assert conn.out is not None
        conn.out.append(memoryview(wire)[sent:] if sent else wire)
        for record in unsaid:
            position += record[5]
            if position <= conn.wire_bytes:
                self._access.records.append(record)
            else:
                session.marks.append(TakenMark(position, None, 0, 0, False, record))
        return False

    def repeat(
        self, conn: Connection, session: Session, stream: StreamState, head: RequestHead, *, alone: bool
    ) -> bool:
        """If there is room for all of the response to a request that has come, or False. `alone`: there is
        nothing else to send, so it is sent at once."""
        found = conn.known.http2.get(head)
        wire = session.wire
        if found is None or wire.says_no_table:  # (a lease's header block does not)
            return False
        leased, logged = found
        now = self._clock.now
        body = b"" if leased.head_only else leased.body
        size = len(body)
        if now >= leased.renew_at or size > wire.room(stream) or not stream.remote_closed:
            return False
        if session.framed - conn.wire_bytes >= AHEAD and not self._frames.flush(conn, session):
            return False  # the client does not read so fast
        block = leased.block if now < leased.block_until else leased_block(leased, self._clock)
        if len(block) > FRAME_SIZE:
            return False
        number = stream.id.to_bytes(4, "big")
        if size:
            sent = b"".join((leased.block_start, number, block, leased.data_start, number, body))
        else:
            sent = leased.block_start + number + block
        wire.responded(stream, size)
        session.framed += len(sent)
        record = self._record(conn, head, leased, logged, size, len(sent)) if self._access.enabled else None
        taken = 0
        if alone:
            try:
                taken = conn.transport.send(sent)
            except OSError:
                pass  # to be found out again, and dealt with, where all sends are
            conn.wire_bytes += taken
        if taken != len(sent):
            assert conn.out is not None
            conn.out.append(memoryview(sent)[taken:] if taken else sent)
            if record is not None:
                session.marks.append(TakenMark(session.framed, None, 0, 0, False, record))
        elif record is not None:
            self._access.records.append(record)
        conn.request_count += 1
        words = self._endings.counts.words
        words[LEASE_HITS] += 1
        words[BYTES_SENT] += len(sent)
        if not session.streams:
            conn.deadline = now + self.keep_alive
        return True

    def _record(
        self, conn: Connection, head: RequestHead, leased: Leased, logged: bytes, body: int, wire: int
    ) -> Record:
        endings = self._endings
        return (
            conn.when,
            conn.origin.logged,
            head.raw if endings.log_cookies else logged,
            leased.status,
            body,
            wire,
            -1,
            -1,
            int((time.monotonic() - conn.first_byte) * 1e6) if endings.log_times else 0,
            0,
            conn.request_count,
        )
