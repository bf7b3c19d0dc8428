"""What two versions of halfsync say to each other while one takes the other's place. No I/O.

Two channels, both `SOCK_SEQPACKET` pairs. Between the parents, `old` the one that runs and `new` the one that
it has started:

    old -> new   Inherited, before the new one's program begins
    new -> old   Begun       it has read the settings
                 CantStart   it can't start, and exits
                 Prepared    it could serve at once. Descriptor: an end of the other channel, whose other end
                             its pump has
    old -> new   HandedOver  from now on the new one is the server. Descriptor: see `keeper`
    new -> old   IsServing   whoever asks now, at the control socket or by the pid file, finds the new one
    old -> new   Forwarded   a signal came to the process that the service manager knows
    new -> old   Succeeded   the new one was upgraded itself: another process is the server now

In a file in memory the old one says what it has counted, as long as it runs: `Counted`
(parent/status/counted.py).

And between the pumps, old to new: lists of `Passed`, each with the descriptors of its connections in order.

The two may be of different versions, so messages are maps: a member that is not known is skipped, and one
that is missing has its default. What can't be understood so is another VERSION, and then there is no upgrade.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

VERSION = 1
"""Of this conversation."""

VARIABLE = "HALFSYNC_UPGRADES"
"""In the new version's environment: the number of the descriptor that is its end of the first channel."""

PASSED_AT_ONCE = 16
"""Connections in a packet."""

MAX_PASSED = 96 * 1024
"""Bytes of its clients' requests that such a packet may have. With the rest of it, it fits MAX_PACKET."""


class InheritedListener(msgspec.Struct):
    """A listening socket of the old version's."""

    place: int  # in its Plan.listeners, and so in what the pumps say
    fd: int  # inherited under this number
    address: str  # as in plan.Listener, and so the others
    host: str
    port: int
    bound_as: str
    scheme: str
    is_proxied: bool = False
    file: tuple[int, int] | None = None  # device and inode that it has made: of unix sockets


class InheritedFile(msgspec.Struct):
    """The pid file, or the control socket."""

    fd: int
    path: str  # whole
    file: tuple[int, int] | None = None  # as above


class Inherited(msgspec.Struct, tag="inherited"):
    """What the new version may take over."""

    version: int
    listeners: list[InheritedListener] = []
    pid_file: InheritedFile | None = None
    control_socket: InheritedFile | None = None
    certificates: int = -1  # descriptor of the file in memory that has `tickets`
    tickets: tuple[int, int] | None = None  # offset and size of their secret
    counted: int = -1  # descriptor of the file in memory that has `Counted`
    sizes: list[tuple[str, int]] = []  # of the pools: name, and how many processes it has now


class Begun(msgspec.Struct, tag="begun"):
    version: str  # of halfsync
    startup_timeout: float = 0.0  # seconds; 0: no limit


class CantStart(msgspec.Struct, tag="failed"):
    sentences: list[str]
    traceback: str = ""  # of an application's code


class Prepared(msgspec.Struct, tag="prepared"):
    """What it takes over; the rest is removed."""

    places: list[int] = []
    """Listeners with their connections: it listens there, for the same scheme, with or without the PROXY
    protocol as before."""
    kept: list[int] = []
    """All listeners that it has, also where something else is spoken from now on."""
    pid_file: bool = False
    control_socket: bool = False


class HandedOver(msgspec.Struct, tag="handedover"):
    keeper: bool = False
    """A process stays that the service manager knows: the old one itself; or, if there is a descriptor, the
    one at the other end of it, as until now the old one's. When it ends, the server ends."""


class IsServing(msgspec.Struct, tag="serving"):
    pass


class Forwarded(msgspec.Struct, tag="forwarded"):
    signal: int


class Succeeded(msgspec.Struct, tag="succeeded"):
    pid: int


Count = Annotated[int, msgspec.Meta(ge=0)]


class CountedPool(msgspec.Struct):
    name: str
    times: list[Count] = []  # of handlers, by class: see scoreboard.TIMES
    total_ns: Count = 0
    refused: dict[str, Count] = {}  # by reason: see counts.REFUSALS


class Counted(msgspec.Struct):
    """What the server has counted since its start. Times are monotonic."""

    until: float = 0.0  # seconds: the old one has ended by then; 0: it has
    started_ns: Count = 0
    words: dict[str, Count] = {}
    statuses: dict[Count, Count] = {}  # responses
    refused: dict[str, Count] = {}
    pools: list[CountedPool] = []
    history: list[list[Count]] = []  # the oldest sample first: see counts.Sample
    closes: dict[Count, Count] = {}  # connections, by the number of a CloseReason


class Passed(msgspec.Struct):
    """A connection that is between two requests, or whose first one has not begun. Times are monotonic
    seconds, which are the same for all processes."""

    listener: int  # its place with the old version
    state: str  # name of its pump.states.ConnectionState: HANDSHAKE (not begun), FRESH, IDLE or HEAD
    client: str = ""  # address
    client_port: int = 0
    deadline: float = 0.0
    request_count: int = 0
    inbox: bytes = b""  # read, and not yet acted on
    scanned: int = 0  # of which so much was looked at
    when: float = 0.0  # wall clock: the first byte of the present head
    first_byte: float = 0.0


_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
decode_inherited = msgspec.msgpack.Decoder(Inherited).decode
decode_from_new = msgspec.msgpack.Decoder(Begun | CantStart | Prepared | IsServing | Succeeded).decode
decode_from_old = msgspec.msgpack.Decoder(HandedOver | Forwarded).decode
decode_counted = msgspec.msgpack.Decoder(Counted).decode
decode_passed = msgspec.msgpack.Decoder(list[Passed]).decode
