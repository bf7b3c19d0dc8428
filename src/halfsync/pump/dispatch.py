"""Hands requests to workers: pools, their queues, and who has which task.

Theory of operation
-------------------
A whole request waits in its pool's queue until the end of the turn; then each worker with room gets
**one packet** with all that falls to it. One packet a request costs both sides a system call and a
wake-up each: 10,000 to 14,000 req/s of a trivial application on one core; batched, 47,000 to 53,000.

Several tasks in one packet are taken by one thread, one after the other. That is right for handlers
that take microseconds and wrong for all others, so only a pool whose handlers have been fast lately
(a running mean under FAST) gets them; any other pool gets one task a packet, each waking a thread
of its own, and never more than it has threads. When the guess was wrong, because one request in the
batch turns out slow, the board shows within milliseconds that tasks are not begun, and a Nudge
brings a sibling thread to them.

The pump knows who owns every task. When a worker's channel ends, its tasks that the board shows as
never begun go back to the queue's front; begun ones are tried once more if that is harmless, and
answered with 502 if not.

Of the workers with room the one that was idle most recently is chosen: its caches are warm, and
workers that are never chosen show that there are too many.
"""

from __future__ import annotations

import socket
import traceback
from typing import TYPE_CHECKING, cast

from halfsync.logs.error import log
from halfsync.objects import File
from halfsync.pump.closes import CloseReason
from halfsync.pump.connection import NEVER, Connection, Exchange
from halfsync.pump.descriptors import Descriptor
from halfsync.pump.leases import Leased
from halfsync.pump.states import HANDED_OVER, QUEUED, WORKING, Event
from halfsync.pump.steps import MORE, WAIT, Outcome
from halfsync.pump.workers import LOG_BATCH, MEAN_OF, NUDGE_AFTER, Pool, Worker
from halfsync.wire.messages import (
    DONE,
    MAX_DESCRIPTORS,
    MAX_PACKET,
    NOT_BEGUN,
    Join,
    LogRecord,
    LogTask,
    Nudge,
    Part,
    Recall,
    Reply,
    Stacks,
    Task,
    decode_replies,
)
from halfsync.wire.messages import MORE as MORE_PARTS
from halfsync.wire.refusals import Refusal

if TYPE_CHECKING:
    from halfsync.pump.loop import Pump

TASK_OVERHEAD = 128
"""Bytes of a task beside its head and body, at most."""
NUDGE_SELDOM = 0.25
"""Seconds. Where nudging does not help, since all threads are busy, it becomes seldom."""
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})  # RFC 9110 9.2.2


class Dispatcher:
    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._clock = pump.clock
        self._settings = pump.settings
        self.pools = [Pool(pool.name) for pool in pump.plan.pools]
        self._pool_of = [self.pools[mount.pool] for mount in pump.plan.mounts]
        self._half_closed: list[Connection] = []  # their requests came in this turn, with an end of file
        self._queue_limit = pump.settings.queue_limit
        self._due: set[Pool] = set()  # pools with something to hand over at the end of the turn
        self._buffer = bytearray(MAX_PACKET + 4096)
        self._view = memoryview(self._buffer)
        self.workers: dict[int, Worker] = {}  # by id
        self.nudge_at = NEVER

    # --- workers come and go ---------------------------------------------------------------------

    def join(self, join: Join, fds: list[Descriptor]) -> None:
        worker = Worker(join, self.pools[join.pool], fds)
        self.workers[worker.id] = worker
        worker.pool.workers.append(worker)
        self._pump.watch_worker(worker)
        self._due.add(worker.pool)

    def retire(self, worker_id: int) -> None:
        worker = self.workers.get(worker_id)
        if worker is not None:
            worker.retiring = True
            self._pump.leases.end_of(worker.id)
            self._close_if_done(worker)

    def _close_if_done(self, worker: Worker) -> None:
        if worker.retiring and worker.outstanding == 0:
            self._forget(worker)

    def _forget(self, worker: Worker) -> None:
        self.workers.pop(worker.id, None)
        worker.pool.workers.remove(worker)
        self._pump.forget_worker(worker)
        worker.close()

    def ended(self, worker_id: int) -> None:
        """Its process is no more, but a process that the application forked may keep the channel's
        other end open. So we close it: what was said before is still read, and then the end."""
        worker = self.workers.get(worker_id)
        if worker is not None:
            worker.tasks.shutdown(socket.SHUT_RDWR)

    def gone(self, worker: Worker) -> None:
        """Its channel ended: it died, or was killed."""
        self._forget(worker)
        told: list[str] = []
        for slot, owner in list(worker.slots.items()):
            if isinstance(owner, Exchange):
                fate = self._orphaned(worker, slot, owner)
                if len(told) < 20:
                    told.append(f"{_request_line(owner)} ({fate})")
            elif owner is LOG_BATCH:
                self._pump.access.lost()
        level, what = ("error", "; ".join(told)) if told else ("info", "none")
        log(level, f"worker {worker.pid} of {worker.pool.name} is gone; requests in flight: {what}")
        self._due.add(worker.pool)

    def _orphaned(self, worker: Worker, slot: int, exchange: Exchange) -> str:
        """What becomes of a request whose worker died; returns it in words."""
        conn = exchange.conn
        exchange.worker = None
        if conn is None or conn.exchange is not exchange:
            return "its client had left"
        if conn.state is not WORKING:
            self._pump.sender.abort(conn, CloseReason.WORKER_DIED)
            return "its answer had begun: connection reset"
        assert exchange.head is not None
        begun = worker.board[slot] != 0
        if not begun or (exchange.attempts < 2 and exchange.head.method in IDEMPOTENT):
            conn.move(Event.TAKEN_BACK)
            exchange.worker = None
            worker.pool.queue.appendleft(exchange)
            return "begun, to be tried once more" if begun else "not begun, given to another"
        exchange.reason = CloseReason.WORKER_DIED
        self._answer(conn, Refusal(502, "The worker that had this request died.", close=False))
        return "begun: 502"

    # --- requests to workers ---------------------------------------------------------------------

    def queue(self, conn: Connection, exchange: Exchange) -> Outcome:
        pool = self._pool_of[exchange.mount_index]
        if pool.waiting >= self._queue_limit:
            self._pump.sender.refuse(conn, self._overloaded())
            return MORE
        exchange.queued_ns = self._clock.now_ns
        pool.queue.append(exchange)
        self._due.add(pool)
        if conn.ended:
            self._half_closed.append(conn)
        return WAIT

    def client_left(self, exchange: Exchange) -> None:
        """The client of a request that is in a queue has left."""
        self._pool_of[exchange.mount_index].client_left(exchange)

    def _overloaded(self) -> Refusal:
        return Refusal(503, "All workers are busy. Please try again soon.", close=False, retry_after=5)

    def end_of_turn(self) -> None:
        """Hand over what has been queued, one packet a worker, and what is to be logged."""
        if self._due:
            due, self._due = self._due, set()
            for pool in due:
                if pool.queue:
                    self._hand_over(pool)
        if self._half_closed:
            self._close_those_that_left()
        if self.nudge_at <= self._clock.now:
            self._nudge()

    def _close_those_that_left(self) -> None:
        """A client that closed its side together with its request may want the response still, and gets it
        if a thread is free. If it has to wait for one, it is taken to have left: of the two, the
        client that gave up is by far the more common, and its request would be run for nobody."""
        closed, self._half_closed = self._half_closed, []
        for conn in closed:
            if conn.state is QUEUED:
                self._pump.close(conn, CloseReason.CLIENT_LEFT)

    def hand_over_records(self) -> None:
        """Give the access log's next batch to a worker of the built-in pool."""
        pool = self.pools[0]
        worker = next((w for w in reversed(pool.workers) if w.free and not (w.full or w.retiring)), None)
        if worker is None:
            return
        batch = self._pump.access.take_batch()
        if not batch:
            return
        slot = worker.take_slot(LOG_BATCH)
        records = cast(list[LogRecord], batch)  # the same on the wire; see access.Record
        if not self._send(worker, [LogTask(slot, records)], []):
            worker.give_slot(slot)
            self._pump.access.lost()

    def _hand_over(self, pool: Pool) -> None:
        queue = pool.queue
        while queue:
            workers = [worker for worker in pool.workers if worker.room > 0]
            if not workers:
                return
            worker = min(reversed(workers), key=lambda w: w.outstanding)
            count = -(-len(queue) // len(workers)) if pool.fast else 1
            self._hand_tasks(pool, worker, min(count, worker.room))

    def _hand_tasks(self, pool: Pool, worker: Worker, count: int) -> None:
        """Send `worker` up to `count` tasks in one packet."""
        tasks: list[Task] = []
        taken: list[Exchange] = []
        fds: list[int] = []
        size = 0
        while len(tasks) < count:
            exchange = pool.take_oldest()
            if exchange is None:
                break
            conn = exchange.conn
            assert conn is not None
            task = _task(conn, exchange)
            size += len(task.head) + TASK_OVERHEAD
            if exchange.spool is not None:
                size += len(task.body or b"")
            if tasks and (size > MAX_PACKET or len(fds) >= MAX_DESCRIPTORS):
                pool.queue.appendleft(exchange)
                break
            if task.body is None:
                fds.append(_spooled(exchange))
            task.slot = exchange.slot = worker.take_slot(exchange)
            exchange.worker = worker
            exchange.attempts += 1
            conn.move(HANDED_OVER)
            tasks.append(task)
            taken.append(exchange)
        if not tasks:
            return
        if not self._send(worker, tasks, fds):
            for exchange in reversed(taken):
                worker.give_slot(exchange.slot)
                self._take_back(worker, exchange)
            return
        if worker.outstanding == len(tasks):
            worker.heard_at = self._clock.now
        if worker.outstanding > 1 and self.nudge_at == NEVER:
            self.nudge_at = self._clock.now + NUDGE_AFTER

    def _send(
        self, worker: Worker, messages: list[Task] | list[LogTask] | list[Nudge], fds: list[int]
    ) -> bool:
        if worker.send(messages, fds):
            return True
        self._pump.want_writable(worker, True)
        return False

    def writable(self, worker: Worker) -> None:
        """Its socket takes packets again."""
        if worker.full:
            worker.full = False
            self._pump.want_writable(worker, False)
            self._due.add(worker.pool)

    def _nudge(self) -> None:
        """Look after workers that hold several tasks and have ended none for some milliseconds."""
        self.nudge_at = NEVER
        now = self._clock.now
        for worker in self.workers.values():
            if worker.outstanding < 2:
                continue
            if now - worker.heard_at >= worker.patience:
                worker.tell(Nudge())  # replies may be waiting for company behind a slow one
                waiting = worker.unbegun()
                if not waiting:
                    continue
                self._help(worker, waiting)
                worker.patience = min(2 * worker.patience, NUDGE_SELDOM)
            self.nudge_at = min(self.nudge_at, now + worker.patience)

    def _help(self, worker: Worker, waiting: int) -> None:
        """Tasks wait behind slow ones: bring a sibling thread to them, or them to another worker."""
        if worker.outstanding - waiting < worker.threads:
            self._send(worker, [Nudge()], [])
        elif any(other.room > 0 for other in worker.pool.workers if other is not worker):
            worker.recalled = True
            worker.tell(Recall())

    # --- replies from workers --------------------------------------------------------------------

    def read(self, worker: Worker) -> None:
        """A packet of replies, or the end of the channel."""
        if worker.id not in self.workers:
            return
        try:
            size, ancillary, _flags, _ = worker.tasks.recvmsg_into(
                [self._buffer], socket.CMSG_SPACE(MAX_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            size, ancillary = 0, []
        if size == 0:
            self.gone(worker)
            return
        fds = _descriptors(ancillary) if ancillary else []
        try:
            for message in decode_replies(self._view[:size]):
                owner = worker.slots.get(message.slot)
                if isinstance(owner, Exchange):
                    self._answer_from(worker, message, owner, fds)
                    # Not before: if that failed, `gone` is to find its owner in the slot.
                    if message.ending is not MORE_PARTS:
                        worker.give_slot(message.slot)
                elif owner is LOG_BATCH:
                    worker.give_slot(message.slot)
                    self._pump.access.written()
        except Exception:  # noqa: BLE001
            # Whatever a worker does to its channel costs that worker, not the pump.
            self._pump.fault(f"worker {worker.pid} sent nonsense:\n{traceback.format_exc()}")
            self.gone(worker)
            return
        self._after_packet(worker)

    def _after_packet(self, worker: Worker) -> None:
        """It may have room again."""
        if worker.outstanding < worker.threads:
            worker.recalled = False
        worker.patience = NUDGE_AFTER
        if not worker.outstanding and worker.pool.workers[-1] is not worker:
            worker.pool.workers.remove(worker)
            worker.pool.workers.append(worker)
        if worker.pool.queue:
            self._due.add(worker.pool)
        self._close_if_done(worker)

    def _answer_from(
        self, worker: Worker, message: Reply | Part, exchange: Exchange, fds: list[Descriptor]
    ) -> None:
        ended = message.ending is not MORE_PARTS
        if message.ending is NOT_BEGUN:
            self._take_back(worker, exchange)
            return
        if ended:
            pool = worker.pool
            pool.mean_ns += (message.handler_ns - pool.mean_ns) / MEAN_OF
            exchange.begun_ns = worker.board[message.slot]
            exchange.handler_ns = message.handler_ns
        conn = exchange.conn
        if conn is None or conn.exchange is not exchange:
            if not ended:
                worker.tell_left(exchange)  # or it was answered for the worker, which is the same to it
            return
        sender = self._pump.sender
        if type(message) is Part and not (ended or message.objects):
            if conn.ended:
                self._pump.close(conn, CloseReason.CLIENT_LEFT)
            return
        if type(message) is Reply:
            if conn.state is not WORKING:
                return
            exchange.begun_ns = worker.board[message.slot]
            if message.lease is not None:
                self._grant_lease(worker, conn, exchange, message, fds)
            if sender.begin(conn, exchange, message, fds) is not MORE:
                return
        elif conn.state is WORKING:
            # ABORTED with no head: the worker could not even say why.
            self._answer(conn, Refusal(502, "The worker gave no answer.", close=False))
            return
        else:
            sender.add(exchange, message.objects, message.ending, fds)
        self._pump.drive(conn)

    def _take_back(self, worker: Worker, exchange: Exchange) -> None:
        exchange.worker = None
        exchange.attempts -= 1
        conn = exchange.conn
        if conn is not None and conn.exchange is exchange and conn.state is WORKING:
            conn.move(Event.TAKEN_BACK)
            worker.pool.queue.appendleft(exchange)

    def _grant_lease(
        self, worker: Worker, conn: Connection, exchange: Exchange, reply: Reply, fds: list[Descriptor]
    ) -> None:
        """Only a whole answer can be repeated: bytes, and at most one span of a file. And not what a
        worker says that is to be replaced: its code may be old."""
        head = exchange.head
        if head is None or reply.lease is None or reply.ending is not DONE or worker.retiring:
            return
        span = reply.objects[0] if reply.objects else None
        if len(reply.objects) > 1 or not (span is None or isinstance(span, File)):
            return
        leased = Leased(
            reply,
            fds[span.fd] if span is not None else None,
            span.offset if span is not None else 0,
            span.count if span is not None else 0,
            span.stamp if span is not None else None,
        )
        if head.method == b"GET" and leased.length != reply.length:
            return
        if head.method == b"GET" or (head.method == b"HEAD" and reply.length >= 0):
            leased.granted_by = worker.id
            name = worker.pool.name
            self._pump.leases.grant(head, conn.listener, reply, leased, self._clock.now, name)

    def _answer(self, conn: Connection, refusal: Refusal) -> None:
        self._pump.sender.refuse(conn, refusal)
        self._pump.drive(conn)

    # --- time limits -----------------------------------------------------------------------------

    def sweep(self) -> None:
        """Requests that wait too long, and handlers that take too long."""
        now_ns = self._clock.now_ns
        queue_limit = int(self._settings.queue_timeout * 1e9)
        for pool in self.pools:
            while (oldest := pool.oldest()) is not None and now_ns - oldest.queued_ns > queue_limit:
                pool.queue.popleft()
                assert oldest.conn is not None
                self._answer(oldest.conn, self._overloaded())
        if self._settings.handler_timeout:
            limit = int(self._settings.handler_timeout * 1e9)
            for worker in list(self.workers.values()):
                self._find_hung(worker, now_ns - limit)

    def _find_hung(self, worker: Worker, begun_before: int) -> None:
        for slot, owner in list(worker.slots.items()):
            begun = worker.board[slot]
            if not isinstance(owner, Exchange) or owner.worker is not worker:
                continue
            if begun == 0 or begun > begun_before:
                continue
            if owner.conn is not None and owner.conn.state is not WORKING:
                continue  # it streams: that is no sign of hanging
            owner.worker = None  # said once
            worker.tell(Stacks(slot))
            log(
                "error",
                f"worker {worker.pid} of {worker.pool.name}: past its deadline: {_request_line(owner)}",
            )
            conn = owner.conn
            if conn is not None and conn.exchange is owner:
                self._answer(conn, Refusal(504, "The handler passed its deadline.", close=False))
            if not worker.retiring:
                worker.retiring = True
                self._pump.report_hung(worker)


def _task(conn: Connection, exchange: Exchange) -> Task:
    """What the worker is told; it has no slot yet."""
    assert exchange.head is not None
    body: bytes | None = b""
    size = 0
    if (spool := exchange.spool) is not None:
        size = spool.size
        body = spool.memory() if spool.file is None else None
    return Task(
        -1,
        exchange.mount_index,
        exchange.head.raw,
        body,
        size,
        conn.client,
        conn.client_port,
        conn.listener,
        exchange.queued_ns,
    )


def _spooled(exchange: Exchange) -> int:
    assert exchange.spool is not None
    assert exchange.spool.file is not None
    return exchange.spool.file.fd


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[Descriptor]:
    fds: list[Descriptor] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(data) - len(data) % 4
            fds += [Descriptor(fd) for fd in memoryview(data[:whole]).cast("i")]
    return fds


def _request_line(exchange: Exchange) -> str:
    if exchange.head is None:
        return "?"
    return f"{exchange.head.method.decode('latin-1')} {exchange.head.target.decode('latin-1')[:200]!r}"
