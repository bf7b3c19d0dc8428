"""Bodies of HTTP/2 requests that are passed on while they come: see bodies/streamed.py, of which this is the
other half.

What has come of a body and has not been passed on waits in `Stream.parts`, which the stream's window bounds
(64 KiB, and more for a handler that keeps up). As it is passed on, the client may send as much again: so the
handler's window (`grant`) opens the client's.
"""

from __future__ import annotations

from collections.abc import Callable

from halfsync.pump.bodies.refused import RefusedBodies
from halfsync.pump.bodies.stream import BodyStream
from halfsync.pump.bodies.streamed import BodyStreams, is_worth_a_piece
from halfsync.pump.clock import Clock
from halfsync.pump.connection import MORE, Connection, Exchange, Outcome
from halfsync.pump.endings import Endings
from halfsync.pump.http2.streams import Stream
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.states import WORKING, BodyEvent, BodyState
from halfsync.wire.blocks import BLOCK_SIZE
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import Ending
from halfsync.wire.refusals import Refusal


class Http2BodyStreams(BodyStreams):
    def __init__(
        self,
        clock: Clock,
        run_queue: RunQueue,
        endings: Endings,
        refused_bodies: RefusedBodies,
        consumed: Callable[[Stream, int], None],
        tell_to_go_on: Callable[[Stream], None],
    ) -> None:
        """`consumed`: so many bytes need no room any more. `tell_to_go_on`: sends 100 (Continue)."""
        super().__init__(clock, run_queue, endings, refused_bodies)
        self._consumed = consumed
        self._say_go_on = tell_to_go_on

    def begin(self, conn: Connection, exchange: Exchange) -> None:
        """What comes of it is told by `came`."""
        exchange.stream = exchange.spool = BodyStream()

    def came(self, stream: Stream, exchange: Exchange, body: BodyStream, data: bytes) -> None:
        """More of the body, or its end. (What came with the head is to go with the task, so it is taken in at
        once.)"""
        if data:
            stream.parts.append(data)
        if body.state is BodyState.UNREAD:
            self.read(stream, exchange, body)
        self._run_queue.ready(stream)

    def read(self, conn: Connection, exchange: Exchange, stream: BodyStream) -> Outcome | None:
        assert isinstance(conn, Stream)
        try:
            while self._has_some(conn) and self._room(exchange, stream):
                if not is_worth_a_piece(stream, sum(map(len, conn.parts))):
                    break
                self._take_in(conn, exchange, stream)
        except Refusal as refusal:
            self.refuse(exchange, refusal, CloseReason.REFUSED)
            return MORE
        return None

    @staticmethod
    def _has_some(stream: Stream) -> bool:
        return bool(stream.parts) or stream.has_all

    def _take_in(self, conn: Connection, exchange: Exchange, stream: BodyStream) -> None:
        """What has come, as far as there is room."""
        assert isinstance(conn, Stream)
        data = b"".join(conn.parts)
        piece = data[: min(self._room(exchange, stream), BLOCK_SIZE)]
        conn.parts = [data[len(piece) :]] if len(piece) < len(data) else []
        self._check_size(exchange, stream.size + len(piece))
        exchange.received += len(piece)
        last = conn.has_all and not conn.parts
        if last and conn.state_of.expected > 0:
            self._cut_short(exchange, stream, piece)
        elif piece or last:
            self._pass_on(exchange, stream, piece, last=last)
        self._consumed(conn, len(piece))

    def _cut_short(self, exchange: Exchange, stream: BodyStream, piece: bytes) -> None:
        """The client has seen the head of the response, and does not want to send the rest."""
        assert exchange.route is not None
        if piece:
            self._pass_on(exchange, stream, piece, last=False)
        stream.move(BodyEvent.DROPPED)
        exchange.route.backend.pass_on(exchange, stream.size, b"", Ending.ABORTED)

    def _tell_to_go_on(self, conn: Connection, exchange: Exchange) -> bool:
        """As with HTTP/1.1."""
        assert isinstance(conn, Stream)
        come = exchange.received or self._has_some(conn)
        if exchange.head.expects and not come and exchange.state is WORKING:
            self._say_go_on(conn)
        return True
