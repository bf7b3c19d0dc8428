"""Connections that have become WebSockets (RFC 6455): reads and checks what clients send, and passes whole
messages on; sends what applications send; closes in good order. (What there is of one: websocket.py.)

Theory of operation
-------------------
An accepted WebSocket is an exchange whose response has no end: its head is the 101 (with HTTP/2: a 200), and
the frames that follow are its body. So whatever holds for responses holds here, without a line of its own:
the queue, files, TLS, HTTP/2's windows, `send_timeout` and `min_rate` while the client has something to take
(SENDING), the log record at the end. In PRODUCING nothing is sent; there the WebSocket has a deadline of its
own, for Pings.

Memory is bounded in both directions. A client is read as long as less than MESSAGE_WINDOW of its messages
waits for the application; a large message is collected in a file, and passed on in it. What an application
sends is less than RESPONSE_WINDOW at a time: the worker learns from Taken what the client has taken.

Whoever closes first, the client gets a Close with a code, and has `linger_timeout` to answer it; then the
connection ends like any other that ends in good order (LINGERING). If the client breaks the rules, nothing
more of it is read, and its Close is not waited for.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import partial

from halfsync.logs.error import log
from halfsync.objects import File
from halfsync.pump.bodies.spool import Spool, SpoolSpace
from halfsync.pump.checks import UnsendableError
from halfsync.pump.clock import Clock
from halfsync.pump.connection import NEVER, WAIT, Connection, Exchange, Outcome
from halfsync.pump.descriptors import Descriptor
from halfsync.pump.endings import Endings
from halfsync.pump.helpers import Helpers
from halfsync.pump.output import Output
from halfsync.pump.reading import READS_A_TURN, read_more
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.sendables import FileSpan, Framing
from halfsync.pump.states import PRODUCING, SENDING, WORKING, WebSocketEvent, WebSocketState
from halfsync.pump.websocket.small_messages import AT_ONCE, ROOM, SmallMessages
from halfsync.pump.websocket.state import WebSocket
from halfsync.settings.table import Settings
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import (
    ABORTED,
    MESSAGE_IN_PACKET,
    MESSAGE_WINDOW,
    RESPONSE_WINDOW,
    UNFINISHED,
    Accept,
    Message,
    Part,
    Reply,
    message_cost,
)
from halfsync.wire.websocket import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    CloseCode,
    FrameError,
    FrameReader,
    close_frame,
    control_frame,
    frame_header,
)
from halfsync.wire.websocket_deflate import Deflator, Inflator, agree
from halfsync.wire.websocket_handshake import check_handshake

EVENTS_A_STEP = 256
"""Frames of one client that are acted upon before others are served: some 2 ms. Each KiB of them counts as
one more, for what is inflated may be much."""
QUEUED_PONGS = 64
"""With more than this on the queue, Pings are answered later, and then only the latest (section 5.5.3)."""
DEFLATED_AT_ONCE = 1024 * 1024
"""Bytes of the largest message that is compressed: 10 ms."""
MEMORY_SLACK = 512 * 1024
"""Bytes beyond RESPONSE_WINDOW that a worker may have sent: its last message is let pass whole."""


class WebSockets:
    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        run_queue: RunQueue,
        endings: Endings,
        output: Output,
        helpers: Helpers,
        spool_folder: str,
        spool_space: SpoolSpace,
    ) -> None:
        self._clock = clock
        self._run_queue = run_queue
        self._endings = endings
        self._output = output
        self._helpers = helpers
        self._spool_folder = spool_folder
        self._spool_space = spool_space
        self.small = SmallMessages(run_queue, endings, output)
        self.draining = False
        self.close_timeout = settings.linger_timeout
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """For those that are accepted from now on."""
        self._settings = settings

    # --- the beginning -----------------------------------------------------------------------------

    def offer(self, exchange: Exchange) -> None:
        """The request asks for a WebSocket, and its route takes them. Raises Refusal."""
        offer = check_handshake(exchange.head)
        exchange.websocket = exchange.spool = WebSocket(offer, self._settings.ws_max_size)

    def accept(self, exchange: Exchange, message: Accept) -> None:
        """The application wants it. Raises UnsendableError."""
        ws, conn = exchange.websocket, exchange.conn
        if conn is None:
            return  # its client has vanished, which the worker did not know yet
        if ws is None or ws.offer is None or exchange.state is not WORKING:
            raise UnsendableError("it accepts what does not ask for a WebSocket")
        fields = message.fields
        if message.subprotocol:
            if message.subprotocol not in ws.offer.subprotocols:
                raise UnsendableError(f"the client has not named the subprotocol {message.subprotocol!r}")
            fields += b"Sec-WebSocket-Protocol: " + message.subprotocol.encode() + b"\r\n"
        agreed = agree(ws.offer.extensions) if self._settings.ws_per_message_deflate else None
        if agreed is not None:
            ws.reader = FrameReader(self._settings.ws_max_size, Inflator(agreed))
            ws.deflator = Deflator(agreed)
            fields += b"Sec-WebSocket-Extensions: " + agreed.response().encode() + b"\r\n"
        conn.protocol.accept(exchange, ws.offer.accept, fields)
        ws.offer = exchange.spool = None
        ws.move(WebSocketEvent.ACCEPTED)
        assert exchange.route is not None
        ws.queue = exchange.route.backend.message_queue(exchange)
        ws.is_plain = agreed is None and type(conn) is Connection
        self._wait_for_ping(ws)
        self._run_queue.ready(conn)
        if self.draining:
            self.close(exchange, CloseCode.GOING_AWAY, why=CloseReason.DRAINING)

    # --- what clients send -------------------------------------------------------------------------

    def step(self, conn: Connection, exchange: Exchange, ws: WebSocket) -> Outcome:
        """The step of one that has begun (SENDING, PRODUCING)."""
        outcome = self.read(conn, exchange, ws)
        if outcome is not None:
            return outcome
        ws.at_rest = (
            ws.is_plain and ws.reader.is_between and ws.spool is None and not (conn.inbox or conn.readable)
        )
        if exchange.state is SENDING:
            outcome = self._output.send(conn)
        elif conn.out:
            outcome = self._output.produce(conn)
        else:
            outcome = WAIT
        if self.answer_latest_ping(exchange, ws):
            self._run_queue.again(conn)  # not in this turn: there may be as many Pings behind it
        return outcome

    def answer_latest_ping(self, exchange: Exchange, ws: WebSocket) -> bool:
        """If that had to wait for room on the queue, and there is some now."""
        if ws.pong is None or exchange.state is not PRODUCING or not ws.is_open:
            return False
        pong, ws.pong = ws.pong, None
        self._put(exchange, control_frame(PONG, pong))
        return True

    def read(self, conn: Connection, exchange: Exchange, ws: WebSocket) -> Outcome | None:
        """Reads, but no more than there is room for, or than a turn's share. None: go on with sending."""
        if ws.state not in READS:
            return None
        reader = ws.reader
        if (ws.spool is not None or not reader.is_read) and not self._take_in(conn, exchange, ws):
            return None  # what was read in an earlier step
        for _ in range(READS_A_TURN):
            if not conn.inbox and not read_more(conn):
                return self._client_left(conn, exchange, ws) if conn.is_read_to_end else None
            ws.is_pinged = False
            reader.feed(conn.inbox)
            conn.inbox = b""
            if not self._take_in(conn, exchange, ws):
                return None
            if not conn.readable and not conn.ended:
                return None
        self._run_queue.again(conn)
        return None

    def _take_in(self, conn: Connection, exchange: Exchange, ws: WebSocket) -> bool:
        """Acts upon what was read, as far as the application has room for it. Whether more may be read."""
        reader = ws.reader
        share = EVENTS_A_STEP
        while share > 0:
            if ws.spool is not None and not self._keep(conn, exchange, ws, ws.spool):
                return False
            share -= self._take_small(exchange, ws)
            if reader.is_read:
                return True
            if ws.outstanding >= MESSAGE_WINDOW and ws.is_open:
                return False
            try:
                event = reader.next()
            except FrameError as error:
                self._fail(exchange, ws, error.code, error.reason)
                return False
            if event is None:
                return True
            opcode, data, last = event
            share -= 1 + (len(data) >> 10)
            if opcode <= BINARY:
                if last and ws.spool is None and len(data) <= MESSAGE_IN_PACKET:
                    self._pass_on(exchange, ws, Message(exchange.task, opcode, data))
                else:
                    self._collect(exchange, ws, opcode, data, last=last)
            elif opcode == PING:
                self._answer_ping(conn, exchange, ws, data)
            elif opcode == CLOSE:
                self._client_closed(exchange, ws, ws.reader.close_code, data)
                return False
        self._run_queue.again(conn)
        return False

    def _take_small(self, exchange: Exchange, ws: WebSocket) -> int:
        """Passes on messages that need no more than that; how much of a step's share it was."""
        if ws.spool is not None or ws.outstanding > ROOM or not ws.is_open:
            return 0
        return self.small.pass_on(exchange, ws, AT_ONCE)

    def _pass_on(
        self, exchange: Exchange, ws: WebSocket, message: Message, file: Descriptor | None = None
    ) -> None:
        if not ws.is_open:
            return  # we have closed it; what the client had sent before it knew is dropped
        assert exchange.route is not None
        ws.outstanding += message_cost(message)
        exchange.route.backend.pass_message(exchange, message, file)

    def _collect(self, exchange: Exchange, ws: WebSocket, kind: int, data: bytes, *, last: bool) -> None:
        """A piece of a message that is large, or comes in pieces."""
        if not ws.is_open:
            return
        if not self._spool_space.has_room(len(data)):
            log(
                "warning",
                f"{exchange.request_line}: closed with {CloseCode.TRY_AGAIN_LATER.value}: "
                f"{self._spool_space.used} bytes of request bodies and messages are kept aside already, and "
                f"spool_limit is {self._spool_space.limit}",
            )
            self.close(exchange, CloseCode.TRY_AGAIN_LATER, b"there is no room for this message now")
            return
        if ws.spool is None:
            ws.spool = Spool(MESSAGE_IN_PACKET, self._spool_folder, self._spool_space)
        ws.kind = kind
        ws.is_collected = last
        try:
            ws.spool.write(data)
        except OSError as error:
            self._cannot_keep(exchange, ws, error)

    def _keep(self, conn: Connection, exchange: Exchange, ws: WebSocket, spool: Spool) -> bool:
        """Whether the disk has taken what was collected; if that is a whole message, it is passed on."""
        submit: Callable[[Callable[[], None]], None] = partial(self._write_behind, conn)
        try:
            if not spool.flush(submit, whole=ws.is_collected):
                return False
        except OSError as error:
            self._cannot_keep(exchange, ws, error)
            return True
        if ws.is_collected:
            ws.spool = None
            if spool.file is None:
                message = Message(exchange.task, ws.kind, spool.memory())
            else:
                message = Message(exchange.task, ws.kind, b"", [File(0, 0, spool.size)])
            self._pass_on(exchange, ws, message, spool.file)
        return True

    def _write_behind(self, conn: Connection, job: Callable[[], None]) -> None:
        self._helpers.submit(job, partial(self._run_queue.ready, conn))

    def _cannot_keep(self, exchange: Exchange, ws: WebSocket, error: OSError) -> None:
        log(
            "error",
            f"cannot keep a message of {exchange.request_line} in {self._spool_folder} (spool_dir): "
            f"{error.strerror}",
        )
        ws.spool = None
        self.close(exchange, CloseCode.INTERNAL_ERROR, why=CloseReason.INTERNAL_ERROR)

    def _answer_ping(self, conn: Connection, exchange: Exchange, ws: WebSocket, data: bytes) -> None:
        assert conn.out is not None
        if len(conn.out) > QUEUED_PONGS:
            ws.pong = data
        elif ws.is_open:
            self._put(exchange, control_frame(PONG, data))

    # --- how it ends -------------------------------------------------------------------------------

    def _client_closed(self, exchange: Exchange, ws: WebSocket, code: int, reason: bytes) -> None:
        """It has sent a Close: which answers ours, or is answered (section 5.5.1)."""
        if ws.is_open:
            self._put(exchange, close_frame(code))
            ws.close_reason = CloseReason.WEBSOCKET_CLOSED
            self._tell(exchange, ws, code, reason)
        self._end(exchange, ws, WebSocketEvent.CLIENT_CLOSE)

    def _client_left(self, conn: Connection, exchange: Exchange, ws: WebSocket) -> Outcome | None:
        """Without a Close. If it was sent one, it may still read that, and what stands before it."""
        if ws.is_open:
            return self._endings.close(conn, CloseReason.CLIENT_DISCONNECTED)
        self._end(exchange, ws, WebSocketEvent.CLIENT_CLOSE)
        conn.readable = True  # the end is found again where it is dealt with
        return None

    def _fail(self, exchange: Exchange, ws: WebSocket, code: CloseCode, reason: str) -> None:
        """Section 7.1.7: the client has broken the rules."""
        assert exchange.conn is not None
        if ws.is_open:
            setting = " (ws_max_size)" if code is CloseCode.TOO_BIG else ""
            log(
                "info",
                f"{exchange.request_line} from {exchange.conn.origin}: closed with {code.value}: "
                f"{reason}{setting}",
            )
            self._put(exchange, close_frame(code, reason.encode()))
            ws.close_reason = CloseReason.WEBSOCKET_FAILED
            self._tell(exchange, ws, code, reason.encode())
        self._end(exchange, ws, WebSocketEvent.FAILED)

    def _end(self, exchange: Exchange, ws: WebSocket, event: WebSocketEvent) -> None:
        """Nothing more is read; when what is queued was sent, the connection ends."""
        assert exchange.conn is not None
        ws.move(event)
        ws.spool = ws.pong = None
        exchange.reason = ws.close_reason
        if exchange.begun_ns:
            exchange.handler_ns = self._clock.now_ns - exchange.begun_ns
        exchange.conn.protocol.end(exchange)

    def close(
        self,
        exchange: Exchange,
        code: int,
        reason: bytes = b"",
        *,
        why: CloseReason = CloseReason.WEBSOCKET_CLOSED,
        by_worker: bool = False,
    ) -> None:
        """Send a Close, and wait for the client's. (To one that is not open, nothing is done.)"""
        ws, conn = exchange.websocket, exchange.conn
        if ws is None or conn is None or not ws.is_open:
            return
        self._put(exchange, close_frame(code, reason))
        ws.move(WebSocketEvent.CLOSE)
        ws.close_reason = why
        ws.spool = ws.pong = None
        ws.deadline = self._clock.now + self.close_timeout
        if exchange.state is PRODUCING:
            conn.deadline = ws.deadline
        if by_worker:
            ws.is_told = True
        else:
            self._tell(exchange, ws, code, reason)
        self._run_queue.ready(conn)

    def close_at_stop(self, exchange: Exchange) -> None:
        self.close(exchange, CloseCode.GOING_AWAY, why=CloseReason.DRAINING)

    def worker_ends(self, exchange: Exchange, *, is_dead: bool = False) -> None:
        """Its worker is to be replaced, or has died."""
        why = CloseReason.WORKER_DIED if is_dead else CloseReason.WEBSOCKET_CLOSED
        self.close(exchange, CloseCode.SERVICE_RESTART, why=why)

    def handler_ended(self, exchange: Exchange, message: Reply | Part) -> None:
        """The application has returned, or failed. Raises UnsendableError."""
        if isinstance(message, Reply) or message.ending is UNFINISHED or message.objects:
            raise UnsendableError("it responds to a request for a WebSocket that it has accepted")
        code = CloseCode.INTERNAL_ERROR if message.ending is ABORTED else CloseCode.NORMAL
        self.close(exchange, code, by_worker=True)

    def _tell(self, exchange: Exchange, ws: WebSocket, code: int, reason: bytes) -> None:
        if not ws.is_told and exchange.route is not None:
            ws.is_told = True
            exchange.route.backend.websocket_closed(exchange, code, reason)

    # --- what applications send --------------------------------------------------------------------

    def send(self, exchange: Exchange, message: Message, fds: list[Descriptor]) -> None:
        """`fds`: the descriptors of the packet in which it came. Raises UnsendableError."""
        ws, conn = exchange.websocket, exchange.conn
        if conn is None:
            return
        if ws is None or not ws.has_begun:
            raise UnsendableError("it sends a message before it has accepted")
        if not ws.is_open:
            return  # it was closed, which the worker did not know yet
        exchange.window += message_cost(message)
        if exchange.window > RESPONSE_WINDOW + MEMORY_SLACK:
            raise UnsendableError(f"it is more than the client has taken and {RESPONSE_WINDOW} bytes")
        if message.objects:
            self._send_file(exchange, message, fds)
            return
        data = message.data
        if ws.deflator is not None:
            data = ws.deflator.deflate(data, last=True)
        header = frame_header(message.kind, len(data), deflated=ws.deflator is not None)
        conn.protocol.add(exchange, (Framing(header), data))
        self._run_queue.ready(conn)

    def _send_file(self, exchange: Exchange, message: Message, fds: list[Descriptor]) -> None:
        """Raises UnsendableError."""
        ws, conn, item = exchange.websocket, exchange.conn, message.objects[0]
        assert ws is not None
        assert conn is not None
        if not isinstance(item, File) or not 0 <= item.fd < len(fds) or not _holds(fds[item.fd], item.count):
            raise UnsendableError("a message is not in the file that it names")
        file, size = fds[item.fd], item.count
        if ws.deflator is not None and size <= DEFLATED_AT_ONCE:
            data = ws.deflator.deflate(os.pread(file.fd, size, 0), last=True)
            header = frame_header(message.kind, len(data), deflated=True)
            conn.protocol.add(exchange, (Framing(header), data))
        else:
            header = frame_header(message.kind, size)
            conn.protocol.add(exchange, (Framing(header), FileSpan(file, 0, size)))
        self._run_queue.ready(conn)

    def grant(self, exchange: Exchange, size: int) -> None:
        """The application has taken so much of MESSAGE_WINDOW."""
        ws, conn = exchange.websocket, exchange.conn
        if ws is None or conn is None:
            return
        was_full = ws.outstanding >= MESSAGE_WINDOW
        ws.outstanding = max(0, ws.outstanding - size)
        if was_full:
            self._run_queue.ready(conn)

    def _put(self, exchange: Exchange, frame: bytes) -> None:
        assert exchange.conn is not None
        exchange.conn.protocol.add(exchange, (Framing(frame),))

    # --- time limits -------------------------------------------------------------------------------

    def _wait_for_ping(self, ws: WebSocket) -> None:
        interval = self._settings.ws_ping_interval
        ws.deadline = ws.ping_at = self._clock.now + interval if interval else NEVER

    def expired(self, conn: Connection, exchange: Exchange, ws: WebSocket, now: float) -> None:
        """Its deadline has come (PRODUCING)."""
        if ws.state is WebSocketState.CLOSING:
            self._end(exchange, ws, WebSocketEvent.CLIENT_CLOSE)  # as if it had answered
            self._run_queue.ready(conn)
        elif not ws.is_open or now < ws.deadline:
            conn.deadline = ws.deadline if ws.is_open else NEVER
        elif ws.is_pinged and now >= ws.pong_by and ws.outstanding < MESSAGE_WINDOW:
            log(
                "info",
                f"{exchange.request_line} from {conn.origin}: closed with {CloseCode.INTERNAL_ERROR.value}: "
                f"no Pong within {self._settings.ws_ping_timeout:g} s (ws_ping_timeout)",
            )
            reason = b"keepalive ping timeout"
            self.close(exchange, CloseCode.INTERNAL_ERROR, reason, why=CloseReason.PING_TIMEOUT)
        else:
            if now >= ws.ping_at:
                self._ping(conn, exchange, ws)
            self._wait_for_pong(conn, ws)

    def _ping(self, conn: Connection, exchange: Exchange, ws: WebSocket) -> None:
        self._wait_for_ping(ws)
        timeout = self._settings.ws_ping_timeout
        if timeout and not ws.is_pinged:
            ws.is_pinged = True
            ws.pong_by = self._clock.now + timeout
        self._put(exchange, control_frame(PING))
        self._run_queue.ready(conn)

    def _wait_for_pong(self, conn: Connection, ws: WebSocket) -> None:
        """And for the next Ping, which may be due before."""
        if ws.is_pinged:
            now = self._clock.now
            if now >= ws.pong_by:  # it may have come: it is we who do not read
                ws.pong_by = now + self._settings.ws_ping_timeout
            ws.deadline = min(ws.ping_at, ws.pong_by)
        else:
            ws.deadline = ws.ping_at
        conn.deadline = ws.deadline


READS = (WebSocketState.OPEN, WebSocketState.CLOSING)
"""The states in which the client is read."""


def _holds(file: Descriptor, size: int) -> bool:
    """Whether it is a regular file of that size."""
    found = os.fstat(file.fd)
    return stat.S_ISREG(found.st_mode) and found.st_size >= size
