"""A connection, which is the wire to one client; an exchange, which is one request on it and its response.

A connection that waits for its next request holds no parser, no buffer, no queue and no exchange: its
transport and these slots are all there is (10,000 of them fit 2 KiB each with room to spare).

Two flags stand beside the states: `readable` and `ended`, what the kernel has told us once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import Any, Protocol

from halfsync.http.header_rules import HeaderRules
from halfsync.plan.plan import Limits
from halfsync.pump.bodies.spool import Spool
from halfsync.pump.bodies.stream import BodyStream
from halfsync.pump.descriptors import Descriptor
from halfsync.pump.leases.known_heads import KnownHeads
from halfsync.pump.leases.leased import Leased
from halfsync.pump.origin import Origin
from halfsync.pump.sendables import FileSpan, PipeEnd
from halfsync.pump.states import (
    CONNECTION_TABLE,
    EXCHANGE_TABLE,
    IDLE,
    ConnectionEvent,
    ConnectionState,
    ExchangeEvent,
    ExchangeState,
)
from halfsync.pump.task_messages import MessageQueue
from halfsync.pump.transport import RECV_SIZE, Transport
from halfsync.pump.tunnel_ends import TunnelEnds
from halfsync.pump.websocket.state import WebSocket
from halfsync.wire.chunked import ChunkedBody
from halfsync.wire.closes import KEPT, CloseReason
from halfsync.wire.http1 import RequestHead
from halfsync.wire.messages import Ending, Message, Reply
from halfsync.wire.refusals import Refusal

NEVER = float("inf")

Record = tuple[float, str, bytes, int, int, int, int, int, int, int, int]
"""A LogRecord's columns, in order: on the wire they are the same, and a tuple costs 0.1 µs to make
where the struct costs 0.3."""


class Outcome(Enum):
    """Of a step, which does for one connection what can be done now and never waits."""

    MORE = "go on with the next step, at once"
    WAIT = "there is nothing to do until an event"
    GONE = "the connection is closed"


MORE, WAIT, GONE = Outcome


class BodyEnd(Enum):
    """How the client knows where a response's body ends (RFC 9112 6.3)."""

    LENGTH = "Content-Length, or it has none"
    CHUNKS = "the last chunk"
    CLOSE = "the end of the connection"


class Mark:
    """Stands in a connection's queue behind the last byte of a response: when it is reached, the exchange
    is over. With a `reason`, the response can't be completed, and the client is to see that."""

    __slots__ = ("exchange", "reason")

    def __init__(self, exchange: Exchange, reason: CloseReason = CloseReason.KEPT) -> None:
        self.exchange = exchange
        self.reason = reason


Object = bytes | FileSpan | PipeEnd
"""What a body consists of."""
Queued = bytes | memoryview | FileSpan | PipeEnd | Mark


class Connection:
    """One client."""

    __slots__ = (
        "body_bytes",
        "deadline",
        "ended",
        "exchange",
        "fd",
        "first_byte",
        "inbox",
        "known",
        "origin",
        "out",
        "protocol",
        "read_size",
        "readable",
        "request_count",
        "scanned",
        "session",
        "state",
        "transport",
        "when",
        "wire_bytes",
    )

    def __init__(
        self, transport: Transport, protocol: WireProtocol, origin: Origin, known: KnownHeads, deadline: float
    ) -> None:
        self.transport = transport
        self.fd = transport.fileno()
        self.protocol = protocol
        self.origin = origin
        self.known = known  # heads that a lease has a response for, at this connection's listener
        self.state = ConnectionState.FRESH
        self.deadline = deadline  # monotonic: when the sweep has to look at it
        self.exchange: Exchange | None = None
        self.session: Multiplexing | None = None  # if it speaks HTTP/2
        self.inbox = b""  # read and not yet framed
        self.scanned = 0  # bytes of the inbox in which no end of head was found
        self.out: deque[Queued] | None = None  # framed, and not yet taken by the socket
        self.read_size = RECV_SIZE  # bytes of a read in IDLE: see FIRST_READ
        self.readable = False  # the kernel may have bytes for us (edge-triggered: it says so once)
        self.ended = False  # the client's end of file is on its way, behind what is unread
        self.request_count = 0  # before the present one
        self.wire_bytes = 0  # that the transport took, except on the fast paths
        self.body_bytes = 0  # the same without framing
        self.when = 0.0  # wall clock: first byte of the present head
        self.first_byte = 0.0  # the same on the monotonic clock

    @property
    def is_idle(self) -> bool:
        """It waits for its next request."""
        return self.state is IDLE or (self.session is not None and self.session.is_idle)

    @property
    def is_read_to_end(self) -> bool:
        """The client has closed its side, and all that came before was read."""
        return self.ended and not self.readable

    @property
    def is_clients_turn(self) -> bool:
        """Whether nothing but the client keeps back what there is to send."""
        return True

    def taken_by_others(self) -> int:
        """Bytes of other responses that the client has taken while this one's had to wait for that: they are
        as good as bytes of this one (SENDING)."""
        return 0

    @property
    def may_send_body(self) -> bool:
        """Whether nothing but the client keeps back what is to come of a request's body."""
        return True

    def cut_for(self, reason: CloseReason) -> None:
        """It is closed amid an exchange, for this reason: of which the client may be told."""

    def move(self, event: ConnectionEvent) -> None:
        """To the state that the table names."""
        state = CONNECTION_TABLE[self.state][event]
        if state is None:
            raise AssertionError(f"no {event.name} in {self.state.name}")
        self.state = state


class Exchange:
    """One request and its response, from a whole head to the last byte sent.

    What every exchange uses has a slot. What most never touch stands in the class, and in an exchange's
    dictionary when it is set. To make one, and use it up to its end, takes 0.2 µs so; 0.4 without
    slots, and 0.5 with a slot for each attribute. (`new_exchange` makes one; `Dispatcher.take_in` does it
    itself, without a call, for which there is no __init__.)
    """

    __slots__ = (
        "__dict__",
        "conn",
        "head",
        "holder",
        "logged",
        "queued_ns",
        "raw",
        "route",
        "spool",
        "state",
        "task",
    )

    # the request's body
    chunks: ChunkedBody | None = None  # decodes it, if it is chunked
    body_left = 0  # bytes yet to come, if its size was announced
    received = 0
    stream: BodyStream | None = None  # if it is passed on while it comes
    tunnel: TunnelEnds | None = None  # what its response leads to
    websocket: WebSocket | None = None  # if that is what it asks for, and then is
    # its task
    attempts = 0  # that ended with their worker
    place: object = None  # among its HTTP/2 connection's streams, after it was reset (see http2/streams.py)
    line: tuple[int, int] | None = None  # in which it waits, if the queue has several (see queues.py)
    cost = 0  # the class of the time that it took, if that was counted (see pools/costs.py)
    begun_ns = 0
    handler_ns = -1
    # the response
    status = 0
    id_line = b""  # of its id, if it has one: a field line (see request_ids.py)
    notes = b""  # lines that its log record has besides (see traces.py)
    renews: Leased | None = None  # the lease that was the response to its like until now
    body_end = BodyEnd.LENGTH
    memory = 0  # bytes of its body that came in memory
    window = 0  # of RESPONSE_WINDOW, if a worker with an event loop responds: what the client has to take yet
    body_owed = -1  # bytes yet to be framed; -1: no size was announced
    trailers = b""  # field lines that are to be sent behind its body
    shared_file: Descriptor | None = None  # what SAME_FILE means
    then = ConnectionEvent.ENDED_LAST  # what its end means to the connection
    reason = CloseReason.KEPT
    wire_before = 0  # what the connection had counted when the response began
    body_before = 0
    # what the sweep saw last (see timeouts.py)
    moved = 0
    progress_at = 0.0
    checked_at = 0.0
    timed = 0.0
    unsent_before = 0  # bytes of earlier responses that the transport held

    conn: Connection | None  # None: the client is gone
    head: RequestHead  # may be shared with requests that differ in their cookies alone: see `raw`
    raw: bytes  # the head as received
    logged: bytes  # the same without its cookie, if that is known already
    state: ExchangeState
    route: Route | None  # None: its response was made before there was one
    spool: Spool | BodyStream | WebSocket | None  # of its body, until its task is handed over
    # its task
    task: int  # number
    holder: object  # the backend's: who has it
    queued_ns: int

    @property
    def is_marked(self) -> bool:
        """Its header section is unlike any other's: it has an id, or a place in a trace."""
        return bool(self.id_line or self.notes)

    def move(self, event: ExchangeEvent) -> None:
        """To the state that the table names."""
        state = EXCHANGE_TABLE[self.state][event]
        if state is None:
            raise AssertionError(f"no {event.name} in {self.state.name}")
        self.state = state

    @property
    def is_left(self) -> bool:
        """Its client has closed its side, and that counts as disconnected (WORKING, PRODUCING)."""
        if self.conn is None or not self.conn.ended or self.route is None:
            return False
        if self.websocket is not None and self.websocket.has_begun:
            return False  # what it has sent before is yet to be read
        return self.route.backend.is_told(self)

    def renew(self, leased: Leased) -> None:
        """Its response takes the place of this lease's. (So it takes the general road, also if its head is
        plain.)"""
        self.renews = leased
        if self.head.plain:
            self.head = self.head.with_raw(self.head.raw)

    def own_fields(self, fields: bytes) -> bytes:
        """Field lines that its response has beside `fields`: its id, unless they have one."""
        return b"" if not self.id_line or b"x-request-id:" in fields.lower() else self.id_line

    @property
    def _said(self) -> str:
        """Its id, for the error log."""
        return f" (request {self.id_line[14:-2].decode('latin-1')})" if self.id_line else ""

    @property
    def named(self) -> str:
        """Method and path, for the error log; a query may have secrets in it."""
        path = self.head.target.partition(b"?")[0].decode("latin-1")
        return f"{self.head.method.decode('latin-1')} {path[:200]!r}{self._said}"

    @property
    def request_line(self) -> str:
        """Method and target, for the error log."""
        if not self.head.method:
            return "?"
        target = self.head.target.decode("latin-1")[:200]
        return f"{self.head.method.decode('latin-1')} {target!r}{self._said}"


def new_exchange(conn: Connection, head: RequestHead, raw: bytes) -> Exchange:
    """Of a request whose head has come."""
    exchange = Exchange()
    exchange.conn = conn
    exchange.head = head
    exchange.raw = raw
    exchange.logged = b""
    exchange.state = ExchangeState.RECEIVING
    exchange.route = exchange.spool = exchange.holder = None
    exchange.task = -1
    exchange.queued_ns = 0
    return exchange


class Multiplexing(Protocol):
    """What a connection has if it has streams."""

    @property
    def is_idle(self) -> bool:
        """No stream is open, and nothing is to be sent."""

    def closed(self, reason: CloseReason) -> tuple[list[Connection], list[Record]]:
        """The connection is closed: the streams that are left, and log records of what was not sent."""


class Backend(Protocol):
    """What makes the responses to the requests of a route."""

    streams: bool
    """Whether it takes requests whose bodies have not all come. It then says how much more may come, with
    `WireProtocol.grant`, and gets it with `pass_on`."""

    @property
    def takes_websockets(self) -> bool:
        """Whether a request for a WebSocket is one; else it is like any other."""

    def submit(self, exchange: Exchange) -> None:
        """The request is whole, or has a `stream` (RECEIVING): have a response made."""

    def cancel(self, exchange: Exchange) -> None:
        """Its client has disconnected."""

    def pass_on(self, exchange: Exchange, offset: int, data: bytes, ending: Ending) -> None:
        """More of a streamed body, from `offset`; with ABORTED, there will be no more, and it is not
        whole."""

    def taken(self, exchange: Exchange) -> None:
        """The client has taken what there was of the response (`window`, which is at least half of
        RESPONSE_WINDOW), and more may come."""

    def is_told(self, exchange: Exchange) -> bool:
        """Whether a client that has closed its side (WORKING, PRODUCING) counts as disconnected: the handler
        may wait for nothing but that."""

    def pass_message(self, exchange: Exchange, message: Message, file: Descriptor | None) -> None:
        """From the client of a WebSocket; `file`: if it is in one."""

    def message_queue(self, exchange: Exchange) -> MessageQueue:
        """In which small messages for its WebSocket may be put by themselves."""

    def websocket_closed(self, exchange: Exchange, code: int, reason: bytes) -> None:
        """The WebSocket is closed, not by the application: nothing more comes, and nothing more is sent."""

    def give_up(self, exchange: Exchange) -> None:
        """Its request is refused while the body comes, or has its response: no other one is wanted (QUEUED,
        WORKING)."""


class Look(Protocol):
    """How responses of our own look."""

    def apply(self, status: int, fields: bytes, body: bytes) -> tuple[bytes, bytes]:
        """Field lines and body, as they are to be sent."""


class AccessCheck(Protocol):
    """For whom a route is."""

    def check(self, exchange: Exchange, now: float) -> None:
        """Raises Refusal. `now` is monotonic."""


class Route:
    """What a request's site and path select."""

    __slots__ = (
        "access",
        "backend",
        "headers",
        "index",
        "is_current",
        "limits",
        "look",
        "pool",
        "prefix",
        "queue_limit",
    )

    def __init__(self, prefix: bytes, index: int, backend: Backend, limits: Limits) -> None:
        self.prefix = prefix  # percent-decoded, without a slash at its end
        self.index = index  # into Plan.routes, which is how a worker knows it
        self.backend = backend
        self.limits = limits
        self.queue_limit = limits.queue_limit  # for Dispatcher.take_in
        self.headers: HeaderRules | None = None  # for responses of our own; workers apply them to theirs
        self.look: Look | None = None  # of refusals; None: as they are
        self.access: AccessCheck | None = None  # None: it is for everybody
        self.pool: Any = None  # if it leads to one of workers: for Dispatcher.take_in
        self.is_current = True  # until a reload replaces it


class WireProtocol(Protocol):
    """What is spoken on a connection.

    A response is made by four calls, whoever makes it: `begin`, `add` any number of times, `end`; `abort`
    may end it at any time. Whoever calls them says `ready` to the run queue then."""

    def step(self, conn: Connection) -> Outcome:
        """Do what can be done now: read and frame requests, send."""

    def begin(self, exchange: Exchange, reply: Reply) -> None:
        """The head of `reply`, whose body comes with `add`."""

    def add(self, exchange: Exchange, objects: Iterable[Object]) -> None:
        """More of the body."""

    def trailers(self, exchange: Exchange, fields: bytes) -> None:
        """Before `end`: send these field lines behind the body, to a client that wants them."""

    def end(self, exchange: Exchange, reason: CloseReason = KEPT) -> None:
        """The body is over; with a `reason` it is not whole, and the client is to see that when it has what
        there is."""

    def abort(self, exchange: Exchange, reason: CloseReason) -> None:
        """The response will never be whole, and the client sees that at once."""

    def refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        """A whole response of our own."""

    def repeat(self, exchange: Exchange, leased: Leased) -> None:
        """A whole response from a lease."""

    def hint(self, exchange: Exchange, fields: bytes) -> None:
        """A response of status 103 with these field lines, before the response begins (WORKING)."""

    def accept(self, exchange: Exchange, accept: bytes, fields: bytes) -> None:
        """The head of the response to a request for a WebSocket, whose frames come with `add`. `accept` is
        what Sec-WebSocket-Accept has to say, if there is such a field; `fields` are further lines."""

    def respond_small(self, exchange: Exchange, reply: Reply) -> bool:
        """A whole response, if it is one for which there is a short cut; False: it is not."""

    def grant(self, exchange: Exchange, size: int) -> None:
        """The backend takes so many more bytes of a streamed body."""

    def framed(self, exchange: Exchange, data: bytes) -> list[bytes]:
        """`data`, the next bytes of a body, as they are sent."""

    def exchange_ended(self, conn: Connection, exchange: Exchange) -> Outcome:
        """The transport took the last byte of a response (SENDING)."""
