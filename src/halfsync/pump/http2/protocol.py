"""HTTP/2 on a connection: reads frames, begins exchanges on streams, and ends in good order.

Theory of operation
-------------------
`wire/http2.py` knows the protocol and does no I/O; here is what its events mean to the pump. A request that a
lease answers is answered at once (leased.py). Any other one gets a `Stream` and an `Exchange`, and then
goes the way of all requests (streams.py).

A step reads once, acts upon all that came, and sends once: responses of many streams go in one system call.

A connection ends in good order in two steps (RFC 9113 6.8). At a stop the client is told that no further
requests are wanted (ANNOUNCED); when it has read that, it is told which streams were the last (LAST). So no
request is lost: what it had sent by then is served, and it knows of all others that they were not begun. When
the last response is taken, our way is shut, as with HTTP/1.1 (LINGERING).
"""

from __future__ import annotations

from collections import deque

from halfsync.http.hosts import name_of
from halfsync.pump.access import AccessLog
from halfsync.pump.admit import Admission
from halfsync.pump.changing import ChangingFiles
from halfsync.pump.clock import Clock
from halfsync.pump.connection import GONE, MORE, NEVER, WAIT, Connection, Outcome, new_exchange
from halfsync.pump.endings import Endings
from halfsync.pump.helpers import Helpers
from halfsync.pump.http1.protocol import Http1
from halfsync.pump.http2.faults import FaultLog, reason_of
from halfsync.pump.http2.leased import Http2Leased
from halfsync.pump.http2.output import Http2Output
from halfsync.pump.http2.responses import Http2Responses
from halfsync.pump.http2.streams import UNNAMED, Closing, Session, Stream, StreamPlace, set_priority
from halfsync.pump.http2.uploads import Uploads
from halfsync.pump.internal_errors import InternalErrors
from halfsync.pump.leases.leases import Leases
from halfsync.pump.output import RECHECK, Output, ShrunkError
from halfsync.pump.own_responses import OwnResponses
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.states import FRESH, LINGERING, MULTIPLEXED, QUEUED, SENDING, ConnectionEvent
from halfsync.pump.tls.handshakes import Handshakes
from halfsync.pump.tls.transport import TLSTransport
from halfsync.pump.traces import without_notes
from halfsync.pump.websocket.protocol import WebSockets
from halfsync.settings.table import Settings
from halfsync.wire.closes import KEPT, CloseReason
from halfsync.wire.http1 import HeadLimits
from halfsync.wire.http2 import Http2Connection
from halfsync.wire.http2_events import (
    ClientClosing,
    ConnectionFailed,
    DataReceived,
    Event,
    PingAnswered,
    PriorityChanged,
    RequestReceived,
    StreamEnded,
    WindowsOpened,
)
from halfsync.wire.http2_frames import PREFACE_HEAD, ErrorCode
from halfsync.wire.http2_requests import Requests
from halfsync.wire.http2_state import Http2Limits, StreamState
from halfsync.wire.refusals import Refusal

RECV_SIZE = 64 * 1024
MAX_CONTROLS = 100
"""Acknowledgements and other frames of the protocol's own that may wait for the socket; then nothing is read
until the client reads."""
ANNOUNCED_FOR = 1.0
"""Seconds that a client has to read that no further requests are wanted, before that is final."""


class Http2:
    """See WireProtocol; the calls for responses are those of `streams`, the protocol of each stream."""

    handshakes: Handshakes

    def __init__(
        self,
        settings: Settings,
        limits: HeadLimits,
        clock: Clock,
        run_queue: RunQueue,
        endings: Endings,
        errors: InternalErrors,
        access: AccessLog,
        output: Output,
        changing: ChangingFiles,
        leases: Leases,
        admission: Admission,
        websockets: WebSockets,
        helpers: Helpers,
        http1: Http1,
        own: OwnResponses,
        spool_folder: str,
    ) -> None:
        self._clock = clock
        self._run_queue = run_queue
        self._endings = endings
        self._access = access
        self._output = output
        self._frames = frames = Http2Output(clock, endings, errors, access, output, changing)
        self.leased = Http2Leased(clock, run_queue, endings, access, frames)
        self._streams = streams = Http2Responses(clock, run_queue, endings, output, leases, own)
        self.uploads = Uploads(
            settings, clock, run_queue, endings, errors, admission, helpers, http1, frames, spool_folder
        )
        streams.uploads = self.uploads
        streams.websockets = websockets
        self._admission = admission
        self._faults = FaultLog()
        self._requests = Requests(limits)
        self.draining = False
        self.linger_timeout = settings.linger_timeout
        self.configure(settings, limits)
        self.hint = streams.hint
        self.trailers = streams.trailers
        self.begin = streams.begin
        self.add = streams.add
        self.end = streams.end
        self.abort = streams.abort
        self.refuse = streams.refuse
        self.repeat = streams.repeat
        self.respond_small = streams.respond_small
        self.grant = self.uploads.streamed.grant
        self.accept = streams.accept
        self.framed = streams.framed
        self.exchange_ended = streams.exchange_ended

    def configure(self, settings: Settings, limits: HeadLimits) -> None:
        self._settings = settings
        self.leased.keep_alive = settings.keep_alive
        self._limits = Http2Limits(
            settings.http2_max_concurrent_streams, settings.http2_max_resets, settings.http2_max_idle_frames
        )
        self._requests.configure(limits)
        self.uploads.configure(settings)

    # --- the beginning -----------------------------------------------------------------------------

    def begin_on(self, conn: Connection, preface_read: int = len(PREFACE_HEAD)) -> None:
        """The client speaks HTTP/2: of its preface so much was read, and what is behind that is in the
        inbox."""
        wire = Http2Connection(self._requests, self._limits)
        wire.preface_began(preface_read)
        conn.move(ConnectionEvent.PREFACE)
        conn.protocol = self
        conn.session = session = Session(wire)
        self.look_at_hosts(conn)
        conn.out = deque()
        conn.deadline = self._clock.now + self._settings.head_timeout
        session.framed = conn.wire_bytes
        self._frames.put_controls(conn, session)
        self._run_queue.ready(conn)
        if self.draining:
            self.drain(conn)

    def begin_last_on(self, conn: Connection) -> None:
        """The same, where the server no longer listens."""
        self.begin_on(conn)
        self.drain(conn)

    def close_after_next_responses(self, conn: Connection) -> None:
        """The server no longer listens where this client has connected."""
        if conn.state is FRESH:
            self.begin_on(conn, 0)
        self.drain(conn)

    # --- steps -------------------------------------------------------------------------------------

    def step(self, conn: Connection) -> Outcome:
        if conn.state is MULTIPLEXED:
            assert isinstance(conn.session, Session)
            return self._serve(conn, conn.session)
        if conn.state is FRESH:  # it was agreed upon in the TLS handshake
            self.begin_on(conn, 0)
            return MORE
        return self._output.linger(conn) if conn.state is LINGERING else GONE

    def _serve(self, conn: Connection, session: Session) -> Outcome:
        """Read once, and send what there is."""
        try:
            return self._read_and_send(conn, session)
        except ShrunkError:
            return self._endings.reset(conn, CloseReason.FILE_SHRANK)
        except OSError as error:
            return self._output.send_failed(conn, error)

    def _read_and_send(self, conn: Connection, session: Session) -> Outcome:
        """Raises ShrunkError, OSError of a send."""
        more = False
        if conn.inbox:
            data, conn.inbox = conn.inbox, b""
            self._receive(conn, session, data)
            more = conn.readable
        elif conn.readable and session.controls <= MAX_CONTROLS:
            try:
                data = conn.transport.recv(RECV_SIZE)
            except BlockingIOError:
                conn.readable = False
                data = None
            except OSError:
                data = b""
            if data:
                if not conn.ended and conn.transport.drained(len(data), RECV_SIZE):
                    conn.readable = False
                more = conn.readable
                if session.closing is not Closing.FAILED:
                    self._receive(conn, session, data)
            elif data is not None:
                return self._client_left(conn, session)
        for _ in range(2):  # to send may have ended streams
            if session.wire.out or session.ready or conn.out:
                self._frames.put_controls(conn, session)
                more |= self._frames.send(conn, session)
        more = more or (conn.readable and not conn.out)  # what was not read for what was not sent
        return self._after(conn, session, more)

    def _after(self, conn: Connection, session: Session, more: bool) -> Outcome:
        """Which time limit runs now; and whether this was the end."""
        now = self._clock.now
        if session.closing >= Closing.LAST and session.is_idle and not conn.out:
            return self._end_in_good_order(conn)
        if conn.out:
            if not session.checked_at:
                session.checked_at = session.progress_at = now
                session.timed = 0.0
                session.taken = 0
                session.moved = conn.wire_bytes - conn.transport.unsent()
                conn.deadline = now + RECHECK
        else:
            session.checked_at = 0.0
            if session.streams:
                conn.deadline = NEVER
            elif conn.deadline == NEVER:
                self._begin_to_idle(conn)
        if session.wire.block is not None:
            if not session.block_since:
                session.block_since = now
            conn.deadline = min(conn.deadline, session.block_since + self._settings.head_timeout)
        else:
            session.block_since = 0.0
        if session.closing is Closing.ANNOUNCED:
            conn.deadline = min(conn.deadline, session.announced_until)
        if more:
            self._run_queue.again(conn)
        return WAIT

    def _begin_to_idle(self, conn: Connection) -> None:
        conn.deadline = self._clock.now + self._settings.keep_alive

    def _client_left(self, conn: Connection, session: Session) -> Outcome:
        conn.ended, conn.readable = True, False
        idle = session.is_idle and not conn.out
        return self._endings.close(
            conn, CloseReason.CLIENT_CLOSED if idle else CloseReason.CLIENT_DISCONNECTED
        )

    # --- what comes --------------------------------------------------------------------------------

    def _receive(self, conn: Connection, session: Session, data: bytes) -> None:
        clock = self._clock
        conn.when, conn.first_byte = clock.wall, clock.now
        events = session.wire.receive(data, clock.now)
        if session.wire.out:
            self._frames.put_acknowledgement(conn, session)
        alone = len(events) == 1 and not (conn.out or session.ready or session.wire.out)
        for event in events:
            if type(event) is RequestReceived:
                if session.admitted is not None and event.refusal is None:
                    event.refusal = self._admit(conn, session, event.head.host)
                stream = event.stream
                if stream.id not in session.wire.streams:
                    continue  # it was reset by what came behind it, and is not begun at all
                if event.refusal is not None or not self.leased.repeat(
                    conn, session, stream, event.head, alone=alone
                ):
                    self._begin(conn, session, stream, event)
            elif type(event) is DataReceived:
                self._data(session, event)
            else:
                self._other(conn, session, event)

    def look_at_hosts(self, conn: Connection) -> None:
        """From now on, if requests for some hosts may not come on this connection."""
        if isinstance(conn.session, Session) and isinstance(conn.transport, TLSTransport):
            conn.session.admitted = UNNAMED if self.handshakes.contexts.looks_at_hosts else None

    def _admit(self, conn: Connection, session: Session, host: bytes) -> Refusal | None:
        """Why a request for this host may not come on this connection. The rules of its site are looked at in
        handshakes (see http1_special.GuardedHttp1); or the client, which can't have verified that we are this
        host, uses the connection for it by mistake."""
        if host == session.admitted:
            return None
        transport, contexts, listener = conn.transport, self.handshakes.contexts, conn.origin.listener
        assert isinstance(transport, TLSTransport)
        met = transport.terms
        # (Who has named no host in the handshake, or none in a request, or the same, makes no such mistake.)
        name = transport.server_name
        is_other = name and host and name_of(host) != name.encode()
        if contexts.admits(listener, met, host) and (
            not is_other or met is None or contexts.is_shown_for(listener, met, host)
        ):
            session.admitted = host
            return None
        return Refusal(421, "This host must be requested on a connection made with its own name (SNI).")

    def _begin(self, conn: Connection, session: Session, state: StreamState, event: RequestReceived) -> None:
        """A stream, and an exchange on it."""
        head = event.head
        stream = Stream(conn, session, state, self._streams)
        conn.request_count += 1
        session.streams[stream] = None
        self._endings.streams[stream] = None
        stream.exchange = exchange = new_exchange(stream, head, head.raw)
        set_priority(state, head)
        try:
            if event.refusal is not None:
                raise event.refusal
            self._admission.admit(exchange)
            if head.body_size:
                self.uploads.expect(stream, exchange)
        except Refusal as refusal:
            self.refuse(exchange, refusal)
        if exchange.state is SENDING:
            self._run_queue.ready(stream)

    def _data(self, session: Session, event: DataReceived) -> None:
        owner = event.stream.owner
        stream = owner if isinstance(owner, Stream) else None
        self.uploads.came(stream, event.stream, session, event.data, last=event.last)

    def _other(self, conn: Connection, session: Session, event: Event) -> None:
        if isinstance(event, WindowsOpened):
            self._windows_opened(session, event.stream)
        elif isinstance(event, StreamEnded):
            self._stream_ended(conn, session, event)
        elif isinstance(event, PingAnswered):
            if session.closing is Closing.ANNOUNCED:
                self._no_further_streams(session)
        elif isinstance(event, ClientClosing):
            if session.closing is Closing.NO:
                session.closing = Closing.LAST
        elif isinstance(event, ConnectionFailed):
            self._failed(conn, session, event)
        else:
            assert isinstance(event, PriorityChanged)

    def _windows_opened(self, session: Session, state: StreamState | None) -> None:
        if state is None:
            opened = list(session.shut)
        else:
            opened = [state.owner] if isinstance(state.owner, Stream) and state.owner.window_shut else []
        for stream in opened:
            if session.wire.room(stream.state_of) > 0:
                session.shut.pop(stream, None)
                stream.window_shut = False
                session.ready[stream] = None

    def _stream_ended(self, conn: Connection, session: Session, event: StreamEnded) -> None:
        if event.why:
            self._faults.stream(conn, event.why, self._clock.now)
        if event.raw and self._access.enabled:
            self._log_malformed(conn, without_notes(event.raw))
        stream = None if event.stream is None else event.stream.owner
        if not isinstance(stream, Stream):
            return
        exchange = stream.exchange
        if exchange is not None and exchange.holder is not None and exchange.state is not QUEUED:
            exchange.place = StreamPlace(session.wire)
        reason = CloseReason.HTTP2_ERROR if event.why else CloseReason.STREAM_RESET
        if exchange is not None and exchange.websocket is not None and exchange.reason is not KEPT:
            reason = exchange.reason  # both have closed it: some clients reset a stream in place of ending it
        self._endings.close(stream, reason)

    def _log_malformed(self, conn: Connection, raw: bytes) -> None:
        """It has no response; so it is with HTTP/1.1 when a client leaves amid its headers."""
        record = (conn.when, conn.origin.client, raw, 0, 0, 0, -1, -1, 0, int(CloseReason.HTTP2_ERROR))
        self._access.records.append((*record, conn.request_count))
        conn.request_count += 1

    def _failed(self, conn: Connection, session: Session, event: ConnectionFailed) -> None:
        session.closing = Closing.FAILED
        reason = reason_of(event.limit)
        self._faults.connection(conn, event, self._clock.now)
        session.wire.say_no_more()
        for stream in list(session.streams):
            self._endings.close(stream, reason)
        conn.deadline = self._clock.now + self.linger_timeout

    # --- the end -----------------------------------------------------------------------------------

    def drain(self, conn: Connection) -> None:
        """The server stops, or no longer listens here: what is under way is served, and nothing else."""
        session = conn.session
        if not isinstance(session, Session) or session.closing is not Closing.NO:
            return
        session.closing = Closing.ANNOUNCED
        session.wire.announce_going_away()
        conn.deadline = min(conn.deadline, self._clock.now + ANNOUNCED_FOR)
        session.announced_until = self._clock.now + ANNOUNCED_FOR
        self._run_queue.ready(conn)

    def _no_further_streams(self, session: Session) -> None:
        session.closing = Closing.LAST
        session.wire.go_away()

    def _end_in_good_order(self, conn: Connection) -> Outcome:
        """RFC 9112 9.6 holds here as well: see Http1Responses.end_in_good_order."""
        conn.move(ConnectionEvent.ENDED_LAST)
        conn.out = None
        timeout = self.linger_timeout
        try:
            conn.transport.finish()
        except BlockingIOError:  # the client has yet to read more of the responses
            timeout = self._settings.send_timeout
        except OSError:
            return self._endings.close(conn, CloseReason.CLIENT_DISCONNECTED)
        conn.inbox = b""
        conn.readable = True
        conn.deadline = self._clock.now + timeout
        return MORE

    # --- time limits -------------------------------------------------------------------------------

    def expired(self, conn: Connection, now: float) -> None:
        """The connection's deadline has passed (MULTIPLEXED)."""
        session = conn.session
        assert isinstance(session, Session)
        settings = self._settings
        if session.closing is Closing.FAILED:
            self._endings.reset(conn, CloseReason.HTTP2_ERROR)
        elif not session.wire.is_settled:
            self._endings.close(conn, CloseReason.HEAD_TIMEOUT)
        elif session.block_since and now >= session.block_since + settings.head_timeout:
            self._endings.reset(conn, CloseReason.HEAD_TIMEOUT)
        elif session.closing is Closing.ANNOUNCED and now >= session.announced_until:
            self._no_further_streams(session)
            conn.deadline = NEVER
            self._run_queue.ready(conn)
        elif conn.out:
            self._check_sending(conn, session, now)
        elif session.streams:
            conn.deadline = NEVER
        else:
            self._close_idle(conn, session)

    def _close_idle(self, conn: Connection, session: Session) -> None:
        """No request came within keep_alive; unless one has in this very moment."""
        conn.readable = True
        served = conn.request_count
        self._serve(conn, session)
        if conn.state is MULTIPLEXED and conn.request_count == served and session.is_idle:
            session.wire.go_away(ErrorCode.NO_ERROR)
            session.closing = Closing.LAST
            self._run_queue.ready(conn)

    def _check_sending(self, conn: Connection, session: Session, now: float) -> None:
        """What the client has taken of all responses together. (Those that wait for a window have limits of
        their own: see Timeouts.)"""
        settings = self._settings
        session.timed += now - session.checked_at
        session.checked_at = now
        taken = conn.wire_bytes - session.moved - conn.transport.unsent()
        conn.deadline = now + RECHECK
        if taken > session.taken:
            session.taken = taken
            session.progress_at = now
        if now - session.progress_at > settings.send_timeout:
            self._endings.reset(conn, CloseReason.SEND_TIMEOUT)
        elif session.timed > settings.rate_grace and taken < settings.min_rate * session.timed:
            self._endings.reset(conn, CloseReason.SEND_TOO_SLOW)
