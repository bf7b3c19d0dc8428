"""Hands requests to workers: into the queues of their pools, and from there into packets.

Theory of operation
-------------------
A whole request waits in its pool's queue until the end of the turn; then each worker with room gets
**one packet** with all that falls to it. One packet a request costs both sides a system call and a
wake-up each: 10,000 to 14,000 req/s of a trivial application on one core; batched, 47,000 to 53,000.

Several tasks in one packet are taken by one thread, one after the other. That is right for handlers
that take microseconds and wrong for all others, so only a pool whose handlers have been fast lately
(a running mean under FAST) gets them; any other pool gets one task a packet, each waking a thread
of its own, and never more than it has threads. When the guess was wrong, because one request in the
batch turns out slow, the scoreboard shows within milliseconds that tasks are not begun, and they are
helped (stalls.py).

The pump knows who owns every task, by a number that never comes again; what a worker says of any other
is dropped. When a worker dies, deaths.py says what becomes of its tasks. What is taken back, for
whatever reason, gets its old place in the queue.

Of the workers with room the one that was idle most recently is chosen: its data is in the processor's caches,
and workers that are never chosen show that there are too many.
"""

from __future__ import annotations

from collections import deque

from halfsync.logs.error import log
from halfsync.pump.bodies.spool import Spool
from halfsync.pump.bodies.stream import BodyStream
from halfsync.pump.clock import Clock
from halfsync.pump.connection import NEVER, Connection, Exchange, Route
from halfsync.pump.endings import Endings
from halfsync.pump.http1.seen_heads import SeenHead
from halfsync.pump.leases.leases import Leases
from halfsync.pump.origin import Origin
from halfsync.pump.output import LEFT_AFTER
from halfsync.pump.pools.overload import Overload
from halfsync.pump.pools.queues import FairQueue, Queue
from halfsync.pump.pools.saturation import Saturation
from halfsync.pump.pools.stalls import LOOK, Stalls
from halfsync.pump.pools.workers import NUDGE_AFTER, Pool, Sent, Tasks, Worker, overloaded
from halfsync.pump.states import BUSY, QUEUED, WHOLE, WORKING
from halfsync.pump.websocket.state import WebSocket
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import MAX_DESCRIPTORS, MAX_PACKET
from halfsync.wire.refusals import Refusal
from halfsync.wire.task_slots import MOST_SLOTS

GATHER_TURNS = 4
"""At most so many turns is a packet kept, for what the next ones bring."""
ALONE = 2.0
"""Seconds for which a request that is tried once more has a worker for itself. One that kills does it
sooner; one that takes longer must not keep all others waiting."""
TOO_MANY_FOR = 1.0
"""Seconds that a request waits while its body's descriptor can't be handed to a worker."""
TaskColumns = (
    tuple[int, int, int, bytes, bytes | None, int, str, int, int, int]
    | tuple[int, int, int, bytes, bytes | None, int, str, int, int, int, bytes]
    | tuple[int, int, int, bytes, None, int, str, int, int, int, bytes, bytes]
)
"""A Task's tag and columns, in order: on the wire they are the same, and a tuple costs a third to make."""
WEBSOCKET = 10
"""WebSocketTask's tag."""
TASK_OVERHEAD = 128
"""Bytes of a task beside its head and body, at most."""


class Dispatcher:
    def __init__(
        self,
        clock: Clock,
        endings: Endings,
        leases: Leases,
        tasks: Tasks,
        stalls: Stalls,
        saturation: Saturation,
        overload: Overload,
    ) -> None:
        self._clock = clock
        self._endings = endings
        self._leases = leases.table
        self._tasks = tasks
        self._last_due: Pool | None = None  # one of those that are due
        self._stalls = stalls
        self._saturation = saturation
        self._overload = overload
        self._half_closed: list[Exchange] = []  # these came in this turn, with an end of file
        self.gathered = 0  # turns for which what is to be handed over was kept for the next
        self.pools: dict[Route, Pool] = {}

    # --- into the queues ---------------------------------------------------------------------------

    def queue(self, pool: Pool, exchange: Exchange) -> None:
        """A whole request."""
        conn = exchange.conn
        assert conn is not None
        if pool.waiting >= exchange.route.queue_limit:  # type: ignore[union-attr]
            self._overload.turned_away(pool)
            self._saturation.refused(pool, "queue_limit")
            conn.protocol.refuse(exchange, overloaded("queue_limit"))
            return
        exchange.queued_ns = self._clock.next_ns()
        exchange.move(WHOLE)
        pool.queue.append(exchange)
        self._tasks.due.add(pool)
        if conn.ended:
            self._half_closed.append(exchange)

    def take_in(self, conn: Connection, raw: bytes, uncookied: bytes, seen: SeenHead) -> bool:
        """The fast path, in: queue the request that `raw` is, on a connection in IDLE. The very bytes of this
        head were read before (or all but the cookie), so it is known what they mean and where they go.
        False: it is for the general road (http1, admit, `queue`), and nothing was done."""
        pool = seen.pool
        route = seen.route
        if (
            seen.known is not conn.known  # else it has a pool
            or len(queue := pool.queue) >= route.queue_limit  # type: ignore[union-attr]  # it leads there
            or (self._leases and seen.lease_key in self._leases)
        ):
            return False
        clock = self._clock
        clock.newest_ns = queued_ns = clock.newest_ns + 1  # as in Clock.next_ns
        conn.exchange = exchange = Exchange()  # each of its slots is set here, as in `new_exchange`
        exchange.conn = conn
        exchange.head = seen.head
        exchange.raw = raw
        exchange.logged = uncookied
        exchange.state = QUEUED
        exchange.route = route
        exchange.spool = exchange.holder = None
        exchange.task = -1
        exchange.queued_ns = queued_ns
        conn.state = BUSY
        conn.deadline = NEVER
        conn.when = clock.wall
        conn.first_byte = clock.now
        queue.append(exchange)
        if pool is not self._last_due:
            self._tasks.due.add(pool)
            self._last_due = pool
        return True

    # --- to the workers ----------------------------------------------------------------------------

    def end_of_turn(self, events: int) -> None:
        """Hand over what has been queued, one packet a worker.

        While events come (`events` is how many there were in this turn), more requests are on their way, and
        a packet that holds more of them costs less for each: 8 % of the processor time of a trivial one. So
        it is kept a few turns long, if the handlers are fast and all workers have something to do; the next
        polls do not wait then. (With a worker idle so long, half the rate was lost on a busy machine.)"""
        tasks = self._tasks
        if events and self.gathered < GATHER_TURNS and tasks.due and all(map(_may_wait, tasks.due)):
            self.gathered += 1
            return
        self.gathered = 0
        if tasks.look_at <= self._clock.now:
            self._stalls.look()
            self._overload.look()
        if tasks.due:
            due = list(tasks.due)
            tasks.due.clear()
            self._last_due = None
            for pool in due:
                if pool.queue or pool.retries:
                    self._hand_over(pool)
        if self._half_closed:
            self._close_disconnected()

    def _close_disconnected(self) -> None:
        """A client that closed its side together with its request may want the response still, and gets it
        if a thread is free. If it has to wait for one, it counts as disconnected: of the two, the
        client that gave up is by far the more common, and its request would be run for nobody."""
        closed, self._half_closed = self._half_closed, []
        for exchange in closed:
            if exchange.conn is None:
                continue
            if exchange.state is QUEUED:
                self._endings.close(exchange.conn, CloseReason.CLIENT_DISCONNECTED)
            elif exchange.state is WORKING and exchange.is_left:
                exchange.conn.deadline = min(exchange.conn.deadline, self._clock.now + LEFT_AFTER)

    def _hand_over(self, pool: Pool) -> None:
        """Give its workers what they have room for."""
        if pool.retries:
            self._hand_retries(pool)
        queue = pool.queue
        while queue:
            workers = [worker for worker in pool.workers if worker.room > 0]
            if not workers:
                if pool.is_overloaded:
                    self._overload.shed(pool)
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

    def _hand_tasks(  # noqa: C901 (written out, for a call for each task costs 60 ns)
        self, pool: Pool, worker: Worker, count: int, *, retry: bool = False
    ) -> None:
        """Send `worker` up to `count` tasks in one packet."""
        tasks: list[TaskColumns] = []
        fds: list[int] = []
        size = 0
        free, owners, scoreboard = worker.free, worker.owners, worker.scoreboard
        queue: Queue | FairQueue | deque[Exchange] = pool.retries if retry else pool.queue
        take = queue.popleft
        for _ in range(min(count, len(queue))):
            exchange = take()
            if exchange.state is not QUEUED:  # its client has disconnected
                pool.took_disconnected()
                continue
            raw = exchange.raw
            size += len(raw) + TASK_OVERHEAD
            spool = exchange.spool
            origin = exchange.conn.origin  # type: ignore[union-attr]  # who has no client is in no queue
            if tls := origin.tls:
                size += len(tls)
            if spool is not None:
                if spool.file is None:
                    size += spool.size
                elif len(fds) < MAX_DESCRIPTORS:
                    fds.append(spool.file.fd)
                else:
                    queue.appendleft(exchange)
                    break
            if size > MAX_PACKET and tasks:
                if spool is not None and spool.file is not None:
                    fds.pop()
                queue.appendleft(exchange)
                break
            exchange.task = task = free.pop()  # as in Worker.take_number
            owners[task] = exchange
            scoreboard[task % MOST_SLOTS] = 0
            exchange.holder = worker
            exchange.state = WORKING  # HANDED_OVER: what is in a queue is QUEUED
            if spool is not None:
                tasks.append(_columns_with_body(exchange, task, spool))
                continue
            if tls:
                tasks.append(_columns_over_tls(exchange, task, b"", 0, origin))
                continue
            tasks.append(
                (
                    0,
                    task,
                    exchange.route.index,  # type: ignore[union-attr]
                    raw,
                    b"",
                    0,
                    origin.client,
                    origin.client_port,
                    origin.listener,
                    exchange.queued_ns,
                )
            )
        if not tasks:
            return
        sent = worker.send(tasks, fds)
        if sent is not Sent.YES:
            taken = [one for columns in tasks if isinstance(one := owners[columns[1]], Exchange)]
            for exchange in reversed(taken):
                worker.give_number(exchange.task)
                self._tasks.take_back(worker, exchange)
            if sent is Sent.TOO_LARGE:
                self._too_large(pool, worker, taken)
            else:
                if sent is Sent.TOO_MANY:
                    self._refuse_with_files(pool, taken)
                self._tasks.not_sent(worker, sent)
            return
        now = self._clock.now
        if worker.outstanding == len(tasks):
            worker.heard_at = now
        due = now + (NUDGE_AFTER if worker.outstanding > 1 else LOOK)
        if due < self._tasks.look_at:
            self._tasks.look_at = due

    def _too_large(self, pool: Pool, worker: Worker, taken: list[Exchange]) -> None:
        """The socket will never take such a packet. One by one they may fit; what does not, even
        alone, costs itself. (The sizes of heads and bodies are limited so that it should.)"""
        if len(taken) > 1:
            self._hand_tasks(pool, worker, 1)
            return
        [exchange] = taken
        if exchange.state is QUEUED:
            (pool.retries if exchange.attempts else pool.queue).remove(exchange)
            log(
                "error", f"{exchange.request_line} is too large to be handed to a worker (net.core.wmem_max?)"
            )
            sentence = "The request can't be handed to the application."
            self._tasks.refuse(exchange, Refusal(500, sentence, close=False, reason="no_response"))

    def _refuse_with_files(self, pool: Pool, taken: list[Exchange]) -> None:
        """Their bodies' descriptors can't be handed to anybody. If that has been so for a moment, they must
        not keep those waiting that have none."""
        since = self._clock.now_ns - int(TOO_MANY_FOR * 1e9)
        for exchange in taken:
            if exchange.state is not QUEUED or exchange.queued_ns > since:
                continue
            if exchange.spool is None or exchange.spool.file is None:
                continue
            (pool.retries if exchange.attempts else pool.queue).remove(exchange)
            log(
                "error",
                f"{exchange.request_line} is refused: its body's file can't be handed to a worker: this "
                "user's processes have more on their way than one may have open (ulimit -n, LimitNOFILE).",
            )
            sentence = "The server is short of file descriptors. Please try again soon."
            self._tasks.refuse(
                exchange, Refusal(503, sentence, close=False, retry_after=5, reason="descriptors")
            )


def _columns_with_body(exchange: Exchange, number: int, spool: Spool | BodyStream | WebSocket) -> TaskColumns:
    """What the worker is told of a request with a body."""
    assert exchange.conn is not None
    assert exchange.route is not None
    origin = exchange.conn.origin
    if isinstance(spool, WebSocket):
        return _columns_over_tls(exchange, number, b"", 0, origin, WEBSOCKET)
    if not spool.is_whole:
        return _columns_of_streamed(exchange, number)
    body = spool.memory() if spool.file is None else None
    return _columns_over_tls(exchange, number, body, spool.size, origin)


def _columns_over_tls(
    exchange: Exchange, number: int, body: bytes | None, size: int, origin: Origin, tag: int = 0
) -> TaskColumns:
    """Also of one in clear: then the last one is empty. `tag`: that of Task or of WebSocketTask."""
    assert exchange.route is not None
    return (
        tag,
        number,
        exchange.route.index,
        exchange.raw,
        body,
        size,
        origin.client,
        origin.client_port,
        origin.listener,
        exchange.queued_ns,
        origin.tls,
    )


def _columns_of_streamed(exchange: Exchange, number: int) -> TaskColumns:
    """The same, with a body that has not all come: a StreamedTask."""
    assert exchange.conn is not None
    assert exchange.route is not None
    assert isinstance(exchange.spool, BodyStream)
    origin = exchange.conn.origin
    return (
        6,
        number,
        exchange.route.index,
        exchange.raw,
        None,
        exchange.head.body_size,
        origin.client,
        origin.client_port,
        origin.listener,
        exchange.queued_ns,
        origin.tls,
        exchange.spool.memory(),
    )


def _may_wait(pool: Pool) -> bool:
    """Whether its workers have enough to do, so that none idles while a packet is gathered."""
    return pool.fast and all(worker.owners for worker in pool.workers)
