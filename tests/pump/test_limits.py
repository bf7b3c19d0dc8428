"""Each time limit, with a clock that only the test moves: when it strikes, with what, and when not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from halfsync.objects import Memory
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import Ending
from tests.pump.harness import Client, Stage, get

UPLOAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage(access_logfile="-") as stage:
        yield stage


def test_a_client_that_says_nothing_is_closed(stage: Stage):
    """No byte within head_timeout (20 s): closed without a response, for it has not asked."""
    client = stage.client()
    stage.later(19)
    assert client.quiet()
    stage.later(2)
    assert client.rest() == b""


def test_a_head_that_drips_in(stage: Stage):
    """The head has 20 s in all, however steadily it comes: 408, and closed."""
    client = stage.client()
    for byte in get("/", "X: " + "y" * 100)[:19]:
        client.send(bytes([byte]))
        stage.later(1)
    assert client.quiet()
    stage.later(2)
    answer = client.answer()
    assert answer.status == 408
    assert answer.closes
    assert client.rest() == b""
    assert stage.reasons() == [CloseReason.HEAD_TIMEOUT]


def test_a_slow_head_in_time_is_served(stage: Stage):
    """What is whole in time is served, and its time is not counted against the next."""
    stage.hand(answers=True)
    client = stage.client()
    for _ in range(3):
        client.send(get()[:10])
        stage.later(18)
        client.send(get()[10:])
        assert client.answer().status == 200


def test_keep_alive(stage: Stage):
    """A kept connection that stays idle for keep_alive (75 s) is closed, in good order."""
    stage.hand(answers=True)
    client = stage.client()
    client.ask("/")
    stage.later(74)
    assert client.quiet()
    client.ask("/")
    stage.later(74)
    assert client.quiet()
    stage.later(2)
    assert client.rest() == b""
    assert client.ended


def test_a_body_that_stops(stage: Stage):
    """Nothing of the body for body_timeout (60 s): 408, and closed."""
    client = stage.client()
    client.send(UPLOAD + b"x" * 100_000)
    stage.later(59)
    assert client.quiet()
    stage.later(3)
    assert client.answer().status == 408
    assert client.rest() == b""
    assert stage.reasons() == [CloseReason.BODY_TIMEOUT]


def test_a_body_below_the_minimum_rate(stage: Stage):
    """A byte a second makes progress, but not enough: after rate_grace (30 s), 408."""
    client = stage.client()
    client.send(UPLOAD)
    for _ in range(28):
        client.send(b"x")
        stage.later(1)
    assert client.quiet()
    for _ in range(4):
        client.send(b"x")
        stage.later(1)
    assert client.answer().status == 408
    assert stage.reasons() == [CloseReason.BODY_TOO_SLOW]


def test_a_body_above_the_minimum_rate(stage: Stage):
    """600 bytes a second may take as long as they take."""
    stage.hand(answers=True)
    client = stage.client()
    client.send(UPLOAD.replace(b"1000000", b"120000"))
    for _ in range(200):
        client.send(b"x" * 600)
        stage.later(1)
    assert client.answer().status == 200


def begin_sending(stage: Stage, size: int = 3_000_000) -> Client:
    """A client that has asked for much, and has taken nothing yet."""
    hand = stage.hand()
    client = stage.client(rcvbuf=8192)
    client.send(get())
    task = hand.take()
    hand.reply(task, length=size, ending=Ending.UNFINISHED)
    for _ in range(size // 100_000):
        hand.part(task, Memory(bytes(100_000)))
    hand.part(task, ending=Ending.DONE)
    return client


def test_a_reader_that_stops(stage: Stage):
    """Nothing taken for send_timeout (60 s), nor at the minimum rate before: reset."""
    with Stage(access_logfile="-", rate_grace=1000) as stage:
        client = begin_sending(stage)
        stage.later(58)
        assert not stage.reasons()
        # The kernel may let some more bytes through late, in its own time: that is progress.
        for _ in range(140):
            if not stage.reasons():
                stage.later(1)
        client.rest()
        assert client.reset
        assert stage.reasons() == [CloseReason.SEND_TIMEOUT]


def test_a_reader_below_the_minimum_rate(stage: Stage):
    """One that takes nothing to speak of, after rate_grace (30 s): reset."""
    with Stage(access_logfile="-", min_rate=100_000) as stage:
        client = begin_sending(stage)
        for _ in range(33):
            client.receive(2000)
            stage.later(1)
        client.rest()
        assert client.reset
        assert stage.reasons() == [CloseReason.SEND_TOO_SLOW]


def test_a_slow_reader_above_the_minimum_rate_gets_all(stage: Stage):
    """What counts is what the client takes: it may be slow for as long as it likes."""
    client = begin_sending(stage)
    received = 0

    def progress() -> bool:
        nonlocal received
        received += client.receive(20_000)
        client.inbox = b""
        return received >= 3_000_000

    seconds = 0
    while not progress():
        stage.later(1)
        seconds += 1
        assert seconds < 5000
    assert seconds > 100
    stage.until(lambda: stage.reasons() == [CloseReason.KEPT])


def test_old_bytes_in_the_socket_are_not_held_against_a_new_response(stage: Stage):
    """A response that the socket took whole may still be on its way when the next one begins: a
    client that goes on taking bytes, of whichever, makes progress."""
    hand = stage.hand()
    client = stage.client(rcvbuf=8192)
    client.send(get("/1") + get("/2"))
    hand.reply(hand.take(), bytes(90_000))
    task = hand.take()
    hand.reply(task, length=150_000, ending=Ending.UNFINISHED)
    hand.part(task, Memory(bytes(150_000)), ending=Ending.DONE)
    received = 0
    for _ in range(70):
        received += client.receive(1200)
        stage.later(1)
    assert not client.over
    assert CloseReason.SEND_TOO_SLOW not in stage.reasons()
    assert CloseReason.SEND_TIMEOUT not in stage.reasons()


def test_a_slow_handler_is_not_the_clients_fault(stage: Stage):
    """While the handler thinks, before its response or in the middle of it, no client's limit runs."""
    hand = stage.hand()
    client = stage.client()
    client.send(get())
    task = hand.take()
    stage.later(200)
    hand.reply(task, b"one", ending=Ending.UNFINISHED)
    stage.later(200)
    hand.part(task, Memory(b"two"))
    stage.later(200)
    hand.part(task, ending=Ending.DONE)
    assert client.answer().body == b"onetwo"


def test_linger(stage: Stage):
    """After the last response the client has linger_timeout (5 s) to read it and close."""
    client = stage.client()
    client.send(b"nonsense\r\n\r\n" + bytes(100))
    assert client.answer().status == 400
    stage.later(4)
    assert len(stage.pump.connections) == 1
    client.send(bytes(1000))
    stage.later(2)
    assert not stage.pump.connections


def test_a_lingering_client_that_closes_is_gone_at_once(stage: Stage):
    """Nobody waits for a client that has read its response and closed."""
    client = stage.client()
    client.send(b"nonsense\r\n\r\n")
    assert client.answer().status == 400
    client.finish()
    stage.until(lambda: not stage.pump.connections)
