"""`limit_store`: what clients have sent to several machines, kept in a Redis or Valkey server.

Theory of operation
-------------------
Each machine decides by itself, at once, with the buckets in its own memory (client_rates.py); nothing here
is ever waited for. What it lets through it adds to the common bucket in the store, afterwards, and takes over
what that says then. So a machine knows of the others what they had let through until its last exchange with
the store, which is what its next requests pay for:

 - In the long run the limit is exact: each request that any machine lets through is in the common bucket,
   whose debt all of them wait for, also where it is more than a full bucket.
 - At first each machine lets through a full bucket of its own, before it has heard of the others.

An exchange is one packet of commands, one for each client that was heard of since the last one, and the
replies to them. While one is under way there is no other, and between two lie PACE seconds at least; there is
no timer: the next one begins with a request, or with the sweep.

If the store is away, or does not answer in time, each machine goes on with its own buckets. The log says so
once, and when it is back.

The store keeps a number for each client that has sent something lately: the time when its bucket is full
again, by the store's own clock, in microseconds. It expires then.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import secrets
import select
import socket
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from types import ModuleType
from typing import TYPE_CHECKING

from halfsync.logs.error import log
from halfsync.pump.clock import Clock
from halfsync.pump.helpers import Helpers
from halfsync.pump.limits import shared_connections
from halfsync.pump.limits.shared_connections import SharedConnections
from halfsync.pump.poller import Poller
from halfsync.settings.store_url import StoreUrl, parse_store_url
from halfsync.wire.resp import Incomplete, Reply, ReplyReader, StoreError, command

if TYPE_CHECKING:
    import ssl

    from halfsync.pump.limits.store_tls import TlsSocket

PACE = 0.02
"""Seconds between the beginnings of two exchanges at least."""
TIMEOUT = 2.0
"""Seconds for a connection, and for an exchange."""
FIRST_BACKOFF, LAST_BACKOFF = 1.0, 30.0
"""Seconds until the next try."""
MOST_AT_ONCE = 512
"""Clients in one exchange."""
RECEIVE = 64 * 1024

SCRIPT = b"""
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now) + tonumber(ARGV[1])
redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000) + 1)
return full_at - now
"""
"""Adds so many microseconds to a bucket; gives how many it takes until it is full."""


class SharedLimit:
    """The common buckets of one `client_rate`."""

    def __init__(
        self, store: LimitStore, name: str, step: float, heard: Callable[[bytes, float], None]
    ) -> None:
        """`name`: the same on all machines, of no other limit. `step`: seconds that a request costs.
        `heard`: called with a client's key, and the time (monotonic) when its common bucket will be full, if
        what was counted since is in it."""
        self.step = step
        self.heard = heard
        self.counted: dict[bytes, int] = {}  # requests that the store does not know of, by client
        self._store = store
        self._prefix = b"halfsync:" + name.encode() + b":"

    def count(self, key: bytes) -> None:
        """A request was let through."""
        if self._store.is_away:
            return
        self.counted[key] = self.counted.get(key, 0) + 1
        self._store.has_counted()

    def name_of(self, key: bytes) -> bytes:
        return self._prefix + key.hex().encode()

    def reply(self, key: bytes, micros: int, now: float) -> None:
        """What the store says: in how many microseconds the common bucket is full."""
        self.heard(key, now + micros / 1e6 + self.counted.get(key, 0) * self.step)


@dataclass
class _StoreRequest:
    """What a reply is to: a client's bucket, or its connections."""

    of: SharedLimit | SharedConnections | None  # None: it is not in effect any more
    key: bytes


class LimitStore:
    """A connection with the store, or none. `is_away`: what is counted need not be kept."""

    def __init__(self, clock: Clock, poller: Poller, machine: int = 0) -> None:
        """`machine`: a number that no other has, and each pump of this server; 0: one of its own."""
        self._machine = b"%016x" % (machine or secrets.randbits(64))
        self._clock = clock
        self._poller = poller
        self._url: StoreUrl | None = None
        self._limits: list[SharedLimit] = []
        self._connections: SharedConnections | None = None
        self._resolver: Helpers | None = None
        self._attempt = 0  # number of the last try to connect
        self._socket: socket.socket | TlsSocket | None = None
        self._context: ssl.SSLContext | None = None  # of rediss://, as soon as it is there
        self._fd = -1
        self._is_connected = False
        self._reader = ReplyReader()
        self._unsent = b""
        self._scripts: list[bytes] = []  # their names in the store; none: not ready
        self._asked: deque[_StoreRequest] = deque()  # whose replies are to come
        self._greetings = 0  # replies to come before that
        self._loaded: list[Reply] = []  # those that have come
        self._loads = 1  # of which the last so many are scripts' names
        self._next_at = 0.0  # monotonic: the next exchange, or the next try
        self._until = 0.0  # by when what is under way has to be over
        self._backoff = FIRST_BACKOFF
        self._is_told = False  # that it is away
        self.is_away = True

    def configure(self, url: str | None) -> None:
        """From now on this one, or none. Forgets all limits."""
        found = None if url is None else parse_store_url(url)
        self._limits, self._connections = [], None
        self._asked = deque(_StoreRequest(None, b"") for _ in self._asked)
        if found == self._url:
            return
        self._close()
        self._url, self._context = found, None
        self._backoff, self._next_at, self._is_told = FIRST_BACKOFF, 0.0, False

    def limit(self, name: str, step: float, heard: Callable[[bytes, float], None]) -> SharedLimit | None:
        """None: nothing is shared."""
        if self._url is None:
            return None
        found = SharedLimit(self, name, step, heard)
        self._limits.append(found)
        return found

    def connections(self, own: Mapping[bytes, int]) -> SharedConnections | None:
        """None: nothing is shared."""
        if self._url is None:
            return None
        if self._socket is not None and len(self._scripts) < 2:  # not all that are needed now
            self._close()
        self._connections = SharedConnections(self._machine, own, self.has_counted)
        return self._connections

    def sweep(self) -> None:
        """Twice a second."""
        if self._url is None:
            return
        now = self._clock.now
        if self._socket is None and self._until == 0.0:
            if now >= self._next_at and (self._limits or self._connections is not None):
                self._connect(self._url)
        elif self._until and now >= self._until:
            self._lose("no reply in time")
        else:
            if self._connections is not None and not self.is_away:
                self._connections.sweep(now)
            self.has_counted()

    def has_counted(self) -> None:
        """Begin an exchange, if it is time."""
        now = self._clock.now
        if not self._scripts or self._asked or now < self._next_at or self._socket is None:
            return
        packet: list[bytes] = []
        for limit in self._limits:
            for key in list(islice(limit.counted, MOST_AT_ONCE - len(packet))):
                cost = round(limit.counted.pop(key) * limit.step * 1e6)
                packet.append(command(b"EVALSHA", self._scripts[0], b"1", limit.name_of(key), b"%d" % cost))
                self._asked.append(_StoreRequest(limit, key))
        if (connections := self._connections) is not None:
            for key in connections.take(MOST_AT_ONCE - len(packet)):
                packet.append(connections.command(self._scripts[1], key))
                self._asked.append(_StoreRequest(connections, key))
        if packet:
            self._next_at, self._until = now + PACE, now + TIMEOUT
            self._send(b"".join(packet))

    # --- the connection ----------------------------------------------------------------------------

    def _connect(self, url: StoreUrl) -> None:
        self._attempt += 1
        self._until = self._clock.now + TIMEOUT
        if url.path or (_is_address(url.host) and not url.tls):
            self._connect_to(url, url.path or (url.host, url.port))
            return
        found: list[tuple[str, int]] = []
        failed: list[str] = []

        def prepare() -> None:
            try:
                if url.tls:
                    self._context = _tls().context_of(url)
            except OSError as error:
                failed.append(error.strerror or str(error))
                return
            found.extend(_addresses(url))

        attempt = self._attempt

        def prepared() -> None:
            if attempt != self._attempt or self._socket is not None or not self._until:
                return  # it took too long
            if found:
                self._connect_to(url, found[0])
            else:
                self._lose(failed[0] if failed else f"its host {url.host!r} has no address")

        self._helpers().submit(prepare, prepared)

    def _helpers(self) -> Helpers:
        """Threads of its own: a name server that does not answer must not keep a disk's waiting."""
        if self._resolver is None:
            self._resolver = resolver = Helpers()
            self._poller.watch(resolver.wakeup, lambda _mask: resolver.finished())
        return self._resolver

    def _connect_to(self, url: StoreUrl, where: str | tuple[str, int]) -> None:
        family = socket.AF_UNIX if isinstance(where, str) else _family(where[0])
        try:
            self._socket = connecting = socket.socket(family, socket.SOCK_STREAM)
            connecting.setblocking(False)
            code = connecting.connect_ex(where)
        except OSError as error:
            self._lose(error.strerror or str(error))
            return
        if code not in (0, errno.EINPROGRESS):
            self._lose(os.strerror(code))
            return
        self._is_connected = False
        self._fd = connecting.fileno()
        self._poller.watch(self._fd, self._event, select.EPOLLIN | select.EPOLLOUT)
        self._greet(url)

    def _greet(self, url: StoreUrl) -> None:
        greeting = []
        if url.password:
            user = (url.user.encode(),) if url.user else ()
            greeting.append(command(b"AUTH", *user, url.password.encode()))
        if url.database:
            greeting.append(command(b"SELECT", b"%d" % url.database))
        greeting.append(command(b"SCRIPT", b"LOAD", SCRIPT))
        if self._connections is not None:
            greeting.append(command(b"SCRIPT", b"LOAD", shared_connections.SCRIPT))
        self._loads = 1 if self._connections is None else 2
        self._greetings = len(greeting)
        self._unsent = b"".join(greeting)

    def _event(self, mask: int) -> None:
        assert self._socket is not None
        try:
            if mask & (select.EPOLLERR | select.EPOLLHUP):
                code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                self._lose(os.strerror(code) if code else "it closed the connection")
                return
            if not self._is_connected:
                self._is_connected = True
                self._begin_tls(self._socket)
            if mask & select.EPOLLOUT:
                self._send(b"")
            if mask & select.EPOLLIN and self._socket is not None:
                self._receive(self._socket)
        except StoreError as error:
            self._lose(str(error))
        except OSError as error:
            self._lose(error.strerror or str(error))

    def _begin_tls(self, connected: socket.socket | TlsSocket) -> None:
        """If the URL says so. Raises OSError."""
        if self._context is None or self._url is None or not isinstance(connected, socket.socket):
            return
        try:
            self._socket = _tls().TlsSocket(connected, self._context, self._url.host)
        except ValueError as error:  # it can't be the name of a host
            raise OSError(f"TLS: {error}") from None

    def _send(self, data: bytes) -> None:
        assert self._socket is not None
        self._unsent += data
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._lose(error.strerror or str(error))
            return
        waits_to_read = not isinstance(self._socket, socket.socket) and self._socket.waits_to_read
        more = select.EPOLLOUT if self._unsent and not waits_to_read else 0
        self._poller.want(self._fd, select.EPOLLIN | more)

    def _receive(self, connection: socket.socket | TlsSocket) -> None:
        """All that has come. Raises StoreError."""
        while self._socket is connection:
            try:
                data = connection.recv(RECEIVE)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._lose(error.strerror or str(error))
                return
            if not data:
                self._lose("it closed the connection")
                return
            self._reader.feed(data)
            self._take_replies(connection)
        if self._socket is connection and self._unsent:
            self._send(b"")  # it may have waited for this

    def _take_replies(self, connection: socket.socket | TlsSocket) -> None:
        """Raises StoreError."""
        while self._socket is connection:
            reply = self._reader.next()
            if isinstance(reply, Incomplete):
                return
            if isinstance(reply, StoreError):
                raise reply
            self._take(reply)

    def _take(self, reply: Reply) -> None:
        """Raises StoreError."""
        if self._greetings:
            self._greetings -= 1
            self._loaded.append(reply)
            if not self._greetings:
                self._is_ready(self._loaded[-self._loads :])
            return
        if not self._asked or not isinstance(reply, int):
            raise StoreError("it sent a reply to nothing")
        asked = self._asked.popleft()
        if isinstance(asked.of, SharedLimit):
            asked.of.reply(asked.key, reply, self._clock.now)
        elif asked.of is not None:
            asked.of.heard(asked.key, reply, self._clock.now)
        if not self._asked:
            self._until, self._backoff = 0.0, FIRST_BACKOFF

    def _is_ready(self, loaded: list[Reply]) -> None:
        scripts = [one for one in loaded if isinstance(one, bytes)]
        if scripts != loaded:
            raise StoreError("it takes no scripts")
        assert self._url is not None
        self._scripts = scripts
        self._until = self._next_at = 0.0
        self.is_away = False
        how, each = "back" if self._is_told else "connected", "each " if self._limits else ""
        log("info", f"limit_store {self._url.named} is {how}: {each}{self._count} for all its machines.")
        self._is_told = False

    def _lose(self, why: str) -> None:
        self._close()
        self._next_at = self._clock.now + self._backoff
        self._backoff = min(2 * self._backoff, LAST_BACKOFF)
        if not self._is_told and self._url is not None:
            self._is_told = True
            log(
                "error",
                f"limit_store {self._url.named} is away ({why}): {self._count} what comes to this "
                "machine alone, until it is back.",
            )

    @property
    def _count(self) -> str:
        """What does, with the verb."""
        if self._connections is None:
            return "client_rate counts"
        return "client_rate and client_connections count" if self._limits else "client_connections counts"

    def _close(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # TLS may have closed it, as it failed
                self._poller.forget(self._fd)
            self._socket.close()
            self._socket = None
        self._reader = ReplyReader()
        self._unsent = b""
        self._scripts, self._loaded = [], []
        self._asked.clear()
        self._greetings = 0
        self._until = 0.0
        self.is_away = True
        for limit in self._limits:
            limit.counted.clear()
        if self._connections is not None:
            self._connections.forget()


def _addresses(url: StoreUrl) -> list[tuple[str, int]]:
    try:
        found = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [(one[4][0], url.port) for one in found if isinstance(one[4][0], str)]


def _tls() -> ModuleType:
    """(Imported where it is needed: few have such a store, and ssl takes 5 ms.)"""
    from halfsync.pump.limits import store_tls

    return store_tls


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
