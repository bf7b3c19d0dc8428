"""How many requests run at once in an overload, where more would only make each other slower. By a clock that
the test moves, and processor time that it counts."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from types import SimpleNamespace
from typing import Any, cast

import pytest

from halfsync.commands import ctl_text
from halfsync.pump.pools.concurrency import PROBE, WINDOW, Concurrency, Reading, Seen, Thermostat, read
from halfsync.pump.pools.workers import Pool
from halfsync.pump.status.html import page
from halfsync.pump.status.metrics import metrics
from halfsync.pump.status.page import StatusPages
from halfsync.scoreboard.counts import TOTAL_NS
from halfsync.system import processor
from halfsync.wire.messages import Task
from tests.pump.harness import APP, Hand, Stage, get
from tests.pump.test_overload import STEP, Load

# --- the thermostat alone ----------------------------------------------------------------------------


def at_a_station(customers: float, thinks: float) -> float:
    """How many, on average, are at a counter where one is served at a time for 1, and are elsewhere for
    `thinks` between two times (mean value analysis)."""
    there = 0.0
    for number in range(1, round(customers) + 1):
        takes = 1 + there
        there = number * takes / (takes + thinks)
    return there


@dataclass
class Machine:
    """Handlers that compute for `part` of their time, in as many as may run at once."""

    threads: int
    workers: int = 1
    processors: int = 2
    part: float = 1.0
    has_lock: bool = True  # the interpreter's, while they compute
    stolen: float = 0.0  # part of each processor that others have
    noise: float = 0.0
    now: float = 1000.0
    thermostat: Thermostat = field(default_factory=Thermostat)
    limits: list[int] = field(default_factory=list)
    work: list[float] = field(default_factory=list)  # of which the others can be done in the time
    dice: random.Random = field(default_factory=lambda: random.Random(1))

    @property
    def limit(self) -> int:
        return self.threads if self.thermostat.limit is None else self.thermostat.limit

    def seen(self) -> Seen:
        limit = self.limit
        thinks = 1 / self.part - 1
        if self.has_lock:
            busy = min(limit, self.workers)
            at_lock = at_a_station(limit / busy, thinks)
            each = min(1.0, at_lock, limit / busy / (1 + thinks))
            wants = busy * each
        else:
            wants = float(limit * self.part)
        used = min(wants, self.processors) * (1 - self.stolen)
        running = limit * (1 - self.dice.random() * 0.3)
        used, wants = (one * running / limit for one in (used, wants))
        factor = 1 + self.noise * (self.dice.random() - 0.5)
        return Seen(used * factor, (wants - used) * factor, running, is_full=True)

    def run(self, seconds: float) -> None:
        self.limits.clear()
        self.work.clear()
        end = self.now + seconds
        while self.now < end:
            self.now += WINDOW
            seen = self.seen()
            self.work.append(seen.used * self.limit / seen.running)
            self.thermostat.adjust(seen, self.threads, self.workers, self.processors, self.now)
            self.limits.append(self.limit)

    def often(self, limits: range) -> float:
        """The part of the time in which the limit was one of these."""
        return sum(limit in limits for limit in self.limits) / len(self.limits)


@pytest.mark.parametrize("stolen", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("threads", [2, 8, 64])
def test_one_at_a_time_of_those_that_share_an_interpreter_lock(threads: int, stolen: float):
    machine = Machine(threads, stolen=stolen)
    machine.run(2)
    assert machine.limit == 1
    machine.run(60)
    assert machine.often(range(1, 2)) > 0.95
    assert set(machine.limits) <= {1, 2}


def test_each_interpreter_runs_one():
    machine = Machine(threads=24, workers=3, processors=4)
    machine.run(2)
    assert machine.limit == 3


@pytest.mark.parametrize("processors", [1, 2, 5])
@pytest.mark.parametrize("stolen", [0.0, 0.5])
def test_no_more_than_there_are_processors(processors: int, stolen: float):
    machine = Machine(threads=64, workers=8, processors=processors, stolen=stolen)
    machine.run(3)
    machine.run(60)
    assert set(machine.limits) == {processors}


@pytest.mark.parametrize("part", [1e-9, 0.01, 0.1])
def test_handlers_that_sleep_have_all_threads(part: float):
    machine = Machine(threads=8, part=part, stolen=0.5)
    machine.run(30)
    assert set(machine.limits) == {8}


def test_workers_that_have_a_processor_each_have_all():
    machine = Machine(threads=4, workers=4, processors=4)
    machine.run(30)
    assert set(machine.limits) == {4}


@pytest.mark.parametrize("processors", [4, 16])
def test_handlers_that_let_go_of_the_lock_have_a_processor_each(processors: int):
    machine = Machine(threads=8, processors=processors, has_lock=False)
    machine.run(3)
    machine.run(30)
    assert set(machine.limits) == {min(8, processors)}


def test_those_that_gain_by_it_have_them_though_others_use_the_processors_too():
    machine = Machine(threads=8, has_lock=False, stolen=0.5)
    machine.run(3)
    machine.run(120)
    assert machine.often(range(2, 9)) > 0.9


@pytest.mark.parametrize("has_lock", [True, False])
def test_when_others_begin_to_use_the_processors_nothing_becomes_of_it(has_lock: bool):
    machine = Machine(threads=8, workers=2, processors=2, has_lock=has_lock)
    machine.run(3)
    machine.stolen = 0.7
    machine.run(20)
    assert machine.often(range(1, 4)) > 0.9


@pytest.mark.parametrize("part", [0.25, 0.5, 0.8])
def test_of_those_that_do_both_as_many_as_it_takes(part: float):
    """The processor is still busy, and so as many are served; what was too few is seldom tried again."""
    machine = Machine(threads=32, part=part, noise=0.05)
    machine.run(3)
    assert machine.limit < 16
    machine.run(120)
    assert sum(machine.work) / len(machine.work) > 0.9
    assert sum(work < 0.8 for work in machine.work) < 0.1 * len(machine.work)


def test_when_handlers_begin_to_sleep_all_threads_are_theirs_at_once():
    machine = Machine(threads=64)
    machine.run(5)
    assert machine.limit == 1
    machine.part = 0.001
    machine.run(8 * WINDOW)
    assert machine.limit == 64
    machine.run(30)
    assert set(machine.limits) == {64}


def test_when_handlers_begin_to_let_go_of_the_lock_that_is_found_out():
    machine = Machine(threads=8, processors=4)
    machine.run(5)
    assert machine.limit == 1
    machine.has_lock = False
    machine.run(PROBE + 1)
    assert machine.limit == 4


def test_what_was_too_few_is_held_off_for_longer_each_time():
    thermostat, now = Thermostat(), 0.0
    tried: list[float] = []
    while now < 100:
        now += WINDOW
        limit = thermostat.limit or 4
        if limit == 1:
            tried.append(now)
        used = 0.5 if limit == 1 else 1.0
        thermostat.adjust(Seen(used, 0.0, limit, is_full=True), 4, 1, 2, now)
    pauses = [second - first for first, second in pairwise(tried)]
    assert len(tried) <= 20  # two or three windows each time
    assert max(pauses) > 30


def test_nothing_is_decided_while_those_from_before_still_run_or_too_few_do():
    thermostat = Thermostat()
    for _ in range(3):
        thermostat.adjust(Seen(1.0, 0.0, 8, is_full=True), 8, 1, 2, 0.0)
    assert thermostat.limit == 6
    thermostat.adjust(Seen(1.0, 0.0, 2, is_full=False), 8, 1, 2, 0.0)
    assert thermostat.limit == 6
    thermostat.adjust(Seen(1.0, 0.0, 6, is_full=True), 8, 1, 2, 0.0)
    assert thermostat.limit == 4


def test_a_worker_that_begins_nothing_does_not_keep_the_others_waiting():
    thermostat = Thermostat(limit=1)
    for _ in range(2):
        thermostat.adjust(Seen(0.0, 0.0, 0.0, is_full=True), 4, 4, 2, 0.0)
    assert thermostat.limit is None


# --- in the pump -------------------------------------------------------------------------------------


@dataclass
class Computing(Load):
    """Handlers that share the processor: of those that run at once, each gets its part."""

    processors: int = 1
    left: dict[int, float] = field(default_factory=dict)  # by task: seconds
    sleepers: bytes = b"/sleep"  # those of this path do not compute
    used: float = 0.0
    most: int = 0

    def work(self) -> None:
        self.hand.work()
        self.stage.settle()
        while self.hand.tasks:
            task = self.hand.take()
            self.hand.begin(task)
            self.running.append((self.now, task))
            self.left[task.number] = self.takes
        self.most = max(self.most, len(self.running))
        computing = [task for _, task in self.running if self.sleepers not in task.head]
        part = min(1.0, self.processors / max(1, len(computing)))
        self.used += STEP * part * len(computing)
        for since, task in list(self.running):
            self.left[task.number] -= STEP * (part if task in computing else 1.0)
            if self.left[task.number] < STEP / 2:
                self.running.remove((since, task))
                self.hand.reply(task, b"x", handler_ns=round((self.now - since) * 1e9))
        self.stage.settle()
        self.read_responses()

    def read(self, pids: Sequence[int]) -> Reading:
        return Reading(self.now, dict.fromkeys(pids, self.used), dict.fromkeys(pids, 0.0))

    def at_once(self, seconds: float, rate: float) -> int:
        """The most that run while it goes on."""
        self.most = 0
        self.run(seconds, rate)
        return self.most

    def limit(self) -> int | None:
        return self.stage.pump.pools.pools[APP].concurrency_limit


@contextlib.contextmanager
def computing(takes: float = 0.1, threads: int = 4, **settings: Any) -> Iterator[Computing]:
    with Stage(**settings) as stage:
        load = Computing(stage, stage.hand(threads=threads), takes)
        stage.pump.pools.overload.concurrency.read = load.read
        stage.pump.pools.overload.concurrency.processors = 2
        yield load


def shown(stage: Stage) -> tuple[int | None, str, str, str]:
    """What is said of the limit: in JSON, to Prometheus, on the page, by halfsyncctl."""
    found = StatusPages(stage.pump).found()
    pool = found["pools"][APP]
    start = 'halfsync_pool_concurrency_limit{pool="app:app"}'
    [sample] = [line for line in metrics(found).splitlines() if line.startswith(start)]
    alarm = page(found, (), 0.0, 0).partition("<td class=alarm>overloaded")[2].partition("<")[0]
    planned = {"pool": "app:app", "working": 1, "size": 1, "starting": 0, "retiring": 0}
    waiting = str(ctl_text._pool(planned, pool)[4]).partition(", ")[2]
    return pool["concurrency_limit"], sample.split()[-1], alarm, waiting


def test_while_it_is_overloaded_one_runs_at_a_time_and_then_all_again(capfd):
    with computing() as load:
        assert load.at_once(3, rate=8) >= 1
        assert load.at_once(2, rate=20) == 4
        load.run(3, rate=20)
        begun = load.now
        assert load.at_once(6, rate=20) == 1
        assert load.limit() == 1
        assert shown(load.stage) == (1, "1", ", 1 at once", "overloaded, 1 at once")
        statuses, served, _ = load.since(begun)
        assert statuses[200] >= 45  # of 60 that it can
        assert max(served) <= 0.1 * 1.5 + 4 * STEP
        load.run(4, rate=3)
        assert not load.is_overload()
        assert load.limit() is None
        assert shown(load.stage) == (None, "4", "", "")
        for _ in range(4):
            load.ask()
        assert load.at_once(1, rate=0) == 4
    said = capfd.readouterr().err
    assert said.count("WARNING app:app: its handlers compute, and have all the processors") == 1
    assert "about 1 of 4 run at once (queue_target).\n" in said


def test_without_an_overload_nobody_looks():
    with computing() as load:
        load.stage.pump.pools.overload.concurrency.read = lambda pids: pytest.fail("it was")
        load.run(5, rate=9)
        load.run(3, rate=0, clients=20)
        assert set(load.since(0)[0]) == {200}


def test_with_no_target_there_is_no_limit_either():
    with computing(queue_target=0) as load:
        assert load.at_once(4, rate=15) == 4
        assert load.limit() is None
        assert load.at_once(0.5, rate=15) == 4


def test_those_that_sleep_for_long_do_not_keep_the_others_out():
    with computing(threads=8) as load:
        load.run(6, rate=20)
        assert load.limit() == 1
        slow = [load.stage.client() for _ in range(3)]
        before = load.takes
        for client in slow:
            load.run(0.3, rate=0)
            load.takes = 60.0
            client.send(get("/sleep"))
            load.run(2 * STEP, rate=0)
            load.takes = before
            load.run(1.5, rate=20)
        sleeping = sum(load.sleepers in task.head for _, task in load.running)
        assert sleeping == 3
        begun = load.now
        load.run(4, rate=20)
        assert load.since(begun)[0][200] >= 28  # of 40


def test_what_the_handlers_take_now_is_the_target():
    """And not what they took when all of them ran."""
    with computing(threads=8) as load:
        load.run(8, rate=20)
        begun = load.now
        load.run(5, rate=20)
        _, _, refused = load.since(begun)
        assert median(refused) <= 0.1 * 0.5 + 4 * STEP


def test_a_reload_ends_it():
    with computing() as load:
        load.run(6, rate=20)
        assert load.limit() == 1
        [worker] = load.stage.pump.pools.pools[APP].workers
        load.stage.pump.pools.configure(load.stage.plan)
        assert load.limit() is None
        assert worker.at_once == 4


def workers_of(load: Computing) -> list[int]:
    """How many each may run."""
    return [worker.at_once for worker in sorted(load.stage.pump.pools.pools[APP].workers, key=lambda w: w.id)]


def test_several_workers_share_it():
    with Stage() as stage:
        load = Computing(stage, stage.hand(threads=2), 0.1, processors=2)
        hands = [load.hand, *(stage.hand(threads=2) for _ in range(3))]
        used = dict.fromkeys((hand.worker.pid for hand in hands if hand.worker), 0.0)
        concurrency = stage.pump.pools.overload.concurrency
        concurrency.processors = 2
        concurrency.read = lambda pids: Reading(load.now, {pid: used[pid] for pid in pids}, dict(used))
        serve_by(load, hands, used)
        load.run(3, rate=10)
        load.run(8, rate=45)
        assert load.limit() == 2
        assert workers_of(load) == [1, 1, 0, 0]
        hands[0].die()
        load.left.clear()
        load.run(0.5, rate=45)
        assert workers_of(load) == [1, 1, 0]
        pool = stage.pump.pools.pools[APP]
        pool.workers[-1].stalled = True  # it gets none, so it must not have the others' part either
        stage.pump.pools.overload.concurrency.look(pool, load.now, 0.1)
        assert sum(workers_of(load)) == 2 + 2  # and its threads, of which it gets no use


def serve_by(load: Computing, hands: list[Hand], used: dict[int, float]) -> None:
    """Two processors for all of them."""
    running: list[tuple[float, Hand, Task]] = []

    def work() -> None:
        for hand in hands:
            if not hand.open:
                continue
            hand.work()
            while hand.tasks:
                task = hand.take()
                hand.begin(task)
                running.append((load.now, hand, task))
                load.left[id(task)] = load.takes
        part = min(1.0, 2 / max(1, len(running)))
        for since, hand, task in list(running):
            if not hand.open:
                running.remove((since, hand, task))
                continue
            worker = hand.worker
            assert worker is not None
            used[worker.pid] += STEP * part
            load.left[id(task)] -= STEP * part
            if load.left[id(task)] < STEP / 2:
                running.remove((since, hand, task))
                hand.reply(task, b"x", handler_ns=round((load.now - since) * 1e9))
        load.stage.settle()
        load.read_responses()

    load.work = work  # type: ignore[method-assign]


# --- pools that share the processors, and event loops -------------------------------------------------


STEP_OF_POOLS = 0.2
"""Seconds; longer than a window."""


@dataclass(eq=False)
class FakeWorker:
    """As far as Concurrency looks."""

    pid: int
    threads: int
    at_once: int
    outstanding: int = 0
    waits: int = 0  # tasks that it has, and has not begun
    owners: dict[int, object] = field(default_factory=dict)
    retiring: bool = False
    stalled: bool = False
    full: bool = False

    @property
    def id(self) -> int:
        return self.pid

    def unbegun(self) -> range:
        return range(self.waits)


class FakePool:
    """All that may run compute, one in each worker at a time; or they sleep."""

    def __init__(
        self, pids: range, threads: int = 1, *, has_loops: bool = False, computes: bool = True
    ) -> None:
        self.name = "shop:app"
        self.has_loops = has_loops
        self.computes = computes
        self.concurrency_limit: int | None = None
        self.counts = SimpleNamespace(words=defaultdict[int, int](int))
        self.workers = [FakeWorker(pid, threads, threads) for pid in pids]

    @property
    def at_once(self) -> int:
        return sum(worker.at_once for worker in self.workers)

    @property
    def wanted(self) -> int:
        """Processors."""
        return sum(min(worker.at_once, 1) for worker in self.workers) if self.computes else 0

    def run(self, had: dict[int, list[float]], part: float) -> None:
        """For STEP_OF_POOLS, each that wants a processor with so much of one."""
        for worker in self.workers:
            computing = min(worker.at_once, 1) if self.computes else 0
            had[worker.pid][0] += part * computing * STEP_OF_POOLS
            had[worker.pid][1] += (1 - part) * computing * STEP_OF_POOLS
            worker.outstanding = worker.at_once
            worker.waits = worker.at_once - computing if self.has_loops else 0
            self.counts.words[TOTAL_NS] += round((worker.at_once - worker.waits) * STEP_OF_POOLS * 1e9)


class SharedMachine:
    """Where pools run that have the same processors."""

    def __init__(self, pools: list[FakePool], processors: int, measuring: Concurrency) -> None:
        self.measuring = measuring
        measuring.processors = processors
        measuring.read = self.read
        self.had = {worker.pid: [0.0, 0.0] for pool in pools for worker in pool.workers}
        self.now = 1000.0

    def read(self, pids: Sequence[int]) -> Reading:
        used, waited = ({pid: self.had[pid][which] for pid in pids} for which in (0, 1))
        return Reading(self.now, used, waited)

    def run(self, pools: list[FakePool], times: int) -> None:
        """With these overloaded."""
        for _ in range(times):
            for pool in pools:
                self.measuring.look(cast(Pool, pool), self.now, 0.02)
            part = min(1.0, self.measuring.processors / max(1, sum(pool.wanted for pool in pools)))
            for pool in pools:
                pool.run(self.had, part)
            self.now += STEP_OF_POOLS


@pytest.mark.parametrize("alone", [0, 20])
def test_pools_that_are_overloaded_at_the_same_time_share_the_processors(alone: int):
    """Equally, also if the overload of one has begun before that of the other."""
    pools, measuring = [FakePool(range(1, 5)), FakePool(range(11, 15))], Concurrency()
    machine = SharedMachine(pools, 4, measuring)
    machine.run(pools[:1], alone)
    machine.run(pools, 40)
    assert [pool.at_once for pool in pools] == [2, 2]


def test_a_pool_has_what_the_others_leave():
    pools, measuring = [FakePool(range(1, 5)), FakePool(range(11, 15), computes=False)], Concurrency()
    SharedMachine(pools, 4, measuring).run(pools, 40)
    assert [pool.at_once for pool in pools] == [4, 4]


def test_requests_that_wait_in_an_event_loop_count_as_running():
    """It has begun one of eight, and computes; so no more than one is handed to it."""
    pool, measuring = FakePool(range(1, 2), threads=8, has_loops=True), Concurrency()
    SharedMachine([pool], 2, measuring).run([pool], 40)
    assert pool.at_once == 1


# --- what the kernel says ----------------------------------------------------------------------------


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_processor_time_of_another_process_all_its_threads_included():
    code = (
        "import threading, time\n"
        "def run():\n"
        "    while time.process_time() < 0.2: sum(range(1000))\n"
        "threads = [threading.Thread(target=run) for _ in range(2)]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]\n"
        "print(time.process_time(), flush=True); input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = float(process.stdout.readline())
        used = processor.used(process.pid)
        assert used is not None
        assert said <= used < said + 0.2
        process.communicate("\n")
    assert processor.used(process.pid) is None
    assert processor.waited(process.pid) == 0.0


def test_a_thread_that_shares_its_processor_has_waited_for_it():
    """Two of them on one processor."""
    stop = threading.Event()

    def spin() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        subprocess.run(
            [sys.executable, "-c", "import time\nwhile time.process_time() < 0.1: pass"], check=True
        )
        stop.set()

    before = processor.waited(os.getpid())
    thread = threading.Thread(target=spin)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        thread.start()
        until(lambda: [sum(range(1000)) for _ in range(100)] and stop.is_set())
    finally:
        thread.join()
        os.sched_setaffinity(0, allowed)
    assert processor.waited(os.getpid()) > before


def test_a_reading_leaves_out_what_is_gone():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    reading = read([os.getpid(), process.pid])
    assert list(reading.used) == [os.getpid()]
    assert reading.waited[process.pid] == 0.0
