"""Too few threads are logged, with numbers, and once a minute."""

from __future__ import annotations

import re

import pytest

from halfsync.wire.messages import Task
from tests.pump.harness import APP, Client, Hand, Stage, get


def warnings(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """What was said of saturation since the last look, in whole seconds."""
    said = re.findall(r"WARNING (.* may help\.)$", capfd.readouterr().err, re.MULTILINE)
    return [re.sub(r"(\d+)\.\d s", r"\1 s", one) for one in said]


def ask(stage: Stage, path: str) -> Client:
    client = stage.client()
    client.send(get(path))
    stage.settle()
    return client


def busy(stage: Stage, hand: Hand, path: str) -> Task:
    ask(stage, path)
    return hand.take()


def test_requests_that_wait_long_are_logged_with_what_keeps_the_threads_busy(capfd):
    with Stage() as stage:
        hand = stage.hand(threads=2)
        busy(stage, hand, "/slow/path?token=secret")
        stage.later(3)
        busy(stage, hand, "/other")
        ask(stage, "/waits")
        stage.later(2)
        ask(stage, "/waits-too")
        stage.later(3)
        assert warnings(capfd) == []
        stage.later(1)
        [told] = warnings(capfd)
        assert told == (
            "app:app: 2 of 2 threads are busy; 2 requests wait, the longest for 5 s. "
            "The longest running: GET '/slow/path' for 8 s. More threads or workers may help."
        )


def test_threads_that_are_busy_after_their_response_are_counted(capfd):
    """Such as one with a WebSocket by `gunicorn.socket`, which holds its thread."""
    with Stage() as stage:
        hand = stage.hand(threads=3)
        hand.thread_works(0)
        hand.reply(busy(stage, hand, "/websocket"))
        hand.thread_works(1)
        busy(stage, hand, "/slow")
        ask(stage, "/waits")
        stage.later(6)
        [told] = warnings(capfd)
        assert told.startswith(
            "app:app: 1 of 3 threads are busy, and 1 after their response (in a WebSocket or a close()); "
            "1 request waits"
        )


def test_it_is_logged_once_a_minute_while_it_lasts(capfd):
    with Stage(queue_timeout=1000) as stage:
        hand = stage.hand(threads=1)
        busy(stage, hand, "/slow")
        ask(stage, "/waits")
        stage.later(50)
        assert len(warnings(capfd)) == 1
        stage.later(10)
        assert warnings(capfd) == []
        stage.later(10)
        [again] = warnings(capfd)
        assert "1 request waits, the longest for 65 s" in again


def test_a_pool_that_gets_on_is_not_logged(capfd):
    with Stage() as stage:
        stage.hand(threads=1, answers=True)
        hand = stage.hand(threads=1)
        busy(stage, hand, "/slow")  # a thread is free: nothing waits
        for _ in range(30):
            stage.later(1)
            assert ask(stage, "/").answer().status == 200
        assert warnings(capfd) == []


def test_what_was_refused_is_counted_and_the_setting_is_named(capfd):
    with Stage(queue_limit=2) as stage:
        hand = stage.hand(threads=1)
        busy(stage, hand, "/slow")
        clients = [ask(stage, "/") for _ in range(5)]
        assert [client.answer().status for client in clients[2:]] == [503] * 3
        stage.later(0.5)
        [told] = warnings(capfd)
        assert told.startswith("app:app: 1 of 1 threads are busy; 2 requests wait, the longest for ")
        assert "; 3 requests got a 503 (queue_limit). The longest running: GET '/slow'" in told


def test_what_is_refused_in_the_quiet_minute_is_reported_after_it(capfd):
    """Also if nothing waits any more."""
    with Stage(queue_timeout=10) as stage:
        hand = stage.hand(threads=1)
        slow = busy(stage, hand, "/slow")
        first = ask(stage, "/")
        stage.later(12)
        assert first.answer().status == 503
        [told] = warnings(capfd)  # because it waited
        assert "503" not in told
        hand.reply(slow)
        stage.later(70)
        [told] = warnings(capfd)
        assert told == (
            "app:app: 0 of 1 threads are busy; 1 request got a 503 (queue_timeout). "
            "More threads or workers may help."
        )
        stage.later(200)
        assert warnings(capfd) == []


def serve_fast(stage: Stage, hand: Hand) -> None:
    """So that a worker is handed more than one request for each thread."""
    client = stage.client()
    for _ in range(40):
        client.send(get())
        hand.reply(hand.take(), handler_ns=10_000)
        client.answer()


def test_no_more_threads_are_busy_than_there_are(capfd):
    """Two requests have begun: of the first, the response is on its way."""
    with Stage(queue_timeout=10) as stage:
        hand = stage.hand(threads=1)
        serve_fast(stage, hand)
        for path in ("/first", "/second"):
            busy(stage, hand, path)
        ask(stage, "/waits")
        stage.later(6)
        [told] = warnings(capfd)
        assert told.startswith("app:app: 1 of 1 threads are busy; 1 request waits")


def test_what_waits_within_a_worker_waits_too(capfd):
    """It was handed over, since handlers were fast, and then they were not."""
    with Stage(queue_timeout=10) as stage:
        hand = stage.hand(threads=1)
        serve_fast(stage, hand)
        busy(stage, hand, "/slow")
        behind = ask(stage, "/behind")
        assert hand.take(begin=False).head == get("/behind")
        stage.later(6)
        [told] = warnings(capfd)
        assert "1 of 1 threads are busy; 1 request waits, the longest for 5 s" in told
        stage.later(70)
        assert behind.answer().status == 503
        [told] = warnings(capfd)
        assert "1 request got a 503 (queue_timeout)" in told


def test_clients_that_left_wait_no_more(capfd):
    with Stage() as stage:
        hand = stage.hand(threads=1)
        busy(stage, hand, "/slow")
        ask(stage, "/waits").leave()
        stage.later(20)
        assert warnings(capfd) == []


def test_with_no_worker_at_all(capfd):
    with Stage() as stage:
        ask(stage, "/")
        stage.later(6)
        [told] = warnings(capfd)
        assert re.match(r"app:app: there is no worker; 1 request waits, the longest for [56] s\. More ", told)


def test_each_pool_has_a_minute_of_its_own(capfd):
    with Stage(queue_limit=1) as stage:
        pools = stage.pump.pools
        for pool in (pools.pools[0], pools.pools[APP]):
            pools._saturation.refused(pool, "queue_limit")
        stage.later(0.5)
        assert [one.partition(":")[0] for one in warnings(capfd)] == ["built-in", "app"]
