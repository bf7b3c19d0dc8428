"""HTTP/2 responses on a stream: the calls by which every response is made, and the steps of a stream.

See WireProtocol, and http1_responses for its other implementation. What is framed here is opaque to windows
and turns: a header block and simple objects stand on the stream's queue, and http2_output makes frames of
them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from halfsync.pump.bodies.streamed import BodyStreams
from halfsync.pump.clock import Clock
from halfsync.pump.connection import WAIT, Connection, Exchange, Mark, Object, Outcome
from halfsync.pump.endings import Endings
from halfsync.pump.http1.responses import SMALL, SMALL_FIELDS, drop_body, grant
from halfsync.pump.http2.output import AHEAD
from halfsync.pump.http2.streams import (
    Block,
    Session,
    Stream,
    StreamCloser,
    TakenMark,
    stream_of,
)
from halfsync.pump.leases.known_heads import cut_cookie
from halfsync.pump.leases.leased import Leased
from halfsync.pump.leases.leases import Leases
from halfsync.pump.output import Output
from halfsync.pump.own_responses import OwnResponses
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.sendables import FileSpan, PipeEnd
from halfsync.pump.states import PRODUCING, RECEIVING, RESPONSE, SENDING
from halfsync.pump.websocket.protocol import WebSockets
from halfsync.pump.websocket.state import WebSocket
from halfsync.wire.closes import KEPT, CloseReason
from halfsync.wire.http1 import is_unread_head_request
from halfsync.wire.http1_responses import BODILESS, wants_trailers
from halfsync.wire.http2_frames import DATA, END_HEADERS, END_STREAM, HEADERS, frame_start
from halfsync.wire.http2_responses import date_block, fields_block, hints_block, response_block
from halfsync.wire.messages import Reply
from halfsync.wire.refusals import Refusal


class RequestBodies(Protocol):
    """What reads them: see http2_uploads.Uploads."""

    @property
    def streamed(self) -> BodyStreams: ...

    def step(self, conn: Connection) -> Outcome:
        """That of RECEIVING."""

    def take_parts(self, stream: Stream) -> None:
        """What has come goes into the stream's inbox."""

    def drop_parts(self, stream: Stream) -> None:
        """What has come of a body is of no use any more."""

    def say_in_between(self, stream: Stream, block: bytes) -> None:
        """A response that is not the last (1xx)."""


class Http2Responses(StreamCloser):
    """The protocol of streams: see WireProtocol."""

    uploads: RequestBodies
    websockets: WebSockets

    def __init__(
        self,
        clock: Clock,
        run_queue: RunQueue,
        endings: Endings,
        output: Output,
        leases: Leases,
        own: OwnResponses,
    ) -> None:
        self._own = own
        self._clock = clock
        self._run_queue = run_queue
        self._endings = endings
        self._output = output
        self._leases = leases

    # --- steps -------------------------------------------------------------------------------------

    def step(self, conn: Connection) -> Outcome:
        assert isinstance(conn, Stream)
        exchange = conn.exchange
        if exchange is None:
            return WAIT
        ws = exchange.websocket
        if ws is not None and ws.has_begun:
            return self._serve_websocket(conn, exchange, ws)
        if exchange.stream is not None:
            outcome = self.uploads.streamed.read(conn, exchange, exchange.stream)
            if outcome is not None:
                return outcome
        state = exchange.state
        if state is SENDING:
            if (session := conn.carrier.session) is not None:
                self._is_ready(conn, session)
        elif state is RECEIVING:
            return self.uploads.step(conn)
        elif state is PRODUCING:
            return self._output.produce(conn)
        return WAIT

    def _serve_websocket(self, stream: Stream, exchange: Exchange, ws: WebSocket) -> Outcome:
        outcome = self.websockets.read(stream, exchange, ws)
        while outcome is None and stream.parts and ws.reader.is_read and ws.is_read(False):
            self.uploads.take_parts(stream)
            outcome = self.websockets.read(stream, exchange, ws)
        if outcome is not None:
            return outcome
        if exchange.state is SENDING:
            if (session := stream.carrier.session) is not None:
                self._is_ready(stream, session)
        elif stream.out or self.websockets.answer_latest_ping(exchange, ws):
            return self._output.produce(stream)
        return WAIT

    def _is_ready(self, stream: Stream, session: object) -> None:
        """It has something to send, when its turn comes."""
        assert isinstance(session, Session)
        if stream.window_shut or stream.is_framed:
            return
        session.ready[stream] = None
        self._run_queue.ready(stream.carrier)

    def stream_closed(self, stream: Stream) -> None:
        """See StreamCloser. If the client does not know it yet, it is told."""
        carrier = stream.carrier
        session = carrier.session
        self._endings.streams.pop(stream, None)
        stream.state_of.owner = None
        if not isinstance(session, Session):
            return
        session.streams.pop(stream, None)
        session.ready.pop(stream, None)
        session.shut.pop(stream, None)
        if stream.parts:
            stream.parts = []
        session.wire.reset(stream.state_of, stream.error_code)
        self._run_queue.ready(carrier)

    # --- responses ---------------------------------------------------------------------------------

    def begin(self, exchange: Exchange, reply: Reply) -> None:
        stream = stream_of(exchange)
        to_head = exchange.head.method == b"HEAD"
        status = reply.status
        length = -1 if status in BODILESS else reply.length
        block = response_block(status, reply.fields, length)
        if not reply.dated:
            block += date_block(self._clock.date_line)
        block += _own_block(exchange, reply.fields)
        exchange.move(RESPONSE)  # not before: what can't be framed can be answered otherwise still
        exchange.status = status
        exchange.body_owed = 0 if to_head or status in BODILESS else length
        self._start_output(stream, exchange, block)

    def hint(self, exchange: Exchange, fields: bytes) -> None:
        """As with HTTP/1.1, they are no use to a client that is slow: it gets none."""
        stream = stream_of(exchange)
        session = stream.carrier.session
        if isinstance(session, Session) and session.framed - stream.carrier.wire_bytes < AHEAD:
            self.uploads.say_in_between(stream, hints_block(fields))

    def _start_output(self, stream: Stream, exchange: Exchange, block: bytes) -> None:
        exchange.wire_before = stream.wire_bytes
        exchange.body_before = stream.body_bytes
        exchange.moved = 0  # what was counted while the request's body came
        exchange.timed = 0.0
        stream.out = deque((Block(block),))
        self._output.time_sending(stream, exchange)

    def add(self, exchange: Exchange, objects: Iterable[Object]) -> None:
        stream = stream_of(exchange)
        out = stream.out
        assert out is not None
        for item in objects:
            if isinstance(item, FileSpan):
                size = grant(exchange, item.count)
                last = out[-1] if out else None
                if isinstance(last, FileSpan) and last.continues_with(item):
                    last.count += size  # many small pieces that wait for a slow client are one
                elif size:
                    item.count = size
                    out.append(item)
            elif isinstance(item, PipeEnd):
                if exchange.body_owed:
                    out.append(item)
                    self._output.watch_pipe(stream, item)
            else:
                out.extend(self.framed(exchange, item))

    def framed(self, exchange: Exchange, data: bytes) -> list[bytes]:
        size = grant(exchange, len(data))
        if not size:
            return []
        return [data if size == len(data) else data[:size]]

    def trailers(self, exchange: Exchange, fields: bytes) -> None:
        """As with HTTP/1.1: a client that says so gets them, and only behind a body."""
        if (
            exchange.head.method != b"HEAD"
            and exchange.status not in BODILESS
            and wants_trailers(exchange.head.raw)
        ):
            exchange.trailers = fields

    def end(self, exchange: Exchange, reason: CloseReason = KEPT) -> None:
        stream = stream_of(exchange)
        assert stream.out is not None
        stream.out.append(Mark(exchange, reason))
        if exchange.stream is not None and not exchange.stream.is_over:
            drop_body(exchange, exchange.stream)
            self.uploads.drop_parts(stream)

    def abort(self, exchange: Exchange, reason: CloseReason) -> None:
        if exchange.conn is not None:
            self._endings.reset(exchange.conn, reason)

    def refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        """The connection stays, whatever the refusal says: where the next request begins is certain."""
        if refusal.is_counted:
            self._endings.refused(exchange, refusal)
        fields, body = self._own.of(exchange, refusal)
        self.begin(exchange, Reply(0, refusal.status, "", fields, len(body)))
        if is_unread_head_request(exchange.head):
            exchange.body_owed = 0
        self.add(exchange, (body,))
        self.end(exchange)

    def repeat(self, exchange: Exchange, leased: Leased) -> None:
        stream = stream_of(exchange)
        head = exchange.head
        in_memory = leased.file is None or leased.head_only
        if leased.renew_at > self._clock.now and in_memory and not exchange.is_marked:
            logged = cut_cookie(head.raw) or head.raw
            self._leases.remember_http2(head, stream.origin.listener, leased, logged)
        exchange.move(RESPONSE)
        exchange.status = leased.status
        block = leased_block(leased, self._clock) + _own_block(exchange, leased.fields)
        self._start_output(stream, exchange, block)
        if leased.head_only:
            exchange.body_owed = 0
        else:
            self.add(exchange, leased.objects())
        self.end(exchange)

    def accept(self, exchange: Exchange, accept: bytes, fields: bytes) -> None:
        """RFC 8441 5: with HTTP/2 it is a 200, and there is no Sec-WebSocket-Accept."""
        self.begin(exchange, Reply(0, 200, "", fields, -1))

    def respond_small(self, exchange: Exchange, reply: Reply) -> bool:
        """One in memory for which there is room now: its two frames are put on the connection's queue at
        once."""
        body = reply.body
        size = len(body)
        stream = stream_of(exchange)
        carrier = stream.carrier
        session = carrier.session
        state = stream.state_of
        if (
            not 0 < size == reply.length <= SMALL
            or reply.objects
            or reply.dated
            or reply.status in BODILESS
            or len(reply.fields) > SMALL_FIELDS
            or exchange.head.method == b"HEAD"
            or not state.remote_closed
            or (exchange.stream is not None and not exchange.stream.is_over)
            or not isinstance(session, Session)
            or size > session.wire.room(state)
            or session.framed - carrier.wire_bytes >= AHEAD
        ):
            return False
        block = response_block(reply.status, reply.fields, size) + date_block(self._clock.date_line)
        if exchange.id_line:
            block += _own_block(exchange, reply.fields)
        exchange.move(RESPONSE)
        exchange.status = reply.status
        exchange.wire_before = exchange.body_before = 0
        wire = b"".join(
            (session.wire.headers(state, block, end=False), session.wire.data(state, size, end=True), body)
        )
        assert carrier.out is not None
        carrier.out.append(wire)
        session.framed += len(wire)
        session.marks.append(TakenMark(session.framed, stream, len(wire), size, True))
        self._run_queue.ready(carrier)
        return True

    def grant(self, exchange: Exchange, size: int) -> None:
        self.uploads.streamed.grant(exchange, size)

    def exchange_ended(self, conn: Connection, exchange: Exchange) -> Outcome:
        """Not called: Http2Output knows when a response was taken."""
        raise NotImplementedError


def _own_block(exchange: Exchange, fields: bytes) -> bytes:
    return fields_block(exchange.own_fields(fields)) if exchange.id_line else b""


def leased_block(leased: Leased, clock: Clock) -> bytes:
    """The head of a response from a lease, with this second's Date."""
    if clock.now >= leased.block_until:
        length = -1 if leased.status in BODILESS else leased.length
        block = response_block(leased.status, leased.fields, length)
        leased.block = block if leased.dated else block + date_block(clock.date_line)
        leased.block_until = clock.next_second
        size = 0 if leased.head_only else len(leased.body)
        leased.block_start = frame_start(
            len(leased.block), HEADERS, END_HEADERS if size else END_HEADERS | END_STREAM
        )
        leased.data_start = frame_start(size, DATA, END_STREAM)
    return leased.block
