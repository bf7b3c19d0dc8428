"""More requests than the threads can handle: those that are handled wait for a short time, the others get a
503 at once. By a clock that the test moves."""

from __future__ import annotations

import contextlib
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import pytest

from halfsync.commands import ctl_text
from halfsync.plan.plan import Kind, Limits, RoutePlan
from halfsync.pump.pools.queues import NewestFirst
from halfsync.pump.pools.workers import LOOK_AHEAD
from halfsync.pump.status.html import page
from halfsync.pump.status.metrics import metrics
from halfsync.pump.status.page import StatusPages
from halfsync.settings.table import Settings
from halfsync.system.processor import run_delay
from halfsync.wire.messages import Task
from tests.pump.harness import APP, BUILT_IN, Client, Hand, Stage, get, parse_answer

STEP = 0.005
"""Seconds between two looks of the test at the server."""


@dataclass
class Load:
    """Requests that come at a steady rate, each on a connection that has nothing else to do, and a worker
    whose handlers all take the same time."""

    stage: Stage
    hand: Hand
    takes: float
    path: str = "/"
    idle: list[Client] = field(default_factory=list)
    waiting: dict[Client, float] = field(default_factory=dict)  # since when
    running: list[tuple[float, Task]] = field(default_factory=list)  # until when
    done: list[tuple[float, int, float]] = field(default_factory=list)  # when, status, seconds
    owed: float = 0.0
    handler_ns: int = 0  # what the worker says instead of `takes`

    @property
    def now(self) -> float:
        return self.stage.time.monotonic()

    def is_overload(self) -> bool:
        return self.stage.pump.pools.pools[APP].is_overloaded

    def ask(self) -> None:
        client = self.idle.pop() if self.idle else self.stage.client()
        client.send(get(self.path))
        self.waiting[client] = self.now

    def run(self, seconds: float, rate: float, clients: int = 0) -> None:
        """`rate`: requests a second; or `clients`, each of which sends its next request when it has its
        response."""
        end = self.now + seconds
        while self.now < end:
            self.stage.time.advance(STEP)
            self.work()
            self.owed += rate * STEP
            while self.owed >= 1 or len(self.waiting) < clients:
                self.owed = max(0.0, self.owed - 1)
                self.ask()
            self.stage.settle()

    def run_at_random(self, seconds: float, rate: float, dice: random.Random) -> None:
        """The same with requests of clients who do not know of each other."""
        end = self.now + seconds
        while self.now < end:
            self.stage.time.advance(STEP)
            self.work()
            for _ in range(10):
                if dice.random() < rate * STEP / 10:
                    self.ask()
            self.stage.settle()

    def work(self) -> None:
        """What the worker and the clients do by themselves."""
        self.hand.work()
        self.stage.settle()
        while self.hand.tasks:
            self.running.append((self.now + self.takes, self.hand.take()))
        for until, task in list(self.running):
            if self.now >= until:
                self.running.remove((until, task))
                self.hand.reply(task, b"x", handler_ns=self.handler_ns or round(self.takes * 1e9))
        self.stage.settle()
        self.read_responses()

    def read_responses(self) -> None:
        for client, since in list(self.waiting.items()):
            if client.conn is not None and not client.conn.is_idle:
                continue  # it has no response yet, and to look takes long where thousands wait
            client.receive()
            answer = parse_answer(client.inbox)
            if answer is not None:
                client.inbox = b""
                del self.waiting[client]
                self.idle.append(client)
                self.done.append((self.now, answer.status, self.now - since))

    def since(self, at: float) -> tuple[Counter[int], list[float], list[float]]:
        """What ended after that: statuses, seconds of the served, of the refused."""
        found = [one for one in self.done if one[0] > at]
        served = [seconds for _, status, seconds in found if status == 200]
        refused = [seconds for _, status, seconds in found if status == 503]
        return Counter(status for _, status, _ in found), served, refused


@contextlib.contextmanager
def loaded(takes: float = 0.1, threads: int = 2, **settings: Any) -> Iterator[Load]:
    with Stage(**settings) as stage:
        yield Load(stage, stage.hand(threads=threads), takes)


def test_at_twice_the_load_the_served_are_served_soon_and_the_others_refused_sooner(capfd):
    with loaded() as load:
        load.run(3, rate=16)
        assert set(load.since(0)[0]) == {200}
        load.run(2, rate=40)  # until it is sure that this is no burst
        begun = load.now
        load.run(6, rate=40)
        statuses, served, refused = load.since(begun)
        assert 105 <= statuses[200] <= 125  # as many as ever: hardly a thread is idle
        assert 110 <= statuses[503] <= 135
        assert max(served) <= 0.1 * 1.5 + 4 * STEP
        assert max(refused) <= 0.1 * 0.5 + 4 * STEP
    said = capfd.readouterr().err
    assert "app:app is overloaded: for 1." in said
    assert "longer than 0.05 s, and more come than end." in said
    assert said.count("is overloaded") == 1
    assert "requests got a 503 (queue_target)" in said  # with what can be done about it, once a minute


def shown(stage: Stage) -> tuple[bool, str, str, str]:
    """What is said of the application's pool: in JSON, to Prometheus, on the page, by halfsyncctl."""
    pages = StatusPages(stage.pump)
    found = pages.found()
    pool = found["pools"][APP]
    name = pool["pool"]
    start = f'halfsync_pool_overloaded{{pool="{name}"}}'
    [sample] = [line for line in metrics(found).splitlines() if line.startswith(start)]
    [row] = re.findall(rf"<tr><td>{name}</td><td class=n>.*?</tr>", page(found, (), 0.0, 0))
    [alarm] = re.findall("<td class=alarm>(.*?)</td>", row)
    planned = {"pool": name, "working": 1, "size": 1, "starting": 0, "retiring": 0}
    waiting = ctl_text._pool(planned, pool)[4]
    return pool["overloaded"], f"{name} {sample.split()[-1]}", alarm, re.sub(r"^\d+", "0", str(waiting))


def test_when_it_is_over_nothing_is_refused(capfd):
    with loaded() as load:
        load.run(4, rate=40)
        assert shown(load.stage) == (True, "app:app 1", "overloaded", "0, overloaded")
        load.run(3, rate=15)
        begun = load.now
        load.run(3, rate=15)
        assert set(load.since(begun)[0]) == {200}
        pool = load.stage.pump.pools.pools[APP]
        assert not pool.is_overloaded
        assert shown(load.stage) == (False, "app:app 0", "", "0")
        for _ in range(20):  # and a burst may come again
            load.ask()
        load.run(2, rate=0)
        assert set(load.since(begun)[0]) == {200}
    assert "app:app is no longer overloaded: " in capfd.readouterr().err


def test_a_little_too_much_is_too_much():
    with loaded() as load:
        load.run(12, rate=24)
        begun = load.now
        load.run(5, rate=24)
        statuses, served, _ = load.since(begun)
        assert statuses[503] >= 10
        assert max(served) <= 0.1 * 1.5 + 4 * STEP


@pytest.mark.parametrize("takes", [0.05, 1.0])
def test_what_handlers_take_makes_the_target(takes: float):
    capacity = 2 / takes
    with loaded(takes) as load:
        load.run(2 + 2 * takes, rate=capacity / 2)
        load.run(2 + 4 * takes, rate=2 * capacity)
        begun = load.now
        load.run(2 + 4 * takes, rate=2 * capacity)
        statuses, served, _ = load.since(begun)
        assert statuses[503] > 0.3 * sum(statuses.values())
        assert max(served) <= max(takes * 1.5, takes + 0.05) + 4 * STEP


def test_of_quick_handlers_too_the_served_are_served_soon():
    """A thread takes what came last, so that has not waited for longer than it takes the next one to come."""
    with loaded(0.02, threads=4) as load:
        load.run(1, rate=100)
        load.run(2.5, rate=400)
        begun = load.now
        load.run(4, rate=400)
        statuses, served, refused = load.since(begun)
        assert statuses[200] >= 600  # of 640 that it can, as each takes a STEP more
        assert statuses[503] >= 600
        assert median(served) <= 0.02 * 1.5
        assert max(served) <= 0.02 * 1.5 + 3 * STEP
        assert max(refused) <= 0.02 * 0.5 + 4 * STEP


def test_requests_that_come_at_random():
    with loaded(0.1, threads=8) as load:
        dice = random.Random(1)
        load.run_at_random(2, 40, dice)
        load.run_at_random(3, 160, dice)
        begun = load.now
        load.run_at_random(5, 160, dice)
        statuses, served, refused = load.since(begun)
        assert statuses[200] >= 350  # of 380 that it can, as each takes a STEP more
        assert statuses[503] >= 300
        assert sorted(served)[len(served) * 95 // 100] <= 0.1 * 1.5
        assert max(refused) <= 0.1 * 0.5 + 4 * STEP


def test_it_is_over_when_those_that_are_refused_could_have_been_served():
    """One thread that has something to do for three quarters of the time refuses now and then, where requests
    come at random and only one may wait."""
    with loaded(0.1, threads=1) as load:
        dice = random.Random(1)
        load.run_at_random(2, 5, dice)
        load.run_at_random(5, 20, dice)
        assert load.stage.pump.pools.pools[APP].is_overloaded
        load.run_at_random(4, 7.5, dice)
        begun = load.now
        load.run_at_random(20, 7.5, dice)
        assert set(load.since(begun)[0]) == {200}


def test_a_worker_of_fast_handlers_holds_less_in_advance():
    with loaded(0.1, threads=2) as load:
        [worker] = load.stage.pump.pools.pools[APP].workers
        load.handler_ns = 800_000  # though its responses come later, as if they had been batched
        load.run(1, rate=100)
        assert worker.look_ahead == LOOK_AHEAD
        load.run(4, rate=1400)
        assert load.is_overload()
        assert worker.outstanding <= 2 + 6  # 5 ms / 0.8 ms
        load.run(4, rate=10)
        assert not load.is_overload()
        assert worker.look_ahead == LOOK_AHEAD


def test_one_thread():
    with loaded(0.2, threads=1) as load:
        load.run(2, rate=3)
        load.run(4, rate=11)
        begun = load.now
        load.run(6, rate=11)
        statuses, served, _ = load.since(begun)
        assert statuses[200] >= 20  # of 30 that it can
        assert statuses[503] >= 24
        assert max(served) <= 0.2 * 1.5 + 4 * STEP


def test_clients_that_wait_for_their_responses_are_no_overload():
    """However many: each waits for all others, and none sends more for it."""
    with loaded() as load:
        load.run(5, rate=0, clients=30)
        assert set(load.since(0)[0]) == {200}
        assert max(load.since(0)[1]) > 1


def test_a_load_test_that_has_more_and_more_clients_is_no_overload():
    """Each waits for its response before it sends its next request."""
    with loaded(0.02) as load:
        for clients in range(60):  # 4 more in a second, in which 80 are served
            load.run(0.25, rate=0, clients=clients)
        assert set(load.since(0)[0]) == {200}
        assert max(load.since(0)[1]) > 0.5, "they have waited"


def test_clients_that_send_again_at_once_what_was_refused_wait_in_the_end(capfd):
    """A load test with so many more clients at first that it looks like an overload."""
    with loaded(0.02) as load:
        for clients in range(80):
            load.run(0.04, rate=0, clients=clients)
        begun = load.now
        load.run(10, rate=0, clients=80)
        assert set(load.since(begun + 1)[0]) == {200}
        assert 0 < load.since(0)[0][503] < 600
    said = capfd.readouterr().err
    assert said.count("is overloaded") == 1
    assert "app:app: more than 5 times as many requests come since " in said


def test_after_that_a_full_queue_is_still_an_overload():
    with loaded(0.02, queue_limit=100) as load:
        for clients in range(80):
            load.run(0.04, rate=0, clients=clients)
        states = [load.is_overload()]
        load.run(4, rate=200)
        states.append(load.is_overload())
        assert states == [False, True]


@pytest.mark.parametrize("pause", [0.12, 0.25])
def test_clients_that_have_no_processor_now_and_then_are_no_overload(pause: float):
    """They send all at once when they have it again: the number of those that wait goes down and up."""
    with loaded(0.02) as load:
        for _ in range(12):
            load.run(0.15, rate=0, clients=60)
            load.run(pause, rate=0)
        assert set(load.since(0)[0]) == {200}
        assert max(load.since(0)[1]) > 0.4, "they have waited"


def test_more_than_the_queue_holds_is_an_overload_though_the_queue_does_not_grow():
    with loaded(queue_limit=40) as load:
        load.run(4, rate=200)
        assert load.stage.pump.pools.pools[APP].is_overloaded
        begun = load.now
        load.run(3, rate=200)
        statuses, served, refused = load.since(begun)
        assert statuses[200] >= 50  # of 60 that it can
        assert max(served) <= 0.1 * 1.5 + 4 * STEP
        assert max(refused) <= 0.1 * 0.5 + 4 * STEP


def test_those_that_the_queue_has_no_room_for_come_too(capfd):
    """So ten times as many as are served are no clients that send again at once what was refused."""
    with loaded(queue_limit=40) as load:
        load.run(3, rate=600)
        assert load.is_overload()
    assert " times as many requests come since " not in capfd.readouterr().err


def test_a_route_whose_own_queue_is_short_makes_no_overload_of_clients_that_wait():
    usual = Limits.of(Settings())
    routes = (
        RoutePlan("/short", "app:app", Kind.WSGI, APP, limits=replace(usual, queue_limit=2)),
        RoutePlan("", "app:app", Kind.WSGI, APP, limits=usual),
    )
    with Stage(routes=routes) as stage:
        load = Load(stage, stage.hand(threads=2), 0.1)
        for _ in range(40):
            load.run(0.1, rate=0, clients=30)
            client = stage.client()
            client.send(get("/short"))
            assert client.answer().status == 503
            client.sock.close()
        assert set(load.since(0)[0]) == {200}


def test_while_this_process_waits_for_a_processor_nothing_is_decided():
    with loaded() as load:
        load.run(2, rate=16)
        overload = load.stage.pump.pools.overload
        overload.delay = lambda: 0.9 * load.now
        load.run(4, rate=40)
        assert set(load.since(0)[0]) == {200}
        waited = 0.9 * load.now
        overload.delay = lambda: waited
        load.run(5, rate=40)
        assert load.stage.pump.pools.pools[APP].is_overloaded


def test_the_kernel_tells_how_long_this_process_has_waited():
    before = run_delay()
    assert 0.0 <= before <= run_delay()


def test_a_burst_is_served():
    with loaded() as load:
        for _ in range(30):
            load.ask()
        load.run(0.7, rate=5)
        for _ in range(4):
            load.ask()
        load.run(3, rate=5)
        assert set(load.since(0)[0]) == {200}


def test_handlers_that_hang_are_no_overload():
    """What waits for them waits for queue_timeout."""
    with loaded(takes=1e6, queue_timeout=8) as load:
        load.run(6, rate=5)
        assert load.done == []
        load.run(4, rate=5)
        assert set(load.since(0)[0]) == {503}
        assert min(load.since(0)[2]) > 7.9


def test_a_target_of_its_own_and_none():
    with loaded(queue_target=0.3) as load:
        load.run(5, rate=40)
        begun = load.now
        load.run(3, rate=40)
        statuses, served, _ = load.since(begun)
        assert statuses[503] > 40
        assert max(served) <= 0.4 + 4 * STEP
    with loaded(queue_target=0) as load:
        load.run(4, rate=40)
        assert set(load.since(0)[0]) == {200}


def test_a_route_may_have_a_target_of_its_own():
    usual = Limits.of(Settings())
    routes = (
        RoutePlan("/patient", "app:app", Kind.WSGI, APP, limits=replace(usual, queue_target=0)),
        RoutePlan("", "app:app", Kind.WSGI, APP, limits=usual),
    )
    with Stage(routes=routes) as stage:
        load = Load(stage, stage.hand(threads=2), 0.1)
        patient = [stage.client() for _ in range(3)]
        load.run(4, rate=40)
        for client in patient:
            client.send(get("/patient"))
        load.run(4, rate=40)
        assert load.since(0)[0][503] > 25
        assert [client.answer().status for client in patient] == [200] * 3


def test_a_route_without_a_target_keeps_its_order():
    usual = Limits.of(Settings())
    routes = (
        RoutePlan("/patient", "app:app", Kind.WSGI, APP, limits=replace(usual, queue_target=0)),
        RoutePlan("", "app:app", Kind.WSGI, APP, limits=usual),
    )
    with Stage(routes=routes) as stage:
        load = Load(stage, stage.hand(threads=2), 0.1)
        load.run(4, rate=40)
        assert stage.pump.pools.pools[APP].is_overloaded
        patient = [stage.client() for _ in range(30)]
        for number, client in enumerate(patient):
            client.send(get(f"/patient/{number}"))
            stage.settle()
        seen: list[bytes] = []
        while len(seen) < len(patient):
            load.run(STEP, rate=40)
            seen += [
                task.head.split()[1]
                for _, task in load.running
                if b"/patient/" in task.head and task.head.split()[1] not in seen
            ]
        assert seen == [b"/patient/%d" % number for number in range(len(patient))]


def test_while_workers_are_on_their_way_nothing_is_refused():
    with loaded() as load:
        load.run(3, rate=15)
        load.hand.die()
        load.running.clear()
        load.stage.settle()
        for _ in range(30):
            load.ask()
        load.stage.later(5)
        load.hand = load.stage.hand(threads=2)
        load.run(3, rate=0)
        assert set(load.since(0)[0]) <= {200, 502}
        assert load.since(0)[0][200] >= 30


def test_a_pool_that_becomes_empty_while_it_is_overloaded_waits_for_its_workers():
    with loaded() as load:
        load.run(4, rate=40)
        assert load.stage.pump.pools.pools[APP].is_overloaded
        load.hand.die()
        load.running.clear()
        load.stage.settle()
        load.stage.later(1)
        begun = load.now
        late = load.stage.client()
        late.send(get("/late"))
        load.stage.later(5)
        assert late.quiet()
        load.hand = load.stage.hand(threads=2)
        load.run(2, rate=0)
        assert late.answer().status == 200
        assert load.since(begun)[0][503] == 0


def test_files_are_served_while_an_application_is_overloaded():
    routes = (
        RoutePlan("/files", "./files", Kind.FILES, BUILT_IN),
        RoutePlan("", "app:app", Kind.WSGI, APP),
    )
    with Stage(routes=routes) as stage:
        stage.hand(BUILT_IN, threads=2, answers=True)
        load = Load(stage, stage.hand(threads=2), 0.1)
        load.run(4, rate=40)
        assert stage.pump.pools.pools[APP].is_overloaded
        client = stage.client()
        for _ in range(20):
            assert client.ask("/files/a").status == 200
            load.run(STEP, rate=40)


def test_a_reload_ends_what_was_decided():
    with loaded() as load:
        load.run(4, rate=40)
        pools = load.stage.pump.pools
        assert pools.pools[APP].is_overloaded
        pools.configure(load.stage.plan)
        assert not pools.pools[APP].is_overloaded
        assert not isinstance(pools.pools[APP].queue, NewestFirst)


def test_queue_limit_of_a_route():
    usual = Limits.of(Settings())
    routes = (
        RoutePlan("/short", "app:app", Kind.WSGI, APP, limits=replace(usual, queue_limit=2)),
        RoutePlan("", "app:app", Kind.WSGI, APP, limits=replace(usual, queue_limit=5)),
    )
    with Stage(routes=routes) as stage:

        def ask(path: str) -> Client:
            client = stage.client()
            client.send(get(path))
            return client

        ask("/short")
        ask("/")
        assert ask("/short").answer().status == 503
        waiting = [ask("/") for _ in range(3)]
        assert ask("/").answer().status == 503
        assert all(client.quiet() for client in waiting)


def test_a_few_that_wait_for_a_slow_one_are_no_overload():
    with loaded(0.05, threads=1) as load:
        load.run(2, rate=10)
        load.takes = 0.7
        for _ in range(2):
            load.ask()
            load.run(0.6, rate=0)
        for _ in range(2):
            load.ask()
            load.run(0.4, rate=0)
        load.run(3, rate=0)
        assert set(load.since(0)[0]) == {200}
