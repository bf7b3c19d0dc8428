"""Leases: what is answered without a worker, to whom, for how long; and what never is."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfsync.objects import File
from halfsync.pump.leases.known_heads import cut_cookie
from halfsync.pump.leases.rules import objection
from halfsync.scoreboard.counts import BYTES_SENT
from halfsync.wire.closes import CloseReason
from halfsync.wire.http1 import HeadLimits, parse_head
from halfsync.wire.messages import Lease, Reply
from halfsync.wire.refusals import Refusal
from tests.pump.harness import Answer, Client, Hand, Stage, get, no_descriptor_left
from tests.pump.http2_client import Http2Client


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage(access_logfile="-") as stage:
        yield stage


def grant(
    client: Client, hand: Hand, head: bytes, body: bytes = b"leased", *names: str, seconds: float = 10
) -> None:
    """Ask, and have the worker answer with a lease."""
    client.send(head)
    hand.reply(hand.take(), body, lease=Lease(seconds, names))
    assert client.answer().body == body


def repeated(client: Client, hand: Hand, head: bytes, method: str = "GET") -> Answer:
    """The answer that needs no worker."""
    client.send(head)
    assert not hand.tasks, "a worker was asked"
    return client.answer(method)


def asked(client: Client, hand: Hand, head: bytes, body: bytes = b"fresh") -> None:
    """The request reaches the worker, lease or no lease."""
    client.send(head)
    hand.reply(hand.take(), body)
    assert client.answer().body == body


def needs_no_worker(client: Client, hand: Hand, head: bytes, method: str = "GET") -> bool:
    """Whether a lease answers."""
    client.send(head)
    asked = bool(hand.tasks)
    if asked:
        hand.reply(hand.take(), b"fresh")
    client.answer(method)
    return not asked


# --- the same request -----------------------------------------------------------------------------


def test_the_same_bytes_are_answered_without_a_worker(stage: Stage):
    """From the second time by looking up the bytes; on any connection."""
    hand, client = stage.hand(), stage.client()
    grant(client, hand, get("/x"))
    for _ in range(5):
        assert repeated(client, hand, get("/x")).body == b"leased"
    assert stage.pump.leases.known[0]
    assert repeated(stage.client(), hand, get("/x")).body == b"leased"


def test_other_fields_do_not_matter_unless_named(stage: Stage):
    """Another order, other fields: it is the same request."""
    hand, client = stage.hand(), stage.client()
    grant(client, hand, get("/x"))
    assert repeated(client, hand, get("/x", "User-Agent: other", "Accept: */*")).body == b"leased"


@pytest.mark.parametrize(
    "other",
    [
        get("/y"),
        get("/x?"),
        get("/X"),
        get("/x", method="HEAD"),
        get("/x").replace(b"Host: a", b"Host: b"),
        b"GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_another_request_reaches_a_worker(stage: Stage, other: bytes):
    """Another target, method, site or a body: no lease is for that."""
    hand, client = stage.hand(), stage.client()
    grant(client, hand, get("/x"))
    repeated(client, hand, get("/x"))
    client.send(other)
    assert len(hand.tasks) == 1


def test_a_cookie_that_differs_does_not_matter_unless_named(stage: Stage):
    """A browser's heads to one page differ by their cookie only: still no parsing, still no worker."""
    hand, client = stage.hand(), stage.client()
    grant(client, hand, get("/x", "Cookie: id=0", "Accept: */*"))
    for number in range(5):
        head = get("/x", f"Cookie: id={number}", "Accept: */*")
        assert repeated(client, hand, head).body == b"leased"
    assert len(stage.pump.leases.known[0].uncookied) == 1
    assert not stage.pump.leases.known[0].whole


def test_a_lease_that_names_the_cookie_is_for_that_cookie(stage: Stage):
    """A personal page is nobody else's."""
    hand, client = stage.hand(), stage.client()
    grant(client, hand, get("/x", "Cookie: id=1"), b"one", "cookie")
    grant(client, hand, get("/x", "Cookie: id=2"), b"two", "cookie")
    for _ in range(3):
        assert repeated(client, hand, get("/x", "Cookie: id=1")).body == b"one"
        assert repeated(client, hand, get("/x", "Cookie: id=2")).body == b"two"
    asked(client, hand, get("/x", "Cookie: id=3"))
    asked(client, hand, get("/x"))
    asked(client, hand, get("/x", "Cookie: id=1", "Cookie: id=2"))


def test_named_fields_make_variants(stage: Stage):
    """Each value of a named field has a response of its own; its absence is a value too."""
    hand, client = stage.hand(), stage.client()
    grant(client, hand, get("/x", "Accept-Encoding: gzip"), b"zipped", "accept-encoding")
    grant(client, hand, get("/x"), b"plain", "accept-encoding")
    for _ in range(2):
        assert repeated(client, hand, get("/x", "ACCEPT-encoding:  gzip ")).body == b"zipped"
        assert repeated(client, hand, get("/x")).body == b"plain"
    asked(client, hand, get("/x", "Accept-Encoding: br"))


def test_ranges_are_variants(stage: Stage):
    """The part that one client asked for is not given to who asks for another, or for all."""
    hand, client = stage.hand(), stage.client()
    names = ("range", "if-range", "if-none-match", "if-modified-since", "if-match", "if-unmodified-since")
    grant(client, hand, get("/x"), b"whole", *names)
    grant(client, hand, get("/x", "Range: bytes=0-1"), b"wh", *names)
    assert repeated(client, hand, get("/x")).body == b"whole"
    assert repeated(client, hand, get("/x", "Range: bytes=0-1")).body == b"wh"
    asked(client, hand, get("/x", "Range: bytes=0-2"))
    asked(client, hand, get("/x", "Range: bytes=0-1", 'If-Range: "tag"'))
    asked(client, hand, get("/x", "Range: bytes=0-1", "Range: bytes=2-3"))


def test_more_variants_than_memory_allows(stage: Stage):
    """Clients choose ranges: they can't make the pump remember thousands of them."""
    hand, client = stage.hand(), stage.client()
    for number in range(300):
        grant(client, hand, get("/x", f"Range: bytes=0-{number}"), b"x", "range")
    kept = sum(needs_no_worker(client, hand, get("/x", f"Range: bytes=0-{number}")) for number in range(300))
    assert 1 <= kept <= 64


# --- time -----------------------------------------------------------------------------------------


def test_a_lease_expires(stage: Stage):
    """After its seconds the worker is asked again, also for bytes that were known."""
    hand, client = stage.hand(), stage.client()
    grant(client, hand, get("/x"), seconds=1)
    repeated(client, hand, get("/x"))
    stage.time.advance(1.001)
    asked(client, hand, get("/x"))
    stage.later(1)
    assert not stage.pump.leases.known[0].whole


def test_a_lease_is_renewed_early(stage: Stage):
    """In its last fifth one request asks the worker; all others are answered as before, so that the
    end of a hot file's lease is not a stampede."""
    hand, first, second = stage.hand(), stage.client(), stage.client()
    grant(first, hand, get("/x"), b"old")
    repeated(first, hand, get("/x"))
    stage.time.advance(8.5)
    first.send(get("/x"))
    task = hand.take()
    for _ in range(3):
        assert repeated(second, hand, get("/x")).body == b"old"
    hand.reply(task, b"new", lease=Lease(10, ()))
    assert first.answer().body == b"new"
    stage.time.advance(5)
    assert repeated(second, hand, get("/x")).body == b"new"


WAYS = {
    "kept": get("/x"),
    "with a cookie": get("/x", "Cookie: a=1"),
    "closing": get("/x", "Connection: close"),
    "1.0": get("/x", "Host: a", version="1.0"),
    "HEAD": get("/x", method="HEAD"),
    "closing HEAD": get("/x", "Connection: close", method="HEAD"),
}
"""Each is found by its bytes in another table, or by another step."""

RENEWED: dict[str, dict[str, Any]] = {
    "by a lease": {"lease": Lease(10, ())},
    "by one that names more": {"lease": Lease(10, ("accept",))},
    "without a lease": {},
    "without a lease, large": {"fields": b"X-Large: " + b"x" * 70_000 + b"\r\n"},
    "by one that is refused": {"lease": Lease(10, ()), "fields": b"Cache-Control: private\r\n"},
    "by what is not there": {"status": 404, "reason": "Not Found"},
}


@pytest.mark.parametrize("how", RENEWED)
@pytest.mark.parametrize("way", WAYS)
def test_what_was_before_a_renewal_is_never_repeated_behind_it(stage: Stage, way: str, how: str):
    """Who asks for the new lease may get no lease at all. The old one, whose time is not over, would show
    what is no longer true to those who have seen the new response already."""
    hand, head = stage.hand(), WAYS[way]
    method = "HEAD" if "HEAD" in way else "GET"

    def asks(body: bytes, **reply: Any) -> bytes:
        """What a client gets, and `body` if a worker is asked."""
        client = stage.client()
        client.send(head)
        if hand.tasks:
            hand.reply(hand.take(), body, **reply)
        return client.answer(method).fields["content-length"].encode()

    assert asks(b"of 1", lease=Lease(10, ())) == b"4"
    for _ in range(3):
        assert asks(b"is not asked") == b"4"
    stage.time.advance(8.5)
    renewing = stage.client()
    renewing.send(head)
    task = hand.take()
    for _ in range(2):
        assert asks(b"is not asked") == b"4"
    hand.reply(task, b"another", **RENEWED[how])
    assert renewing.answer(method).fields["content-length"] == "7"
    for _ in range(2):
        assert asks(b"another") == b"7"
    stage.time.advance(1)
    assert asks(b"another") == b"7"


def test_an_error_is_no_renewal(stage: Stage):
    """The old response is repeated for as long as it was granted."""
    hand = stage.hand()
    for head in (get("/x"), get("/x", "Connection: close")):
        grant(stage.client(), hand, head)
        repeated(stage.client(), hand, head)
        stage.time.advance(8.5)
        client = stage.client()
        client.send(head)
        hand.reply(hand.take(), b"sorry", status=500)
        assert client.answer().status == 500
        for _ in range(2):
            assert repeated(stage.client(), hand, head).body == b"leased"
        stage.time.advance(2)
        asked(stage.client(), hand, head)


def test_other_names_end_what_was_granted_with_fewer(stage: Stage):
    """What depends on the cookie now did so before, for all that is known."""
    hand = stage.hand()
    closing = get("/x", "Connection: close")
    grant(stage.client(), hand, closing)
    last(stage, hand, closing)
    last(stage, hand, closing)
    client = stage.client()
    client.send(get("/x", "Authorization: a"))
    hand.reply(hand.take(), b"Ann's", lease=Lease(10, ("authorization",)))
    assert client.answer().body == b"Ann's"
    asked(stage.client(), hand, closing)


def test_a_slow_handler_takes_nothing_back(stage: Stage):
    """It began before the one whose response is repeated now, so it may have seen less."""
    hand = stage.hand(threads=2)
    slow, quick = stage.client(), stage.client()
    slow.send(get("/x"))
    first = hand.take()
    stage.time.advance(0.1)
    quick.send(get("/x"))
    hand.reply(hand.take(), b"new", lease=Lease(10, ()))
    assert quick.answer().body == b"new"
    hand.reply(first, b"old", lease=Lease(10, ()))
    assert slow.answer().body == b"old"
    assert repeated(quick, hand, get("/x")).body == b"new"
    stage.time.advance(8.5)
    grant(quick, hand, get("/x"), b"newer")
    assert repeated(slow, hand, get("/x")).body == b"newer"


def test_date_is_made_each_second(stage: Stage):
    """A repeated response shows the present second, not the one of its making."""
    hand, client = stage.hand(), stage.client()
    grant(client, hand, get("/x"), seconds=100)
    dates = []
    for _ in range(4):
        dates += [repeated(client, hand, get("/x")).fields["date"] for _ in range(2)]
        stage.time.advance(1)
    assert dates[::2] == dates[1::2]
    assert [date[-6:-4] for date in dates[::2]] == ["20", "21", "22", "23"]


# --- kinds of responses -----------------------------------------------------------------------------


def test_head_has_a_lease_of_its_own(stage: Stage):
    """It repeats the head with the length, and no body; and GET is not answered from it."""
    hand, client = stage.hand(), stage.client()
    client.send(get("/x", method="HEAD"))
    hand.reply(hand.take(), b"", length=1234, lease=Lease(10, ()))
    assert client.answer("HEAD").fields["content-length"] == "1234"
    for _ in range(3):
        assert repeated(client, hand, get("/x", method="HEAD"), "HEAD").fields["content-length"] == "1234"
    asked(client, hand, get("/x"))


@pytest.mark.parametrize("length", [0, -1])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_304_is_repeated_without_length(stage: Stage, method: str, length: int):
    """It has no body and says nothing of one. (The handler of files gives it no length.)"""
    hand, client = stage.hand(), stage.client()
    conditional = get("/x", 'If-None-Match: "a"', method=method)
    client.send(conditional)
    lease = Lease(10, ("if-none-match",))
    hand.reply(hand.take(), status=304, reason="Not Modified", length=length, lease=lease)
    assert client.answer(method).status == 304
    for _ in range(3):
        answer = repeated(client, hand, conditional, method)
        assert answer.status == 304
        assert "content-length" not in answer.fields
    asked(client, hand, get("/x"))


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("status", [204, 304])
def test_a_body_where_there_is_none_is_not_repeated(stage: Stage, status: int, in_file: bool):
    """Whatever a handler gives: it would be read as the beginning of the next response."""
    hand, client, second = stage.hand(), stage.client(), Http2Client(stage)
    head = get("/x", 'If-None-Match: "a"')
    client.send(head)
    lease = Lease(10, ("if-none-match",))
    if in_file:
        fd = os.memfd_create("body")
        os.write(fd, b"body")
        hand.reply(hand.take(), status=status, objects=[File(0, 0, 4)], fds=(fd,), lease=lease)
    else:
        hand.reply(hand.take(), b"body", status=status, lease=lease)
    assert client.answer().status == status
    for _ in range(3):
        answer = repeated(client, hand, head)
        assert (answer.status, client.inbox) == (status, b"")
        assert "content-length" not in answer.fields
        response = second.response(second.start("/x", fields=[(b"if-none-match", b'"a"')]))
        assert (response.status, response.body, response.reset) == (status, b"", None)
    assert client.quiet()
    last = stage.client()
    for _ in range(2):
        last.send(get("/x", 'If-None-Match: "a"', "Connection: close"))
        assert last.rest().endswith(b"\r\n\r\n")
        last = stage.client()


def test_a_file_is_leased_by_its_descriptor(stage: Stage):
    """Sent again and again from the one descriptor, which is closed when the lease ends."""
    hand, client = stage.hand(), stage.client()
    data = os.urandom(200_000)
    with no_descriptor_left(stage):
        with tempfile.TemporaryFile() as file:
            file.write(b"before" + data)
            file.flush()
            client.send(get("/x"))
            fd = os.dup(file.fileno())
            task = hand.take()
            hand.reply(task, objects=[File(0, 6, len(data))], fds=(fd,), lease=Lease(5, ()))
        assert client.answer().body == data
        for _ in range(3):
            assert repeated(client, hand, get("/x")).body == data
        stage.later(6)


def test_1_0_and_close_are_answered_from_a_lease(stage: Stage):
    """The lease is the same; what is said of the connection is not. And neither spoils the bytes
    that are known for kept connections."""
    hand = stage.hand()
    grant(stage.client(), hand, get("/x"))
    for _ in range(2):
        closing = stage.client()
        answer = repeated(closing, hand, get("/x", "Connection: close"))
        assert (answer.body, answer.closes) == (b"leased", True)
        assert closing.rest() == b""
        old = stage.client()
        answer = repeated(old, hand, get("/x", "Host: a", version="1.0"))
        assert (answer.body, answer.closes) == (b"leased", True)
        assert old.rest() == b""
        kept = stage.client()
        for _ in range(2):
            answer = repeated(kept, hand, get("/x", "Host: a", "Connection: keep-alive", version="1.0"))
            assert answer.fields["connection"] == "keep-alive"
            assert not repeated(kept, hand, get("/x")).closes


def last(stage: Stage, hand: Hand, head: bytes) -> Answer:
    """The response to a request behind which the connection ends."""
    client = stage.client()
    answer = repeated(client, hand, head)
    assert answer.closes
    assert client.rest() == b""
    client.finish()  # where it is not known that all was read, the connection waits for that
    return answer


def test_last_requests_are_logged_and_counted_like_others(stage: Stage):
    """From the second time on they are found by their bytes."""
    hand = stage.hand()
    grant(stage.client(), hand, get("/x"))
    heads = (get("/x", "Connection: close"), get("/x", "Host: a", version="1.0"))
    for head in heads:
        for _ in range(3):
            last(stage, hand, head)
        assert head in stage.pump.leases.known[0].last
    records = stage.pump.access.records[1:]
    assert [record[2] for record in records] == [head for head in heads for _ in range(3)]
    assert {record[3:5] for record in records} == {(200, len(b"leased"))}
    assert {record[9:] for record in records} == {(int(CloseReason.ANSWERED), 0)}
    assert len({record[5] for record in records[:3]}) == len({record[5] for record in records[3:]}) == 1
    counts = stage.pump.endings.counts
    assert counts.requests == 7
    assert counts.closes == {int(CloseReason.ANSWERED): 6}
    assert counts.words[BYTES_SENT] == sum(record[5] for record in stage.pump.access.records)


def test_last_requests_find_a_lease_no_longer_than_others(stage: Stage):
    """It has a new Date each second, is renewed early, and is over with the code that made it."""
    hand = stage.hand()
    head = get("/x", "Connection: close")
    grant(stage.client(), hand, get("/x"), seconds=10)
    dates = []
    for _ in range(4):
        dates += [last(stage, hand, head).fields["date"] for _ in range(2)]
        stage.time.advance(1)
    assert dates[::2] == dates[1::2]
    assert len(set(dates)) == 4
    stage.time.advance(4.5)
    renewing = stage.client()
    renewing.send(head)
    task = hand.take()
    last(stage, hand, head)  # the new lease has not come yet: the others have the old one
    hand.reply(task, b"leased", lease=Lease(10, ()))
    assert renewing.answer().body == b"leased"
    last(stage, hand, head)
    (leased,) = set(stage.pump.leases.known[0].last.values())
    stage.pump.leases.end_of(leased.granted_by)
    asked(stage.client(), hand, head)


def test_a_last_request_with_a_cookie_is_not_remembered(stage: Stage):
    hand = stage.hand()
    grant(stage.client(), hand, get("/x"))
    for _ in range(2):
        last(stage, hand, get("/x", "Cookie: a=1", "Connection: close"))
    assert not stage.pump.leases.known[0].last


def test_what_is_closed_by_us_is_not_remembered_as_closing(stage: Stage):
    """Where a listening socket is no more, every response is the last; the very same bytes are not, on other
    connections."""
    hand = stage.hand()
    grant(stage.client(), hand, get("/x"))
    heads = (get("/x"), get("/x", "Host: a", "Connection: keep-alive", version="1.0"))
    for head in heads:
        client = stage.client()
        stage.settle()  # it has shaken hands, if there is TLS
        *_, conn = stage.pump.connections.values()
        conn.protocol = stage.pump.closing_http1
        assert repeated(client, hand, head).closes
        assert not stage.pump.leases.known[0].last
    for head in heads:
        assert not repeated(stage.client(), hand, head).closes


def test_behind_a_last_request_nothing_is_lost(stage: Stage):
    """Bytes behind it are not acted on, and the client has the whole response before the end."""
    hand = stage.hand()
    grant(stage.client(), hand, get("/x"))
    head = get("/x", "Connection: close")
    for _ in range(2):
        last(stage, hand, head)
    for behind in (b"G", get("/y"), get("/x")):
        last(stage, hand, head + behind)
    assert len(stage.pump.access.records) == 6


def test_pipelined_heads_are_answered_in_order(stage: Stage):
    """Known heads and others, in one packet."""
    hand, client = stage.hand(), stage.client()
    grant(client, hand, get("/x"))
    repeated(client, hand, get("/x"))
    client.send(get("/x") + get("/y") + get("/x"))
    assert client.answer().body == b"leased"
    assert client.quiet()
    hand.reply(hand.take(), b"fresh")
    assert [client.answer().body for _ in range(2)] == [b"fresh", b"leased"]


def test_a_leased_response_that_does_not_fit_the_socket(stage: Stage):
    """A client that asks again and again and reads nothing gets all of it later, whole and in order."""
    hand, client = stage.hand(), stage.client(rcvbuf=8192)
    body = os.urandom(50_000)
    client.send(get("/x"))
    hand.reply(hand.take(), body, lease=Lease(1000, ()))
    assert client.answer().body == body
    for _ in range(12):
        client.send(get("/x"))
    assert [client.answer().body for _ in range(12)] == [body] * 12
    assert client.quiet()


class Reluctant:
    """A socket that takes nothing, or an end, at its first send."""

    def __init__(self, sock: Any, error: OSError) -> None:
        self._sock = sock
        self._error: OSError | None = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def send(self, data: bytes) -> int:
        error, self._error = self._error, None
        if error is not None:
            raise error
        return int(self._sock.send(data))


@pytest.mark.parametrize("error", [BlockingIOError(), InterruptedError()])
def test_a_socket_that_takes_nothing_at_first_gets_its_leased_response_later(stage: Stage, error: OSError):
    """The request has been read by then: it must not be forgotten."""
    hand, client = stage.hand(), stage.client()
    grant(client, hand, get("/x"))
    for _ in range(2):
        assert repeated(client, hand, get("/x")).body == b"leased"
    (conn,) = stage.pump.connections.values()
    conn.transport = Reluctant(conn.transport, error)  # type: ignore[assignment]  # the kernel can't be made to
    assert repeated(client, hand, get("/x")).body == b"leased"
    assert repeated(client, hand, get("/x")).body == b"leased"


KINDS = {
    "closing": get("/x", "Connection: close"),
    "old": get("/x", "Host: a", version="1.0"),
    "old and kept": get("/x", "Host: a", "Connection: keep-alive", version="1.0"),
    "first of its connection": get("/x"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", [b"leased", b""])
@pytest.mark.parametrize("taken", [0, 1, 150, -1])
def test_a_small_leased_response_off_the_hot_path(stage: Stage, kind: str, body: bytes, taken: int):
    """It is sent at once; what the socket does not take (all, all but a byte, the body, or the last byte)
    follows."""
    hand = stage.hand()
    head = KINDS[kind]
    grant(stage.client(), hand, get("/x"), body)
    for _ in range(2):
        client = stage.client()
        stage.settle()  # it has shaken hands, if there is TLS
        *_, conn = stage.pump.connections.values()
        conn.transport = Miserly(conn.transport, taken)  # type: ignore[assignment]
        answer = repeated(client, hand, head)
        assert (answer.status, answer.body) == (200, body)
        closes = kind in ("closing", "old")
        assert answer.closes == closes
        if closes:
            assert client.rest() == b""
            # where a transport can't say that all is read, the connection lingers
            assert conn.fd not in stage.pump.connections or not conn.transport.tells_of_more
        else:
            assert repeated(client, hand, head).body == body
    assert all(record[3:5] == (200, len(body)) for record in stage.pump.access.records)
    assert {record[5] for record in stage.pump.access.records[1:]}.issubset(range(80, 300))


class Miserly:
    """A transport that takes so many bytes of what it is given first (negative: all but so many)."""

    def __init__(self, transport: Any, most: int) -> None:
        self._transport = transport
        self._most: int | None = most

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def send_last(self, data: bytes) -> int:
        return self.send(data)

    def send(self, data: bytes, *flags: int) -> int:
        most, self._most = self._most, None
        if most is None or not data:
            assert data, "nothing is sent"
            return int(self._transport.send(data, *flags))
        if most == 0:
            raise BlockingIOError
        return int(self._transport.send(data[:most], *flags))


def test_a_leased_response_to_a_client_that_has_gone(stage: Stage):
    hand = stage.hand()
    grant(stage.client(), hand, get("/x"))
    client = stage.client()
    stage.settle()
    *_, conn = stage.pump.connections.values()
    conn.transport = Gone(conn.transport)  # type: ignore[assignment]
    client.send(get("/x", "Host: a", version="1.0"))
    assert conn.fd not in stage.pump.connections
    assert stage.reasons()[-1] is CloseReason.CLIENT_DISCONNECTED


class Gone(Miserly):
    def __init__(self, transport: Any) -> None:
        super().__init__(transport, 0)

    def send(self, data: bytes, *flags: int) -> int:
        raise ConnectionResetError

    send_last = send

    def sendmsg(self, *_: Any) -> int:
        raise ConnectionResetError


def test_a_hundred_pipelined_requests_that_a_lease_answers_wait_their_turn(stage: Stage):
    """Each is a step: so others have theirs in between."""
    hand = stage.hand()
    client = stage.client()
    grant(client, hand, get("/x"))
    client.send(get("/x", "X: 1") * 200)
    assert [client.answer().body for _ in range(200)] == [b"leased"] * 200
    assert not hand.tasks


def test_responses_that_are_not_whole_are_not_leased(stage: Stage):
    """Only what is known to its last byte can be repeated."""
    hand, client = stage.hand(), stage.client()
    client.send(get("/x"))
    hand.reply(hand.take(), b"short", length=5, lease=Lease(10, ()))
    client.answer()
    client.send(get("/y"))
    hand.reply(hand.take(), b"no length", length=-1, lease=Lease(10, ()))
    client.answer()
    asked(client, hand, get("/y"))
    client.send(b"POST /z HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    hand.reply(hand.take(), b"posted", lease=Lease(10, ()))
    client.answer()
    asked(client, hand, get("/z"))


def test_memory_is_bounded():
    """The least recently found leases make room."""
    with Stage(lease_memory=1_000_000) as stage:
        hand, client = stage.hand(), stage.client()
        grant(client, hand, get("/first"), bytes(50_000), seconds=1000)
        for number in range(50):
            grant(client, hand, get(f"/{number}"), bytes(50_000), seconds=1000)
            repeated(client, hand, get("/first"))
        kept = sum(needs_no_worker(client, hand, get(f"/{number}")) for number in range(50))
        assert 1 <= kept < 20
        assert repeated(client, hand, get("/49")).body == bytes(50_000)
        asked(client, hand, get("/0"))


# --- what is never leased -------------------------------------------------------------------------

BASIC = "Authorization: Basic YTpi"
RANGES = ("range", "if-range")
NOVELTY = ("if-none-match", "if-modified-since")
MATCH = ("if-match", "if-unmodified-since")


def answered(
    client: Client, hand: Hand, head: bytes, status: int, fields: bytes, names: tuple[str, ...], public: bool
) -> None:
    """Ask, and have a worker answer with a lease, which may be refused."""
    client.send(head)
    body = b"" if status in (204, 304) else b"first"
    hand.reply(hand.take(), body, status=status, reason="Any", fields=fields, lease=Lease(10, names, public))
    assert client.answer(head.partition(b" ")[0].decode()).status == status


@pytest.mark.parametrize(
    ("lines", "status", "fields", "names", "public", "rule"),
    [
        (["If-None-Match: *"], 304, b"", (), False, "if-none-match"),
        (["If-Modified-Since: x"], 304, b"", ("if-modified-since",), False, "if-none-match"),
        (["If-None-Match: *"], 304, b"", ("if-modified-since",), False, "if-none-match"),
        (["Range: bytes=0-1"], 206, b"", (), False, "range"),
        (["Range: bytes=0-1"], 206, b"", ("range",), False, "if-range"),
        (["Range: bytes=9-"], 416, b"", NOVELTY, False, "range"),
        (['If-Match: "a"'], 412, b"", (), False, "if-match"),
        (["If-Unmodified-Since: x"], 412, b"", ("if-unmodified-since",), False, "if-match"),
        ([], 304, b"", NOVELTY, False, "if-none-match"),
        ([], 206, b"", RANGES, False, "range"),
        (['If-Range: "a"'], 416, b"", RANGES, False, "range"),
        ([], 412, b"", MATCH, False, "if-match"),
        ([], 500, b"", (), False, "500"),
        ([], 503, b"", (), True, "503"),
        ([], 200, b"Vary: *\r\n", ("cookie",), True, "Vary: *"),
        ([], 200, b"Vary: Accept\r\n", (), False, "Vary: Accept"),
        ([], 200, b"vary: accept, Cookie\r\n", ("accept",), True, "Vary: Cookie"),
        ([], 200, b"X: y\r\nVary: Accept\t,\tOrigin\r\n", ("accept",), False, "Vary: Origin"),
        ([], 404, b"VARY:accept\r\n", ("accept-language",), False, "Vary: accept"),
        ([], 200, b"Vary: a, *\r\n", ("a",), False, "Vary: *"),
        ([BASIC], 200, b"", (), False, "Authorization"),
        ([BASIC.lower()], 200, b"", ("cookie",), False, "Authorization"),
        (["AUTHORIZATION:x"], 404, b"", (), False, "Authorization"),
        ([], 200, b"Set-Cookie: a=b\r\n", (), True, "cookie"),
        ([], 200, b"set-cookie: a=b\r\n", ("cookie",), False, "cookie"),
        ([], 200, b"Cache-Control: private\r\n", (), False, "private"),
        ([], 200, b"Cache-Control: max-age=3, No-Store\r\n", ("cookie",), True, "no-store"),
        ([], 200, b'Cache-Control: private="set-cookie"\r\n', (), False, "private"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_lease_that_knows_less_than_the_response_is_refused(
    capfd: Any,
    method: str,
    lines: list[str],
    status: int,
    fields: bytes,
    names: tuple[str, ...],
    public: bool,
    rule: str,
):
    """Neither the plain request nor the very same one is answered from it; and the log says why, once."""
    with Stage() as stage:
        hand, client = stage.hand(), stage.client()
        same, plain = get("/x", *lines, method=method), get("/x", method=method)
        for _ in range(2):
            answered(client, hand, same, status, fields, names, public)
            assert not needs_no_worker(client, hand, plain, method)
            assert not needs_no_worker(client, hand, same, method)
        said = re.findall(r"app:app asked for a lease .* because (.*)\. \(", capfd.readouterr().err)
        assert len(said) == 1
        assert rule in said[0]


def test_every_vary_counts():
    """A field may come twice."""
    reply = Reply(0, 200, "", b"Vary: Accept\r\nX: y\r\nvary: Origin\r\n", 0)
    head = parse_head(get("/"), HeadLimits())
    assert objection(head, reply, (b"accept", b"origin"), False) == ""
    assert "Origin" in objection(head, reply, (b"accept",), False)
    assert "Accept" in objection(head, reply, (b"origin",), False)


@pytest.mark.parametrize(
    ("lines", "status", "fields", "names", "public"),
    [
        ([], 200, b"", (), False),
        ([], 404, b"", (), False),
        ([], 204, b"", (), False),
        ([], 301, b"Location: /\r\n", (), False),
        (["If-None-Match: *"], 304, b"", NOVELTY, False),
        (["Range: bytes=0-1"], 206, b"", RANGES, False),
        (["Range: bytes=9-"], 416, b"", RANGES, False),
        (['If-Match: "a"'], 412, b"", MATCH, False),
        (['If-Match: "a"'], 412, b"", ("if-match",), False),
        (["If-Unmodified-Since: x"], 412, b"", MATCH, False),
        (['If-None-Match: "a"', "If-Modified-Since: x"], 304, b"", ("if-none-match",), False),
        (["If-Modified-Since: x"], 304, b"", NOVELTY, False),
        (["Range: bytes=0-1"], 200, b"", (), False),
        (["If-None-Match: *"], 200, b"", (), False),
        (["Accept: a"], 200, b"Vary: Accept, origin\r\n", ("accept", "origin"), False),
        ([], 200, b"Vary:\r\n", (), False),
        ([BASIC], 200, b"", ("authorization",), False),
        ([BASIC], 200, b"", (), True),
        ([], 200, b"Cache-Control: no-cache, max-age=0\r\n", (), False),
        (["Content-Length: 0"], 200, b"", (), False),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_lease_that_knows_enough_is_granted(
    capfd: Any,
    method: str,
    lines: list[str],
    status: int,
    fields: bytes,
    names: tuple[str, ...],
    public: bool,
):
    """The very same request is answered from it."""
    with Stage() as stage:
        hand, client = stage.hand(), stage.client()
        head = get("/x", *lines, method=method)
        answered(client, hand, head, status, fields, names, public)
        for _ in range(3):
            assert repeated(client, hand, head, method).status == status
        assert "lease" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("granted", "names", "public", "other"),
    [
        ([], (), False, [BASIC]),
        ([], ("cookie",), False, ["authorization:x"]),
        ([], ("authorization",), False, [BASIC]),
        ([BASIC], ("authorization",), False, []),
        ([BASIC], ("authorization",), False, ["Authorization: Basic YTpj"]),
        ([], (), False, ['If-Match: "a"']),
        ([], (), True, ["If-Unmodified-Since: x"]),
        ([], ("if-match",), False, ["If-Unmodified-Since: x"]),
        (["If-None-Match: *"], NOVELTY, False, []),
        (["Range: bytes=0-1"], RANGES, False, []),
    ],
)
def test_who_may_not_have_what_was_leased_to_another(
    stage: Stage, granted: list[str], names: tuple[str, ...], public: bool, other: list[str]
):
    """Not even when the bytes of the first one's head are known by then."""
    hand, client = stage.hand(), stage.client()
    answered(client, hand, get("/x", *granted), 200, b"", names, public)
    for _ in range(2):
        assert repeated(client, hand, get("/x", *granted)).body == b"first"
        asked(client, hand, get("/x", *other))
        asked(client, hand, get("/x", "Cookie: a=b", *other))


@pytest.mark.parametrize("lines", [[], [BASIC], ["Range: bytes=0-1"], ['If-None-Match: "a"']])
def test_a_public_lease_is_for_all(stage: Stage, lines: list[str]):
    """Also for those who say who they are; and a whole 200 answers who asks for less."""
    hand, client = stage.hand(), stage.client()
    answered(client, hand, get("/x", BASIC), 200, b"", (), True)
    for _ in range(2):
        assert repeated(client, hand, get("/x", *lines)).body == b"first"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "body", [b"Content-Length: 2\r\n\r\nhi", b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"]
)
def test_a_request_with_a_body_neither_grants_nor_uses_a_lease(stage: Stage, method: str, body: bytes):
    """What it asks may be in its body."""
    hand, client = stage.hand(), stage.client()
    with_body = method.encode() + b" /x HTTP/1.1\r\nHost: a\r\n" + body
    client.send(with_body)
    hand.reply(hand.take(), b"of the body", lease=Lease(10, ()))
    client.answer(method)
    client.send(get("/x", method=method))
    hand.reply(hand.take(), b"first", lease=Lease(10, ()))
    client.answer(method)
    repeated(client, hand, get("/x", method=method), method)
    client.send(with_body)
    assert len(hand.tasks) == 1


def test_what_is_refused_is_said_once_of_each_kind_and_not_for_ever(capfd: Any):
    """An application that makes up names can't fill the log."""
    with Stage() as stage:
        hand, client = stage.hand(), stage.client()
        for number in range(200):
            for _ in range(2):
                answered(client, hand, get("/x"), 200, b"Vary: X-%d\r\n" % number, (), False)
        assert 10 < capfd.readouterr().err.count("asked for a lease") <= 64


def test_leases_end_when_their_worker_is_to_retire(stage: Stage):
    """After a reload nothing of the old code is repeated, known bytes or not; what the old worker answers
    then is no lease; the new one's is."""
    old, client = stage.hand(), stage.client()
    grant(client, old, get("/x"), b"old")
    grant(client, old, get("/y", "Cookie: a"), b"old")
    client.send(get("/z"))
    late = old.take()
    new = stage.hand()
    for head in (get("/x"), get("/y", "Cookie: b")):
        assert repeated(stage.client(), old, head).body == b"old"
    stage.pump.pools.retire(old.number)
    second = stage.client()
    for head in (get("/x"), get("/y", "Cookie: b")):
        grant(second, new, head, b"new")
        assert repeated(second, new, head).body == b"new"
    old.reply(late, b"old", lease=Lease(10, ()))
    assert client.answer().body == b"old"
    asked(second, new, get("/z"))


# --- cut_cookie -----------------------------------------------------------------------------------

HEAD = get("/x", "Accept: */*")


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("name", ["Cookie", "cookie"])
@pytest.mark.parametrize("value", ["", "a", "a=b; c=d", "\xff\x80", "\t", "x" * 5000])
def test_a_proper_cookie_line_is_cut(place: int, name: str, value: str):
    """Wherever it stands among the fields; what is left is the head without it."""
    lines = HEAD.decode("latin-1").split("\r\n")
    lines.insert(1 + place, f"{name}: {value}")
    assert cut_cookie("\r\n".join(lines).encode("latin-1")) == HEAD


@pytest.mark.parametrize(
    "raw",
    [
        HEAD,
        HEAD + b"Cookie: a\r\n",
        HEAD[:-2] + b"\r\nCookie: a\r\n",
        HEAD[:-2] + b"\r\nCookie: a\r\n\r\n",
        b"",
        b"\r\n\r\nCookie: a\r\n\r\n",
        get("/x", "Cookie: a\x00b"),
        get("/x", "Cookie: a\nb"),
        get("/x", "Cookie: a\rb"),
        get("/x", "Cookie: a\x7fb"),
        get("/x", "Cookie:a"),
        get("/x", "Cookie : a"),
        get("/x", "XCookie: a"),
        get("/x")[:-4] + b"\r\nCookie: a",
    ],
)
def test_what_is_no_proper_cookie_line_is_not_cut(raw: bytes):
    """Behind the empty line it is the next request's beginning; with odd bytes it would not pass."""
    assert cut_cookie(raw) == b""


def test_of_two_cookies_the_first_is_cut(stage: Stage):
    """And the second makes it another head."""
    assert cut_cookie(get("/x", "Cookie: a", "Cookie: b")) == get("/x", "Cookie: b")
    assert cut_cookie(get("/x", "cookie: a", "Cookie: b")) == get("/x", "cookie: a")


_PIECES = [
    b"\r\n",
    b"Cookie: ",
    b"cookie: ",
    b"a",
    b"\n",
    b"\r",
    b"\x00",
    b"Host: a",
    b"X: y",
    b"GET /x HTTP/1.1",
]


@given(st.lists(st.sampled_from(_PIECES), max_size=14).map(b"".join))
def test_what_cut_cookie_makes_equal_is_the_same_request(raw: bytes):
    """The invariant: if `raw` without its cookie is a good head, `raw` is one too, and the same."""
    cut = cut_cookie(raw)
    if not cut or cut.find(b"\r\n\r\n") != len(cut) - 4:
        return
    try:
        head = parse_head(cut, HeadLimits())
    except Refusal:
        return
    assert raw.find(b"\r\n\r\n") == len(raw) - 4
    same = parse_head(raw, HeadLimits())
    assert (same.method, same.target, same.host, same.body_size, same.keep_alive) == (
        head.method,
        head.target,
        head.host,
        head.body_size,
        head.keep_alive,
    )


def test_a_cookie_behind_the_head_is_not_part_of_it(stage: Stage):
    """The smuggle: a known head, and a Cookie line behind its empty line, in one packet. The first
    is answered, the rest is a request of its own, and a bad one."""
    hand, client = stage.hand(), stage.client()
    grant(client, hand, get("/x", "Cookie: a"))
    repeated(client, hand, get("/x", "Cookie: a"))
    client.send(get("/x")[:-2] + b"\r\nCookie: a\r\n\r\n")
    assert client.answer().body == b"leased"
    assert client.answer().status == 400
    assert client.rest() == b""
