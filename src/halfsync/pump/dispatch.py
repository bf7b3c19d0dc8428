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
batch turns out slow, the board shows within milliseconds that tasks are not begun, and they are
helped (stalls.py).

The pump knows who owns every task, by a number that never comes again; what a worker says of any other
is dropped. When a worker dies, deaths.py says what becomes of its tasks. What is taken back, for
whatever reason, gets its old place in the queue.

Of the workers with room the one that was idle most recently is chosen: its caches are warm, and
workers that are never chosen show that there are too many.
"""

from __future__ import annotations

import socket
import traceback
from typing import TYPE_CHECKING, cast

from halfsync.logs.error import log
from halfsync.objects import File
from halfsync.pump.checks import UnsendableError, check_objects
from halfsync.pump.closes import CloseReason
from halfsync.pump.connection import Connection, Exchange
from halfsync.pump.deaths import Deaths
from halfsync.pump.descriptors import Descriptor
from halfsync.pump.leases import Leased
from halfsync.pump.sendables import PipeEnd
from halfsync.pump.stalls import LOOK, Stalls
from halfsync.pump.states import HANDED_OVER, QUEUED, WORKING, Event
from halfsync.pump.steps import MORE, WAIT, Outcome
from halfsync.pump.workers import DROPPED, LOG_BATCH, MEAN_OF, NUDGE_AFTER, Pool, Sent, Worker
from halfsync.wire.messages import (
    DONE,
    MAX_DESCRIPTORS,
    MAX_PACKET,
    NOT_BEGUN,
    Join,
    Left,
    LogRecord,
    LogTask,
    Nudge,
    Part,
    Reply,
    Stacks,
    Task,
    decode_replies,
)
from halfsync.wire.messages import MORE as MORE_PARTS
from halfsync.wire.refusals import Refusal

if TYPE_CHECKING:
    from halfsync.pump.loop import Pump

SHORTAGE = 0.01
"""Seconds until the next try, when the kernel was short of something."""
ALONE = 2.0
"""Seconds for which a request that is tried once more has a worker for itself. One that kills does it
sooner; one that takes longer must not keep all others waiting."""
TASK_OVERHEAD = 128
"""Bytes of a task beside its head and body, at most."""
SHORT_OF_DESCRIPTORS = 503
SHORT_AT_REPLY = "a worker's response came without its descriptor and is answered 503"


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
        self._newest_ns = 0
        self.deaths = Deaths(pump, self)
        self.stalls = Stalls(pump, self)

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
            self.forget(worker)

    def forget(self, worker: Worker) -> None:
        self.workers.pop(worker.id, None)
        worker.pool.workers.remove(worker)
        self._pump.forget_worker(worker)
        worker.close()

    def ended(self, worker_id: int, status: int) -> None:
        """Its process is no more; `status` as wait(2) gave it."""
        self.deaths.ended(worker_id, status)

    def work_for(self, pool: Pool) -> None:
        """Hand over to this pool at the end of the turn."""
        self._due.add(pool)

    # --- requests to workers ---------------------------------------------------------------------

    def queue(self, conn: Connection, exchange: Exchange) -> Outcome:
        pool = self._pool_of[exchange.mount_index]
        if pool.waiting >= self._queue_limit:
            self._pump.sender.refuse(conn, self._overloaded())
            return MORE
        # Each has a time of its own, which so is its place in the queue too.
        now_ns = self._clock.now_ns
        self._newest_ns = exchange.queued_ns = now_ns if now_ns > self._newest_ns else self._newest_ns + 1
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
        if self.stalls.look_at <= self._clock.now:
            self.stalls.look()
        if self._due:
            due, self._due = self._due, set()
            for pool in due:
                if pool.queue or pool.retries:
                    self._hand_over(pool)
        if self._half_closed:
            self._close_those_that_left()

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
        able = (w for w in reversed(pool.workers) if w.free and not (w.full or w.retiring or w.stalled))
        worker = next(able, None)
        if worker is None:
            return
        batch = self._pump.access.take_batch()
        if not batch:
            return
        number = worker.take_number(LOG_BATCH)
        records = cast(list[LogRecord], batch)  # the same on the wire; see access.Record
        sent = worker.send([LogTask(number, records)], [])
        if sent is not Sent.YES:
            worker.give_number(number)
            self._pump.access.lost()
            self._not_sent(worker, sent)

    def _hand_over(self, pool: Pool) -> None:
        if pool.retries:
            self._hand_retries(pool)
        queue = pool.queue
        while queue:
            workers = [worker for worker in pool.workers if worker.room > 0]
            if not workers:
                return
            worker = min(reversed(workers), key=lambda w: w.outstanding)
            count = -(-len(queue) // len(workers)) if pool.fast else 1
            self._hand_tasks(pool, worker, min(count, worker.room))

    def _hand_retries(self, pool: Pool) -> None:
        """What may have killed a worker gets one that has nothing else, and gets nothing else meanwhile.
        If all are busy, one of them is kept free for it."""
        while pool.retries:
            able = [w for w in pool.workers if not (w.retiring or w.full or w.stalled)]
            if not able:
                return
            worker = min(able, key=lambda w: w.outstanding)
            if worker.outstanding:
                if not any(w.reserved for w in able):
                    worker.reserved = True
                return
            self._hand_tasks(pool, worker, 1, retry=True)
            if len(worker.owners) > 0:
                worker.reserved = True
                worker.alone_until = self._clock.now + ALONE
        for worker in pool.workers:
            if not worker.alone_until:
                worker.reserved = False

    def _hand_tasks(self, pool: Pool, worker: Worker, count: int, *, retry: bool = False) -> None:
        """Send `worker` up to `count` tasks in one packet."""
        tasks: list[Task] = []
        taken: list[Exchange] = []
        fds: list[int] = []
        size = 0
        while len(tasks) < count:
            exchange = pool.take_retry() if retry else pool.take_oldest()
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
            task.number = exchange.task = worker.take_number(exchange)
            exchange.worker = worker
            exchange.attempts += 1
            conn.move(HANDED_OVER)
            tasks.append(task)
            taken.append(exchange)
        if not tasks:
            return
        sent = worker.send(tasks, fds)
        if sent is not Sent.YES:
            for exchange in reversed(taken):
                worker.give_number(exchange.task)
                self.take_back(worker, exchange)
            if sent is Sent.TOO_LARGE:
                self._too_large(pool, worker, taken)
            else:
                self._not_sent(worker, sent)
            return
        now = self._clock.now
        if worker.outstanding == len(tasks):
            worker.heard_at = now
        due = now + (NUDGE_AFTER if worker.outstanding > 1 else LOOK)
        if due < self.stalls.look_at:
            self.stalls.look_at = due

    def _not_sent(self, worker: Worker, sent: Sent) -> None:
        """See that it gets nothing until it takes packets again."""
        if sent is Sent.FULL:
            worker.full = True
            self._pump.want_writable(worker, True)
        elif sent is Sent.SHORT:
            worker.full = True
            worker.short_until = self._clock.now + SHORTAGE
            self.stalls.look_within(SHORTAGE)
        elif sent is Sent.GONE:
            worker.full = True  # its next event tells the rest

    def _too_large(self, pool: Pool, worker: Worker, taken: list[Exchange]) -> None:
        """The socket will never take such a packet. One by one they may fit; what does not, even
        alone, costs itself. (The sizes of heads and bodies are limited so that it should.)"""
        if len(taken) > 1:
            self._hand_tasks(pool, worker, 1)
            return
        [exchange] = taken
        conn = exchange.conn
        if conn is not None and conn.state is QUEUED:
            (pool.retries if exchange.attempts else pool.queue).remove(exchange)
            log(
                "error", f"{exchange.request_line} is too large to be handed to a worker (net.core.wmem_max?)"
            )
            self.answer(conn, Refusal(500, "The request can't be handed to the application.", close=False))

    def writable(self, worker: Worker) -> None:
        """Its socket takes packets again."""
        if worker.full:
            worker.full = False
            self._pump.want_writable(worker, False)
            self._due.add(worker.pool)

    def send_nudge(self, worker: Worker) -> None:
        """On `tasks`: wake a sibling thread."""
        self._not_sent(worker, worker.send([Nudge()], []))

    # --- replies from workers --------------------------------------------------------------------

    def read(self, worker: Worker) -> None:
        """A packet of replies, or the end of the channel."""
        if worker.id not in self.workers:
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
            self.deaths.lose(worker)
            return
        fds = _descriptors(ancillary) if ancillary else []
        cut = bool(flags & socket.MSG_CTRUNC)
        if cut:
            self._pump.acceptor.make_room(SHORT_AT_REPLY)
        try:
            messages = decode_replies(self._view[:size])
        except Exception as error:  # noqa: BLE001
            # What can't be read names no request that it could cost, so it costs the worker.
            self._pump.fault(
                f"worker {worker.pid} of {worker.pool.name} sent nonsense: {error!r}; it is given up."
            )
            worker.at_fault = True
            self.deaths.lose(worker)
            return
        for message in messages:
            self._take(worker, message, fds, cut)
        self._after_packet(worker)

    def _take(self, worker: Worker, message: Reply | Part, fds: list[Descriptor], cut: bool) -> None:
        """One message. What is wrong with it costs its request and nobody else's."""
        number = message.number
        owner = worker.owners.get(number)
        if owner is None:
            return  # stale, or said twice, or by a process that has no business here
        if isinstance(owner, Exchange):
            try:
                if message.ending is NOT_BEGUN:
                    self.take_back(worker, owner)
                else:
                    self._answer_from(worker, message, owner, fds, cut)
            except Exception as error:  # noqa: BLE001
                self._spoilt(worker, message, owner, error)
        if message.ending is not MORE_PARTS:
            worker.give_number(number)
            if owner is LOG_BATCH:
                self._pump.access.written()

    def _spoilt(self, worker: Worker, message: Reply | Part, exchange: Exchange, error: Exception) -> None:
        """A message that can't be sent. Nothing of it was."""
        known = isinstance(error, UnsendableError)
        why = str(error) if known else "\n" + "".join(traceback.format_exception(error))
        log(
            "error",
            f"worker {worker.pid} of {worker.pool.name}: its response to {exchange.request_line}: {why}",
        )
        if message.ending is MORE_PARTS:
            self._drop(worker, message.number)
        conn = exchange.conn
        if conn is None or conn.exchange is not exchange:
            return
        if conn.state is not WORKING:
            self._pump.sender.abort(conn, CloseReason.FAULT)
            return
        for item in exchange.out:
            if isinstance(item, PipeEnd):
                self._pump.forget_pipe(item)
        exchange.out.clear()
        exchange.chunked = False
        if isinstance(error, UnsendableError) and error.status == SHORT_OF_DESCRIPTORS:
            self.answer(
                conn, Refusal(503, "The server is short of file descriptors.", close=False, retry_after=5)
            )
        else:
            self.answer(conn, Refusal(500, "The response can't be sent.", close=False))

    def _drop(self, worker: Worker, number: int) -> None:
        """Nothing more of this task's response is wanted: the client has been answered."""
        worker.owners[number] = DROPPED
        worker.tell(Left(number))

    def _after_packet(self, worker: Worker) -> None:
        """It may have room again."""
        if worker.outstanding < worker.threads:
            worker.recalled = False
        worker.stalled = False
        worker.heard_at = self._clock.now
        worker.patience = NUDGE_AFTER
        if not worker.outstanding:
            worker.reserved = False
            worker.alone_until = 0.0
            if worker.pool.workers[-1] is not worker:
                worker.pool.workers.remove(worker)
                worker.pool.workers.append(worker)
        if worker.pool.queue or worker.pool.retries:
            self._due.add(worker.pool)
        self._close_if_done(worker)

    def _answer_from(  # noqa: C901 (each reason why it is not simply sent)
        self, worker: Worker, message: Reply | Part, exchange: Exchange, fds: list[Descriptor], cut: bool
    ) -> None:
        ended = message.ending is not MORE_PARTS
        if ended:
            pool = worker.pool
            pool.mean_ns += (message.handler_ns - pool.mean_ns) / MEAN_OF
            exchange.begun_ns = worker.begun(message.number)
            exchange.handler_ns = message.handler_ns
        conn = exchange.conn
        if conn is None or conn.exchange is not exchange:
            if not ended:
                self._drop(worker, message.number)
            return
        if message.objects:
            check_objects(message, exchange, fds, self._settings.reply_memory, cut=cut)
        sender = self._pump.sender
        if type(message) is Part and not (ended or message.objects):
            if conn.ended:
                self._pump.close(conn, CloseReason.CLIENT_LEFT)
            return
        if type(message) is Reply:
            if conn.state is not WORKING:
                raise UnsendableError("it begins twice")
            exchange.begun_ns = worker.begun(message.number)
            if message.lease is not None:
                self._grant_lease(worker, conn, exchange, message, fds)
            if sender.begin(conn, exchange, message, fds) is not MORE:
                return
        elif conn.state is WORKING:
            # ABORTED with no head: the worker could not even say why.
            if not ended:
                self._drop(worker, message.number)
            self.answer(conn, Refusal(502, "The worker gave no answer.", close=False))
            return
        else:
            sender.add(exchange, message.objects, message.ending, fds)
        self._pump.drive(conn)

    def take_back(self, worker: Worker, exchange: Exchange) -> None:
        """A task that no handler has seen: its request goes back to its place in the queue."""
        exchange.worker = None
        conn = exchange.conn
        if conn is None or conn.exchange is not exchange:
            return
        if conn.state is not WORKING:  # the worker says so of a response that it had begun
            self._pump.sender.abort(conn, CloseReason.WORKER_DIED)
            return
        exchange.attempts -= 1
        conn.move(Event.TAKEN_BACK)
        if exchange.attempts:
            worker.pool.retries.appendleft(exchange)
        else:
            worker.pool.put_back(exchange)

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

    def answer(self, conn: Connection, refusal: Refusal) -> None:
        self._pump.sender.refuse(conn, refusal)
        self._pump.drive(conn)

    # --- time limits -----------------------------------------------------------------------------

    def sweep(self) -> None:
        """Requests that wait too long, and handlers that take too long."""
        now_ns = self._clock.now_ns
        begun_before = now_ns - int(self._settings.handler_timeout * 1e9)
        for pool in self.pools:
            self._refuse_late(pool, now_ns)
        for worker in list(self.workers.values()):
            self.stalls.overdue(worker, now_ns)
            if self._settings.handler_timeout:
                self._find_hung(worker, begun_before)
        self.deaths.sweep(self._clock.now)

    def _refuse_late(self, pool: Pool, now_ns: int) -> None:
        since = now_ns - int(self._settings.queue_timeout * 1e9)
        while (oldest := pool.oldest()) is not None and oldest.queued_ns < since:
            pool.queue.popleft()
            assert oldest.conn is not None
            self.answer(oldest.conn, self._overloaded())
        for exchange in [one for one in pool.retries if one.queued_ns < since]:
            pool.retries.remove(exchange)
            assert exchange.conn is not None
            self.answer(exchange.conn, self._overloaded())

    def refuse_late(self, exchange: Exchange) -> None:
        """It was handed over, and not begun within queue_timeout."""
        exchange.worker = None
        conn = exchange.conn
        if conn is not None and conn.exchange is exchange and conn.state is WORKING:
            self.answer(conn, self._overloaded())

    def _find_hung(self, worker: Worker, begun_before: int) -> None:
        for number, owner in list(worker.owners.items()):
            begun = worker.begun(number)
            if not isinstance(owner, Exchange) or begun == 0 or begun > begun_before:
                continue
            conn = owner.conn
            if conn is not None and conn.state is not WORKING:
                continue  # it streams: that is no sign of hanging
            worker.owners[number] = DROPPED  # said once, and a late reply is nobody's
            owner.worker = None
            worker.tell(Stacks(number))
            log(
                "error", f"worker {worker.pid} of {worker.pool.name}: past its deadline: {owner.request_line}"
            )
            if conn is not None and conn.exchange is owner:
                self.answer(conn, Refusal(504, "The handler passed its deadline.", close=False))
            if not worker.retiring:
                worker.retiring = True
                self._pump.report_hung(worker)


def _task(conn: Connection, exchange: Exchange) -> Task:
    """What the worker is told; it has no number yet."""
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
