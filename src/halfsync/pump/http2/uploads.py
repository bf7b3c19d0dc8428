"""Bodies of HTTP/2 requests: from streams into spools. The client may send more as the spool takes the
bytes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from halfsync.pump.admit import Admission
from halfsync.pump.bodies.refused import RefusedBodies
from halfsync.pump.bodies.spool import Spool
from halfsync.pump.clock import Clock
from halfsync.pump.connection import MORE, WAIT, Connection, Exchange, Outcome
from halfsync.pump.endings import Endings
from halfsync.pump.helpers import Helpers
from halfsync.pump.http1.protocol import Http1
from halfsync.pump.http2.output import Http2Output
from halfsync.pump.http2.streamed import Http2BodyStreams
from halfsync.pump.http2.streams import Session, Stream
from halfsync.pump.internal_errors import InternalErrors
from halfsync.pump.output import RECHECK
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.states import RECEIVING, SENDING
from halfsync.settings.table import Settings
from halfsync.wire.http2_responses import CONTINUE
from halfsync.wire.http2_state import StreamState
from halfsync.wire.refusals import Refusal


class Uploads:
    """`step` is that of RECEIVING."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        run_queue: RunQueue,
        endings: Endings,
        errors: InternalErrors,
        admission: Admission,
        helpers: Helpers,
        http1: Http1,
        frames: Http2Output,
        spool_folder: str,
    ) -> None:
        self._clock = clock
        self._run_queue = run_queue
        self._errors = errors
        self._admission = admission
        self._helpers = helpers
        self._http1 = http1
        self._frames = frames
        self._spool_folder = spool_folder
        self._refused_bodies = RefusedBodies()
        self.streamed = Http2BodyStreams(
            clock, run_queue, endings, self._refused_bodies, self._consumed, self._tell_to_go_on
        )
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        self._settings = settings

    def expect(self, stream: Stream, exchange: Exchange) -> None:
        """A body is to come. Raises Refusal."""
        head = exchange.head
        assert exchange.route is not None
        if head.body_size > exchange.route.limits.limit_request_body:
            raise self._refused_bodies.refusal(exchange, str(stream.origin), self._clock.now)
        if exchange.route.backend.streams:
            self.streamed.begin(stream, exchange)
            self._admission.submit(exchange)
            return
        self._http1.check_space(exchange, max(head.body_size, 0))
        exchange.spool = Spool(self._settings.body_memory, self._spool_folder, self._http1.spool_space)
        if head.expects:
            self._tell_to_go_on(stream)
        exchange.progress_at = exchange.checked_at = self._clock.now
        stream.deadline = self._clock.now + RECHECK

    def _tell_to_go_on(self, stream: Stream) -> None:
        self.say_in_between(stream, CONTINUE)

    def say_in_between(self, stream: Stream, block: bytes) -> None:
        """A response that is not the last (1xx), if none has begun."""
        session = stream.carrier.session
        if isinstance(session, Session) and not stream.state_of.local_closed:
            wire = session.wire.headers(stream.state_of, block, end=False)
            self._frames.put(stream.carrier, session, wire)
            self._run_queue.ready(stream.carrier)

    def came(
        self, stream: Stream | None, state: StreamState, session: Session, data: bytes, *, last: bool
    ) -> None:
        """More of a body, or its end."""
        exchange = None if stream is None else stream.exchange
        if stream is not None and last:
            stream.has_all = True
        if stream is None or exchange is None:
            pass
        elif exchange.websocket is not None and exchange.websocket.is_read(exchange.state < SENDING):
            if data:
                stream.parts.append(data)
            stream.ended = stream.has_all
            self._run_queue.ready(stream)
            return
        elif exchange.stream is not None and not exchange.stream.is_over:
            self.streamed.came(stream, exchange, exchange.stream, data)
            return
        elif exchange.state is RECEIVING:
            if data:
                stream.parts.append(data)
            self._run_queue.ready(stream)
            return
        else:
            self._run_queue.ready(stream)  # if this was the end, its response may end
        if data:
            session.wire.dropped(state, len(data))  # it was answered before it was complete

    def step(self, conn: Connection) -> Outcome:
        stream = conn
        assert isinstance(stream, Stream)
        exchange = stream.exchange
        assert exchange is not None
        try:
            return self._read(stream, exchange)
        except Refusal as refusal:
            stream.protocol.refuse(exchange, refusal)
        except OSError as error:
            self._errors.report(
                f"cannot keep the body of {exchange.request_line} in {self._spool_folder} (spool_dir): "
                f"{error.strerror}"
            )
            stream.protocol.refuse(exchange, Refusal(507, "There is no room for this body."))
        self.drop_parts(stream)
        return MORE

    def _read(self, stream: Stream, exchange: Exchange) -> Outcome:
        """Raises Refusal, OSError."""
        spool = exchange.spool
        assert isinstance(spool, Spool)
        if not spool.flush(partial(self._write_behind, stream), whole=False):
            return WAIT  # for the disk
        if stream.parts:
            self._take_in(stream, exchange, spool)
        whole = stream.has_all
        if not spool.flush(partial(self._write_behind, stream), whole=whole) or not whole:
            return WAIT
        self._admission.submit(exchange)
        return MORE if exchange.state is SENDING else WAIT

    def _write_behind(self, stream: Stream, job: Callable[[], None]) -> None:
        self._helpers.submit(job, partial(self._run_queue.ready, stream))

    def _take_in(self, stream: Stream, exchange: Exchange, spool: Spool) -> None:
        data = b"".join(stream.parts)
        assert exchange.route is not None
        if spool.size + len(data) > exchange.route.limits.limit_request_body:
            raise self._refused_bodies.refusal(exchange, str(stream.origin), self._clock.now)
        self._http1.check_space(exchange, len(data))
        exchange.received += len(data)
        spool.write(data)
        stream.parts = []
        self._consumed(stream, len(data))

    def take_parts(self, stream: Stream) -> None:
        """Into the inbox: the client may send as many bytes again."""
        stream.inbox += b"".join(stream.parts)
        size = sum(map(len, stream.parts))
        stream.parts = []
        self._consumed(stream, size)

    def drop_parts(self, stream: Stream) -> None:
        """It is answered: they are of no use."""
        size = sum(map(len, stream.parts))
        stream.parts = []
        session = stream.carrier.session
        if size and isinstance(session, Session):
            session.wire.dropped(stream.state_of, size)

    def _consumed(self, stream: Stream, size: int) -> None:
        """So many bytes of a body need no room any more: the client may send as many again."""
        session = stream.carrier.session
        if size and isinstance(session, Session):
            session.wire.consumed(stream.state_of, size)
            if session.wire.out:
                self._run_queue.ready(stream.carrier)
