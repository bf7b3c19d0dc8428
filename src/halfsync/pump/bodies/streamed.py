"""Request bodies that are passed on while they come, for backends that take them so (`Backend.streams`).

Theory of operation
-------------------
The request goes to its backend when the head is complete. What has come of the body by then, or comes until a
worker takes the task, goes with it (up to FIRST_OF_BODY); if that is all, it is a body like any other.
Nothing more is read before the handler reads for the first time: a handler that responds without looking at
the body costs no more than its head, and a client that asked with `Expect: 100-continue` is told to go on
only then.

From there on the window says how much may be passed on; where it is shut the client is not read, and the
kernel's own flow control stops it. So a body of any size takes one read (128 KiB) in the pump, and a window
in the worker.

The response may begin, and may be over, before the body is. If it is over, the rest of the body is nobody's:
the connection is closed in good order behind the response, because where a next request would begin is known
only to who reads all of it.

What can't be passed on (too large, malformed, too slow) is refused like any other request, if no response has
begun; else the connection is reset. The handler is told in either case.
"""

from __future__ import annotations

from halfsync.pump.bodies.refused import RefusedBodies
from halfsync.pump.bodies.stream import BodyStream
from halfsync.pump.clock import Clock
from halfsync.pump.connection import MORE, Connection, Exchange, Outcome
from halfsync.pump.endings import Endings
from halfsync.pump.output import RECHECK
from halfsync.pump.reading import READS_A_TURN, read_more
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.states import PRODUCING, QUEUED, RECEIVING, SENDING, WORKING, BodyEvent, BodyState
from halfsync.pump.transport import RECV_SIZE
from halfsync.wire.blocks import BLOCK_SIZE
from halfsync.wire.closes import CloseReason
from halfsync.wire.http1_responses import CONTINUE
from halfsync.wire.messages import BODY_WINDOW, FIRST_OF_BODY, Ending
from halfsync.wire.refusals import Refusal

WORTH_A_PIECE = BODY_WINDOW // 4
"""Bytes for which the window has to be open before more is passed on, if there is as much. A handler that
waits gives back what it has taken; were that filled at once, pieces would become ever smaller. (100 MiB took
12,000 messages in place of 1,700.)"""
RECORDS = 4
"""Over TLS a read gives a record, 16 KiB at most: so many are one piece."""


class BodyStreams:
    def __init__(
        self, clock: Clock, run_queue: RunQueue, endings: Endings, refused_bodies: RefusedBodies
    ) -> None:
        self._clock = clock
        self._run_queue = run_queue
        self._endings = endings
        self._refused_bodies = refused_bodies

    def begin(self, conn: Connection, exchange: Exchange) -> None:
        """Of a request whose head is whole (RECEIVING). Takes in what has come of the body; raises
        Refusal."""
        exchange.stream = exchange.spool = stream = BodyStream()
        while conn.inbox and self._room(exchange, stream):
            self._take_in(conn, exchange, stream)

    def read(self, conn: Connection, exchange: Exchange, stream: BodyStream) -> Outcome | None:
        """Passes on what has come, but no more than there is room for, or than a turn's share. None: go on
        with the step of the exchange's state."""
        try:
            for _ in range(READS_A_TURN):
                if not self._room(exchange, stream):
                    return None
                if conn.inbox:
                    if stream.state is BodyState.OFFERED and len(conn.inbox) < BLOCK_SIZE:
                        read_more(conn, BLOCK_SIZE - len(conn.inbox))
                elif not read_a_piece(conn, stream.window):
                    if conn.is_read_to_end:
                        return self._endings.close(conn, CloseReason.CLIENT_DISCONNECTED)
                    return None
                if not is_worth_a_piece(stream, len(conn.inbox)):
                    return None
                if _is_held(conn, exchange, stream):
                    if conn.readable:
                        continue
                    return None
                self._take_in(conn, exchange, stream)
        except Refusal as refusal:
            self.refuse(exchange, refusal, CloseReason.REFUSED)
            return MORE
        self._run_queue.again(conn)
        return None

    @staticmethod
    def _room(exchange: Exchange, stream: BodyStream) -> int:
        """How much may be taken in now."""
        if stream.is_over:
            return 0
        if stream.state is not BodyState.UNREAD:
            return stream.window
        return FIRST_OF_BODY - stream.size if exchange.state in (RECEIVING, QUEUED) else 0

    def _take_in(self, conn: Connection, exchange: Exchange, stream: BodyStream) -> None:
        """What is in the inbox, as far as there is room; what is left of it stays, or is the next
        request's."""
        data = conn.inbox
        room = self._room(exchange, stream)
        chunks = exchange.chunks
        if chunks is None:
            piece = data[: min(room, exchange.body_left)]
            conn.inbox = data[len(piece) :]
            exchange.body_left -= len(piece)
            last = exchange.body_left == 0
        else:
            piece = chunks.feed(data[:room])  # never more bytes than it is fed
            conn.inbox = chunks.rest + data[room:]
            last = chunks.done
            self._check_size(exchange, stream.size + len(piece))
        exchange.received += len(data) - len(conn.inbox)
        if piece or last:
            self._pass_on(exchange, stream, piece, last=last)

    def _check_size(self, exchange: Exchange, size: int) -> None:
        assert exchange.route is not None
        if size > exchange.route.limits.limit_request_body:
            assert exchange.conn is not None
            raise self._refused_bodies.refusal(exchange, str(exchange.conn.origin), self._clock.now)

    def _pass_on(self, exchange: Exchange, stream: BodyStream, piece: bytes, *, last: bool) -> None:
        if stream.state is BodyState.UNREAD:
            stream.keep(piece)
            if last:
                stream.move(BodyEvent.LAST)
            return
        assert exchange.route is not None
        offset = stream.size
        stream.size += len(piece)
        stream.window -= len(piece)
        if stream.is_awaited:
            stream.timed += self._clock.now - stream.checked_at
        stream.handlers_turn_ns = self._clock.now_ns
        stream.move(BodyEvent.LAST if last else BodyEvent.PIECE)
        exchange.route.backend.pass_on(exchange, offset, piece, Ending.DONE if last else Ending.UNFINISHED)

    # --- what the backend says ---------------------------------------------------------------------

    def grant(self, exchange: Exchange, size: int) -> None:
        """The backend takes so many more bytes (see wire.messages.Credit)."""
        stream, conn = exchange.stream, exchange.conn
        if stream is None or conn is None or stream.is_over:
            return
        stream.open_window(size)
        if stream.state is BodyState.UNREAD:
            stream.move(BodyEvent.REQUESTED)
            if not self._tell_to_go_on(conn, exchange):
                return
        elif stream.state is BodyState.OFFERED and stream.window == BODY_WINDOW:
            stream.move(BodyEvent.TAKEN)
        if stream.is_awaited:
            stream.progress_at = stream.checked_at = self._clock.now
            conn.deadline = min(conn.deadline, self._clock.now + RECHECK)
        self._run_queue.ready(conn)

    def _tell_to_go_on(self, conn: Connection, exchange: Exchange) -> bool:
        """RFC 9110 10.1.1. Not if the client has begun its body already, nor behind the head of the response:
        then it has been told what it wanted to know. False: it has disconnected."""
        if not exchange.head.expects or exchange.received or conn.inbox or exchange.state is not WORKING:
            return True
        # As in http1: it is said whole, or not at all if the socket is full of earlier responses.
        try:
            conn.transport.offer(CONTINUE)
        except OSError:
            self._endings.close(conn, CloseReason.CLIENT_DISCONNECTED)
            return False
        return True

    # --- when it goes wrong ------------------------------------------------------------------------

    def refuse(self, exchange: Exchange, refusal: Refusal, reason: CloseReason) -> None:
        """It can't be passed on to its end. The caller says `ready`, if it is not in a step of the
        connection."""
        conn, route = exchange.conn, exchange.route
        assert conn is not None
        assert route is not None
        if exchange.state in (SENDING, PRODUCING):
            conn.protocol.abort(exchange, reason)
            return
        if exchange.state is not RECEIVING:
            route.backend.give_up(exchange)
        conn.protocol.refuse(exchange, refusal)
        exchange.reason = reason


def read_a_piece(conn: Connection, window: int) -> bool:
    """Into the empty inbox: a block, if the window is open for all of it. Whether anything came."""
    if not read_more(conn, BLOCK_SIZE if window >= BLOCK_SIZE else RECV_SIZE):
        return False
    for _ in range(RECORDS - 1):
        if len(conn.inbox) >= RECV_SIZE or not read_more(conn):
            break
    return True


def _is_held(conn: Connection, exchange: Exchange, stream: BodyStream) -> bool:
    """Whether what has come is kept for now. While the handler has some yet, only a full block is passed on,
    or what ends the body: a handler gives back all that it has taken before it waits, and gets the rest then.
    (Where the kernel lets the pump run for each segment that comes, in the middle of the handler's work, a
    piece for each costs 2.6 ms of processor time a MiB in place of 1.5.)"""
    size = len(conn.inbox)
    if stream.state is not BodyState.OFFERED or conn.ended or size >= BLOCK_SIZE:
        return False
    return exchange.chunks is not None or size < exchange.body_left


def is_worth_a_piece(stream: BodyStream, size: int) -> bool:
    """Whether the window is open far enough for some of the `size` bytes that have come."""
    return stream.state is BodyState.UNREAD or stream.window >= min(size, WORTH_A_PIECE)
