"""What is true of connections, whatever is asked on them: order, endings, limits, and the turn."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator

import pytest

from halfsync.plan.plan import Kind, RoutePlan
from halfsync.pump.transport import RECV_SIZE
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import Ending, Lease, Part
from tests.pump.harness import (
    BUILT_IN,
    Client,
    Stage,
    get,
    no_descriptor_left,
    skip_with_records,
    skip_with_tls,
)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage(access_logfile="-") as stage:
        yield stage


def test_pipelined_requests_are_answered_in_order(stage: Stage):
    """However many come at once, each waits for the one before it."""
    stage.hand(answers=True)
    client = stage.client()
    client.send(b"".join(get(f"/{number}") for number in range(200)))
    for number in range(200):
        assert client.answer().body == b"GET /%d HTTP/1.1\n" % number
    assert client.quiet()


def test_a_client_that_only_sends_is_read_one_buffer_ahead(stage: Stage):
    """Who pipelines without end and never reads fills its own buffers, not the pump's memory."""
    hand = stage.hand()
    client = stage.client()
    client.send(get())
    hand.take()

    def flood() -> None:
        for _ in range(10_000):
            client.sock.send(get() * 100)
            stage.turn()

    with pytest.raises(BlockingIOError):
        flood()
    [conn] = stage.pump.connections.values()
    assert len(conn.inbox) <= RECV_SIZE


@pytest.mark.parametrize("size", [0, 1, 15_000, 20_000])
def test_responses_that_do_not_fit_the_socket(stage: Stage, size: int):
    """Whichever way a response takes, what the socket does not take at once is sent later: a client
    that asks 60 times before it reads gets 60 whole responses."""
    stage.handler = lambda hand, task: hand.reply(task, task.head[5:7] * (size // 2))
    stage.hand(answers=True)
    client = stage.client(rcvbuf=8192)
    client.send(b"".join(get(f"/{number}") for number in range(10, 70)))
    for number in range(10, 70):
        assert client.answer().body == b"%d" % number * (size // 2)
    assert client.quiet()
    sizes = [record[4] for record in stage.pump.access.records]
    assert sizes == [size // 2 * 2] * 60


def test_a_half_closed_client_gets_its_response(stage: Stage):
    """A client may say that it has nothing more to ask, and still wait for what it asked."""
    hand = stage.hand()
    client = stage.client()
    client.send(get("/1") + get("/2"))
    client.finish()
    hand.reply(hand.take(), b"one")
    hand.reply(hand.take(), b"two")
    assert [client.answer().body for _ in range(2)] == [b"one", b"two"]
    assert client.rest() == b""
    assert client.ended


def test_a_request_that_is_cut_off_reaches_nobody(stage: Stage):
    """Half a head, or half a body, and then the end."""
    hand = stage.hand()
    for part in (get()[:10], b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe"):
        client = stage.client()
        client.send(part)
        client.finish()
        assert client.rest() == b""
    assert not hand.tasks
    assert not stage.pump.connections


def test_100_continue_is_said_when_it_is_waited_for(stage: Stage):
    """Before the body, and only if nothing of it has come."""
    skip_with_records("has the body in a record of its own, which has not come when the headers have")
    hand = stage.hand(answers=True)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    client = stage.client()
    client.send(head)
    assert client.interim().status == 100
    assert not hand.packets
    client.send(b"hi")
    assert client.interim().status == 200
    client.send(head + b"hi")
    assert client.interim().status == 200
    client.send(head.replace(b"1.1", b"1.0"))
    assert client.quiet()


def test_413_before_100(stage: Stage):
    """A body that is too large is refused before it is sent."""
    client = stage.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 999999999999\r\n\r\n")
    assert client.interim().status == 413


def test_a_chunked_body_that_grows_too_large():
    """Its size is not known beforehand; 413 as soon as it is past the limit, and what is on its way
    is read and dropped, so that the client sees the response."""
    with Stage(limit_request_body=100_000) as stage:
        stage.hand(answers=True)
        client = stage.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(30):
            client.send(b"2000\r\n" + bytes(0x2000) + b"\r\n")
        answer = client.answer()
        assert (answer.status, answer.closes) == (413, True)
        assert client.rest() == b""
        assert client.ended


def test_bodies_up_to_the_limit_are_taken():
    """To the byte, in either framing."""
    with Stage(limit_request_body=1000) as stage:
        stage.hand(answers=True)
        client = stage.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + bytes(1000))
        assert client.answer().status == 200
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(b"3e8\r\n" + bytes(1000) + b"\r\n0\r\n\r\n")
        assert client.answer().status == 200


@pytest.mark.parametrize("size", [32 * 1024, 32 * 1024 + 1, 1_000_000])
def test_bodies_in_memory_and_in_files(stage: Stage, size: int):
    """Up to body_memory in the message, beyond in an anonymous temporary file; the worker gets every byte,
    and no descriptor or file is left."""
    stage.handler = lambda hand, task: hand.reply(task, hashlib.sha256(hand.bodies[task.number]).digest())
    stage.hand(answers=True)
    client = stage.client()
    body = os.urandom(size)
    with no_descriptor_left(stage):
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        for at in range(0, size, 10_000):
            client.send(body[at : at + 10_000])
        assert client.answer().body == hashlib.sha256(body).digest()
    assert os.listdir(stage.folder) == []


def test_nothing_is_mounted_there():
    """404 from the pump, without a worker; the connection is kept if that is certain."""
    with Stage(routes=(RoutePlan("/app", "app:app", Kind.WSGI, 1),)) as stage:
        stage.hand(answers=True)
        client = stage.client()
        assert client.ask("/application").status == 404
        assert client.ask("/app/x").status == 200
        assert client.ask("/%61pp").status == 200
        assert client.ask("/").status == 404


def test_a_unix_socket():
    """The same on an address of another kind, whose clients have no name."""
    with Stage(unix=True, access_logfile="-") as stage:
        hand = stage.hand()
        client = stage.client()
        client.send(get())
        task = hand.take()
        assert (task.client, task.client_port) == ("", 0)
        hand.reply(task, b"x" * 100_000)
        assert client.answer().body == b"x" * 100_000


def test_a_number_that_is_used_again_in_the_same_turn(stage: Stage):
    """A connection closes, its descriptor's number goes to a new client, and behind that comes an
    event that was meant for the old one: the new client is not closed by it."""
    skip_with_tls("the new client shakes hands, which takes more than this turn")
    hand = stage.hand()
    old = stage.client()
    old.send(get("/", "Connection: close"))
    task = hand.take()
    hand.answers = True  # so that nothing turns between the next lines
    hand.reply(task, b"bye")
    new = Client(stage)
    stage.clients.append(new)
    old.sock.shutdown(socket.SHUT_WR)
    stage.settle()
    assert len(stage.pump.connections) == 1
    assert new.ask("/new").body == b"GET /new HTTP/1.1\n"


# --- records --------------------------------------------------------------------------------------


def test_each_response_is_logged_with_what_was_really_sent(stage: Stage):
    """Status, bytes of the body, bytes in all, and how it ended; also of what never was a request."""
    hand = stage.hand()
    client = stage.client()
    client.send(get("/x"))
    hand.reply(hand.take(), b"12345")
    size = client.answer().size
    client.send(b"bad\r\n\r\n")
    bad = client.answer()
    first, second = stage.pump.access.records
    assert first[2:6] == (get("/x"), 200, 5, size)
    assert CloseReason(first[9]) is CloseReason.KEPT
    assert first[10] == 0
    assert second[2:6] == (b"bad\r\n\r\n", 400, len(bad.body), bad.size)
    assert CloseReason(second[9]) is CloseReason.REFUSED
    assert second[10] == 1


def test_records_go_to_a_worker_in_batches_and_are_not_lost_with_it(stage: Stage):
    """One batch at a time; if its worker dies, the next one gets it again."""
    stage.hand(answers=True)
    logger = stage.hand(BUILT_IN, threads=4)
    client = stage.client()
    for number in range(10):
        client.ask(f"/{number}")
    stage.later(0.5)
    [batch] = logger.log_tasks
    assert [record.head for record in batch.records] == [get(f"/{number}") for number in range(10)]
    client.ask("/10")
    stage.later(0.5)
    assert len(logger.log_tasks) == 1
    logger.die()
    logger = stage.hand(BUILT_IN, threads=4)
    stage.later(0.5)
    [batch] = logger.log_tasks
    assert len(batch.records) == 11
    logger.send([Part(batch.number, [], Ending.DONE)])
    stage.later(0.5)
    assert stage.pump.access.idle


# --- stopping -------------------------------------------------------------------------------------


def test_drain(stage: Stage):
    """Idle connections close, those that never asked soon; what has been asked is answered, with
    Connection: close; nobody new is accepted; then it is drained."""
    hand = stage.hand()
    fresh, idle, busy, begun = (stage.client() for _ in range(4))
    idle.send(get())
    hand.reply(hand.take())
    idle.answer()
    busy.send(get("/busy"))
    begun.send(get("/begun")[:10])
    stage.pump.draining.begin(30.0)
    assert idle.rest() == b""
    hand.reply(hand.take(), b"answered")
    answer = busy.answer()
    assert (answer.body, answer.closes) == (b"answered", True)
    assert busy.rest() == b""
    begun.send(get("/begun")[10:])
    hand.reply(hand.take(), b"begun")
    assert begun.answer().closes
    stage.later(2)
    assert fresh.rest() == b""
    for client in (busy, begun):
        client.leave()
    stage.until(lambda: not stage.pump.connections)
    stage.clients.append(Client(stage, in_clear=True))  # whom nobody accepts
    stage.settle()
    assert not stage.pump.connections


def test_heads_that_were_seen_before_keep_their_own_cookies():
    """Heads are looked up without their cookie; what reaches the worker is what the client sent."""
    plain = get("/x", "Accept: text/html")
    heads = [plain] + [get("/x", f"Cookie: id={number}", "Accept: text/html") for number in range(3)]
    heads.append(get("/x", "Cookie: a=1", "Cookie: b=2", "Accept: text/html"))
    heads.append(get("/x", "cookie: a=1", "Accept: text/html"))
    with Stage() as stage:
        hand, client = stage.hand(), stage.client()
        for head in [*heads, *reversed(heads), *heads]:
            client.send(head)
            task = hand.take()
            assert task.head == head
            hand.reply(task, b"ok")
            assert client.answer().body == b"ok"


def test_a_cookie_too_long_is_refused_also_where_the_rest_was_seen():
    with Stage(limit_request_field_size=100) as stage:
        hand, client = stage.hand(), stage.client()
        for cookie in ("short", "x" * 40):
            client.send(get("/x", f"Cookie: {cookie}"))
            hand.reply(hand.take(), b"ok")
            assert client.answer().body == b"ok"
        client.send(get("/leased", "Cookie: short"))
        hand.reply(hand.take(), b"ok", lease=Lease(5, ()))
        assert client.answer().body == b"ok"
        for target in ("/x", "/leased", "/leased"):
            other = stage.client()
            other.send(get(target, "Cookie: short"))
            if target == "/x":
                hand.reply(hand.take(), b"ok")
            assert other.answer().body == b"ok"
            other.send(get(target, f"Cookie: {'x' * 200}"))
            assert other.answer().status == 431
