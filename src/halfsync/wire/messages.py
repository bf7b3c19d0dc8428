"""What the pump and a worker say to each other. Messages and their encoding; no I/O. (What the parent says to
its children is in orders.py.)

Two channels, each a `SOCK_SEQPACKET` pair made by the parent, so packets keep their
boundaries and can carry descriptors (SCM_RIGHTS):

    tasks      pump -> worker   [Task | StreamedTask | WebSocketTask | LogTask | Nudge, ...]
                                (one packet a worker a turn)
               worker -> pump   [Reply | AlikeReplies | Part | Credit | EarlyHints | Accept | Message |
                                Close, ...]
    watch      pump -> worker   [Nudge | Recall | Stacks | ClientDisconnected | Piece | Taken | Cancel |
                                Message | Close, ...]
                                (read by the watch thread, whatever the handlers do; or by the event loop)

Beside the channels, one `scoreboard` of shared memory for each worker (task_slots.py).

A task has a number, which no other task of the same pump and worker ever has: `number % MOST_SLOTS` is its
slot on the scoreboard, and messages name it by the number. So whatever comes late, or twice, or from a
process that has no business here, is told from what is due, and dropped.

A request's body is in its Task, whole: in memory or in a file. Or it is *streamed*, if the backend takes it
so: the StreamedTask leaves when the head is complete, with what has come of the body by then; the worker
opens a window (Credit), and Pieces follow, never more than the window has room for. The first Credit is also
the sign that the handler reads the body at all.

A request for a WebSocket is a WebSocketTask. It is answered like any other, which rejects it, or with Accept;
then Messages cross in both directions, whole, and each direction has credit: from the client MESSAGE_WINDOW,
which the worker gives back with Credit; to the client RESPONSE_WINDOW, which the pump gives back with Taken.
Close ends it, from either side; a client that vanishes without one is a ClientDisconnected. A Part without
objects that says DONE (ABORTED: the handler failed) ends the task.

In a packet of several messages, descriptors stand in the order in which the messages that need
them stand; each message says how many it takes (a Task whose `body` is None takes one, each `File` or
`Pipe` with an index >= 0 takes one). A process that has no room for all of them gets the first ones.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

import msgspec

from halfsync.objects import Memory, SimpleObject

MAX_PACKET = 160 * 1024
"""Bytes. A packet must fit the socket's send buffer whole; 212,992 is Linux's default limit."""

MAX_DESCRIPTORS = 64
"""In a packet. The kernel takes at most 253 (SCM_MAX_FD)."""

BODY_WINDOW = 256 * 1024
"""Bytes of a streamed request body that may be on their way to its handler, or wait for it in the worker.
With a quarter of it 1 GiB costs pump and worker 5.3 s of processor time in place of 3.7 s; with four times it
no less."""

FIRST_OF_BODY = 64 * 1024
"""Bytes of a streamed body that its task carries at most."""

RESPONSE_WINDOW = 384 * 1024
"""What of one response's body a worker with an event loop may have sent that the client has not taken, by
`cost_of`. Its `send` waits while that is reached, so a slow client costs neither a thread nor a file."""

FILE_COST = 32 * 1024
PIECE_COST = 256
"""What a span of a file, and a piece in memory beside its bytes, counts in RESPONSE_WINDOW: both hold memory,
and a place in the queue of what is to be sent."""

MESSAGE_WINDOW = 256 * 1024
"""What of a client's WebSocket messages may be on its way to the application, or wait for it, by
`message_cost`. While it is reached the client is not read."""

MESSAGE_IN_PACKET = 64 * 1024
"""Bytes of a WebSocket message that is in a packet; a larger one is in a descriptor beside it."""


class Ending(IntEnum):
    """How far a body has come."""

    UNFINISHED = 0  # parts follow
    DONE = 1  # this was the last of it
    ABORTED = 2  # it will never be whole: the connection must show that
    NOT_BEGUN = 3  # the task was recalled or withdrawn: no handler was asked, and none will be here


UNFINISHED, DONE, ABORTED, NOT_BEGUN = Ending


# --- tasks: pump -> worker ---------------------------------------------------------------------


class Task(msgspec.Struct, tag=0, array_like=True, gc=False):
    """A request, with its complete head and complete body."""

    number: int  # see the top of this file
    route: int  # index into Plan.routes
    head: bytes  # validated: request line and field lines, through the empty line
    body: bytes | None  # None: in a descriptor beside the packet, from offset 0
    body_size: int
    client: str  # address; "" on a unix socket
    client_port: int
    listener: int  # index into Plan.listeners
    queued_ns: int  # monotonic, when the request was complete
    tls: bytes = b""  # TLSFacts of the connection; empty in clear


class StreamedTask(Task, tag=6, array_like=True, gc=False):
    """A request whose body has not all come. `body` is None, and nothing is in a descriptor; `body_size` is
    what the client has announced, or -1; `queued_ns` is when the head was complete."""

    first: bytes = b""  # of the body


class WebSocketTask(Task, tag=10, array_like=True, gc=False):
    """A request for a WebSocket, in good order. It has no body."""


class LogRecord(msgspec.Struct, array_like=True, gc=False):
    """What was sent, known only after it was sent."""

    when: float  # seconds since 1970, when the first byte of the head was read
    client: str  # with a space and the listener's index behind it, if the log has the names of sites
    head: bytes  # the request head as received (or its start, when it was never whole)
    status: int  # 0: no response was started
    body_bytes: int  # of the body, without framing
    wire_bytes: int  # all that the socket took
    queue_us: int  # complete request to handler's begin; -1: no handler was asked
    handler_us: int  # handler's begin to its end; -1: no handler was asked
    total_us: int  # first byte read to last byte sent
    ending: int  # index into pump.closes.CloseReason by value; 0: kept or closed in good order
    request_count: int  # how many requests this connection had served before (Apache's %k)


class LogTask(msgspec.Struct, tag=1, array_like=True, gc=False):
    """Records for the access log. Confirmed by Part(number, [], DONE) once they are written."""

    number: int
    records: list[LogRecord]

    body: ClassVar[None] = None  # as a Task, so that a thread need not ask which it is before it knows more
    route: ClassVar[int] = -1
    queued_ns: ClassVar[int] = 1 << 63


class Nudge(msgspec.Struct, tag=2, array_like=True, gc=False):
    """Tasks were handed over some milliseconds ago and are not begun. On `tasks` it wakes a
    sibling thread, which takes from the task queue; on `watch` the watch thread sends responses that
    wait to be sent in a batch. It is alone in its packet."""


# --- tasks: worker -> pump ---------------------------------------------------------------------


class Lease(msgspec.Struct, array_like=True, gc=False):
    """Permission to repeat a response, for `seconds`, to requests with the same listener, site,
    method and target and the same values of the header fields `names` (lower case)."""

    seconds: float
    names: tuple[str, ...]
    public: bool = False  # also for requests with Authorization, which is not named


class Reply(msgspec.Struct, tag=0, array_like=True, gc=False):
    """A handler's response: the head, and the body as far as it is known."""

    number: int  # the task's
    status: int
    reason: str
    fields: bytes  # validated field lines, each ended by CRLF; no Content-Length,
    # Transfer-Encoding, Connection or Date among them unless `dated`
    length: int  # of the whole body (what Content-Length says); -1: not known beforehand
    body: bytes = b""  # the first bytes, which go out in one write with the head
    objects: list[SimpleObject] = []
    ending: Ending = Ending.DONE
    dated: bool = False  # `fields` has a Date
    close: bool = False  # close the connection after this reply
    lease: Lease | None = None
    handler_ns: int = 0  # time in the handler; with UNFINISHED, it comes in the last Part


ALIKE_TAG = 4
AlikeColumns = tuple[int, int, str, bytes, bool, tuple[int, ...], tuple[bytes, ...], tuple[int, ...]]
"""An AlikeReplies' tag and columns: on the wire they are the same."""


class AlikeReplies(msgspec.Struct, tag=ALIKE_TAG, array_like=True, gc=False):
    """Whole Replies that differ in nothing but their bodies: without objects, and without a lease. Those of a
    batch are mostly such, and sent so they cost a third."""

    status: int
    reason: str
    fields: bytes
    dated: bool
    numbers: list[int]
    bodies: list[bytes]  # as many, as are the times
    handler_ns: list[int]

    number: ClassVar[int] = -1  # of no task; as other messages to the pump, it has one, and objects
    objects: ClassVar[list[SimpleObject]] = []

    def each(self) -> list[Reply]:
        """The same, one by one."""
        return [
            Reply(
                number,
                self.status,
                self.reason,
                self.fields,
                len(body),
                body,
                dated=self.dated,
                handler_ns=handler_ns,
            )
            for number, body, handler_ns in zip(self.numbers, self.bodies, self.handler_ns, strict=True)
        ]


PART_TAG = 1
PartColumns = tuple[int, int, tuple[tuple[str, bytes]]]
"""The tag and the columns of a Part whose only object is a Memory, and that says UNFINISHED: on the wire they
are the same, and tuples cost less. (The Memory's tag and bytes; what is not written is the default.)"""


class Part(msgspec.Struct, tag=PART_TAG, array_like=True, gc=False):
    """More of a body whose Reply said UNFINISHED; or, for a LogTask, that it is done.

    One without objects that says UNFINISHED, which may also come before the Reply, asks whether the client is
    still there: one that has closed its side counts as disconnected, and is told so by ClientDisconnected."""

    number: int  # the task's
    objects: list[SimpleObject]
    ending: Ending = Ending.UNFINISHED
    handler_ns: int = 0
    trailers: bytes = b""  # with DONE: validated field lines to be sent behind the body, each ended by CRLF


class Credit(msgspec.Struct, tag=2, array_like=True, gc=False):
    """The worker takes so many more bytes of this task's streamed body. The first one says that the handler
    has begun to read it, and opens the whole window. Later ones give back what the handler has taken: when
    that is half of the window, and whenever the handler waits. So an open window of full size means that it
    is the client's turn."""

    number: int  # the task's
    size: int

    objects: ClassVar[list[SimpleObject]] = []  # as other messages to the pump, it has an ending and objects
    ending: ClassVar[Ending] = UNFINISHED


class EarlyHints(msgspec.Struct, tag=3, array_like=True, gc=False):
    """A response of status 103, which may come before the Reply. A client that would not understand it (of
    HTTP/1.0) gets none."""

    number: int  # the task's
    fields: bytes  # validated field lines, each ended by CRLF

    objects: ClassVar[list[SimpleObject]] = []  # as in Credit
    ending: ClassVar[Ending] = UNFINISHED


class Accept(msgspec.Struct, tag=11, array_like=True, gc=False):
    """The request for a WebSocket is accepted."""

    number: int  # the task's
    fields: bytes  # validated field lines, each ended by CRLF, without those of the handshake
    subprotocol: str = ""  # one that the client has named; "": none

    objects: ClassVar[list[SimpleObject]] = []  # as in Credit
    ending: ClassVar[Ending] = UNFINISHED


MEMORY_TAG = "m"
"""Of a Memory, in PartColumns."""


def cost_of(item: SimpleObject) -> int:
    """What an object counts in RESPONSE_WINDOW."""
    return item.length + PIECE_COST if type(item) is Memory else FILE_COST


MESSAGE_TAG = 12
MessageColumns = tuple[int, int, int, bytes]
"""A Message's tag and columns, without objects: on the wire they are the same, and a tuple costs less."""


class Message(msgspec.Struct, tag=MESSAGE_TAG, array_like=True, gc=False):
    """A message of a WebSocket, whole. In both directions."""

    number: int  # the task's
    kind: int  # wire.websocket.TEXT or BINARY; a text is UTF-8
    data: bytes
    objects: list[SimpleObject] = []  # or the File that has it, and `data` is empty

    ending: ClassVar[Ending] = UNFINISHED  # as in Credit


class Close(msgspec.Struct, tag=13, array_like=True, gc=False):
    """To the pump: close the WebSocket with this code. To the worker: it is closed, by the client or by the
    pump; nothing more comes, and nothing more is sent."""

    number: int  # the task's
    code: int
    reason: bytes  # UTF-8

    objects: ClassVar[list[SimpleObject]] = []  # as in Credit
    ending: ClassVar[Ending] = UNFINISHED


def message_cost(message: Message) -> int:
    """What it counts in MESSAGE_WINDOW, and in RESPONSE_WINDOW."""
    if message.objects:  # however large, no more than one waits beyond the window
        return min(message.objects[0].length or 0, MESSAGE_WINDOW)
    return len(message.data) + PIECE_COST


# --- watch: pump -> worker ---------------------------------------------------------------------


class Recall(msgspec.Struct, tag=4, array_like=True, gc=False):
    """Give back the tasks that are not begun: all threads here are busy with slow ones, and
    another worker has room. What comes back is a Part for each, with no objects, that says NOT_BEGUN."""


class Stacks(msgspec.Struct, tag=3, array_like=True, gc=False):
    """The handler of this task passed its deadline: log its thread's stack."""

    number: int
    interrupt: float = 0.0  # and raise HandlerTimeout there, as soon as it can be within so many seconds


class ClientDisconnected(msgspec.Struct, tag=5, array_like=True, gc=False):
    """The client of this task has left: nobody wants more of its body."""

    number: int


class Taken(msgspec.Struct, tag=8, array_like=True, gc=False):
    """To a worker with an event loop: the client of this task has taken so much of RESPONSE_WINDOW."""

    number: int
    size: int


class Cancel(msgspec.Struct, tag=9, array_like=True, gc=False):
    """To a worker with an event loop: this task passed its deadline and has its response. Log where it waits,
    and cancel it."""

    number: int


class Piece(msgspec.Struct, tag=7, array_like=True, gc=False):
    """More of a streamed body. With DONE it is the last; with ABORTED nothing more will come, and the body is
    not whole."""

    number: int  # the task's
    offset: int  # in the body
    data: bytes
    ending: Ending
    block: int = -1  # in which `size` bytes are, in place of `data` (see wire.blocks)
    size: int = 0


ToWorker = list[Task | StreamedTask | WebSocketTask | LogTask | Nudge]
FromWorker = Reply | Part | Credit | EarlyHints | Accept | Message | Close
ToPump = list[FromWorker | AlikeReplies]
WatchMessage = Nudge | Recall | Stacks | ClientDisconnected | Piece | Taken | Cancel | Message | Close
ToWatch = list[WatchMessage]
_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
decode_tasks = msgspec.msgpack.Decoder(ToWorker).decode
decode_replies = msgspec.msgpack.Decoder(ToPump).decode


def one_by_one(messages: ToPump) -> list[FromWorker]:
    """The same messages, each by itself."""
    found: list[FromWorker] = []
    for message in messages:
        if isinstance(message, AlikeReplies):
            found += message.each()
        else:
            found.append(message)
    return found


decode_watch = msgspec.msgpack.Decoder(ToWatch).decode
