"""Accepts clients, a bounded number a turn, and no more than there are descriptors for.

A descriptor that is missing is worse anywhere else than here: a worker's response comes without its file, a
new worker can't join. So the number of connections is limited by the number of descriptors
that the process may have (RLIMIT_NOFILE), less what the rest of it needs."""

from __future__ import annotations

import errno
import resource
import socket
from collections.abc import Callable, Collection
from functools import partial

from halfsync.logs.formats import needs_site
from halfsync.plan.plan import Plan
from halfsync.pump.clock import Clock
from halfsync.pump.connection import NEVER, Connection, WireProtocol
from halfsync.pump.endings import Endings
from halfsync.pump.http1.special import RedirectingHttp1
from halfsync.pump.leases.known_heads import KnownHeads
from halfsync.pump.leases.leases import Leases
from halfsync.pump.origin import Origin
from halfsync.pump.poller import READ_EVENTS, Poller
from halfsync.pump.proxied import ProxyHeaders
from halfsync.pump.room import Room
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.states import HANDSHAKE, ConnectionEvent, ConnectionState
from halfsync.pump.tls.transport import TLSTransport
from halfsync.pump.transport import FIRST_READ, STREAM, PlainTransport
from halfsync.scoreboard.counts import CONNECTIONS_ACCEPTED
from halfsync.wire.upgrade import Passed

ACCEPTS_A_TURN = 64
"""For each listener. More would let a flood of new clients delay the old ones."""
MOST_SINGLY = 16
"""Where a client came alone, so many are accepted one a turn before a second one is asked for again. (To ask
for one that is not there takes 1.3 µs. Where many come at once, it is worth a turn of the loop for each.)"""
DEFER_ACCEPT = 1
"""Seconds for which the kernel keeps a client that says nothing, where TLS is spoken. The others are accepted
when their ClientHello is there: one turn of the loop less for each."""

OWN = 16
"""Descriptors of the pump itself: standard streams, epoll, orders, RESERVE."""
FOR_RESPONSES = 1024
"""Descriptors that are kept from connections, at most; a third of what there is, if that is less."""
FEWEST = 4
"""Connections, however low the limit is."""
LIMITED_TIMEOUT = 2.0
"""Seconds for a request to come on a connection on which it is only to be refused."""
PAUSE = 0.02
"""Seconds without accepting, when nobody idles; then whoever came in the meantime may have left."""

_SHORT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Acceptor:
    """The listening sockets stay open until the server stops: a client that comes while nobody
    accepts waits in the kernel's backlog. At a stop they are closed, so that a client which comes then is
    refused at once; one that waited in a backlog which nobody empties would be reset at our exit."""

    transport = PlainTransport

    def __init__(
        self,
        plan: Plan,
        clock: Clock,
        poller: Poller,
        endings: Endings,
        room: Room,
        protocol: WireProtocol,
        handshakes: WireProtocol,
        proxy_headers: ProxyHeaders,
        redirecting: RedirectingHttp1,
        limited: WireProtocol,
        leases: Leases,
        run_queue: RunQueue,
    ) -> None:
        self._clock = clock
        self._poller = poller
        self._endings = endings
        self._room = room
        self._protocol = protocol
        self._redirecting = redirecting
        self._limited = limited
        self._handshakes = handshakes  # the protocol of listeners for https, until a handshake is done
        self._proxy_headers = proxy_headers
        proxy_headers.go_on = self._go_on
        self._leases = leases
        self._run_queue = run_queue
        self._take_settings(plan)
        self._listeners = _open_sockets(plan)
        self.has_started = False
        self._watched = False
        self._paused = False
        self.retry_at = NEVER  # monotonic: when a pause ends
        self._most = most_connections(resource.getrlimit(resource.RLIMIT_NOFILE)[0], plan)
        self._singly = 0  # so many times, no second client is asked for
        self._backoff = 1  # and so many times after the next one who comes alone
        self.due: list[Callable[[], object]] = []  # accept clients, by this turn's events

    def start(self) -> None:
        """Accept from now on."""
        if self._watched:
            return
        self.has_started = self._watched = True
        for index, listener in self._listeners.items():
            listener.setblocking(False)
            if index in self._secure and index not in self._proxied:
                _defer(listener, DEFER_ACCEPT)
            self._poller.watch(listener.fileno(), self._source(index, listener))

    def expect(self, plan: Plan) -> None:
        """This plan may be in effect soon. Clients of listeners that it has no more are accepted as soon as
        they have connected: when these are closed, those that have said nothing yet would be reset."""
        for index, listener in self._listeners.items():
            if index in self._secure and index not in self._proxied:
                there = plan.listeners[index]
                is_closed = there.is_removed or there.socket is not listener
                _defer(listener, 0 if is_closed else DEFER_ACCEPT)

    @property
    def indexes(self) -> range:
        """Of all listeners that there are or were since the last reload."""
        return range(len(self._families))

    def stop(self, handed_over: Collection[int] = ()) -> None:
        """Accept what has connected by now, and then close the listening sockets. Those that are
        `handed_over` another process has open too: it accepts."""
        self._unwatch()
        self._paused = False
        self.due = []
        for index, listener in self._listeners.items():
            if index in handed_over:
                listener.close()
            else:
                self._close(index, listener)
        self._listeners = {}

    def configure(self, plan: Plan) -> None:
        """Listen where the plan says. Clients that have connected elsewhere are accepted still."""
        self._take_settings(plan)
        self._most = most_connections(resource.getrlimit(resource.RLIMIT_NOFILE)[0], plan)
        watched, paused = self._watched, self._paused
        self._unwatch()
        before, self._listeners = self._listeners, _open_sockets(plan)
        for index, listener in before.items():
            if self._listeners.get(index) is not listener:
                self._close(index, listener)
        self.due = []
        self._paused = paused
        if watched:
            self.start()

    def _take_settings(self, plan: Plan) -> None:
        self._endings.clients.configure(plan.settings)
        self._head_timeout = self._room.head_timeout = plan.settings.head_timeout
        self._logs_sites = needs_site(plan.settings.access_logformat)
        self._handshake_timeout = plan.settings.handshake_timeout
        self._secure = {index for index, one in enumerate(plan.listeners) if one.scheme == "https"}
        self._proxied = {index for index, one in enumerate(plan.listeners) if one.is_proxied}
        self._uncounted = {i for i in range(len(plan.listeners)) if plan.is_for_health(i)} | self._proxied
        in_clear = {
            index
            for index, one in enumerate(plan.listeners)
            if one.scheme == "http" and one.port and not plan.is_for_health(index)
        }
        self._families = [one.socket.family for one in plan.listeners]
        self.redirected = in_clear if plan.settings.redirect_http else set()
        ports = [one.port for one in plan.listeners if one.scheme == "https" and not one.is_removed]
        self._redirecting.port = plan.settings.redirect_http_port or (ports[0] if ports else 443)

    def _close(self, index: int, listener: socket.socket) -> None:
        """Accept what has connected by now, and then close the listening socket."""
        listener.setblocking(False)
        while self._accept(index, listener) == ACCEPTS_A_TURN:
            pass
        listener.close()

    def resume(self) -> None:
        """Try again after a shortage."""
        self.retry_at = NEVER
        if self._paused:
            self._paused = False
            self.start()

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            for listener in self._listeners.values():
                self._poller.forget(listener.fileno())

    def _source(self, index: int, listener: socket.socket) -> Callable[[int], None]:
        accept = partial(self._accept_some, index, listener)

        def event(_mask: int) -> None:
            self.due.append(accept)

        return event

    def accept_due(self) -> None:
        """When all events of a turn are dealt with, and not before: a new client may get the
        descriptor's number of one that was closed in this turn, and that one's events with it."""
        due, self.due = self.due, []
        for accept in due:
            accept()

    def _accept_some(self, index: int, listener: socket.socket) -> None:
        if self._singly:
            self._singly -= 1
            self._accept(index, listener, 1)
        elif self._accept(index, listener) > 1:
            self._backoff = 1
        else:
            self._singly = self._backoff
            self._backoff = min(2 * self._backoff, MOST_SINGLY)

    def _accept(self, index: int, listener: socket.socket, most: int = ACCEPTS_A_TURN) -> int:
        """Accept up to that many clients; how many came."""
        connections = self._endings.connections
        for count in range(most):
            if len(connections) >= self._most:
                self._out_of_room("there are as many connections as there is room for")
                if len(connections) >= self._most:
                    return count
            try:
                transport, address = self.transport.accept_from(listener)
            except BlockingIOError:
                return count
            except OSError as error:
                if error.errno in _SHORT:
                    self._out_of_room(str(error.strerror))
                    return count
                continue  # that client has gone already (ECONNABORTED and its like)
            try:
                self._add(index, transport, address)
            except OSError as error:  # the kernel watches no more descriptors for this user
                transport.close()
                self._out_of_room(str(error.strerror))
                return count
        return most

    def _add(self, index: int, transport: PlainTransport, address: object) -> Connection | None:
        """A new client. If its request is there already, the next turn tells; a handshake may begin in this
        one. None: it has none."""
        client, port = address[:2] if isinstance(address, tuple) else ("", 0)
        origin = Origin(client, port, index)
        if self._logs_sites:
            origin.log_site(True)
        now = self._clock.now
        secure: TLSTransport | None = None
        # What is left over by a read must be told, by the kernel or by the transport.
        known = self._leases.known_of(index) if transport.tells_of_more else KnownHeads(read_at_once=False)
        if index in self._proxied:
            conn = Connection(transport, self._proxy_headers, origin, known, now + self._handshake_timeout)
            conn.state = HANDSHAKE
        elif index in self._secure:
            secure = TLSTransport(transport)
            secure.full = self._poller.watch_sending
            conn = Connection(secure, self._handshakes, origin, known, now + self._handshake_timeout)
            conn.state = HANDSHAKE
        elif index in self.redirected:
            known = KnownHeads(read_at_once=False)
            conn = Connection(transport, self._redirecting, origin, known, now + self._head_timeout)
        else:
            conn = Connection(transport, self._protocol, origin, known, now + self._head_timeout)
            if known.read_at_once:
                conn.read_size = FIRST_READ
        clients = self._endings.clients
        counts = clients.most and index not in self._uncounted
        if counts and not clients.has_room(client, now):
            if index in self._secure:  # a handshake is what it is not worth
                transport.close()
                return None
            known = KnownHeads(read_at_once=False)
            limit = min(self._head_timeout, LIMITED_TIMEOUT)
            conn = Connection(transport, self._limited, origin, known, now + limit)
            counts = False
        if secure is None:
            self._poller.watch_client(conn.fd)
        else:
            self._poller.watch_client(conn.fd, READ_EVENTS)
            self._handshakes.step(conn)
        self._endings.connections[conn.fd] = conn
        self._endings.counts.words[CONNECTIONS_ACCEPTED] += 1
        if counts:
            clients.came(origin)
        return conn

    def adopt(self, passed: Passed, index: int, descriptor: int) -> None:
        """A client that had connected to the server before. Raises OSError."""
        family = self._families[index]
        transport = self.transport(family, STREAM, 0, descriptor)
        try:
            if passed.state == HANDSHAKE.name:
                conn = self._add(index, transport, (passed.client, passed.client_port))
                self._endings.counts.words[CONNECTIONS_ACCEPTED] -= conn is not None  # it was counted there
            else:
                conn = self._add_ready(index, transport, passed)
        except BaseException:
            transport.detach()
            raise
        if conn is None:
            return
        conn.deadline = passed.deadline
        conn.inbox, conn.scanned = passed.inbox, passed.scanned
        conn.when, conn.first_byte = passed.when, passed.first_byte

    def _add_ready(self, index: int, transport: PlainTransport, passed: Passed) -> Connection:
        """What was before the first request is over, and `client_connections` was looked at."""
        origin = Origin(passed.client, passed.client_port, index)
        if self._logs_sites:
            origin.log_site(True)
        known = self._leases.known_of(index) if transport.tells_of_more else KnownHeads(read_at_once=False)
        conn = Connection(transport, self._protocol, origin, known, passed.deadline)
        self._speak(conn)
        conn.state = ConnectionState[passed.state]
        conn.request_count = passed.request_count
        self._poller.watch_client(conn.fd)
        self._endings.connections[conn.fd] = conn
        clients = self._endings.clients
        if clients.most and index not in self._uncounted:
            clients.came(origin)
        return conn

    def _speak(self, conn: Connection) -> None:
        if conn.origin.listener in self.redirected:
            conn.protocol = self._redirecting
            conn.known = KnownHeads(read_at_once=False)

    def _go_on(self, conn: Connection) -> None:
        """Its PROXY header is read, and what follows is not."""
        assert isinstance(conn.transport, PlainTransport)
        index = conn.origin.listener
        if index in self._secure:
            conn.transport = TLSTransport(conn.transport)
            conn.protocol = self._handshakes
        else:
            conn.move(ConnectionEvent.PREPARED)
            conn.deadline = self._clock.now + self._head_timeout
            conn.protocol = self._protocol
            self._speak(conn)
        conn.readable = True
        self._run_queue.ready(conn)

    def _out_of_room(self, why: str) -> None:
        """Close connections without a request; if there are none, accept nobody for a moment."""
        if self._room.make(why) or self._paused:
            return
        self._paused = True
        self.retry_at = self._clock.now + PAUSE
        self._unwatch()


def _defer(listener: socket.socket, seconds: int) -> None:
    if listener.family in (socket.AF_INET, socket.AF_INET6):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, seconds)


def _open_sockets(plan: Plan) -> dict[int, socket.socket]:
    """By index of the listener."""
    return {index: one.socket for index, one in enumerate(plan.listeners) if not one.is_removed}


def most_connections(limit: int, plan: Plan) -> int:
    """How many clients there may be at once if there may be `limit` descriptors. Each worker needs
    three, each twice while a reload replaces it; and responses, spooled bodies and leases need some."""
    fixed = OWN + len(plan.listeners) + 6 * sum(pool.most_processes for pool in plan.pools)
    left = limit - fixed
    return max(FEWEST, left - min(left // 3, FOR_RESPONSES))
