"""The pump's side of worker processes: their channels and scoreboards, the pools they are in, and which of
them has which task."""

from __future__ import annotations

import errno
import mmap
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from halfsync.logs.error import log
from halfsync.pump.clock import Clock
from halfsync.pump.connection import NEVER, Exchange
from halfsync.pump.descriptors import Descriptor
from halfsync.pump.poller import Poller
from halfsync.pump.pools.costs import Costs
from halfsync.pump.pools.queues import FairQueue, NewestFirst, Queue
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.states import QUEUED, WORKING, ExchangeEvent
from halfsync.pump.task_messages import TaskMessages
from halfsync.scoreboard.counts import TOTAL_NS, WORD, PoolCounts
from halfsync.wire.blocks import AREA, BlockWriter, has_blocks, scoreboard_of
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import MAX_PACKET, ClientDisconnected, Nudge, Recall, Stacks, encode
from halfsync.wire.orders import Join
from halfsync.wire.refusals import Refusal
from halfsync.wire.task_slots import MOST_SLOTS, slots_of
from halfsync.wire.thread_rows import WORDS, ThreadRow, rows_of

LOOK_AHEAD = 64
"""Tasks that a worker may hold beyond one for each thread, if its handlers are fast."""
FAST_NS = 1_000_000
"""A mean time in the handler under this earns look-ahead: the cost that batching saves is some
50 µs a request, so a handler of milliseconds gains nothing by it."""
MEAN_OF = 8
KEPT = 1 - 1 / MEAN_OF
"""Of a running mean over that many, what is left of it after each further one."""
NUDGE_AFTER = 0.004
"""Seconds. A fast batch of LOOK_AHEAD tasks takes less than this; a slow one shows by then."""

SHORTAGE = 0.01
"""Seconds until the next try, when the kernel was short of something."""
SAY_SHORT_EVERY = 60.0
"""Seconds between two lines about it."""


class NotAnExchange:
    """What owns a task that is no request's. A request is owned by its Exchange."""

    state = None  # so that nobody need ask first whether it is one


LOG_BATCH = NotAnExchange()
"""What owns a LogTask."""
DROPPED = NotAnExchange()
"""What owns a task whose response is not wanted any more: its request went elsewhere, or got its
response from the pump."""


class Sent(Enum):
    """What became of a packet for a worker."""

    YES = "yes"
    FULL = "full"  # its socket tells (EPOLLOUT) when it takes packets again
    SHORT = "short"  # of memory: nothing tells when it is over
    TOO_MANY = "too many"  # descriptors are on their way to processes that have not read them; the same
    TOO_LARGE = "too large"  # and always will be
    GONE = "gone"  # nobody will read it; the socket's next event tells so


_ERRORS = {
    errno.EMSGSIZE: Sent.TOO_LARGE,
    errno.ENOMEM: Sent.SHORT,
    errno.ENOBUFS: Sent.SHORT,
    errno.ETOOMANYREFS: Sent.TOO_MANY,
}
"""The last one: all processes of this user have more descriptors on their way than we may have open. The
socket itself has room then, so that to wait for EPOLLOUT would be to spin."""

if TYPE_CHECKING:
    from halfsync.pump.blocks import LentBlocks


class Worker:
    """The pump's side of one worker process."""

    def __init__(self, join: Join, pool: Pool, fds: list[Descriptor], served: memoryview) -> None:
        """`fds`: the pump's ends of `tasks` and `watch`, and the scoreboard; `served`: Scoreboard.served.
        Raises OSError."""
        tasks, watch, scoreboard = fds
        self.id = join.worker
        self.pid = join.pid
        self.row = join.row  # of the server's scoreboard
        self.threads = join.threads  # of a worker with an event loop: the tasks that it takes at a time
        self.at_once = join.threads  # so many may run; fewer in some overloads: see concurrency.py
        self.is_loop = join.is_loop
        self.look_ahead = 0 if join.is_loop else LOOK_AHEAD
        self.pool = pool
        shared = mmap.mmap(scoreboard.fd, 0)
        self.scoreboard = scoreboard_of(memoryview(shared))
        self.blocks = _lent_blocks(shared) if has_blocks(memoryview(shared)) else None
        self.uploads = BlockWriter(memoryview(shared)[AREA : 2 * AREA]) if self.blocks is not None else None
        self.slots = slots_of(self.scoreboard)
        self.tasks = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=os.dup(tasks.fd))
        self.watch = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=os.dup(watch.fd))
        self.tasks.setblocking(False)
        self.watch.setblocking(False)
        self.owners: dict[int, object] = {}  # of the tasks that are outstanding, by number
        # For each free slot the number of its next task.
        self.free = [MOST_SLOTS + slot for slot in range(self.slots - 1, -1, -1)]
        # Why it gets no more tasks:
        self.retiring = False  # for good; closed when the last has ended
        self.full = False  # it took no more: until it does, or until `short_until`
        self.stalled = False  # it begins nothing: until something comes from it
        self.reserved = False  # one request is to have it for itself, or has it until `alone_until`
        self.short_until = 0.0
        self.alone_until = 0.0
        self.recalled = False  # tasks had to be taken back: no look-ahead until it has caught up
        self.nudge_after = NUDGE_AFTER  # seconds of silence until it is nudged
        self.heard_at = 0.0  # when it last ended a task, or was given one with nothing else to do
        self.look_at = 0.0  # monotonic: the next look at its scoreboard
        self.unbegun_before: set[int] = set()  # tasks that were not begun at the last look
        self.withdrawing: list[int] = []  # tasks that were asked back at the last look
        self.status: int | None = None  # how its process ended, as the parent tells it; -1: nobody knows
        self.at_fault = False  # what it sent was no message
        # What it has served, written from the sweep; and its task rows: see task_rows.py.
        self.request_count, self.response_bytes = served
        self.served = served
        self.rows = range(join.first_task, join.first_task + join.task_rows)
        self.described: dict[int, int] = {}  # rows of tasks, by number

    @property
    def outstanding(self) -> int:
        return len(self.owners)

    @property
    def room(self) -> int:
        if self.retiring or self.full or self.stalled or self.reserved:
            return 0
        ahead = self.look_ahead if self.pool.fast and not self.recalled else 0
        return min(self.at_once + ahead - self.outstanding, len(self.free))

    def take_number(self, owner: object) -> int:
        """A new task's: `number % MOST_SLOTS` is its slot, and no task of this worker and this pump ever had
        it."""
        number = self.free.pop()
        self.owners[number] = owner
        self.scoreboard[number % MOST_SLOTS] = 0
        return number

    def give_number(self, number: int) -> None:
        """The task has ended: its slot is free."""
        del self.owners[number]
        self.free.append(number + MOST_SLOTS)

    def begun(self, number: int) -> int:
        """When its handler began (monotonic nanoseconds); 0: it has not."""
        return self.scoreboard[number % MOST_SLOTS]

    def withdraw(self, number: int) -> None:
        """Ask for a task back, whenever the worker gets at it."""
        self.scoreboard[self.slots + number % MOST_SLOTS] = number

    def unbegun(self) -> list[int]:
        """Requests that wait here, in the order in which they were handed over."""
        scoreboard = self.scoreboard
        if self.is_loop:
            return self._unbegun_by_loop()
        return [
            number
            for number, owner in self.owners.items()
            if scoreboard[number % MOST_SLOTS] == 0 and isinstance(owner, Exchange)
        ]

    def _unbegun_by_loop(self) -> list[int]:
        """The same. An event loop begins what it has in order, and may have thousands: so the newest are
        looked at, back to one that is begun."""
        found: list[int] = []
        for number in reversed(self.owners):
            if self.scoreboard[number % MOST_SLOTS]:
                break
            if isinstance(self.owners[number], Exchange):
                found.append(number)
        return found[::-1]

    @property
    def turned_ns(self) -> int:
        """When its event loop last turned, as far as it says (monotonic nanoseconds)."""
        return self.scoreboard[2 * self.slots]

    @property
    def thread_rows(self) -> list[ThreadRow]:
        """What each of its threads says."""
        return rows_of(self.scoreboard[-WORDS:], self.threads)

    def send(self, messages: Sequence[object], fds: list[int]) -> Sent:
        """One packet of what Task, LogTask and Nudge are, or the same as tuples of their columns."""
        packet = encode(messages)
        if len(packet) > MAX_PACKET:
            return Sent.TOO_LARGE
        try:
            if fds:
                socket.send_fds(self.tasks, [packet], fds)
            else:
                self.tasks.send(packet)
        except (BlockingIOError, InterruptedError):
            return Sent.FULL
        except OSError as error:
            return _ERRORS.get(error.errno or 0, Sent.GONE)
        return Sent.YES

    def tell(self, message: Nudge | Recall | Stacks | ClientDisconnected) -> None:
        """Say something to its watch thread."""
        try:
            self.watch.send(encode([message]))
        except BlockingIOError:
            pass  # it has many of these to read already
        except OSError as error:
            log("debug", f"worker {self.pid} can't be reached: {error.strerror}")

    def close(self) -> None:
        self.tasks.close()
        self.watch.close()


class Pool:
    """Requests that wait for the workers of one pool."""

    def __init__(self, name: str, routes: int, counts: PoolCounts) -> None:
        """`routes`: how many lead to it."""
        self.name = name
        self.costs = Costs()
        self.is_overloaded = False  # see overload.py
        self.concurrency_limit: int | None = None  # while it is: see concurrency.py
        self.is_shared_by(routes)
        self._disconnected = 0  # of those in the queue, how many have no client any more
        self.retries: deque[Exchange] = deque()  # these may be what killed a worker
        self.workers: list[Worker] = []  # the one that was idle most recently is the last
        self.mean_ns = 10.0 * FAST_NS  # of the time in the handler; at first it has to be earned
        self.counts = counts
        self.handler_timeout = 0.0  # the longest of its routes
        self.has_loops = False  # its workers have an event loop, and so take all that comes, in batches

    def is_shared_by(self, routes: int) -> None:
        """Its queue is a new one, for so many routes."""
        self._is_shared = routes > 1
        self.queue: Queue | FairQueue = self._new_queue(fair=routes > 1 or bool(self.costs))

    def _new_queue(self, *, fair: bool) -> Queue | FairQueue:
        if fair:
            return FairQueue(self.costs, newest_first=self.is_overloaded)
        return NewestFirst() if self.is_overloaded else Queue()

    def set_overloaded(self, *, is_overloaded: bool) -> None:
        """While it is, the newest requests are handed over first."""
        if self.is_overloaded == is_overloaded:
            return
        self.is_overloaded = is_overloaded
        waiting = sorted(self.queue, key=lambda one: one.queued_ns)
        self.queue = self._new_queue(fair=isinstance(self.queue, FairQueue))
        self.queue.extend(waiting)

    def took(self, exchange: Exchange, handler_ns: int, now: float) -> None:
        """A handler took so long for one of its requests, which is long, or takes it."""
        self.costs.note(exchange, handler_ns, now)
        if self.costs and not isinstance(self.queue, FairQueue):
            plain, self.queue = self.queue, self._new_queue(fair=True)
            self.queue.extend(plain)

    def sweep(self, now: float) -> None:
        """When nothing is known to take long, first come, first served costs less."""
        if not self.costs:
            return
        self.costs.sweep(now)
        if not (self.costs or self._is_shared or self.queue):
            self.queue = self._new_queue(fair=False)

    def took_times(self, times: list[int]) -> None:
        """Handlers took so long for requests that have their responses, one or some (nanoseconds each)."""
        total = sum(times)
        mean = total / len(times)
        self.mean_ns = mean + (self.mean_ns - mean) * KEPT ** len(times)
        words = self.counts.words
        words[TOTAL_NS] = (words[TOTAL_NS] + total) & WORD
        bits = max(times).bit_length()
        if min(times) >= 1 << bits >> 1:  # of one class, as those of a packet often are
            words[bits] += len(times)
            return
        classes = [*map(int.bit_length, times)]
        for bits in set(classes):
            words[bits] += classes.count(bits)

    @property
    def waiting(self) -> int:
        """How many requests of living clients wait in the queue."""
        return len(self.queue) - self._disconnected + len(self.retries)

    def oldest(self) -> Exchange | None:
        """The request that waits longest; None if there is none."""
        queue = self.queue
        while (oldest := queue.oldest()) is not None and oldest.state is not QUEUED:
            queue.drop_oldest()
            self._disconnected -= 1
        return oldest

    def took_disconnected(self) -> None:
        """A request that was taken off the queue has no client any more."""
        self._disconnected -= 1

    def heads(self) -> list[Exchange]:
        """Those that wait longest: one, or one of each line of a queue with several."""
        return self.queue.heads()

    def take(self, is_late: Callable[[Exchange], bool]) -> list[Exchange]:
        """Take those that are late off the queue: all, if that goes by their age."""
        queue = self.queue
        if isinstance(queue, FairQueue):
            found = [one for one in queue if one.state is QUEUED and is_late(one)]
            for exchange in found:
                queue.remove(exchange)
            return found
        found = []  # it has one route alone, so all have the same limits
        while (oldest := self.oldest()) is not None and is_late(oldest):
            queue.drop_oldest()
            found.append(oldest)
        return found

    def take_surplus(self, most: int) -> list[Exchange]:
        """While it is overloaded: take the oldest off the queue, so that no more than `most` stay."""
        found = []
        for exchange in self.queue.take_surplus(most):
            if exchange.state is QUEUED:
                found.append(exchange)
            else:
                self._disconnected -= 1
        return found

    def take_all(self) -> list[Exchange]:
        """All that wait and whose clients are there."""
        found = [one for one in (*self.queue, *self.retries) if one.state is QUEUED]
        self.queue.clear()
        self.retries.clear()
        self._disconnected = 0
        return found

    def client_disconnected(self, exchange: Exchange) -> None:
        """A request in a queue has no client any more: what it holds is let go of at once."""
        exchange.spool = None
        if exchange in self.retries:
            self.retries.remove(exchange)
            return
        self._disconnected += 1
        if self._disconnected > 64 and self._disconnected > len(self.queue) // 2:
            living = [one for one in self.queue if one.state is QUEUED and one is not exchange]
            self.queue.clear()
            self.queue.extend(living)
            self._disconnected = 0

    @property
    def fast(self) -> bool:
        return self.mean_ns < FAST_NS or self.has_loops

    def put_back(self, exchange: Exchange) -> None:
        """To the place that it had."""
        self.queue.put_back(exchange)


class Tasks:
    """`workers` is by id; `due` are the pools with something to hand over at the end of the turn."""

    def __init__(self, clock: Clock, poller: Poller, run_queue: RunQueue) -> None:
        self._clock = clock
        self._poller = poller
        self._run_queue = run_queue
        self.workers: dict[int, Worker] = {}
        self.due: set[Pool] = set()
        self.messages = TaskMessages(poller)
        self.reroute: Callable[[Exchange], None]  # set by whoever knows the routes: see reconfigure.py
        self.look_at = NEVER  # monotonic: the next look at scoreboards (see stalls.py)
        self._say_short_at = 0.0

    def look_within(self, seconds: float) -> None:
        due = self._clock.now + seconds
        if due < self.look_at:
            self.look_at = due

    # --- workers -----------------------------------------------------------------------------------

    def forget(self, worker: Worker) -> None:
        self.workers.pop(worker.id, None)
        worker.pool.workers.remove(worker)
        self._poller.forget(worker.tasks.fileno())
        self.messages.forget(worker.watch)
        worker.close()

    def close_if_done(self, worker: Worker) -> None:
        """One that is to be replaced leaves when its last task has ended."""
        if worker.retiring and worker.outstanding == 0:
            self.forget(worker)

    def not_sent(self, worker: Worker, sent: Sent) -> None:
        """See that it gets nothing until it takes packets again."""
        if sent is Sent.FULL:
            worker.full = True
            self._poller.want(worker.tasks.fileno(), select.EPOLLIN | select.EPOLLOUT)
        elif sent is Sent.SHORT or sent is Sent.TOO_MANY:
            worker.full = True
            worker.short_until = self._clock.now + SHORTAGE
            self.look_within(SHORTAGE)
            self._say_short(worker, sent)
        elif sent is Sent.GONE:
            worker.full = True  # its next event tells the rest

    def _say_short(self, worker: Worker, sent: Sent) -> None:
        """Not at each of a hundred tries a second."""
        now = self._clock.now
        if now < self._say_short_at:
            return
        self._say_short_at = now + SAY_SHORT_EVERY
        of = (
            "memory"
            if sent is Sent.SHORT
            else "descriptors: this user's processes have too many on their way"
        )
        log(
            "warning",
            f"requests can't be handed to worker {worker.pid} of {worker.pool.name} now: the system is "
            f"short of {of}. It is tried again every {SHORTAGE * 1000:.0f} ms.",
        )

    def writable(self, worker: Worker) -> None:
        """Its socket takes packets again."""
        if worker.full:
            worker.full = False
            self._poller.want(worker.tasks.fileno(), select.EPOLLIN)
            self.due.add(worker.pool)

    def send_nudge(self, worker: Worker) -> None:
        """On `tasks`: wake a sibling thread."""
        self.not_sent(worker, worker.send([Nudge()], []))

    # --- their requests ----------------------------------------------------------------------------

    def refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        """Respond for a worker; from outside of a step."""
        conn = exchange.conn
        if conn is not None:
            conn.protocol.refuse(exchange, refusal)
            self._run_queue.ready(conn)

    def drop(self, worker: Worker, number: int) -> None:
        """Nothing more of this task's response is wanted: the client has disconnected, or has been
        answered."""
        worker.owners[number] = DROPPED
        self.messages.say(worker.watch, ClientDisconnected(number))

    def tell_client_disconnected(self, worker: Worker, exchange: Exchange) -> None:
        """Nobody wants the exchange's response: its handler need not begin, or may stop."""
        number = exchange.task
        if worker.owners.get(number) is exchange:
            worker.withdraw(number)
            # A handler that begins at this moment, and would wait for its streamed body, must learn of it
            # too.
            if worker.begun(number) or exchange.stream is not None:
                self.messages.say(worker.watch, ClientDisconnected(number))

    def take_back(self, worker: Worker, exchange: Exchange) -> None:
        """A task that no handler has seen: its request goes back to its place in the queue."""
        exchange.holder = None
        conn = exchange.conn
        if conn is None:
            return
        if exchange.state is not WORKING:  # the worker says so of a response that it had begun
            conn.protocol.abort(exchange, CloseReason.WORKER_DIED)
            return
        exchange.move(ExchangeEvent.TAKEN_BACK)
        if self.rerouted(exchange):
            return
        if exchange.attempts:
            worker.pool.retries.appendleft(exchange)
        else:
            worker.pool.put_back(exchange)

    def rerouted(self, exchange: Exchange) -> bool:
        """Whether a reload has replaced the route of this request that waits again (QUEUED), which is then
        queued where the new ones say."""
        if exchange.route is None or exchange.route.is_current:
            return False
        self.reroute(exchange)
        return True


def overloaded(setting: str) -> Refusal:
    """`setting`: why."""
    sentence = "All workers are busy. Please try again soon."
    return Refusal(503, sentence, close=False, retry_after=5, reason=setting)


def _lent_blocks(shared: mmap.mmap) -> LentBlocks:
    """(Imported where it is needed: workers with threads have none, and ctypes takes 3 ms.)"""
    from halfsync.pump.blocks import LentBlocks

    return LentBlocks(shared)
