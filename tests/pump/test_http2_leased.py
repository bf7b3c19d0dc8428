"""The hot path of HTTP/2: what it takes, what it leaves to the general road, and that nobody can tell them
apart."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hpack import Encoder, NeverIndexedHeaderTuple

from halfsync.objects import File
from halfsync.pump.http2.leased import Http2Leased
from halfsync.pump.http2.output import AHEAD
from halfsync.pump.http2.streams import UNNAMED, Session
from halfsync.wire.closes import CloseReason
from halfsync.wire.hpack import Decoder
from halfsync.wire.messages import Lease
from tests.pump.harness import Hand, Stage, skip_with_records, skip_with_single_bytes
from tests.pump.http2_client import Http2Client, RawHttp2
from tests.wire.http2_frames import (
    EH,
    ES,
    data,
    headers,
    ping,
    priority,
    request,
    rst,
    said,
    settings,
    window,
)

BODY = b"leased " * 100
Frame = tuple[int, int, int, bytes]


class Counted:
    """How many requests the hot path served."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.served = 0
        serve = Http2Leased.serve

        def counted(leased: Http2Leased, conn: Any) -> bool:
            before = conn.request_count
            done = serve(leased, conn)
            self.served += conn.request_count - before
            return done

        monkeypatch.setattr(Http2Leased, "serve", counted)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    skip_with_records("is not known to be all that came")
    skip_with_single_bytes("is never a whole frame")
    return Counted(monkeypatch)


@contextmanager
def general_road(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as without:
        without.setattr(Http2Leased, "serve", lambda *_: False)
        yield


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage(access_logfile="-") as stage:
        yield stage


def known(stage: Stage, *paths: str, body: bytes = BODY, seconds: float = 10.0) -> Hand:
    """A worker, and for each of these paths a lease that was used before."""
    hand = stage.hand()
    client = RawHttp2(stage)
    numbers = itertools.count(1, 2)
    for path in paths or ("/",):
        block = request(path=path.encode())
        asked = next(numbers)
        client.send(headers(asked, block))
        hand.reply(hand.take(), body, fields=b"X-Path: %b\r\n" % path.encode(), lease=Lease(seconds, ()))
        responses(client, asked)
        asked = next(numbers)
        client.send(headers(asked, block))
        responses(client, asked)
    client.client.leave()
    return hand


def warm(stage: Stage) -> RawHttp2:
    """A client whose first request is behind it."""
    client = RawHttp2(stage, headers(1))
    responses(client, 1)
    return client


def honest(stage: Stage, hand: Hand, body: bytes = BODY, **how: Any) -> Http2Client:
    """A client with the `h2` library as its engine, which has used a lease before."""
    client = Http2Client(stage, **how)
    number = client.start()
    hand.reply(hand.take(), body, lease=Lease(10.0, ()))
    assert client.response(number).body == body
    assert client.ask().body == body
    assert client.ask().body == body
    stage.pump.access.records.clear()
    return client


def responses(client: RawHttp2, *numbers: int) -> dict[int, bytes]:
    """Wait for the whole responses on these streams: their bodies."""
    frames: list[Frame] = []

    def all_ended() -> bool:
        frames.extend(client.frames())
        return set(numbers) <= {stream for _, flags, stream, _ in frames if flags & ES}

    client.stage.until(all_ended, f"the responses on {numbers}; there is {said(frames)}")
    return bodies(frames)


def bodies(frames: list[Frame]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for kind, _, stream, payload in frames:
        if kind == 0:
            found[stream] = found.get(stream, b"") + payload
    return found


def test_it_begins_with_the_second_request(stage: Stage, counted: Counted):
    hand = known(stage)
    client = warm(stage)
    before = counted.served
    client.send(headers(3))
    assert responses(client, 3) == {3: BODY}
    assert counted.served == before + 1
    numbers = range(5, 65, 2)
    client.send(*map(headers, numbers))
    assert responses(client, *numbers) == dict.fromkeys(numbers, BODY)
    assert counted.served == before + 31
    assert not hand.tasks


BEHIND: dict[str, Callable[[int], bytes]] = {
    "nothing": lambda _: b"",
    "a ping": lambda _: ping(),
    "a window": lambda _: window(0, 100),
    "a window of the stream": lambda last: window(last, 100),
    "a priority": priority,
    "another path": lambda last: headers(last + 2, request(path=b"/other")),
    "a priority with a request": lambda last: headers(last + 2, b"\0\0\0\0\x10" + request(), 0x25),
    "a number left out": lambda last: headers(last + 4),
    "an even number": lambda last: headers(last + 1),
    "stream 0": lambda _: headers(0),
    "a part of a block": lambda last: headers(last + 2, request()[:10], ES),
    "a part of a frame": lambda last: headers(last + 2)[:20],
    "a part of a frame's header": lambda last: headers(last + 2)[:5],
    "a body": lambda last: headers(last + 2, request(method=b"POST"), EH) + data(last + 2, b"x", ES),
    "an unknown kind": lambda _: b"\0\0\0\xbb\0\0\0\0\0",
    "no frame": lambda _: b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("count", [1, 3])
def test_both_roads_say_the_same(stage: Stage, monkeypatch: pytest.MonkeyPatch, behind: str, count: int):
    """And log the same, whatever comes behind such requests in the same read."""
    known(stage)

    def story() -> tuple[Any, Any, Any]:
        client = warm(stage)
        first = len(stage.pump.access.records)
        last = 1 + 2 * count
        client.send(*map(headers, range(3, last + 2, 2)), BEHIND[behind](last))
        client.send(headers(last + 6))
        heard = client.frames()
        records = [(*record[2:6], *record[9:]) for record in stage.pump.access.records[first:]]
        client.client.leave()
        return [frame[:3] for frame in heard], bodies(heard), records

    with general_road(monkeypatch):
        expected = story()
    assert story() == expected


def test_a_request_in_pieces(stage: Stage):
    known(stage)
    client = warm(stage)
    wire = headers(3) + headers(5)
    for byte in wire:
        client.send(bytes((byte,)))
    assert responses(client, 5)[5] == BODY


def test_what_has_come_before_it_was_reset_is_answered(stage: Stage, counted: Counted):
    """The response was sent when the reset is read, and that is no reset of a request any more."""
    known(stage)
    client = warm(stage)
    client.send(headers(3), rst(3), headers(5))
    assert set(responses(client, 5)) == {3, 5}


def test_a_stream_that_is_used_twice(stage: Stage, counted: Counted):
    """It is closed when that is read, as if it came later."""
    known(stage)
    client = warm(stage)
    client.send(headers(3), headers(3), headers(5))
    assert client.until_said("GOAWAY STREAM_CLOSED")


def test_a_client_that_does_not_read(stage: Stage, counted: Counted):
    """What the socket does not take waits on the queue; nothing more is served meanwhile, and each response
    is in the access log once, when it was taken."""
    body = b"x" * 15_000
    client = honest(stage, stage.hand(), body, window=2**31 - 1, rcvbuf=4096)
    client.engine.increment_flow_control_window(2**31 - 1 - 65_535)
    numbers = [client.start(flush=False) for _ in range(60)]
    client.flush()
    *_, conn = stage.pump.connections.values()
    assert isinstance(conn.session, Session)
    assert conn.out
    assert conn.session.framed - conn.wire_bytes < AHEAD + 20_000
    assert len(stage.pump.access.records) < 60
    for number in numbers:
        assert client.response(number).body == body
    assert [record[4] for record in stage.pump.access.records] == [15_000] * 60
    assert sum(record[5] for record in stage.pump.access.records) > 60 * 15_000
    assert client.ask().body == body


def test_a_client_that_leaves_without_reading(stage: Stage, counted: Counted):
    """What was not taken is logged as cut off."""
    client = honest(stage, stage.hand(), b"x" * 15_000, window=2**31 - 1, rcvbuf=4096)
    client.engine.increment_flow_control_window(2**31 - 1 - 65_535)
    for _ in range(60):
        client.start(flush=False)
    client.flush()
    client.client.leave()
    assert CloseReason.CLIENT_DISCONNECTED in stage.reasons()
    assert not stage.pump.connections


def test_windows_that_are_shut(stage: Stage):
    hand = stage.hand()
    honest(stage, hand, window=100)
    client = Http2Client(stage, opens=False)
    for number in [client.start() for _ in range(65_535 // len(BODY))]:
        assert client.response(number).body == BODY
    assert not hand.tasks
    number = client.start()
    client.settle()
    assert not client.responses[number].over
    client.engine.increment_flow_control_window(10_000)
    client.flush()
    assert client.response(number).body == BODY


def test_a_window_is_acknowledged_before_it_is_used(stage: Stage):
    """SETTINGS that open windows, and a request behind them in the same packet: its response, which is larger
    than the windows before, comes behind the acknowledgement (RFC 9113 6.5.3). Some clients count so."""
    hand = known(stage)
    client = RawHttp2(stage, settings((4, 10)))
    client.send(settings((4, 60_000)), headers(1))
    frames: list[Frame] = []

    def is_served() -> bool:
        frames.extend(client.frames())
        return 0 in [kind for kind, *_ in frames]

    stage.until(is_served)
    assert [kind for kind, *_ in frames if kind in (0, 4)] == [4, 4, 4, 4, 0]  # the server's own comes first
    assert not hand.tasks


def test_a_lease_that_is_over(stage: Stage, counted: Counted):
    """Also if it was ended before its time."""
    hand = known(stage)
    client = warm(stage)
    client.send(headers(3))
    responses(client, 3)
    assert hand.worker is not None
    stage.pump.leases.end_of(hand.worker.id)
    client.send(headers(5))
    hand.reply(hand.take(), b"new", lease=Lease(1.0, ()))
    assert responses(client, 5) == {5: b"new"}
    client.send(headers(7))
    assert responses(client, 7) == {7: b"new"}
    stage.later(2)
    client.send(headers(9))
    hand.reply(hand.take(), b"newer")
    assert responses(client, 9) == {9: b"newer"}


def test_a_lease_that_is_renewed_is_known_at_once(stage: Stage, counted: Counted):
    """While it is renewed, the old one is repeated."""
    hand = known(stage)
    client = warm(stage)
    before = counted.served
    stage.later(9)
    client.send(headers(3))
    task = hand.take()
    client.send(headers(5))
    assert responses(client, 5) == {5: BODY}
    hand.reply(task, b"new", lease=Lease(10.0, ()))
    assert responses(client, 3) == {3: b"new"}
    client.send(headers(7), headers(9))
    assert responses(client, 7, 9) == {7: b"new", 9: b"new"}
    assert counted.served == before + 3
    assert not hand.tasks


@pytest.mark.parametrize("how", ["without a lease", "an open file", "not for everybody"])
def test_a_renewal_that_gives_no_lease_for_this(stage: Stage, counted: Counted, how: str):
    hand = stage.hand()
    client = RawHttp2(stage)
    block = request((b"authorization", b"a"), path=b"/x")
    numbers = itertools.count(1, 2)
    for _ in range(2):
        asked = next(numbers)
        client.send(headers(asked, block))
        if hand.tasks:
            hand.reply(hand.take(), b"part", lease=Lease(10.0, (), public=True))
        assert responses(client, asked) == {asked: b"part"}
    stage.later(9)
    asked = next(numbers)
    client.send(headers(asked, block))
    if how == "an open file":
        fd = os.memfd_create("body")
        os.write(fd, b"whole")
        hand.reply(hand.take(), objects=[File(0, 0, 5)], fds=(fd,), lease=Lease(10.0, (), public=True))
    else:
        hand.reply(hand.take(), b"whole", lease=None if how == "without a lease" else Lease(10.0, ()))
    assert responses(client, asked) == {asked: b"whole"}
    before = counted.served
    for seconds in (0, 2):  # while the old lease has not expired, and after it
        stage.later(seconds)
        asked = next(numbers)
        client.send(headers(asked, block))
        if hand.tasks:
            hand.reply(hand.take(), b"whole")
        assert responses(client, asked) == {asked: b"whole"}
    assert counted.served == before


def test_other_streams_go_on(stage: Stage, counted: Counted):
    """A response that a worker makes, while leased ones are served."""
    hand = known(stage)
    client = warm(stage)
    client.send(headers(3, request(path=b"/slow")))
    task = hand.take()
    before = counted.served
    client.send(headers(5))
    assert responses(client, 5) == {5: BODY}
    assert counted.served == before + 1
    hand.reply(task, b"slow")
    assert responses(client, 3) == {3: b"slow"}


def test_streams_over_the_limit(counted: Counted):
    """It is for the general road to refuse them."""
    with Stage(http2_max_concurrent_streams=2) as stage:
        hand = known(stage)
        client = warm(stage)
        client.send(headers(3, request(path=b"/slow")), headers(5, request(path=b"/slow")))
        tasks = [hand.take(), hand.take()]
        client.send(headers(7))
        assert client.until_said("RST 7 REFUSED_STREAM")
        for task in tasks:
            hand.reply(task)
        responses(client, 3, 5)
        client.send(headers(9))
        assert responses(client, 9) == {9: BODY}


def test_requests_for_a_host_that_is_not_admitted_yet_are_looked_at(
    stage: Stage, counted: Counted, monkeypatch: pytest.MonkeyPatch
):
    """(As on a connection over TLS where sites have certificates of their own.)"""
    known(stage)
    client = warm(stage)
    (conn,) = stage.pump.connections.values()
    assert isinstance(conn.session, Session)
    looked_at = []
    monkeypatch.setattr(stage.pump.http2, "_admit", lambda conn, session, host: looked_at.append(host))
    for admitted, is_served in ((b"other", False), (UNNAMED, False), (b"example.com", True), (None, True)):
        conn.session.admitted = admitted
        before, numbers = counted.served, conn.session.wire.last_stream + 2
        client.send(headers(numbers))
        assert responses(client, numbers) == {numbers: BODY}
        assert counted.served == before + is_served
    assert looked_at == [b"example.com", b"example.com"]


def test_a_stop(stage: Stage):
    known(stage)
    client = warm(stage)
    stage.pump.draining.begin(5)
    client.send(headers(3))
    assert responses(client, 3) == {3: BODY}
    client.send(ping(bytes(8), ES))
    client.until_said("GOAWAY NO_ERROR")


def test_an_idle_connection_has_its_time_anew(stage: Stage, counted: Counted):
    known(stage, seconds=1000.0)
    client = warm(stage)
    for number in (3, 5, 7):
        stage.later(stage.pump.settings.keep_alive * 0.7)
        client.send(headers(number))
        assert responses(client, number) == {number: BODY}
    stage.later(stage.pump.settings.keep_alive * 1.1)
    client.until_said("GOAWAY NO_ERROR")


# --- paths as literals ----------------------------------------------------------------------------


def literal_block(encoder: Encoder, path: str, *more: tuple[str, str]) -> bytes:
    """As browsers and h2load write it: all but the path enters the dynamic table."""
    fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), ("user-agent", "x"), *more]
    return bytes(encoder.encode([fields[0], NeverIndexedHeaderTuple(":path", path), *fields[1:]]))


def test_a_path_that_any_client_has_asked_for_needs_no_decoding(
    stage: Stage, counted: Counted, monkeypatch: pytest.MonkeyPatch
):
    paths = [f"/{number}" for number in range(100)]
    stage.hand(answers=True)
    stage.handler = lambda hand, task: hand.reply(task, task.head.split(b" ")[1], lease=Lease(10.0, ()))
    first, second = RawHttp2(stage), RawHttp2(stage)
    for client in (first, second):
        encoder = Encoder()
        for at, path in enumerate(["/", "/", *paths, *paths] if client is first else ["/", "/", paths[0]]):
            client.send(headers(1 + 2 * at, literal_block(encoder, path)))
            responses(client, 1 + 2 * at)
    before = counted.served
    monkeypatch.setattr(Decoder, "decode", None)
    numbers = [7 + 2 * at for at in range(100)]
    for number, path in zip(numbers, paths, strict=True):
        second.send(headers(number, literal_block(encoder, path)))
    found = responses(second, *numbers)
    assert [found[number].decode() for number in numbers] == paths
    assert counted.served == before + 100
