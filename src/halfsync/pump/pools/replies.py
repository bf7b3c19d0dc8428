"""What workers say: responses, in whole or in parts, read from their channels and put onto connections.

Of a packet, responses that are whole, small, and to plain requests are sent at once, and done with, in one
loop (the fast path, out). Everything else goes the general road, message by message: general_replies.py. Only
what can't be read at all costs the worker.
"""

from __future__ import annotations

import select
import socket
import time
import traceback
from typing import Any

from halfsync import channel
from halfsync.pump.access import AccessLog
from halfsync.pump.clock import Clock
from halfsync.pump.connection import Exchange
from halfsync.pump.descriptors import Descriptor
from halfsync.pump.endings import Endings
from halfsync.pump.http1.responses import SMALL, SMALL_FIELDS, Http1Responses
from halfsync.pump.internal_errors import InternalErrors
from halfsync.pump.leases.leases import Leases
from halfsync.pump.poller import Poller
from halfsync.pump.pools.deaths import WorkerDeaths
from halfsync.pump.pools.general_replies import GeneralReplies
from halfsync.pump.pools.workers import DROPPED, NUDGE_AFTER, Tasks, Worker
from halfsync.pump.room import Room
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.states import ENDED, IDLE, PRODUCING, WORKING
from halfsync.pump.tunnel import Tunnels
from halfsync.pump.websocket.protocol import WebSockets
from halfsync.scoreboard.counts import BYTES_SENT, STATUS
from halfsync.settings.table import Settings
from halfsync.wire.closes import CloseReason
from halfsync.wire.http1_responses import BODILESS, head_start
from halfsync.wire.messages import (
    DONE,
    MAX_PACKET,
    UNFINISHED,
    AlikeReplies,
    EarlyHints,
    FromWorker,
    Message,
    Part,
    Reply,
    ToPump,
    decode_replies,
    one_by_one,
)
from halfsync.wire.packets import MARK, unpack
from halfsync.wire.task_slots import MOST_SLOTS
from halfsync.wire.websocket import CloseCode

_READ = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR

PACKETS_A_TURN = 8
"""With large pieces of bodies, of each worker."""
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
        self._endings = endings
        self._errors = errors
        self._access = access
        self._room = room
        self._tasks = tasks
        self._deaths = deaths
        self._responses = responses
        self._websockets = websockets
        self._general = GeneralReplies(
            clock,
            run_queue,
            endings,
            access,
            leases,
            tasks,
            tunnels,
            websockets,
            settings.reply_memory,
        )
        self.configure(settings)
        self._buffer = channel.page_buffer(MAX_PACKET + 4096)

    def configure(self, settings: Settings) -> None:
        """Call it when Endings has its own numbers."""
        self._general.reply_memory = settings.reply_memory
        self._keep_alive = settings.keep_alive
        self._log_times = self._endings.log_times
        self._log_cookies = self._endings.log_cookies

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
                [self._buffer], channel.ROOM_FOR_DESCRIPTORS, channel.CLOSE_ON_EXEC
            )
        except BlockingIOError:
            return
        except OSError:
            size, ancillary, flags = 0, [], 0
        if size == 0:
            self._deaths.lose(worker)
            return
        fds = _descriptors(ancillary) if ancillary else []
        cut = flags & channel.CUT != 0
        if cut:
            self._room.make(SHORT_AT_REPLY)
        try:
            packet = self._buffer[:size]
            is_large = packet[0] == MARK
            messages = unpack(packet) if is_large else decode_replies(packet)
            _check(messages)
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
            others = self._put_out(worker, messages)
        except Exception:  # noqa: BLE001 (what it had not done is done below; and of what it had, no number is left)
            self._errors.report(f"on the fast path:\n{traceback.format_exc()}")
            others = one_by_one(messages)
        if others:
            self._general.take_all(worker, others, fds, cut)
        self._after_packet(worker)
        if is_large and most > 1:
            self.read(worker, most - 1)

    def _put_out_messages(self, worker: Worker, messages: ToPump) -> ToPump:
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

    def _put_out_parts(self, worker: Worker, messages: ToPump) -> ToPump:
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

    # --- the fast path -----------------------------------------------------------------------------

    def _put_out(self, worker: Worker, messages: ToPump) -> list[FromWorker]:
        """The fast path, out: send the responses that are whole, small, and to plain requests, and be done
        with them, from WORKING to IDLE with their log records. Gives the others, for the general road; the
        states are the same at its end."""
        if not self._responses.keeps_alive:
            return one_by_one(messages)
        others: list[FromWorker] = []
        for message in messages:
            if isinstance(message, AlikeReplies):
                if message.dated or len(message.fields) > SMALL_FIELDS or message.status in BODILESS:
                    others += message.each()
                else:
                    self._send(worker, message, others)
            elif type(message) is Reply:
                exchange = worker.owners.get(message.number)
                if (
                    type(exchange) is not Exchange
                    or not exchange.head.plain
                    or message.length > SMALL
                    or message.length != len(message.body)
                    or message.ending is not DONE
                    or message.lease is not None
                    or message.objects
                    or message.dated
                    or message.close
                    or len(message.fields) > SMALL_FIELDS
                    or message.status in BODILESS
                ):
                    others.append(message)
                else:
                    self._send(worker, _alone(message), others)
            elif type(message) is EarlyHints:
                self._general.take(worker, message, [], False)  # not behind the response, which may be next
            else:
                others.append(message)
        return others

    def _send(self, worker: Worker, replies: AlikeReplies, others: list[FromWorker]) -> None:
        """Those to plain requests whose clients wait for them. The rest is added to `others`."""
        clock = self._clock
        log_times = self._log_times
        log_cookies = self._log_cookies
        records = self._access.records if self._access.enabled else None
        deadline = clock.now + self._keep_alive
        date_end = clock.date_end
        owners = worker.owners
        owner_of: Any = owners.get  # (what owns no request has a state, too: see NotAnExchange)
        free = worker.free.append
        scoreboard = worker.scoreboard
        status, reason, fields = replies.status, replies.reason, replies.fields
        before = len(owners)
        sent_bytes = partly = left_bytes = 0
        left: list[int] = []  # the handlers' times of what is left to the general road
        # What was made last: often the next one is the same.
        last: bytes | None = None
        length, size, start, response = -1, 0, b"", b""
        for number, body, handler_ns in zip(replies.numbers, replies.bodies, replies.handler_ns, strict=True):
            exchange = owner_of(number, DROPPED)
            if (
                exchange.state is not WORKING  # (so it has a client)
                or (conn := exchange.conn).readable
                or conn.inbox
                or not exchange.head.plain
                or (body != last and len(body) > SMALL)
            ):
                left.append(handler_ns)
                left_bytes += len(body)
                others.append(_one(replies, number, body, handler_ns))
                continue
            if body != last:
                last = body
                if len(body) != length:
                    length = len(body)
                    start = head_start(status, reason, fields, length) + date_end
                response = start + body
                size = len(response)
            try:
                sent = conn.transport.send(response)
            except OSError:
                sent = 0  # to be found out again, and dealt with, where all sends are
            del owners[number]
            free(number + MOST_SLOTS)  # as in Worker.give_number
            if sent != size:
                partly += 1
                exchange.status = status
                exchange.handler_ns = handler_ns
                exchange.begun_ns = worker.begun(number)
                self._responses.go_on_with_small(exchange, response, length, sent)
                continue
            sent_bytes += sent
            exchange.state = ENDED
            conn.exchange = None
            conn.state = IDLE
            conn.deadline = deadline
            if records is not None:
                begun_ns = scoreboard[number % MOST_SLOTS] if log_times else 0
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
        done = before - len(owners)
        if done:
            words = self._endings.counts.words
            words[STATUS + status] += done - partly
            words[BYTES_SENT] += sent_bytes
            worker.pool.took_times(_without(replies.handler_ns, left))
            worker.request_count += done
            worker.response_bytes += sum(map(len, replies.bodies)) - left_bytes


def _without(times: list[int], left: list[int]) -> list[int]:
    if left:
        times = times.copy()
        for one in left:
            times.remove(one)
    return times


def _check(messages: ToPump) -> None:
    """Raises ValueError."""
    for message in messages:
        if type(message) is AlikeReplies and not (
            len(message.numbers) == len(message.bodies) == len(message.handler_ns)
        ):
            raise ValueError("replies without a number, a body or a time")


def _alone(reply: Reply) -> AlikeReplies:
    return AlikeReplies(
        reply.status,
        reply.reason,
        reply.fields,
        reply.dated,
        [reply.number],
        [reply.body],
        [reply.handler_ns],
    )


def _one(replies: AlikeReplies, number: int, body: bytes, handler_ns: int) -> Reply:
    return Reply(
        number,
        replies.status,
        replies.reason,
        replies.fields,
        len(body),
        body,
        dated=replies.dated,
        handler_ns=handler_ns,
    )


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[Descriptor]:
    fds: list[Descriptor] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(data) - len(data) % 4
            fds += [Descriptor(fd) for fd in memoryview(data[:whole]).cast("i")]
    return fds
