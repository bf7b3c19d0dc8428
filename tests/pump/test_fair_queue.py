"""Routes that share a pool share it fairly: what waits for one of them does not delay the others."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import replace
from typing import Literal

import msgspec
import pytest

from halfsync.plan.plan import Kind, Limits, RoutePlan
from halfsync.pump.connection import Exchange, Route
from halfsync.pump.pools.costs import ALIKE, COUNTED, MOST, PART, REMEMBERED, Costs, class_of, kind_of
from halfsync.pump.pools.queues import FairQueue, NewestFirst, Queue
from halfsync.settings.table import Settings
from halfsync.wire.http1 import RequestHead
from tests.pump.harness import APP, Client, Hand, Stage, get

ROUTES = (
    RoutePlan("/large", "app:app", Kind.WSGI, APP),
    RoutePlan("/other", "app:app", Kind.WSGI, APP),
    RoutePlan("", "app:app", Kind.WSGI, APP),
)


def path(head: bytes) -> bytes:
    return head.split(b" ")[1]


def ask(stage: Stage, *targets: str) -> list[Client]:
    clients = [stage.client() for _ in targets]
    for target, client in zip(targets, clients, strict=True):
        client.sock.send(get(target))
        stage.settle()
    return clients


def test_a_request_of_another_route_does_not_wait_behind_all_of_one():
    """With a hundred requests for one route in the queue, those for others get every other turn."""
    with Stage(routes=ROUTES) as stage:
        hand = stage.hand(threads=1)
        ask(stage, *(f"/large/{number}" for number in range(100)))
        ask(stage, "/1", "/2", "/other/1")
        seen = []
        for _ in range(8):
            task = hand.take()
            seen.append(path(task.head).decode())
            hand.reply(task, handler_ns=200_000_000)
            stage.settle()
        assert seen == [
            *("/large/0", "/large/1", "/1", "/other/1", "/large/2", "/2", "/large/3", "/large/4"),
        ]


def test_all_is_answered_and_each_routes_in_their_order():
    with Stage(routes=ROUTES) as stage:
        hand = stage.hand(threads=2)
        dice = random.Random(1)
        targets = [f"{dice.choice(['/large', '/other', ''])}/{number}" for number in range(150)]
        clients = ask(stage, *targets)
        seen = []
        for _ in targets:
            task = hand.take()
            seen.append(path(task.head).decode())
            hand.reply(task, path(task.head), handler_ns=200_000_000)
        for target, client in zip(targets, clients, strict=True):
            assert client.answer().body == target.encode()
        for prefix in ("/large/", "/other/"):
            assert [one for one in seen if one.startswith(prefix)] == [
                one for one in targets if one.startswith(prefix)
            ]


def test_who_waits_too_long_is_refused_though_another_is_next_in_turn():
    with Stage(routes=ROUTES, queue_timeout=10) as stage:
        stage.hand(threads=1)
        ask(stage, "/first")
        late = ask(stage, "/large/1", "/large/2")
        stage.later(8)
        early = ask(stage, "/other/1", "/large/3")
        stage.later(4)
        assert [client.answer().status for client in late] == [503, 503]
        assert all(client.quiet() for client in early)


def test_routes_that_share_a_pool_may_have_their_own_queue_timeout():
    usual = Limits.of(Settings())
    patient, hasty = replace(usual, queue_timeout=20), replace(usual, queue_timeout=3)
    routes = tuple(
        msgspec.structs.replace(route, limits=hasty if route.prefix == "/other" else patient)
        for route in ROUTES
    )
    with Stage(routes=routes) as stage:
        stage.hand(threads=1)
        ask(stage, "/first")
        waiting = ask(stage, "/large/1", "/other/1", "/large/2", "/other/2")
        stage.later(5)
        assert [client.answer().status for client in waiting[1::2]] == [503, 503]
        assert all(client.quiet() for client in waiting[::2])
        stage.later(20)
        assert [client.answer().status for client in waiting[::2]] == [503, 503]


def test_what_a_client_leaves_behind_is_given_to_nobody():
    with Stage(routes=ROUTES) as stage:
        hand = stage.hand(threads=1)
        ask(stage, "/first")
        leaving = ask(stage, *(f"/large/{number}" for number in range(100)))
        ask(stage, "/large/stays", "/other/stays", "/stays")
        for client in leaving:
            client.leave()
        stage.settle()
        assert stage.pump.pools.pools[APP].waiting == 3
        seen = []
        for _ in range(4):
            task = hand.take()
            seen.append(path(task.head).decode())
            hand.reply(task, handler_ns=200_000_000)
        assert sorted(seen) == ["/first", "/large/stays", "/other/stays", "/stays"]
        assert stage.pump.pools.pools[APP].waiting == 0


def test_what_a_worker_leaves_gets_its_place_back():
    """What was handed over and not begun when its worker died comes before what came later."""
    with Stage(routes=ROUTES) as stage:
        hand = stage.hand(threads=3)
        ask(stage, *(f"/large/{number}" for number in range(6)), "/other/0", "/other/1")
        assert len(hand.tasks) == 3
        hand.die()
        other = stage.hand(threads=1)
        seen = []
        for _ in range(8):
            task = other.take()
            seen.append(path(task.head).decode())
            other.reply(task, handler_ns=200_000_000)
        assert [one for one in seen if one.startswith("/large")] == [f"/large/{n}" for n in range(6)]
        assert [one for one in seen if one.startswith("/other")] == ["/other/0", "/other/1"]


def test_one_route_has_a_plain_queue():
    """Fairness costs nothing where there is nobody to be fair to."""
    with Stage() as stage:
        assert isinstance(stage.pump.pools.pools[APP].queue, deque)
        assert type(stage.pump.pools.pools[APP].queue).append is deque.append


MS = 1_000_000


def learn(stage: Stage, hand: Hand, target: str, handler_ns: int) -> None:
    """One request that took so long: a response that is not on the fast path says it."""
    [client] = ask(stage, target)
    hand.reply(hand.take(), bytes(20_000), handler_ns=handler_ns)
    assert client.answer().status == 200


def test_what_is_quick_does_not_wait_behind_all_that_is_slow():
    """Of one route: a hundred requests for a path that takes long, and then one for another."""
    with Stage() as stage:
        hand = stage.hand(threads=1)
        learn(stage, hand, "/report?year=1", 300 * MS)
        ask(stage, *(f"/report?year={number}" for number in range(100)))
        ask(stage, "/1", "/2")
        seen = []
        for _ in range(6):
            task = hand.take()
            seen.append(path(task.head).decode())
            hand.reply(task, handler_ns=300 * MS if seen[-1].startswith("/report") else MS)
            stage.settle()
        slow = [f"/report?year={number}" for number in range(4)]
        assert seen == [slow[0], slow[1], "/1", slow[2], "/2", slow[3]]


@pytest.mark.parametrize(
    "form", ["/export/{}", "/export/{}?all", "/export/{}/report.pdf", "/year/a{}b/month/c{}", "/x/{}/y/{}"]
)
def test_slow_paths_that_are_requested_once_each_are_known_by_their_kind(form: str):
    with Stage() as stage:
        hand = stage.hand(threads=1)
        for number in range(ALIKE):
            learn(stage, hand, form.format(number, number), 300 * MS)
        slow = [form.format(number, number) for number in range(10, 110)]
        ask(stage, *slow)
        ask(stage, "/1", "/2")
        seen = []
        for _ in range(6):
            task = hand.take()
            seen.append(path(task.head).decode())
            hand.reply(task, handler_ns=MS if seen[-1] in ("/1", "/2") else 300 * MS)
            stage.settle()
        assert seen == [slow[0], slow[1], "/1", slow[2], "/2", slow[3]]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (b"/export/17", b"/export/*"),
        (b"/export/all", b"/export/*"),
        (b"/export/17/all", b"/export/*/all"),
        (b"/a1/b2/c", b"/*/*/c"),
        (b"/", b"/*"),
        (b"*", b"*"),
        (b"/a/", b"/a/*"),
        (b"/1/", b"/*/"),
        (b"/" + b"x" * 60_000, b"/*"),  # in no time: see pools/costs.py
        (b"/" + b"x" * 60_000 + b"/1" * 1000, b"/" + b"x" * 60_000 + b"/*" * 1000),
    ],
)
def test_kinds(path: bytes, kind: bytes):
    assert kind_of(path) == kind


def test_a_quick_path_of_a_slow_kind_is_taken_for_slow_once():
    costs = Costs()
    names = [b"/export/%s" % name for name in (b"alice", b"bob", b"carol", b"dave")]
    for name in names[: ALIKE - 1]:
        costs.note(Asked(name), 300 * MS, 0.0)
    assert not costs.of(Asked(b"/export/help")), "two may be chance"
    costs.note(Asked(names[2]), 300 * MS, 0.0)
    assert costs.of(Asked(b"/export/help")) == costs.of(Asked(names[3])) == class_of(300 * MS)
    for name in (b"/export/help", names[3]):
        costs.begins(Asked(name))
        assert not costs.of(Asked(name)), "nothing speaks against it itself"
    costs.note(Asked(names[3]), 300 * MS, 0.0)
    assert costs.of(Asked(names[3]))
    assert not costs.of(Asked(b"/help"))
    assert not costs.of(Asked(b"/export/other/help"))
    costs.sweep(REMEMBERED + 1)
    assert not costs


def test_a_kind_of_which_few_paths_take_long_is_quick():
    """Whatever came before: paths that are new are counted, slow ones and others."""
    costs = Costs()
    for number in range(200):
        costs.note(Asked(b"/item/%d" % number), 20 * MS, 0.0)
    assert costs.of(Asked(b"/item/new"))
    for number in range(1000, 1000 + 2 * PART * COUNTED):
        costs.begins(one := Asked(b"/item/%d" % number))
        if number % 10 == 0:
            costs.note(one, 300 * MS, 0.0)
    assert not costs.of(Asked(b"/item/new"))


def test_what_runs_long_is_found_while_it_runs():
    """Those that are in the queue already, too, give others their turn from then on."""
    with Stage() as stage:
        hand = stage.hand(threads=1)
        ask(stage, *(f"/report?{number}" for number in range(3)))
        task = hand.take()
        hand.begin(task)
        for _ in range(3):
            stage.time.advance(0.026)
            stage.settle()
        ask(stage, *(f"/report?{number}" for number in range(3, 10)), "/quick")
        seen = []
        for _ in range(5):
            hand.reply(task, handler_ns=78 * MS)
            stage.settle()
            task = hand.take()
            seen.append(path(task.head).decode())
        assert [one for one in seen if one != "/quick"] == [f"/report?{number}" for number in range(1, 5)]
        assert "/quick" in seen[:2]


def test_all_is_answered_and_once_whatever_is_learnt_while_it_waits():
    """Each path's requests in their order, though what is known of it changes, and is forgotten."""
    with Stage(queue_timeout=1e6, handler_timeout=0, keep_alive=1e6) as stage:
        hand = stage.hand(threads=2)
        dice = random.Random(3)
        targets = [f"/{dice.choice('abcd')}?{number}" for number in range(200)]
        clients = ask(stage, *targets)
        seen = []
        for _ in targets:
            task = hand.take()
            seen.append(path(task.head).decode())
            hand.reply(task, seen[-1].encode() + bytes(20_000), handler_ns=MS << dice.randrange(11))
            if dice.random() < 0.1:
                stage.later(dice.randrange(40))
            stage.settle()
        for target, client in zip(targets, clients, strict=True):
            assert client.answer().body.rstrip(b"\0") == target.encode()
        assert sorted(seen) == sorted(targets)
        stage.later(REMEMBERED + 1)
        assert type(stage.pump.pools.pools[APP].queue) is Queue


def test_costs():
    """A class for each factor of four; the highest of the last minute; a bounded number of paths."""
    assert [class_of(ms * MS) for ms in (0, 8, 9, 33, 34, 134, 135, 600, 3000)] == [0, 0, 1, 1, 2, 2, 3, 4, 5]
    costs = Costs()
    assert not costs
    costs.note(Asked(b"/one"), 300 * MS, 0.0)
    costs.note(Asked(b"/one?query"), 20 * MS, 50.0)
    assert costs.of(Asked(b"/one?other")) == class_of(300 * MS)
    costs.sweep(REMEMBERED - 1)
    assert costs.of(Asked(b"/one"))
    costs.sweep(REMEMBERED + 1)
    assert not costs
    paths = [b"/" + b"x" * number + b"/a" for number in range(MOST + 10)]
    for path in paths:
        costs.note(Asked(path), 300 * MS, 100.0)
    assert sum(costs.of(Asked(path)) > 0 for path in paths) == MOST
    assert not costs.of(Asked(paths[9]))


def test_a_path_that_takes_long_now_and_then_is_quick():
    """As any does on a busy machine. One that takes long again and again is not, whatever came before."""
    costs = Costs()
    for number in range(1000):
        one = Asked(b"/")
        costs.begins(one)
        if number % 20 == 0:
            costs.note(one, 300 * MS, 0.0)
        assert not costs.of(one) or number < PART
    for _ in range(COUNTED):
        one = Asked(b"/")
        costs.begins(one)
        for ms in (20, 100, 300):  # looked at while it runs
            costs.note(one, ms * MS, 0.0)
    assert costs.of(one) == class_of(300 * MS)


class Asked(Exchange):
    """A request for this target."""

    __slots__ = ()

    def __init__(self, target: bytes) -> None:
        self.head = RequestHead(b"", b"GET", target, 1)


class One(Exchange):
    """All that a queue looks at."""

    __slots__ = ()

    def __init__(self, route: int, queued_ns: int, target: float | Literal["auto"] = "auto") -> None:
        limits = replace(Limits.of(Settings()), queue_target=target)
        self.route = Route(b"", route, None, limits)  # type: ignore[arg-type]
        self.head = RequestHead(b"", b"GET", b"/", 1)
        self.queued_ns = queued_ns


PATIENT = 3
"""A route without a queue_target."""


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_a_fair_queue_loses_nothing_whatever_is_done_to_it(seed: int, newest_first: bool):
    """Random calls: sizes agree, each route's order is kept, and who is oldest is the oldest."""
    dice = random.Random(seed)
    queue = FairQueue(Costs(), newest_first=newest_first)
    model: list[Exchange] = []
    taken: list[Exchange] = []
    for now in range(2000):
        match dice.randrange(8):
            case 0 | 1 | 2:
                index = dice.randrange(4)
                model.append(One(index, now, 0 if index == PATIENT else "auto"))
                queue.append(model[-1])
            case 3 | 4 if model:
                one = queue.popleft()
                first = max if newest_first and route(one) != PATIENT else min
                assert one is first((other for other in model if route(other) == route(one)), key=age)
                model.remove(one)
                taken.append(one)
                if dice.random() < 0.2:
                    queue.appendleft(taken.pop())
                    model.append(one)
                    assert queue.popleft() is one
                    model.remove(one)
            case 5 if taken:
                queue.put_back(taken[-1])
                model.append(taken.pop())
            case 6 if model:
                if dice.random() < 0.5:
                    oldest = min(model, key=age)
                    queue.drop_oldest()
                    model.remove(oldest)
                else:
                    queue.remove(model.pop(dice.randrange(len(model))))
            case 7 if dice.random() < 0.1:
                refused = queue.take_surplus(5)
                assert not refused or newest_first
                assert all(route(one) != PATIENT for one in refused)
                model = [one for one in model if one not in refused]
                assert not newest_first or sum(route(one) != PATIENT for one in model) <= 5
        assert len(queue) == len(model)
        assert bool(queue) == bool(model)
        assert queue.oldest() is min(model, key=age, default=None)
        if now % 100 == 0:
            assert set(queue) == set(model)
    queue.clear()
    assert not queue
    assert queue.oldest() is None


def age(exchange: Exchange) -> int:
    return exchange.queued_ns


def route(exchange: Exchange) -> int:
    assert exchange.route is not None
    return exchange.route.index


def test_a_plain_queue_puts_back_by_age():
    queue = Queue(One(0, age) for age in (1, 3, 5))
    for one in (0, 4, 9, 2):
        queue.put_back(One(0, one))
    assert [one.queued_ns for one in queue] == [0, 1, 2, 3, 4, 5, 9]


def test_the_surplus_is_the_oldest_of_the_longest_line():
    queue = FairQueue(Costs(), newest_first=True)
    for now in range(12):
        queue.append(One(1 if now < 2 else 2, now))
    assert [one.queued_ns for one in queue.take_surplus(5)] == [2, 3, 4, 5, 6, 7, 8]
    assert [queue.popleft().queued_ns for _ in range(5)] == [1, 11, 0, 10, 9]


def test_a_plain_queue_may_give_the_newest_first():
    queue = NewestFirst(One(0, age) for age in range(6))
    first = queue.popleft()
    assert first.queued_ns == 5
    queue.appendleft(first)
    queue.drop_oldest()
    assert [one.queued_ns for one in queue.take_surplus(3)] == [1, 2]
    queue.put_back(One(0, 2))
    assert queue.oldest() is queue[0]
    assert [queue.popleft().queued_ns for _ in range(4)] == [5, 4, 3, 2]
