"""HTTP/1.1 on a connection: reads requests, one exchange after the other. (Responses: http1_responses.)

A step reads once, frames at most one request, and says MORE, WAIT or GONE. What is behind the request
stays in `conn.inbox`; pipelined requests are so served one after the other, in order, and a client that
sends without end is never read further than one buffer ahead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from halfsync.pump.admit import Admission
from halfsync.pump.bodies.refused import RefusedBodies
from halfsync.pump.bodies.spool import Spool, SpoolSpace
from halfsync.pump.bodies.streamed import BodyStreams
from halfsync.pump.clock import Clock
from halfsync.pump.connection import GONE, MORE, WAIT, Connection, Exchange, Outcome, Route, new_exchange
from halfsync.pump.endings import Endings
from halfsync.pump.helpers import Helpers
from halfsync.pump.http1.last import LastRequests
from halfsync.pump.http1.responses import Http1Responses
from halfsync.pump.http1.seen_heads import SeenHead, SeenHeads
from halfsync.pump.internal_errors import InternalErrors
from halfsync.pump.output import LEFT_AFTER, RECHECK, Output
from halfsync.pump.reading import READS_A_TURN, read_more
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.states import (
    EXCHANGE_BEGAN,
    HEAD,
    IDLE,
    PRODUCING,
    QUEUED,
    SENDING,
    WORKING,
    ConnectionEvent,
)
from halfsync.pump.traces import without_notes
from halfsync.pump.websocket.protocol import WebSockets
from halfsync.settings.table import Settings
from halfsync.wire.chunked import ChunkedBody
from halfsync.wire.closes import CloseReason
from halfsync.wire.http1 import CHUNKED, HEAD_END, HeadLimits, RequestHead, check_partial, without_empty_lines
from halfsync.wire.http1_responses import CONTINUE
from halfsync.wire.http2_frames import PREFACE_HEAD
from halfsync.wire.refusals import Refusal

MAX_SHOWN = 1024
"""Bytes of what never became a request that the access log shows."""


_ITS_BACKENDS_TURN = (QUEUED, WORKING, PRODUCING)


def limits_of(settings: Settings) -> HeadLimits:
    return HeadLimits(
        settings.limit_request_line,
        settings.limit_request_fields,
        settings.limit_request_field_size,
        settings.limit_request_head,
    )


class Http1:
    """See WireProtocol."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        run_queue: RunQueue,
        endings: Endings,
        errors: InternalErrors,
        output: Output,
        responses: Http1Responses,
        last_requests: LastRequests,
        admission: Admission,
        websockets: WebSockets,
        helpers: Helpers,
        spool_folder: str,
        spool_space: SpoolSpace,
    ) -> None:
        self._clock = clock
        self._responses = responses
        self._last_requests = last_requests
        self._run_queue = run_queue
        self._endings = endings
        self._errors = errors
        self._admission = admission
        self._websockets = websockets
        self._helpers = helpers
        self._spool_folder = spool_folder
        self.seen = SeenHeads(limits_of(settings))
        self.spool_space = spool_space
        self.begin_http2: Callable[[Connection], None] | None = None  # on a connection whose client speaks it
        self._refused_bodies = RefusedBodies()
        self.streamed = BodyStreams(clock, run_queue, endings, self._refused_bodies)
        self.configure(settings)
        self.grant = self.streamed.grant
        self.refuse = responses.refuse
        self.repeat = responses.repeat
        self.respond_small = responses.respond_small
        self.hint = responses.hint
        self.trailers = responses.trailers
        self.accept = responses.accept
        self.begin = responses.begin
        self.add = responses.add
        self.end = responses.end
        self.abort = responses.abort
        self.framed = responses.framed
        self.exchange_ended = responses.exchange_ended
        self._steps: tuple[Callable[[Connection], Outcome], ...] = (
            self._read_head,  # FRESH
            self._read_head,  # IDLE
            self._read_head,  # HEAD
            self._serve,  # BUSY
            output.linger,  # LINGERING
            _gone,  # CLOSED
            _switched,  # TUNNEL
        )
        self._exchange_steps: tuple[Callable[[Connection], Outcome], ...] = (
            self._read_body,  # RECEIVING
            _wait,  # QUEUED
            _wait,  # WORKING
            output.send,  # SENDING
            output.produce,  # PRODUCING
        )

    def configure(self, settings: Settings) -> None:
        """Also when other routes are in effect: what heads meant, and where they went, is forgotten."""
        self._settings = settings
        self._limits = limits_of(settings)
        self.seen.forget(self._limits)

    def step(self, conn: Connection) -> Outcome:
        return self._steps[conn.state](conn)

    def _serve(self, conn: Connection) -> Outcome:
        exchange = conn.exchange
        assert exchange is not None
        ws = exchange.websocket
        if ws is not None and ws.has_begun:
            return self._websockets.step(conn, exchange, ws)
        if exchange.stream is not None:
            outcome = self.streamed.read(conn, exchange, exchange.stream)
            if outcome is not None:
                return outcome
        if conn.readable and not (conn.ended or conn.transport.ends_by_close):
            self._look_for_end(conn, exchange)
        return self._exchange_steps[exchange.state](conn)

    def _look_for_end(self, conn: Connection, exchange: Exchange) -> None:
        """With TLS a client says in what it sends that it has closed its side (close_notify), and may leave
        the socket open. So what comes while it is not its turn is read, if the inbox is empty: it is that, or
        the next request."""
        if exchange.state not in _ITS_BACKENDS_TURN or conn.inbox or read_more(conn) or not conn.ended:
            return
        conn.readable = True  # the end is found again where it is dealt with
        if exchange.state is QUEUED or exchange.is_left:
            conn.deadline = min(conn.deadline, self._clock.now + LEFT_AFTER)

    # --- heads -------------------------------------------------------------------------------------

    def _read_head(self, conn: Connection) -> Outcome:
        """The step of FRESH, IDLE and HEAD."""
        if (not conn.inbox or conn.scanned) and not read_more(conn):
            return self._head_ended(conn) if conn.is_read_to_end else WAIT
        if not conn.scanned:
            conn.when = self._clock.wall
            conn.first_byte = self._clock.now
            seen = self.seen.whole.get(conn.inbox)
            if seen is not None:
                conn.inbox = b""
                return self._begin_exchange(conn, seen.head, seen)
            leased = conn.known.last.get(conn.inbox)
            if leased is not None:
                outcome = self._last_requests.repeat(conn, leased, self._limits)
                if outcome is not None:
                    return outcome
        if conn.inbox[0] == 13 and not self._skip_empty_lines(conn):
            return MORE if conn.readable else WAIT
        end = conn.inbox.find(HEAD_END, max(0, conn.scanned - 3))
        raw = conn.inbox if end < 0 else conn.inbox[: end + 4]
        try:
            if end < 0:
                return self._part_of_head(conn)
            conn.inbox = conn.inbox[end + 4 :]
            conn.scanned = 0
            head, seen = self.seen.parse(raw)
        except Refusal as refusal:
            begin_http2 = self.begin_http2
            if raw == PREFACE_HEAD and begin_http2 and not conn.request_count and conn.transport.suits_http2:
                begin_http2(conn)
                return WAIT  # it is the other protocol's now
            self.refuse(self.exchange_of(conn, raw), refusal)
            return MORE
        return self._begin_exchange(conn, head, seen)

    def _head_ended(self, conn: Connection) -> Outcome:
        """The client closed its way before a whole head came."""
        left = conn.state is HEAD
        return self._endings.close(
            conn, CloseReason.CLIENT_DISCONNECTED if left else CloseReason.CLIENT_CLOSED
        )

    def _skip_empty_lines(self, conn: Connection) -> bool:
        """RFC 9112 2.2: empty lines before a request are let pass, and head_timeout does not run for them.
        Whether anything is behind them."""
        conn.inbox = without_empty_lines(conn.inbox)
        conn.scanned = 0
        if conn.inbox == b"\r":  # half of one
            conn.move(ConnectionEvent.PART_OF_HEAD)
            conn.scanned = 1
            return False
        if conn.state is HEAD and conn.request_count and self._responses.keeps_alive:
            conn.move(ConnectionEvent.EMPTY_LINES)
        return bool(conn.inbox)

    def _part_of_head(self, conn: Connection) -> Outcome:
        check_partial(conn.inbox, self._limits, conn.scanned)
        self._expect_more_of_head(conn)
        conn.scanned = len(conn.inbox)
        return MORE if conn.readable else WAIT

    def _expect_more_of_head(self, conn: Connection) -> None:
        if conn.state is IDLE:  # FRESH has had its limit since it was accepted
            conn.deadline = self._clock.now + self._settings.head_timeout
        conn.move(ConnectionEvent.PART_OF_HEAD)

    def _begin_exchange(self, conn: Connection, head: RequestHead, seen: SeenHead | None) -> Outcome:
        conn.move(EXCHANGE_BEGAN)
        conn.exchange = exchange = new_exchange(conn, head, head.raw)
        if seen is not None and seen.head is head:
            exchange.logged = seen.uncookied
        try:
            self._admission.admit(exchange)
            route = exchange.route
            # Where a route is not for everybody, or requests have ids or traces, each has to be admitted.
            if seen is not None and route is not None and _is_for_all(exchange, route):
                seen.admitted(conn, route)
            if head.body_size:
                return self._expect_body(conn, exchange, head)
        except Refusal as refusal:
            self.refuse(exchange, refusal)
            return MORE
        # It may be over already, if a lease has its response.
        return MORE if exchange.state is SENDING or conn.exchange is not exchange else WAIT

    def exchange_of(self, conn: Connection, raw: bytes) -> Exchange:
        """The present one; or one for what has come of a head, so that it can be refused."""
        if conn.exchange is None:
            conn.move(EXCHANGE_BEGAN)
            shown = without_notes(raw[:MAX_SHOWN])
            conn.exchange = new_exchange(conn, RequestHead(shown, b"", b"", 1), shown)
        return conn.exchange

    # --- bodies ------------------------------------------------------------------------------------

    def _expect_body(self, conn: Connection, exchange: Exchange, head: RequestHead) -> Outcome:
        assert exchange.route is not None
        if head.body_size > exchange.route.limits.limit_request_body:
            raise self._refused_bodies.refusal(exchange, str(conn.origin), self._clock.now)
        if head.body_size == CHUNKED:
            exchange.chunks = ChunkedBody()
        exchange.body_left = head.body_size
        if exchange.route.backend.streams:
            self.streamed.begin(conn, exchange)
            self._admission.submit(exchange)
            return MORE
        self.check_space(exchange, max(head.body_size, 0))
        exchange.spool = Spool(self._settings.body_memory, self._spool_folder, self.spool_space)
        if head.expects and not conn.inbox:
            # If the socket is full of responses that the client does not read, it is not this it waits for.
            try:
                conn.transport.offer(CONTINUE)
            except OSError:
                return self._endings.close(conn, CloseReason.CLIENT_DISCONNECTED)
        exchange.progress_at = exchange.checked_at = self._clock.now
        conn.deadline = self._clock.now + RECHECK
        return MORE

    def check_space(self, exchange: Exchange, size: int) -> None:
        """Raises Refusal if `size` more bytes can't be kept aside."""
        space = self.spool_space
        if space.has_room(size):
            return
        self._errors.report(
            f"{exchange.request_line} is refused: {space.used} bytes of request bodies are kept aside "
            f"already, and spool_limit is {space.limit}"
        )
        raise Refusal(
            503,
            "There is no room for this body now. Please try again soon.",
            retry_after=5,
            reason="spool_limit",
        )

    def _read_body(self, conn: Connection) -> Outcome:
        """The step of RECEIVING: takes in what has come, but no more than a turn's share."""
        exchange = conn.exchange
        assert exchange is not None
        spool = exchange.spool
        assert isinstance(spool, Spool)
        try:
            for _ in range(READS_A_TURN):
                whole = _is_whole(exchange)
                if not spool.flush(partial(self._write_behind, conn), whole=whole):
                    return WAIT  # for the disk
                if whole:
                    self._admission.submit(exchange)
                    return MORE if exchange.state is SENDING else WAIT
                if not conn.inbox and not read_more(conn):
                    if conn.is_read_to_end:
                        return self._endings.close(conn, CloseReason.CLIENT_DISCONNECTED)
                    return WAIT
                self._take_in(conn, exchange, spool)
                if conn.inbox and not _is_whole(exchange):
                    break  # so many small chunks that they took this turn's share of work
        except Refusal as refusal:
            self.refuse(exchange, refusal)
            return MORE
        except OSError as error:
            self._errors.report(
                f"cannot keep the body of {exchange.request_line} in {self._spool_folder} (spool_dir): "
                f"{error.strerror}"
            )
            self.refuse(exchange, Refusal(507, "There is no room for this body."))
            return MORE
        self._run_queue.again(conn)
        return WAIT

    def _write_behind(self, conn: Connection, job: Callable[[], None]) -> None:
        self._helpers.submit(job, partial(self._run_queue.ready, conn))

    def _take_in(self, conn: Connection, exchange: Exchange, spool: Spool) -> None:
        """What is in the inbox goes into the spool; what is left of it is the next request's, or more
        work than one step may be."""
        data = conn.inbox
        chunks = exchange.chunks
        if chunks is None:
            left = exchange.body_left
            conn.inbox = data[left:] if len(data) > left else b""
            if conn.inbox:
                data = data[:left]
            exchange.body_left = left - len(data)
            exchange.received += len(data)
            self.check_space(exchange, len(data))
            spool.write(data)
            return
        piece = chunks.feed(data)
        conn.inbox = chunks.rest
        exchange.received += len(data) - len(conn.inbox)
        if piece:
            assert exchange.route is not None
            limit = exchange.route.limits.limit_request_body
            if spool.size + len(piece) > limit:
                raise self._refused_bodies.refusal(exchange, str(conn.origin), self._clock.now)
            self.check_space(exchange, len(piece))
            spool.write(piece)

    # --- what the sweep and a stop ask -------------------------------------------------------------

    def expire_head(self, conn: Connection) -> None:
        """The head has not come in time."""
        exchange = self.exchange_of(conn, conn.inbox)
        self.refuse(
            exchange, Refusal(408, "The headers did not come in time (head_timeout).", reason="head_timeout")
        )
        exchange.reason = CloseReason.HEAD_TIMEOUT
        self._run_queue.ready(conn)


def _is_for_all(exchange: Exchange, route: Route) -> bool:
    """Whether the next request with the same head may go there at once."""
    return route.access is None and not exchange.head.upgrades and not exchange.is_marked


def _is_whole(exchange: Exchange) -> bool:
    return exchange.body_left == 0 if exchange.chunks is None else exchange.chunks.done


def _wait(_conn: Connection) -> Outcome:
    return WAIT


def _switched(conn: Connection) -> Outcome:
    return conn.protocol.step(conn)


def _gone(_conn: Connection) -> Outcome:
    return GONE
