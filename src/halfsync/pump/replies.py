"""What workers say: responses, in whole or in parts, read from their channels and put onto connections.

What is wrong with a message costs its request and nobody else's; only what can't be read at all costs the
worker. A number that is not outstanding is dropped: what was said of it is stale, or said twice, or by a
process that has no business here.
"""

from __future__ import annotations

import select
import socket
import time
import traceback

from halfsync import channel
from halfsync.counts import BYTES_SENT, STATUS, TOTAL_NS, WORD
from halfsync.logs.error import log
from halfsync.objects import File, Memory, Pipe, SimpleObject, Tunnel
from halfsync.pump.access import AccessLog
from halfsync.pump.checks import UnsendableError, check_objects, count_window
from halfsync.pump.clock import Clock
from halfsync.pump.closes import KEPT, CloseReason
from halfsync.pump.connection import Connection, Exchange, Object
from halfsync.pump.costs import LONG_NS
from halfsync.pump.deaths import WorkerDeaths
from halfsync.pump.descriptors import Descriptor
from halfsync.pump.endings import Endings
from halfsync.pump.http1_responses import SMALL, SMALL_FIELDS, Http1Responses
from halfsync.pump.internal_errors import InternalErrors
from halfsync.pump.leased import Leased
from halfsync.pump.leases import Leases
from halfsync.pump.poller import Poller
from halfsync.pump.room import Room
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.sendables import FileSpan, PipeEnd
from halfsync.pump.states import ENDED, IDLE, PRODUCING, WORKING
from halfsync.pump.tunnel import Tunnels
from halfsync.pump.tunnel_ends import TunnelEnds
from halfsync.pump.websockets import WebSockets
from halfsync.pump.workers import LOG_BATCH, MEAN_OF, NUDGE_AFTER, Tasks, Worker
from halfsync.settings.table import Settings
from halfsync.wire.http1_responses import BODILESS, head_start
from halfsync.wire.messages import (
    ABORTED,
    DONE,
    MAX_DESCRIPTORS,
    MAX_PACKET,
    MOST_SLOTS,
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
    decode_replies,
)
from halfsync.wire.packets import MARK, unpack
from halfsync.wire.refusals import Refusal
from halfsync.wire.websocket import CloseCode

_READ = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR

PACKETS_A_TURN = 8
"""With large pieces of bodies, of each worker."""
SHORT_OF_DESCRIPTORS = 503
SHORT_AT_REPLY = "a worker's response came without its descriptor; the client gets a 503"


class Replies:
    def __init__(
        self,
        clock: Clock,
        poller: Poller,
        run_queue: RunQueue,
        endings: Endings,
        errors: InternalErrors,
        access: AccessLog,
        leases: Leases,
        room: Room,
        tasks: Tasks,
        deaths: WorkerDeaths,
        responses: Http1Responses,
        tunnels: Tunnels,
        websockets: WebSockets,
        settings: Settings,
    ) -> None:
        self._clock = clock
        self._poller = poller
        self._run_queue = run_queue
        self._endings = endings
        self._errors = errors
        self._access = access
        self._leases = leases
        self._room = room
        self._tasks = tasks
        self._deaths = deaths
        self._responses = responses
        self._tunnels = tunnels
        self._websockets = websockets
        self.configure(settings)
        self._buffer = channel.page_buffer(MAX_PACKET + 4096)

    def configure(self, settings: Settings) -> None:
        """Call it when Endings has its own numbers."""
        self._keep_alive = settings.keep_alive
        self._log_times = self._endings.log_times
        self._log_cookies = self._endings.log_cookies
        self._reply_memory = settings.reply_memory

    def watch(self, worker: Worker) -> None:
        """Read what it says from now on."""

        def event(mask: int) -> None:
            if mask & select.EPOLLOUT:
                self._tasks.writable(worker)
            if mask & _READ:
                self.read(worker)

        self._poller.watch(worker.tasks.fileno(), event)

    def read(self, worker: Worker, most: int = PACKETS_A_TURN) -> None:
        """A packet of messages, or the end of the channel; of large packets up to `most`, for there may be
        more of them already."""
        if worker.id not in self._tasks.workers:
            return
        try:
            size, ancillary, flags, _ = worker.tasks.recvmsg_into(
                [self._buffer], socket.CMSG_SPACE(MAX_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            size, ancillary, flags = 0, [], 0
        if size == 0:
            self._deaths.lose(worker)
            return
        fds = _descriptors(ancillary) if ancillary else []
        cut = bool(flags & socket.MSG_CTRUNC)
        if cut:
            self._room.make(SHORT_AT_REPLY)
        try:
            packet = self._buffer[:size]
            is_large = packet[0] == MARK
            messages = unpack(packet) if is_large else decode_replies(packet)
        except Exception as error:  # noqa: BLE001
            # What can't be read names no request that it could cost, so it costs the worker.
            self._errors.report(
                f"worker {worker.pid} of {worker.pool.name} sent a malformed message: {error!r}; "
                "it is given up."
            )
            worker.at_fault = True
            self._deaths.lose(worker)
            return
        try:
            if messages and (type(messages[0]) is Message or type(messages[-1]) is Message):
                messages = self._put_out_messages(worker, messages)
            if worker.is_loop and messages and (type(messages[0]) is Part or type(messages[-1]) is Part):
                messages = self._put_out_parts(worker, messages)
            others = self._put_out(worker, messages) if messages else messages
        except Exception:  # noqa: BLE001 (what it had not done is done below; and of what it had, no number is left)
            self._errors.report(f"on the fast path:\n{traceback.format_exc()}")
            others = messages
        if others:
            self._take_all(worker, others, fds, cut)
        self._after_packet(worker)
        if is_large and most > 1:
            self.read(worker, most - 1)

    def _put_out_messages(self, worker: Worker, messages: list[FromWorker]) -> list[FromWorker]:
        """The fast path of WebSockets. Gives the others."""
        try:
            return self._websockets.small.put_out(worker.owners, messages)
        except Exception:  # noqa: BLE001 (nobody knows which of them were sent, so none may be sent again)
            self._errors.report(f"on the fast path of WebSockets:\n{traceback.format_exc()}")
            for number in {one.number for one in messages if type(one) is Message}:
                owner = worker.owners.get(number)
                if isinstance(owner, Exchange):
                    self._websockets.close(owner, CloseCode.INTERNAL_ERROR, why=CloseReason.INTERNAL_ERROR)
            return [one for one in messages if type(one) is not Message]

    def _put_out_parts(self, worker: Worker, messages: list[FromWorker]) -> list[FromWorker]:
        """The fast path of bodies that come piece by piece. Gives the others."""
        try:
            others, body_bytes = self._responses.small_parts.put_out(worker.owners, messages)
        except Exception:  # noqa: BLE001 (as above)
            self._errors.report(f"on the fast path of parts:\n{traceback.format_exc()}")
            for number in {one.number for one in messages if type(one) is Part}:
                owner = worker.owners.get(number)
                if isinstance(owner, Exchange) and owner.conn is not None and owner.state is PRODUCING:
                    owner.conn.protocol.abort(owner, CloseReason.INTERNAL_ERROR)
            return [one for one in messages if type(one) is not Part or one.ending is not UNFINISHED]
        worker.response_bytes += body_bytes
        return others

    def _put_out(  # noqa: C901 (written out, for a call for each response costs 60 ns)
        self, worker: Worker, messages: list[FromWorker]
    ) -> list[FromWorker]:
        """The fast path, out: of a packet, send the responses that are whole, small, and to plain requests,
        and be done with them, from WORKING to IDLE with their log records. Gives the others, for the general
        road (`_take`); the states are the same at its end."""
        if not self._responses.keeps_alive:
            return messages
        clock = self._clock
        log_times = self._log_times
        log_cookies = self._log_cookies
        records = self._access.records if self._access.enabled else None
        deadline = clock.now + self._keep_alive
        date_end = clock.date_end
        owners = worker.owners
        free_slot = worker.free.append
        pool = worker.pool
        pool_words = pool.counts.words
        words = self._endings.counts.words
        alike = sent_bytes = total_ns = 0  # how many had the status that was the last one
        as_long = bits = 0  # how many handlers' times were of the class that was the last one
        before = len(owners)
        fields, length, status, reason, start = None, 0, 0, "", b""  # of the head that was made last
        others: list[FromWorker] = []
        for reply in messages:
            number = reply.number
            exchange = owners.get(number)
            if type(exchange) is not Exchange or type(reply) is not Reply or exchange.state is not WORKING:
                if type(reply) is EarlyHints:
                    self._take(worker, reply, [], False)  # not behind the response, which may be next
                else:
                    others.append(reply)
                continue
            conn = exchange.conn
            body = reply.body
            if (
                conn is None
                or conn.inbox
                or conn.readable
                or not exchange.head.plain
                or reply.ending is not DONE
                or reply.length != len(body)
                or reply.lease is not None
                or reply.objects
                or reply.dated
                or reply.close
            ):
                others.append(reply)
                continue
            if (
                reply.fields != fields
                or reply.length != length
                or reply.status != status
                or reply.reason != reason
            ):
                if reply.length > SMALL or len(reply.fields) > SMALL_FIELDS or reply.status in BODILESS:
                    others.append(reply)
                    continue
                if alike:
                    words[STATUS + status] += alike
                    alike = 0
                start = head_start(reply.status, reply.reason, reply.fields, reply.length) + date_end
                fields, length, status, reason = reply.fields, reply.length, reply.status, reply.reason
            wire = start + body
            try:
                sent = conn.transport.send(wire)
            except OSError:
                sent = 0  # to be found out again, and dealt with, where all sends are
            handler_ns = reply.handler_ns
            pool.mean_ns += (handler_ns - pool.mean_ns) / MEAN_OF
            if handler_ns.bit_length() == bits:
                as_long += 1
            else:
                if as_long:
                    pool_words[bits] += as_long
                as_long = 1
                bits = handler_ns.bit_length()
            total_ns += handler_ns
            slot = number % MOST_SLOTS
            begun_ns = worker.scoreboard[slot] if log_times or sent != len(wire) else 0
            del owners[number]
            free_slot(slot)
            if sent != len(wire):
                exchange.status = status
                exchange.handler_ns = handler_ns
                exchange.begun_ns = begun_ns
                self._responses.go_on_with_small(exchange, wire, length, sent)
                continue
            alike += 1
            sent_bytes += sent
            exchange.state = ENDED
            conn.exchange = None
            conn.state = IDLE
            conn.deadline = deadline
            if records is not None:
                records.append(
                    (
                        conn.when,
                        conn.origin.logged,
                        exchange.raw if log_cookies else exchange.logged or exchange.raw,
                        status,
                        length,
                        sent,
                        max(0, begun_ns - exchange.queued_ns) // 1000 if log_times else -1,
                        handler_ns // 1000 if log_times else -1,
                        int((time.monotonic() - conn.first_byte) * 1e6) if log_times else 0,
                        0,
                        conn.request_count,
                    )
                )
            conn.request_count += 1
        if alike:
            words[STATUS + status] += alike
        if as_long:
            words[BYTES_SENT] += sent_bytes
            pool_words[bits] += as_long
            pool_words[TOTAL_NS] = (pool_words[TOTAL_NS] + total_ns) & WORD
            worker.request_count += before - len(owners)
            worker.response_bytes += sent_bytes
        return others

    def _take_all(self, worker: Worker, messages: list[FromWorker], fds: list[Descriptor], cut: bool) -> None:
        """The general road."""
        if worker.blocks is not None:
            for message in messages:
                worker.blocks.put_in(message.objects)
        for message in messages:
            self._take(worker, message, fds, cut)

    def _take(self, worker: Worker, message: FromWorker, fds: list[Descriptor], cut: bool) -> None:
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
                    _hint(owner, message.fields)
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

    def _after_packet(self, worker: Worker) -> None:
        """It may have room again."""
        if worker.outstanding < worker.threads:
            worker.recalled = False
        worker.stalled = False
        worker.heard_at = self._clock.now
        worker.nudge_after = NUDGE_AFTER
        if worker.is_loop:
            self._tasks.messages.heard(worker.watch)
        if not worker.outstanding:
            worker.reserved = False
            worker.alone_until = 0.0
            if worker.pool.workers[-1] is not worker:
                worker.pool.workers.remove(worker)
                worker.pool.workers.append(worker)
        if worker.pool.queue or worker.pool.retries:
            self._tasks.due.add(worker.pool)
        self._tasks.close_if_done(worker)

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
            check_objects(message, exchange, fds, self._reply_memory, waiting, cut=cut)
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
        pool.mean_ns += (message.handler_ns - pool.mean_ns) / MEAN_OF
        words = pool.counts.words
        words[message.handler_ns.bit_length()] += 1
        words[TOTAL_NS] = (words[TOTAL_NS] + message.handler_ns) & WORD
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
        if head.method == b"GET" and leased.length != reply.length:
            return
        if head.method == b"GET" or (head.method == b"HEAD" and reply.length >= 0):
            leased.granted_by = worker.id
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


def _hint(exchange: Exchange, fields: bytes) -> None:
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


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[Descriptor]:
    fds: list[Descriptor] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(data) - len(data) % 4
            fds += [Descriptor(fd) for fd in memoryview(data[:whole]).cast("i")]
    return fds
