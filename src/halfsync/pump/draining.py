"""The end of a pump: at a stop, when another pump takes its place, and at an upgrade."""

from __future__ import annotations

from itertools import chain

from halfsync.logs.error import log
from halfsync.pump.acceptor import Acceptor
from halfsync.pump.access import AccessLog
from halfsync.pump.clock import Clock
from halfsync.pump.connection import NEVER, Connection
from halfsync.pump.endings import Endings
from halfsync.pump.handing_over import HandingOver
from halfsync.pump.http1.responses import Http1Responses
from halfsync.pump.http2.protocol import Http2
from halfsync.pump.states import FRESH, HANDSHAKE, IDLE, LINGERING, MULTIPLEXED, TUNNEL
from halfsync.pump.stopping import StopReport, cut_off_sentence
from halfsync.pump.taking_over import TakingOver
from halfsync.pump.timeouts import Timeouts
from halfsync.pump.tls.handshakes import Handshakes
from halfsync.pump.tunnel import Tunnels
from halfsync.pump.websocket.protocol import WebSockets
from halfsync.wire.closes import CloseReason

FRESH_TIMEOUT = 1.0
"""Seconds that a client which has just connected has, at a stop, for its first request to come."""
LINGER_AT_STOP = 0.5
"""Seconds that a client which has its last response has, at a stop, to close its side."""


class Draining:
    def __init__(
        self,
        clock: Clock,
        endings: Endings,
        access: AccessLog,
        acceptor: Acceptor,
        handshakes: Handshakes,
        responses: Http1Responses,
        http2: Http2,
        websockets: WebSockets,
        tunnels: Tunnels,
        timeouts: Timeouts,
    ) -> None:
        self.is_on = False
        self.until = NEVER  # monotonic: when what is in flight is cut off
        self.handing_over: HandingOver | None = None  # to the pump of the server that takes over
        self.taking_over: TakingOver | None = None  # from the pump of the server before
        self._seconds = NEVER  # that clients were given
        self._report = StopReport()
        self._clock = clock
        self._endings = endings
        self._connections = endings.connections
        self._access = access
        self._acceptor = acceptor
        self._handshakes = handshakes
        self._responses = responses
        self._http2 = http2
        self._websockets = websockets
        self._tunnels = tunnels
        self._timeouts = timeouts

    def begin(self, seconds: float, to: HandingOver | None = None) -> None:
        """Accept what has connected, serve what has been requested within so many seconds, then nothing
        more. A further call shortens the time. `to`: see handing_over.py."""
        now = self._clock.now
        self.until = min(self.until, now + seconds)
        self._seconds = min(self._seconds, seconds)
        if self.is_on:
            return
        self.handing_over = to
        self._acceptor.stop(() if to is None else to.places)
        self.is_on = self._tunnels.draining = self._timeouts.draining = self._http2.draining = True
        self._websockets.draining = True
        self._responses.keeps_alive = to is not None
        self._handshakes.head_timeout = min(self._handshakes.head_timeout, FRESH_TIMEOUT)
        self._responses.linger_timeout = min(self._responses.linger_timeout, LINGER_AT_STOP)
        self._http2.linger_timeout = self._websockets.close_timeout = self._responses.linger_timeout
        if to is None and self.taking_over is not None:
            self.taking_over.close()
        self._end_connections()
        for stream in self._endings.streams:
            if stream.exchange is not None:
                self._websockets.close_at_stop(stream.exchange)

    def _end_connections(self) -> None:
        """Those that are not handed over: idle ones now, others when they have been served."""
        now, to = self._clock.now, self.handing_over
        if to is not None:
            self._handshakes.removed = set(self._acceptor.indexes)  # whoever ends one now is the last
        for conn in list(self._connections.values()):
            if to is not None:
                if conn.exchange is None and to.takes(conn):
                    continue
                if not to.takes(conn):
                    self._handshakes.close_soon(conn)
            if conn.state is FRESH or conn.state is HANDSHAKE:
                conn.deadline = min(conn.deadline, now + FRESH_TIMEOUT)
            elif conn.state is LINGERING:
                conn.deadline = min(conn.deadline, now + self._responses.linger_timeout)
            elif conn.state is TUNNEL:
                self._tunnels.stop(conn)
            elif conn.state is MULTIPLEXED:
                self._http2.drain(conn)
            elif conn.state is IDLE:
                self._timeouts.close_idle(conn, CloseReason.DRAINING)
            elif conn.exchange is not None:
                self._websockets.close_at_stop(conn.exchange)

    def is_over(self) -> bool:
        """Whether nothing is in flight and all is logged. What is not finished at graceful_timeout
        is cut, visibly, and logged so."""
        if self.handing_over is not None:
            self._hand_over(self.handing_over)
        exchanging = chain(self._connections.values(), self._endings.streams)
        self._report.look(exchanging, self._clock.now, self.until)
        if self._clock.now >= self.until:
            self.until = NEVER
            self._cut_off(list(self._connections.values()))
            self._access.due = self._clock.now  # the parent does not wait long now: log it at once
        if self.taking_over is not None and self.taking_over.is_open and self.until != NEVER:
            return False  # what comes is passed on
        return not self._connections and self._access.idle

    def _hand_over(self, to: HandingOver) -> None:
        """What has become free."""
        free = [conn for conn in self._connections.values() if conn.exchange is None]
        to.pass_on(free, self._endings)
        if to.is_broken:
            to.close()
            self.handing_over = None
            self._responses.keeps_alive = False
            self._end_connections()
            return
        for conn in free:
            if conn.state is IDLE and not to.takes(conn):
                self._timeouts.close_idle(conn, CloseReason.DRAINING)

    def _cut_off(self, left: list[Connection]) -> None:
        count = sum(conn.exchange is not None for conn in chain(left, self._endings.streams))
        if count:
            log("warning", cut_off_sentence(count, self._seconds))
        for conn in left:
            in_flight = conn.exchange is not None or (conn.state is MULTIPLEXED and not conn.is_idle)
            self._endings.reset(conn, CloseReason.CUT_OFF if in_flight else CloseReason.DRAINING)
