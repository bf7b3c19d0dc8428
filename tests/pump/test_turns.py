"""Whose turn it is decides which limit runs; and who has left is not waited for."""

from __future__ import annotations

import os
import socket

import pytest

from halfsync.objects import Memory, Pipe
from halfsync.pump.states import ConnectionState
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import Ending, Lease
from tests.pump.harness import Stage, get, no_descriptor_left

UPLOAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


# --- PRODUCING -------------------------------------------------------------------------------------


def test_a_slow_handler_that_writes_to_a_pipe_is_not_the_clients_fault():
    """The client has taken all that there is. However long the handler then takes, it is not send_timeout
    that ends it."""
    with Stage(access_logfile="-") as stage:
        hand = stage.hand()
        client = stage.client()
        client.send(get())
        task = hand.take()
        reading, writing = os.pipe()
        hand.reply(task, b"", objects=[Pipe(0)], fds=(reading,), ending=Ending.UNFINISHED)
        for piece in (b"one ", b"two ", b"three"):
            os.write(writing, piece)
            stage.later(200)
        os.close(writing)
        stage.later(200)
        hand.part(task, ending=Ending.DONE)
        assert client.answer().body == b"one two three"
        assert stage.reasons() == [CloseReason.KEPT]


def test_a_client_that_does_not_take_what_a_pipe_holds_is_still_timed():
    """While there is something to take, the client's limit runs."""
    with Stage(access_logfile="-") as stage:
        hand = stage.hand()
        client = stage.client(rcvbuf=8192)
        client.send(get())
        reading, writing = os.pipe()
        hand.reply(hand.take(), objects=[Pipe(0)], fds=(reading,), ending=Ending.UNFINISHED)
        os.set_blocking(writing, False)

        def pour() -> int:
            try:
                return os.write(writing, bytes(60_000))
            except BlockingIOError:
                return 0

        while pour():
            stage.settle()
        stage.later(63)
        os.close(writing)
        assert stage.reasons() in ([CloseReason.SEND_TIMEOUT], [CloseReason.SEND_TOO_SLOW])


@pytest.mark.parametrize("how", ["parts", "pipe"])
def test_stream_timeout(how: str, capfd: pytest.CaptureFixture[str]):
    """A handler that gives nothing more: the connection is reset, and the log names the setting."""
    with Stage(access_logfile="-", stream_timeout=10) as stage:
        hand = stage.hand()
        client = stage.client()
        client.send(get("/stream"))
        task = hand.take()
        reading, writing = os.pipe()
        if how == "pipe":
            hand.reply(task, b"one", objects=[Pipe(0)], fds=(reading,), ending=Ending.UNFINISHED)
        else:
            os.close(reading)
            hand.reply(task, b"one", ending=Ending.UNFINISHED)
        for _ in range(3):  # each piece begins the time again
            stage.later(8)
            if how == "pipe":
                os.write(writing, b"more")
            else:
                hand.part(task, Memory(b"more"))
        stage.later(8)
        assert not stage.reasons()
        stage.later(4)
        os.close(writing)
        client.rest()
        assert client.reset
        assert stage.reasons() == [CloseReason.STREAM_TIMEOUT]
    assert "GET '/stream': its handler gave nothing for 10 s (stream_timeout)" in capfd.readouterr().err


# --- keep_alive = 0 --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_without_keep_alive_each_response_says_that_it_is_the_last(version: str):
    """From a worker, from a lease, or a refusal of ours: `Connection: close`, and an orderly end."""
    with Stage(keep_alive=0) as stage:
        hand = stage.hand()
        for kind in ("worker", "lease", "lease", "404", "stream"):
            client = stage.client()
            client.send(get("*" if kind == "404" else f"/{kind}", "Connection: keep-alive", version=version))
            if kind == "stream":
                task = hand.take()
                hand.reply(task, b"x", length=2, ending=Ending.UNFINISHED)
                hand.part(task, Memory(b"y"), ending=Ending.DONE)
            elif hand.tasks:
                hand.reply(hand.take(), b"ok", lease=Lease(100, ()) if kind == "lease" else None)
            answer = client.answer()
            assert answer.closes, kind
            assert client.rest() == b""
            assert client.ended, kind
        stage.later(1)  # a sweep finds nothing to do
        assert all(conn.state is ConnectionState.LINGERING for conn in stage.pump.connections.values())


def test_a_kept_connection_whose_time_is_over_still_has_its_last_request_served():
    """The request came before the sweep that would have closed the connection."""
    with Stage(keep_alive=5) as stage:
        stage.hand(answers=True)
        client = stage.client()
        client.ask("/")
        stage.time.advance(6)
        client.sock.send(get("/late"))
        stage.pump._sweep()
        assert b"/late" in client.answer().body


# --- clients that left -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_the_queue_takes_its_request_with_it(how: str):
    """It is not counted, holds no descriptor, is not handed over, and is logged as left."""
    with Stage(access_logfile="-", queue_limit=3, body_memory=10) as stage, no_descriptor_left(stage):
        clients = [stage.client() for _ in range(3)]
        for client in clients:
            client.send(UPLOAD % 1000 + bytes(1000))
        full = stage.client()
        assert full.ask("/").status == 503
        for client in clients:
            if how == "reset":
                client.leave()
            else:
                client.sock.close()
                stage.settle()
                stage.clients.remove(client)
        stage.until(lambda: len(stage.pump.connections) == 1)
        assert stage.pump.http1.spool_space.used == 0
        stage.pump.access.records.clear()
        hand = stage.hand(answers=True)
        assert full.ask("/next").status == 200
        assert [task.head.split()[1] for packet in hand.packets for task in packet] == [b"/next"]  # type: ignore[union-attr]
        full.leave()
        hand.die()


def test_many_clients_that_leave_do_not_slow_the_queue_down():
    """Their places in it are cleared away, in one go for many."""
    with Stage(access_logfile="-") as stage:
        clients = [stage.client() for _ in range(300)]
        for number, client in enumerate(clients):
            client.send(get(f"/{number}"))
        for client in clients[:299]:
            client.leave()
        pool = stage.pump.pools.pools[1]
        stage.until(lambda: pool.waiting == 1)
        assert len(pool.queue) < 130
        hand = stage.hand()
        task = hand.take()
        assert task.head.startswith(b"GET /299 ")
        assert not hand.tasks


def test_a_client_that_closes_its_side_with_its_request_is_answered_if_a_thread_is_free():
    """As `nc -N` does."""
    with Stage() as stage:
        stage.hand(answers=True)
        client = stage.client()
        client.sock.send(get("/a") + get("/b"))
        client.sock.shutdown(socket.SHUT_WR)
        assert client.answer().body == b"GET /a HTTP/1.1\n"
        assert client.answer().body == b"GET /b HTTP/1.1\n"


@pytest.mark.parametrize("together", [True, False])
def test_a_client_that_closes_its_side_and_would_have_to_wait_has_left(together: bool):
    """Its handler is never run, and the log says that it left."""
    with Stage(access_logfile="-") as stage:
        busy = stage.client()
        hand = stage.hand(threads=1)
        busy.send(get("/busy"))
        task = hand.take()
        client = stage.client()
        client.sock.send(get("/dead"))
        if not together:
            stage.settle()
        client.sock.shutdown(socket.SHUT_WR)
        stage.until(lambda: stage.reasons() == [CloseReason.CLIENT_DISCONNECTED])
        hand.reply(task)
        stage.settle()
        assert not hand.tasks
        assert stage.pump.access.records[0][3] == 0  # no status: it was not answered


def test_the_queue_timeout_is_each_requests_own():
    """One that left early in the queue does not lend its age to the next."""
    with Stage(queue_timeout=30) as stage:
        early = stage.client()
        early.send(get("/early"))
        stage.later(20)
        late = stage.client()
        late.send(get("/late"))
        pool = stage.pump.pools.pools[1]
        early.leave()
        stage.later(20)
        assert pool.waiting == 1
        assert late.quiet()
        stage.later(11)
        assert late.answer().status == 503
