"""A client over TLS that says that it has closed its side (close_notify), and leaves its socket open: only
who reads finds that out."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any

import pytest

from halfsync.objects import Memory
from halfsync.pump.tls.transport import TLSTransport
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import DONE, UNFINISHED, ClientDisconnected, Lease, Part
from tests.pump.harness import Client, Stage, get
from tests.pump.test_event_loops import ask, turn
from tests.pump.tls_ends import certificates


def over_tls(*, with_loops: bool = True, **settings: Any) -> Stage:
    stage = Stage(tls=certificates(), access_logfile="-", **settings)
    stage.with_loops = with_loops
    return stage


def say_goodbye(client: Client) -> None:
    with contextlib.suppress(ssl.SSLError):  # it would read the answer
        client.sock.tls.unwrap()
    client.sock.flush()
    client.stage.settle()


@pytest.mark.parametrize("responds", [False, True])
def test_it_counts_as_left_after_a_moment(responds: bool):
    with over_tls() as stage:
        hand, client = stage.hand(), stage.client()
        task = ask(client, hand)
        if responds:
            hand.reply(task, objects=[Memory(b"some")], length=-1, ending=UNFINISHED)
            stage.until(lambda: client.receive() >= 0 and b"some" in client.inbox)
        say_goodbye(client)
        assert ClientDisconnected(task.number) not in hand.heard()
        stage.later(1.5)
        assert ClientDisconnected(task.number) in hand.heard()
        assert stage.reasons() == [CloseReason.CLIENT_DISCONNECTED]
        assert not stage.pump.connections


def test_until_then_it_gets_its_response_and_is_kept_no_longer():
    with over_tls() as stage:
        hand, client = stage.hand(), stage.client()
        task = ask(client, hand)
        say_goodbye(client)
        hand.reply(task, b"in time")
        assert client.answer().body == b"in time"
        stage.until(lambda: not stage.pump.connections)


def test_a_goodbye_in_the_middle_of_a_response_is_found_when_there_is_nothing_to_send():
    with over_tls() as stage:
        hand, client = stage.hand(), stage.client(rcvbuf=4096)
        task = ask(client, hand)
        data = bytes(100_000)
        hand.reply(task, objects=[Memory(data)], length=-1, ending=UNFINISHED)
        for _ in range(3):
            hand.send([Part(task.number, [Memory(data)], UNFINISHED)])
        say_goodbye(client)
        stage.until(lambda: client.receive() >= 0 and len(client.inbox) > 4 * len(data))
        stage.later(1.5)
        assert ClientDisconnected(task.number) in hand.heard()


def test_one_that_waits_in_the_queue_is_not_run():
    with over_tls() as stage:
        hand = stage.hand(threads=1)
        busy, client = stage.client(), stage.client()
        busy.send(get("/busy"))
        task = hand.take(begin=True)
        client.send(get("/waits"))
        say_goodbye(client)
        stage.later(1.5)
        assert len(stage.pump.connections) == 1
        hand.reply(task, b"done")
        assert busy.answer().body == b"done"
        stage.settle()
        assert not hand.tasks


@pytest.mark.parametrize("with_loops", [False, True])
def test_one_that_says_it_with_its_request_gets_its_response(with_loops: bool):
    with over_tls(with_loops=with_loops) as stage:
        hand, client = stage.hand(), stage.client()
        client.sock.tls.write(get("/"))
        with contextlib.suppress(ssl.SSLError):
            client.sock.tls.unwrap()
        client.sock.flush()
        turn(hand)
        hand.reply(hand.take(), b"here")
        assert client.answer().body == b"here"


def test_a_next_request_before_it_is_served():
    with over_tls() as stage:
        hand, client = stage.hand(), stage.client()
        task = ask(client, hand)
        client.send(get("/next"))
        say_goodbye(client)
        stage.later(1.5)
        assert ClientDisconnected(task.number) not in hand.heard()
        hand.reply(task, b"first")
        turn(hand)
        hand.reply(hand.take(), b"second", ending=DONE)
        assert [client.answer().body, client.answer().body] == [b"first", b"second"]


def test_what_a_client_sends_behind_a_last_response_does_not_end_it():
    """The response waits for room, so its close_notify does too, and nobody decrypts what comes: it may be
    the client's own end, or anything else."""
    with over_tls(with_loops=False) as stage:
        client = stage.client(rcvbuf=4096)
        stage.settle()
        (conn,) = stage.pump.connections.values()
        transport = conn.transport
        assert isinstance(transport, TLSTransport)
        transport.plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        body = bytes(range(256)) * 160
        assert transport.send_last(body) == len(body)
        with pytest.raises(BlockingIOError):
            transport.finish(closing=True)
        client.sock.tls.write(b"more")
        say_goodbye_unheard(client)
        assert transport.recv(1000)
        with pytest.raises(BlockingIOError):
            transport.recv(1000)
        while transport.ends_unsaid:
            client.receive()
            with contextlib.suppress(BlockingIOError):
                transport.finish()
        stage.until(lambda: client.receive() <= 0 and client.sock.said_goodbye)
        assert client.inbox == body


def say_goodbye_unheard(client: Client) -> None:
    with contextlib.suppress(ssl.SSLError):
        client.sock.tls.unwrap()
    client.sock.flush()


@pytest.mark.parametrize("goodbye", [False, True])
@pytest.mark.parametrize("over_tls", [False, True])
@pytest.mark.parametrize("leased", [False, True])
@pytest.mark.parametrize("size", [40_000, 100_000])
def test_what_a_client_sends_behind_its_last_request_costs_it_nothing(
    size: int, leased: bool, over_tls: bool, goodbye: bool
):
    """It may say that it will send no more, or break its word: a reset would take the rest of a response that
    it is slow to read."""
    body = bytes(range(200)) * (size // 200)
    with Stage(tls=certificates() if over_tls else None) as stage:
        hand = stage.hand()
        lease = Lease(60.0, ()) if leased else None
        first = stage.client()
        first.send(get())
        hand.reply(hand.take(), body, lease=lease)
        assert first.answer().body == body
        client = stage.client(rcvbuf=4096)
        client.send(get("/", "Connection: close"))
        if not leased:
            hand.reply(hand.take(), body)
        stage.settle()
        if over_tls and goodbye:
            say_goodbye(client)
        else:
            client.send(b"more")
        rest = client.rest()
        assert rest.endswith(body)
        assert not over_tls or client.sock.said_goodbye
