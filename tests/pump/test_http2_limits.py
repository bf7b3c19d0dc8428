"""HTTP/2 clients that are slow, or hostile: what they get, what it costs, and that others don't notice."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from halfsync.logs import error
from halfsync.objects import Memory
from halfsync.pump.http2.output import AHEAD
from halfsync.pump.http2.streams import Session
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import Ending, Lease
from tests.pump.harness import Stage, get
from tests.pump.http2_client import Http2Client, RawHttp2
from tests.wire.http2_frames import (
    EH,
    ES,
    GET,
    POST,
    continuation,
    data,
    frame,
    headers,
    ping,
    priority,
    request,
    rst,
    settings,
    window,
)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage(access_logfile="-") as stage:
        yield stage


@pytest.fixture
def patient() -> Iterator[Stage]:
    """A slow client may take all its time."""
    with Stage(access_logfile="-", min_rate=0) as stage:
        yield stage


def session_of(stage: Stage) -> Session:
    [session] = [conn.session for conn in stage.pump.connections.values() if conn.session is not None]
    assert isinstance(session, Session)
    return session


def others_are_served(stage: Stage) -> None:
    """A client that has nothing to do with it is answered."""
    if not any(hand.answers and hand.open for hand in stage.hands):
        stage.hand(answers=True)
    client = stage.client()
    assert client.ask("/other").status == 200
    client.leave()


# --- resets ---------------------------------------------------------------------------------------


def test_rapid_reset(stage: Stage, capfd: pytest.CaptureFixture[str]):
    """Requests that are reset at once: 100, and a third as many a second; then the client is disconnected,
    and the log says by which setting. No handler has begun."""
    hand = stage.hand(threads=4)
    client = RawHttp2(stage)
    for number in range(1, 20_001, 2):
        client.client.sock.setblocking(True)
        try:
            client.client.sock.sendall(headers(number) + rst(number))
        except OSError:
            break
    client.client.sock.setblocking(False)
    client.until_said("GOAWAY ENHANCE_YOUR_CALM")
    assert len(hand.tasks) <= 4 + 2  # those that came before their reset, in another packet
    assert "http2_max_resets" in capfd.readouterr().err
    others_are_served(stage)


def test_a_browser_that_gives_up_a_page_is_no_attacker(stage: Stage):
    """100 requests at once, all reset; and the next page is served."""
    stage.hand(threads=1)
    client = Http2Client(stage)
    for _ in range(3):
        numbers = [client.start(f"/{index}", flush=False) for index in range(100)]
        client.flush()
        client.settle()
        for number in numbers:
            if not client.responses[number].over:  # what was begun before counts until it is done
                client.engine.reset_stream(number, 8)
        client.flush()
        client.settle()
        stage.later(4)
    assert not client.goaways


def test_resets_that_the_server_is_made_to_send(stage: Stage):
    """A stream is broken by the client, so that the server resets it: it counts as if the client had."""
    stage.hand(threads=1)
    client = RawHttp2(stage)
    client.send(*(headers(number) + window(number, 0) for number in range(1, 301, 2)))
    words = client.until_said("GOAWAY ENHANCE_YOUR_CALM")
    assert words.count("RST 1 PROTOCOL_ERROR") == 1
    assert len(words) < 110
    others_are_served(stage)


def test_a_reset_request_counts_until_its_worker_is_done(stage: Stage):
    """Else a client could have any number of requests worked on."""
    hand = stage.hand(threads=200)
    client = RawHttp2(stage)
    client.send(*(headers(number) for number in range(1, 161, 2)))
    tasks = [hand.take() for _ in range(80)]
    client.send(*(rst(number) for number in range(1, 161, 2)))
    stage.until(lambda: session_of(stage).wire.pending_resets == 80)
    client.send(*(headers(number) for number in range(161, 203, 2)))
    assert client.until_said("RST 201 REFUSED_STREAM").count("RST 199 REFUSED_STREAM") == 0
    for task in tasks:
        hand.reply(task, b"nobody's")
    stage.until(lambda: session_of(stage).wire.pending_resets == 0)
    client.send(headers(203))
    assert hand.take()


def test_reset_requests_leave_the_queue(stage: Stage):
    """They take no place in it, and none of the connection's."""
    client = RawHttp2(stage)
    client.send(*(headers(number) for number in range(1, 161, 2)))
    pool = stage.pump.pools.pools[1]
    stage.until(lambda: pool.waiting == 80)
    client.send(*(rst(number) for number in range(1, 161, 2)))
    stage.until(lambda: pool.waiting == 0)
    assert session_of(stage).wire.pending_resets == 0
    hand = stage.hand(threads=8)
    stage.settle()
    assert not hand.tasks
    assert stage.reasons() == [CloseReason.STREAM_RESET] * 80


def test_more_streams_than_allowed_are_refused():
    with Stage(http2_max_concurrent_streams=3) as stage:
        stage.hand(threads=8)
        client = RawHttp2(stage, *(headers(number) for number in (1, 3, 5, 7)))
        assert client.said()[3:] == ["RST 7 REFUSED_STREAM"]


# --- floods ---------------------------------------------------------------------------------------

FLOODS = {
    "PING": ping(),
    "SETTINGS": settings((6, 1)),
    "PRIORITY": priority(3),
    "an unknown frame": frame(0x42, 0, 0),
    "GOAWAY": frame(7, 0, 0, bytes(8)),
    "WINDOW_UPDATE": window(0, 1),
    "empty DATA": data(1),
    "RST_STREAM of a closed stream": rst(5),
    "PRIORITY_UPDATE": frame(16, 0, 0, b"\0\0\0\1u=1"),
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods(stage: Stage, name: str, capfd: pytest.CaptureFixture[str]):
    """Frames that carry nothing: 1,000, and 100 a second; then the client is disconnected, and the log says
    why."""
    stage.hand(answers=True)
    client = RawHttp2(stage, headers(1, POST, EH), headers(5, POST, EH) + rst(5))
    client.client.sock.setblocking(True)
    try:
        for _ in range(20):
            client.client.sock.sendall(FLOODS[name] * 100)
            stage.settle()
    except OSError:
        pass
    client.client.sock.setblocking(False)
    client.until_said("GOAWAY ENHANCE_YOUR_CALM")
    assert "http2_max_idle_frames" in capfd.readouterr().err
    others_are_served(stage)


def test_frames_at_a_steady_pace_are_no_flood(stage: Stage):
    stage.hand(answers=True)
    client = RawHttp2(stage)
    for number in range(1, 81, 2):
        client.send(*[ping()] * 90, headers(number))
        stage.later(1)
    stage.until(lambda: session_of(stage).is_idle)
    words = client.said()
    assert words.count("PING ACK") == 90 * 40
    assert not any("GOAWAY" in word for word in words)


def test_windows_opened_for_what_was_sent_are_no_flood(stage: Stage):
    """Each DATA frame may be acknowledged, for its stream and for the connection."""
    hand = stage.hand()
    client = RawHttp2(stage, headers(1))
    task = hand.take()
    hand.reply(task, ending=Ending.UNFINISHED)
    for _ in range(1500):
        hand.part(task, Memory(b"x"))
        client.send(window(0, 1), window(1, 1))
    assert not any("GOAWAY" in word for word in client.said())


def test_acknowledgements_that_are_not_read_are_bounded(stage: Stage):
    """Then nothing more is read from this client."""
    stage.hand(answers=True)
    with Stage(http2_max_idle_frames=1_000_000) as other:
        client = RawHttp2(other)
        client.client.sock.setblocking(True)
        client.client.sock.settimeout(1.0)
        try:
            for _ in range(2000):
                client.client.sock.sendall(ping() * 1000)
                other.pump._turn()
        except TimeoutError:
            pass
        else:
            raise AssertionError("all of it was read")
        session = session_of(other)
        [conn] = other.pump.connections.values()
        assert session.framed - conn.wire_bytes < 200_000
        others_are_served(other)


def test_continuation_flood(stage: Stage, capfd: pytest.CaptureFixture[str]):
    """A header block in small pieces without end: nine are too many."""
    client = RawHttp2(stage, headers(1, b"", ES))
    client.send(*[continuation(1, b"\x82", 0)] * 50)
    client.until_said("GOAWAY ENHANCE_YOUR_CALM")
    assert "limit_request_head" in capfd.readouterr().err
    others_are_served(stage)


def test_a_header_block_that_is_too_large(stage: Stage):
    """64 KiB (limit_request_head), checked before anything is decoded."""
    client = RawHttp2(stage, headers(1, b"\x00\x01a\x7f\x81\x7f" + b"x" * 16_000, ES))
    client.send(*[continuation(1, b"x" * 16_384, 0)] * 4)
    client.until_said("GOAWAY ENHANCE_YOUR_CALM")
    others_are_served(stage)


def test_a_bomb(stage: Stage):
    """A field of 4,000 bytes in the table, and 4,000 references to it: 16 MB of fields in 8 KB."""
    client = RawHttp2(stage, headers(1, b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000 + b"\xbe" * 12_000))
    client.until_said("GOAWAY COMPRESSION_ERROR")
    others_are_served(stage)


def test_a_head_that_is_too_large_is_answered(stage: Stage):
    """431 as for HTTP/1.1, and the connection is of use."""
    stage.hand(answers=True)
    client = Http2Client(stage)
    number = client.start("/", fields=[(b"x-%d" % index, b"x" * 4000) for index in range(17)])
    assert client.response(number).status == 431
    assert client.ask("/").status == 200


# --- slow clients ---------------------------------------------------------------------------------


def test_a_client_whose_window_stays_shut(patient: Stage):
    """It takes nothing of one response: that stream is reset after send_timeout (60 s); others go on."""
    stage = patient
    hand = stage.hand()
    client = Http2Client(stage, window=100, opens=False)
    number = client.start("/big")
    hand.reply(hand.take(), b"x" * 5000)
    stage.later(59)
    client.settle()
    assert client.responses[number].body == b"x" * 100
    assert client.responses[number].reset is None
    stage.later(4)
    assert client.response(number).reset == 8
    assert stage.reasons() == [CloseReason.SEND_TIMEOUT]
    number = client.start("/small")
    hand.reply(hand.take(), b"ok")
    assert client.response(number).body == b"ok"


def test_a_window_that_is_opened_by_drips(stage: Stage):
    """Slower than min_rate (500 bytes a second) on average, after the grace period."""
    hand = stage.hand()
    client = RawHttp2(stage, settings((4, 100)), headers(1))
    hand.reply(hand.take(), b"x" * 100_000)
    for _ in range(40):
        client.send(window(1, 10))
        stage.later(1)
        if stage.reasons():
            break
    assert stage.reasons() == [CloseReason.SEND_TOO_SLOW]
    assert "RST 1 CANCEL" in client.said()


def test_a_client_that_does_not_read(patient: Stage):
    """Windows as wide as they go, and nothing is taken from the socket: no more than AHEAD is framed, and the
    connection ends after send_timeout."""
    stage = patient
    hand = stage.hand(threads=8)
    client = Http2Client(stage, window=2**31 - 1, rcvbuf=4096, opens=False)
    client.engine.increment_flow_control_window(2**31 - 1 - 65_535)
    client.flush()
    for index in range(4):
        client.start(f"/{index}")
        task = hand.take()
        hand.reply(task, length=3_000_000, ending=Ending.UNFINISHED)
        for _ in range(30):
            hand.part(task, Memory(b"x" * 100_000))
    [conn] = stage.pump.connections.values()
    session = session_of(stage)
    assert session.framed - conn.wire_bytes < AHEAD + 20_000
    stage.later(58)
    assert stage.pump.connections
    stage.later(10)
    assert not stage.pump.connections
    assert stage.reasons() == [CloseReason.SEND_TIMEOUT] * 4


def test_leased_responses_that_are_not_read_are_bounded(stage: Stage):
    """They are framed late, as all others."""
    hand = stage.hand()
    client = Http2Client(stage, window=2**31 - 1, rcvbuf=4096)
    client.engine.increment_flow_control_window(2**31 - 1 - 65_535)
    number = client.start("/")
    hand.reply(hand.take(), b"x" * 50_000, lease=Lease(10.0, ()))
    client.response(number)
    numbers = [client.start("/", flush=False) for _ in range(100)]
    client.flush()
    [conn] = stage.pump.connections.values()
    assert session_of(stage).framed - conn.wire_bytes < AHEAD + 60_000
    for number in numbers:
        assert client.response(number).body == b"x" * 50_000


def kept_back(stage: Stage) -> tuple[Http2Client, int, int]:
    """A client that has the first part of a large response, which has used up the connection's window, and
    waits for a small one behind it. The streams' own windows are wide."""
    hand = stage.hand()
    client = Http2Client(stage, window=1 << 24, opens=False)
    large, small = client.start("/large"), client.start("/small")
    task = hand.take()
    hand.reply(task, length=1_000_000, ending=Ending.UNFINISHED)
    for left in reversed(range(10)):
        hand.part(task, Memory(b"x" * 100_000), ending=Ending.UNFINISHED if left else Ending.DONE)
    hand.reply(hand.take(), b"y" * 5000)
    client.settle()
    assert len(client.responses[large].body) == 65_535
    return client, large, small


def open_the_connections_window(client: Http2Client, size: int) -> None:
    client.engine.increment_flow_control_window(size)
    client.flush()
    client.settle()


def test_a_response_waits_for_another_one_that_a_slow_client_takes(stage: Stage):
    """All that is opened goes to the large one, for longer than send_timeout (60 s) and the grace period of
    min_rate (30 s). The client takes what it gets; so the small one is not to be reset."""
    client, large, small = kept_back(stage)
    for _ in range(100):
        open_the_connections_window(client, 2000)
        stage.later(1)
    assert not client.responses[large].over
    assert not client.responses[small].over
    open_the_connections_window(client, 1 << 24)
    assert client.response(large).body == b"x" * 1_000_000
    assert client.response(small).body == b"y" * 5000


def test_a_connection_whose_window_is_opened_by_drips(stage: Stage):
    """Slower than min_rate (500 bytes a second), all responses together."""
    client, large, small = kept_back(stage)
    for _ in range(200):
        open_the_connections_window(client, 10)
        stage.later(1)
    assert stage.reasons() == [CloseReason.SEND_TOO_SLOW] * 2
    assert (client.responses[large].reset, client.responses[small].reset) == (8, 8)


def test_a_connection_whose_window_stays_shut(patient: Stage):
    client, large, small = kept_back(patient)
    patient.later(59)
    client.settle()
    assert not client.responses[large].over
    assert not client.responses[small].over
    patient.later(5)
    client.settle()
    assert patient.reasons() == [CloseReason.SEND_TIMEOUT] * 2
    assert (client.responses[large].reset, client.responses[small].reset) == (8, 8)


def test_one_slow_stream_does_not_keep_the_others(stage: Stage):
    """Its window is shut for longer than send_timeout would be for a fast one; the others are served
    meanwhile."""
    hand = stage.hand()
    client = Http2Client(stage, window=1000, opens=False)
    slow = client.start("/slow")
    hand.reply(hand.take(), b"x" * 5000)
    for index in range(10):
        number = client.start(f"/{index}")
        hand.reply(hand.take(), b"y" * 900)
        assert client.response(number).body == b"y" * 900
    assert not client.responses[slow].over


def test_a_body_that_stops(stage: Stage):
    """408 after body_timeout (60 s), on its stream alone."""
    stage.hand(answers=True)
    client = Http2Client(stage)
    number = client.start("/", "POST", end=False)
    client.upload(number, b"x" * 100_000, end=False)
    stage.later(59)
    client.settle()
    assert not client.responses[number].over
    stage.later(4)
    assert client.response(number).status == 408
    assert stage.reasons() == [CloseReason.BODY_TIMEOUT]
    assert client.ask("/").status == 200


def test_a_body_that_drips_in(stage: Stage):
    stage.hand(answers=True)
    client = RawHttp2(stage, headers(1, POST, EH))
    for _ in range(40):
        client.send(data(1, b"x" * 10))
        stage.later(1)
        if stage.reasons():
            break
    assert stage.reasons() == [CloseReason.BODY_TOO_SLOW]


def test_a_client_that_uploads_beyond_its_window(stage: Stage):
    client = RawHttp2(stage, headers(1, POST, EH))
    # No turn between: nothing is consumed, so nothing may come beyond 65,535 bytes.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.pump.http2.uploads, "_take_in", lambda *_: None)
        client.send(*[data(1, b"x" * 16_384)] * 4)
        assert "RST 1 FLOW_CONTROL_ERROR" in client.said()


# --- fairness and priorities ----------------------------------------------------------------------


def shares(stage: Stage, *priorities: bytes) -> list[list[int]]:
    """Responses of 200,000 bytes to requests with these priorities, begun in order, to a client whose
    connection window opens in one step: the order of streams in DATA frames."""
    hand = stage.hand(threads=8)
    client = RawHttp2(stage, settings((4, 1_000_000)))
    for index, value in enumerate(priorities):
        client.send(headers(2 * index + 1, request(*([(b"priority", value)] if value else []))))
        hand.reply(hand.take(), length=60_000, ending=Ending.DONE, body=b"x" * 60_000)
    client.frames()
    client.send(window(0, 10_000_000))
    order = [stream for kind, _, stream, _ in client.frames() if kind == 0]
    return [order]


def test_the_more_urgent_goes_first(stage: Stage):
    [order] = shares(stage, b"u=5", b"u=5", b"u=0")
    assert order[:4] == [5] * 4


def test_of_equals_the_first_goes_first(stage: Stage):
    """Their parts are of no use by themselves."""
    [order] = shares(stage, b"u=5", b"", b"")
    assert order == sorted(order, key=lambda stream: (stream == 1, stream))


def test_incremental_ones_take_turns(stage: Stage):
    [order] = shares(stage, b"u=7", b"u=1, i", b"u=1, i")
    assert order[:6] == [3, 5, 3, 5, 3, 5]


def test_a_priority_is_changed(stage: Stage):
    hand = stage.hand(threads=8)
    client = RawHttp2(stage, settings((4, 1_000_000)))
    for number in (1, 3, 5):
        client.send(headers(number))
        hand.reply(hand.take(), b"x" * 60_000)
    client.frames()
    client.send(frame(16, 0, 0, b"\0\0\0\5u=0"), window(0, 10_000_000))
    order = [stream for kind, _, stream, _ in client.frames() if kind == 0]
    assert order[0] == 5


# --- nonsense -------------------------------------------------------------------------------------


NOISE = Random(1).randbytes(2000)


@pytest.mark.parametrize("behind", [b"", get(), NOISE], ids=["nothing", "HTTP/1.1", "noise"])
@pytest.mark.parametrize("wrong", [ping(b"1"), headers(2), data(7, b"x"), headers(1, b"\x80")])
def test_a_broken_connection_ends_with_goaway(stage: Stage, wrong: bytes, behind: bytes):
    """In good order: the client can read what was wrong; and what it had going on is logged."""
    stage.hand(threads=1)
    client = RawHttp2(stage, headers(11))
    client.frames()
    client.send(wrong + behind)
    assert client.said()[0].startswith("GOAWAY")
    stage.until(lambda: client.client.receive() >= 0 and client.client.over)
    assert client.client.ended
    assert stage.reasons() == [CloseReason.HTTP2_ERROR]
    client.client.finish()
    stage.until(lambda: not stage.pump.connections)
    assert not stage.pump.endings.streams


def test_a_malformed_request_costs_itself(stage: Stage, capfd: pytest.CaptureFixture[str]):
    error.be("pump", "info")
    stage.hand(answers=True)
    client = RawHttp2(stage, headers(1, GET + b"\x00\x02X-\x01a"), headers(3))
    client.until_said("RST 1 PROTOCOL_ERROR")
    assert "lower case" in capfd.readouterr().err
    assert stage.pump.connections


def test_a_malformed_request_is_in_the_access_log(stage: Stage):
    """As far as it is a request line, and of one line; with the reason, and without a status."""
    stage.hand(answers=True)
    client = RawHttp2(stage, headers(1, request((b"X-Upper", b"1"), path=b"/b\r\nad x")), headers(3))
    client.until_said("RST 1 PROTOCOL_ERROR")
    stage.until(lambda: len(stage.pump.access.records) == 2)
    first, second = stage.pump.access.records
    assert (first[2:4], first[9:]) == ((b"GET /b??ad?x HTTP/2.0\r\n", 0), (CloseReason.HTTP2_ERROR, 0))
    assert (second[2:4], second[9:]) == ((b"GET / HTTP/2.0\r\nHost: example.com\r\n\r\n", 200), (0, 1))


def test_ten_thousand_connections_reset_all_at_once(stage: Stage):
    """Ten thousand streams, in a hundred connections."""
    hand = stage.hand(threads=4)
    clients = [RawHttp2(stage, *(headers(number) for number in range(1, 201, 2))) for _ in range(20)]
    for client in clients:
        client.client.leave()
    stage.until(lambda: not stage.pump.connections)
    assert not stage.pump.endings.streams
    assert stage.pump.pools.pools[1].waiting == 0
    assert len(hand.tasks) <= 4
    assert len(stage.reasons()) == 2000
