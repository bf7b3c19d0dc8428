"""What workers say, message by message: the general road of what is not sent on the fast path (replies.py).

What is wrong with a message costs its request and nobody else's. A number that is not outstanding is dropped:
what was said of it is stale, or said twice, or by a process that has no business here.
"""

from __future__ import annotations

import traceback

from halfsync.logs.error import log
from halfsync.objects import File, Memory, Pipe, SimpleObject, Tunnel
from halfsync.pump.access import AccessLog
from halfsync.pump.checks import UnsendableError, check_objects, count_window
from halfsync.pump.clock import Clock
from halfsync.pump.connection import Connection, Exchange, Object
from halfsync.pump.descriptors import Descriptor
from halfsync.pump.endings import Endings
from halfsync.pump.leases.leased import Leased
from halfsync.pump.leases.leases import Leases
from halfsync.pump.pools.costs import LONG_NS
from halfsync.pump.pools.workers import LOG_BATCH, Tasks, Worker
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.sendables import FileSpan, PipeEnd
from halfsync.pump.states import WORKING
from halfsync.pump.tunnel import Tunnels
from halfsync.pump.tunnel_ends import TunnelEnds
from halfsync.pump.websocket.protocol import WebSockets
from halfsync.wire.closes import KEPT, CloseReason
from halfsync.wire.http1_responses import BODILESS
from halfsync.wire.messages import (
    ABORTED,
    DONE,
    NOT_BEGUN,
    UNFINISHED,
    Accept,
    Close,
    Credit,
    EarlyHints,
    FromWorker,
    Message,
    Part,
    Reply,
)
from halfsync.wire.refusals import Refusal
from halfsync.wire.websocket import CloseCode

SHORT_OF_DESCRIPTORS = 503


class GeneralReplies:
    """`reply_memory`: bytes of a response's body that a worker may have in memory here."""

    def __init__(
        self,
        clock: Clock,
        run_queue: RunQueue,
        endings: Endings,
        access: AccessLog,
        leases: Leases,
        tasks: Tasks,
        tunnels: Tunnels,
        websockets: WebSockets,
        reply_memory: int,
    ) -> None:
        self._clock = clock
        self._run_queue = run_queue
        self._endings = endings
        self._access = access
        self._leases = leases
        self._tasks = tasks
        self._tunnels = tunnels
        self._websockets = websockets
        self.reply_memory = reply_memory

    def take_all(self, worker: Worker, messages: list[FromWorker], fds: list[Descriptor], cut: bool) -> None:
        """All of a packet. `fds`: what came with it; `cut`: some did not."""
        if worker.blocks is not None:
            for message in messages:
                worker.blocks.put_in(message.objects)
        for message in messages:
            self.take(worker, message, fds, cut)

    def take(self, worker: Worker, message: FromWorker, fds: list[Descriptor], cut: bool) -> None:
        number = message.number
        owner = worker.owners.get(number)
        if owner is None:
            return
        if isinstance(owner, Exchange):
            try:
                if isinstance(message, Message):
                    self._websockets.send(owner, message, fds)
                elif isinstance(message, Credit):
                    self._grant(owner, message.size)
                elif isinstance(message, EarlyHints):
                    _send_hints(owner, message.fields)
                elif isinstance(message, Accept):
                    self._accept(worker, message, owner)
                elif isinstance(message, Close):
                    self._websockets.close(owner, message.code, message.reason, by_worker=True)
                elif message.ending is NOT_BEGUN:
                    self._tasks.take_back(worker, owner)
                else:
                    self._respond(worker, message, owner, fds, cut)
            except Exception as error:  # noqa: BLE001
                self._spoilt(worker, message, owner, error)
        if message.ending is not UNFINISHED:
            worker.request_count += isinstance(owner, Exchange) and message.ending is not NOT_BEGUN
            worker.give_number(number)
            if owner is LOG_BATCH:
                self._access.written()

    def _accept(self, worker: Worker, message: Accept, exchange: Exchange) -> None:
        """A request for a WebSocket."""
        exchange.begun_ns = worker.begun(message.number)
        self._websockets.accept(exchange, message)
        if worker.retiring:
            self._websockets.worker_ends(exchange)

    def _grant(self, exchange: Exchange, size: int) -> None:
        """The handler takes so much more of a streamed body, or of a WebSocket's messages."""
        if exchange.websocket is not None:
            self._websockets.grant(exchange, size)
        elif exchange.conn is not None:
            exchange.conn.protocol.grant(exchange, size)

    def _respond(
        self, worker: Worker, message: Reply | Part, exchange: Exchange, fds: list[Descriptor], cut: bool
    ) -> None:
        ended = message.ending is not UNFINISHED
        if ended:
            self._count_time(worker, message, exchange)
        conn = exchange.conn
        if conn is None:
            if not ended:
                self._tasks.drop(worker, message.number)
            return
        if exchange.websocket is not None and exchange.websocket.has_begun:
            self._websockets.handler_ended(exchange, message)
            return
        if message.objects:
            worker.response_bytes += sum(item.length or 0 for item in message.objects)
            waiting = len(conn.out) if conn.out is not None else 0
            if worker.is_loop:
                count_window(exchange, message.objects)
            check_objects(message, exchange, fds, self.reply_memory, waiting, cut=cut)
        if type(message) is Part and not (ended or message.objects):
            # Nothing to send: the handler asks whether there still is anybody to send it to.
            if conn.ended:
                self._endings.close(conn, CloseReason.CLIENT_DISCONNECTED)
            return
        if type(message) is Reply:
            worker.response_bytes += len(message.body)
            self._begin(worker, conn, message, exchange, fds)
        elif exchange.state is WORKING:
            # ABORTED with no head: the worker could not even say why.
            if not ended:
                self._tasks.drop(worker, message.number)
            self._tasks.refuse(
                exchange, Refusal(502, "The worker gave no response.", close=False, reason="no_response")
            )
        else:
            self._add(conn, exchange, message, fds)

    def _count_time(self, worker: Worker, message: Reply | Part, exchange: Exchange) -> None:
        pool = worker.pool
        pool.took_times([message.handler_ns])
        if message.handler_ns >= LONG_NS and not worker.is_loop:
            pool.took(exchange, message.handler_ns, self._clock.now)
        exchange.begun_ns = worker.begun(message.number)
        exchange.handler_ns = message.handler_ns

    def _begin(
        self, worker: Worker, conn: Connection, reply: Reply, exchange: Exchange, fds: list[Descriptor]
    ) -> None:
        if exchange.state is not WORKING:
            raise UnsendableError("it begins twice")
        exchange.begun_ns = worker.begun(reply.number)
        if reply.lease is not None:
            self._grant_lease(worker, conn, exchange, reply, fds)
        if exchange.renews is not None and reply.status < 500:  # (an error is no reason to show it to all)
            exchange.renews.end()
        if reply.objects and isinstance(reply.objects[0], Tunnel):
            self._tunnels.switch(exchange, reply, TunnelEnds(fds[reply.objects[0].fd]))
            return
        if reply.ending is DONE and conn.protocol.respond_small(exchange, reply):
            return
        conn.protocol.begin(exchange, reply)
        if reply.body:
            conn.protocol.add(exchange, (reply.body,))
        self._add(conn, exchange, reply, fds)

    def _add(
        self, conn: Connection, exchange: Exchange, message: Reply | Part, fds: list[Descriptor]
    ) -> None:
        protocol = conn.protocol
        if message.objects:
            protocol.add(exchange, [_sendable(exchange, item, fds) for item in message.objects])
        if message.ending is not UNFINISHED:
            if type(message) is Part and message.trailers:
                protocol.trailers(exchange, message.trailers)
            protocol.end(exchange, CloseReason.REPLY_CUT_SHORT if message.ending is ABORTED else KEPT)
        self._run_queue.ready(conn)

    def _spoilt(self, worker: Worker, message: FromWorker, exchange: Exchange, error: Exception) -> None:
        """A message that can't be sent. Nothing of it was."""
        known = isinstance(error, UnsendableError)
        why = str(error) if known else "\n" + "".join(traceback.format_exception(error))
        log(
            "error",
            f"worker {worker.pid} of {worker.pool.name}: its response to {exchange.request_line}: {why}",
        )
        if message.ending is UNFINISHED:
            self._tasks.drop(worker, message.number)
        conn = exchange.conn
        if conn is None:
            return
        if exchange.websocket is not None and exchange.websocket.has_begun:
            self._websockets.close(exchange, CloseCode.INTERNAL_ERROR, why=CloseReason.INTERNAL_ERROR)
        elif exchange.state is not WORKING:
            conn.protocol.abort(exchange, CloseReason.INTERNAL_ERROR)
        elif isinstance(error, UnsendableError) and error.status == SHORT_OF_DESCRIPTORS:
            sentence = "The server is short of file descriptors."
            self._tasks.refuse(
                exchange, Refusal(503, sentence, close=False, retry_after=5, reason="descriptors")
            )
        else:
            self._tasks.refuse(
                exchange, Refusal(500, "The response can't be sent.", close=False, reason="no_response")
            )

    def _grant_lease(
        self, worker: Worker, conn: Connection, exchange: Exchange, reply: Reply, fds: list[Descriptor]
    ) -> None:
        """Only a whole response can be repeated: bytes, and at most one span of a file. And not what a
        worker says that is to be replaced: its code may be old."""
        head = exchange.head
        if exchange.raw is not head.raw:  # a lease may depend on the cookie
            head = head.with_cookie(exchange.raw)
        if reply.lease is None or reply.ending is not DONE or worker.retiring:
            return
        if exchange.route is None or exchange.route.access is not None:
            return  # it is not for everybody
        if exchange.id_line and b"x-request-id:" in reply.fields.lower():
            return  # its id is not the next one's
        span = reply.objects[0] if reply.objects else None
        if len(reply.objects) > 1 or not (span is None or isinstance(span, File)):
            return
        leased = Leased(reply)
        if span is not None:
            leased = Leased(reply, fds[span.fd], span.offset, span.count, span.stamp)
        is_bodiless = reply.status in BODILESS
        if head.method == b"GET" and leased.length != reply.length and not is_bodiless:
            return
        if head.method == b"GET" or (head.method == b"HEAD" and (reply.length >= 0 or is_bodiless)):
            leased.granted_by = worker.id
            leased.begun_ns = exchange.begun_ns
            origin = conn.origin
            self._leases.grant(
                head,
                origin.listener,
                reply,
                leased,
                self._clock.now,
                worker.pool.name,
                has_certificate=origin.has_certificate,
            )


def _send_hints(exchange: Exchange, fields: bytes) -> None:
    """Early hints, if no response has begun."""
    if exchange.conn is not None and exchange.state is WORKING:
        exchange.conn.protocol.hint(exchange, fields)


def _sendable(exchange: Exchange, item: SimpleObject, fds: list[Descriptor]) -> Object:
    """What a simple object is on this side; `fds` are the descriptors of the packet in which it came."""
    if isinstance(item, Memory):
        return item.data
    if isinstance(item, File):
        if item.fd >= 0:
            exchange.shared_file = fds[item.fd]
        assert exchange.shared_file is not None
        return FileSpan(exchange.shared_file, item.offset, item.count, item.stamp)
    assert isinstance(item, Pipe)
    return PipeEnd(fds[item.fd])
