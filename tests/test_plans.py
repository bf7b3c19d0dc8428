"""A plan beside another: pools keep their places, and a plan crosses to the pump whole."""

from __future__ import annotations

import socket
from dataclasses import replace

import msgspec

from halfsync.parent.reload.reconfigure import aligned
from halfsync.plan import codec as plan_codec
from halfsync.plan.at_reload import NEEDS_RESTART, kept
from halfsync.plan.plan import FileRules, Kind, Listener, Plan, PoolPlan, RoutePlan
from halfsync.settings.rows import BY_NAME
from halfsync.settings.table import Settings

BUILT_IN = PoolPlan("built-in", None, 1, 4)


def pool(target: str, processes: int = 1, threads: int = 8) -> PoolPlan:
    return PoolPlan(target, target, processes, threads)


def route(prefix: str, target: str, index: int) -> RoutePlan:
    return RoutePlan(prefix, target, Kind.WSGI, index)


def test_pools_keep_their_places_whatever_the_order():
    before = (BUILT_IN, pool("a:app"), pool("b:app"))
    pools, routes = aligned(
        before, (BUILT_IN, pool("b:app"), pool("a:app")), (route("/a", "a:app", 2), route("", "b:app", 1))
    )
    assert pools == before
    assert routes == (route("/a", "a:app", 1), route("", "b:app", 2))


def test_a_pool_that_is_gone_has_no_processes_and_may_come_back():
    before = (BUILT_IN, pool("a:app"), pool("b:app"))
    without, routes = aligned(before, (BUILT_IN, pool("b:app")), (route("", "b:app", 1),))
    assert without == (BUILT_IN, pool("a:app", processes=0), pool("b:app"))
    assert routes == (route("", "b:app", 2),)
    assert aligned(without, before, ())[0] == before


def test_a_new_pool_comes_last_and_a_changed_size_is_the_same_pool():
    pools, routes = aligned(
        (BUILT_IN, pool("a:app")),
        (BUILT_IN, pool("c:app"), pool("a:app", threads=2)),
        (route("/c", "c:app", 1), route("", "a:app", 2)),
    )
    assert pools == (BUILT_IN, pool("a:app", threads=2), pool("c:app"))
    assert [one.pool for one in routes] == [2, 1]


def test_pools_of_one_application_are_told_apart_by_their_sizes():
    small, large = pool("a:app", 1, 1), pool("a:app", 1, 9)
    before = (BUILT_IN, small, large)
    assert aligned(before, (BUILT_IN, large), ())[0] == (
        BUILT_IN,
        msgspec.structs.replace(small, processes=0),
        large,
    )
    assert aligned(before, (BUILT_IN, large, small), ())[0] == before


def test_a_plan_crosses_whole():
    with socket.socket() as here, socket.socket() as gone, socket.socket() as sent:
        listeners = (
            Listener("127.0.0.1:1", "127.0.0.1", 1, here),
            Listener("unix:/a", "", 0, gone, is_removed=True),
            Listener("127.0.0.1:2", "127.0.0.1", 2, sent),
        )
        files = RoutePlan("/files", "./f", Kind.FILES, 0, FileRules(lease=2.0, cache_control="no-store"))
        settings = Settings(bind=["127.0.0.1:1"], env=["A=b"], keep_alive=3.5)
        plan = Plan(settings, (files, route("", "a:app", 1)), (BUILT_IN, pool("a:app")), listeners, 7)
        crossed = plan_codec.decode(plan_codec.encode(plan), {0: here, 2: sent}, -1)
        assert replace(crossed, listeners=()) == replace(plan, listeners=())
        assert [one.socket for one in crossed.listeners][::2] == [here, sent]
        assert [one.is_removed for one in crossed.listeners] == [False, True, False]
        assert crossed.listeners[1].socket.fileno() == -1


def test_what_needs_a_restart_is_a_setting_and_stays_as_it_was():
    assert set(NEEDS_RESTART) <= set(BY_NAME)
    running = Settings(user="www", keep_alive=5.0)
    settings, notes = kept(running, Settings(user="other", keep_alive=6.0))
    assert settings == Settings(user="www", keep_alive=6.0)
    assert notes == ["user has changed, which needs a restart: the pump has given up its privileges."]
