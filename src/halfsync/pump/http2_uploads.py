"""Bodies of HTTP/2 requests: from streams into spools. The client may send more as the spool takes the
bytes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from halfsync.pump.admit import Admission
from halfsync.pump.clock import Clock
from halfsync.pump.connection import MORE, WAIT, Connection, Exchange, Outcome
from halfsync.pump.helpers import Helpers
from halfsync.pump.http1 import Http1
from halfsync.pump.http2_output import Http2Output
from halfsync.pump.http2_streams import Session, Stream
from halfsync.pump.internal_errors import InternalErrors
from halfsync.pump.output import RECHECK
from halfsync.pump.refused_bodies import RefusedBodies
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.spool import Spool
from halfsync.pump.states import SENDING
from halfsync.settings.table import Settings
from halfsync.wire.http2_responses import CONTINUE
from halfsync.wire.refusals import Refusal


class Uploads:
    """`step` is that of RECEIVING."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        run_queue: RunQueue,
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
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        self._settings = settings

    def expect(self, stream: Stream, exchange: Exchange) -> None:
        """A body is to come. Raises Refusal."""
        head = exchange.head
        assert exchange.route is not None
        if head.body_size > exchange.route.limits.limit_request_body:
            raise self._refused_bodies.refusal(exchange, str(stream.origin), self._clock.now)
        self._http1.check_space(exchange, max(head.body_size, 0))
        exchange.spool = Spool(self._settings.body_memory, self._spool_folder, self._http1.spool_space)
        session = stream.carrier.session
        if head.expects and isinstance(session, Session):
            wire = session.wire.headers(stream.state_of, CONTINUE, end=False)
            self._frames.put(stream.carrier, session, wire)
        exchange.progress_at = exchange.checked_at = self._clock.now
        stream.deadline = self._clock.now + RECHECK

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
        self._drop_parts(stream)
        return MORE

    def _read(self, stream: Stream, exchange: Exchange) -> Outcome:
        """Raises Refusal, OSError."""
        spool = exchange.spool
        assert isinstance(spool, Spool)
        if not spool.flush(partial(self._write_behind, stream), whole=False):
            return WAIT  # for the disk
        if stream.parts:
            self._take_in(stream, exchange, spool)
        whole = stream.state_of.remote_closed
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
        self._drop_parts(stream)

    def _drop_parts(self, stream: Stream) -> None:
        """They need no room any more: the client may send as many bytes again."""
        size = sum(map(len, stream.parts))
        stream.parts = []
        session = stream.carrier.session
        if size and isinstance(session, Session):
            session.wire.consumed(stream.state_of, size)
            if session.wire.out:
                self._run_queue.ready(stream.carrier)
