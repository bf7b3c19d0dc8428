"""HTTP/2 on a pump: a client that keeps the rules gets what the same request gets by HTTP/1.1."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import h2.settings
import pytest

from halfsync.objects import File, Memory, Pipe
from halfsync.pump.reconfigure import PlanChange
from halfsync.system.stamps import stamp_of
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import Ending, Lease
from tests.pump.harness import Stage, get, no_descriptor_left
from tests.pump.http2_client import Http2Client, RawHttp2, prompt
from tests.wire.http2_frames import EH, POST, PREFACE, data, headers, ping, said, settings


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage(access_logfile="-") as stage:
        yield stage


def test_a_request_and_its_response(stage: Stage):
    """The worker sees a head as of HTTP/1.1, with HTTP/2.0 as its version."""
    hand = stage.hand()
    client = Http2Client(stage)
    number = client.start("/a?b", fields=[(b"x-a", b"1"), (b"cookie", b"a=b"), (b"cookie", b"c=d")])
    task = hand.take()
    assert task.head == (b"GET /a?b HTTP/2.0\r\nHost: a\r\nx-a: 1\r\nCookie: a=b; c=d\r\n\r\n")
    hand.reply(task, b"hello", fields=b"Content-Type: text/plain\r\nX-B: 2\r\nSet-Cookie: a=b\r\n")
    response = client.response(number)
    assert (response.status, response.body, response.ended) == (200, b"hello", True)
    assert response.fields["content-type"] == "text/plain"
    assert response.fields["x-b"] == "2"
    assert response.fields["set-cookie"] == "a=b"
    assert response.fields["content-length"] == "5"
    assert "date" in response.fields
    [record] = stage.pump.access.records
    assert record[2:5] == (task.head, 200, 5)
    assert record[5] > 5
    assert record[9:] == (0, 0)


def test_the_preface_comes_byte_by_byte(stage: Stage):
    stage.hand(answers=True)
    client = stage.client()
    for byte in PREFACE + settings() + headers(1):
        client.send(bytes((byte,)))
    stage.until(lambda: client.receive() >= 0 and b"GET / HTTP/2.0" in client.inbox)


def test_the_preface_is_refused_if_http2_is_off():
    with Stage(http2=False) as stage:
        client = stage.client()
        client.send(PREFACE + settings())
        assert client.answer().status == 505


def test_the_preface_behind_a_request_is_none(stage: Stage):
    """RFC 9113 3.3: with prior knowledge it is the first that comes."""
    stage.hand(answers=True)
    client = stage.client()
    assert client.ask("/").status == 200
    client.send(PREFACE + settings())
    assert client.answer().status == 505


# --- a client with a smaller dynamic table (RFC 9113 4.3.1) -------------------------------------------------


def table_of(client: Http2Client, size: int) -> None:
    """From the acknowledgement on, the client's decoder insists on a header block that begins with this."""
    client.engine.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: size})
    client.flush()


@pytest.mark.parametrize("leased", [False, True], ids=["made", "leased"])
@pytest.mark.parametrize("size", [0, 100, 4095])
def test_a_smaller_table_is_confirmed(stage: Stage, size: int, leased: bool):
    """By the first header block, whether a worker makes the response or a lease repeats it."""
    hand = stage.hand()
    client = Http2Client(stage)
    lease = Lease(60.0, ()) if leased else None

    def ask() -> bytes:
        number = client.start()
        if not leased or number == 1:
            hand.reply(hand.take(), b"body", lease=lease)
        return client.response(number).body

    assert [ask() for _ in range(4)] == [b"body"] * 4  # so the hot path knows the request
    table_of(client, size)
    client.settle()
    assert [ask() for _ in range(3)] == [b"body"] * 3
    table_of(client, 0)
    client.settle()
    assert ask() == b"body"


def test_the_table_is_smaller_from_the_start(stage: Stage):
    """As a client does that sends all in its first flight; and then others come in between."""
    stage.hand(answers=True)
    client = Http2Client(stage)
    table_of(client, 0)
    numbers = [client.start(f"/{number}") for number in range(5)]
    for size in (4096, 10, 4096, 0):
        table_of(client, size)
        numbers.append(client.start("/more"))
    for number in numbers:
        assert client.response(number).status == 200


@pytest.mark.parametrize(
    ("sizes", "begins"), [((), b""), ((4096,), b""), ((65536,), b""), ((0,), b"\x20"), ((0, 4096), b"\x20")]
)
def test_what_the_first_header_block_begins_with(stage: Stage, sizes: tuple[int, ...], begins: bytes):
    stage.hand(answers=True)
    client = RawHttp2(stage, *(settings((1, size)) for size in sizes), headers(1), headers(3))
    blocks: list[bytes] = []

    def came() -> bool:
        blocks.extend(payload for kind, _, _, payload in client.frames() if kind == 1)
        return len(blocks) == 2

    stage.until(came)
    assert blocks[0].removeprefix(begins)[:1] == blocks[1][:1] == b"\x88", "the status 200"
    assert blocks[0].startswith(begins)


def test_http1_on_an_http2_connection(stage: Stage):
    client = RawHttp2(stage, headers(1))
    client.send(get())
    assert "GOAWAY FRAME_SIZE_ERROR" in client.said()


def test_nothing_comes_behind_the_end_of_a_connection(stage: Stage):
    """Streams that are open end with it: GOAWAY is the last frame."""
    hand = stage.hand()
    client = RawHttp2(stage, *[headers(number) for number in (1, 3, 5)])
    hand.reply(hand.take(), length=100, ending=Ending.UNFINISHED)
    client.send(headers(7, POST, EH), *[data(7, bytes(16_384))] * 3, ping(b"7 bytes"))
    assert client.until_said("GOAWAY FRAME_SIZE_ERROR")[-1] == "GOAWAY FRAME_SIZE_ERROR"
    stage.until(lambda: client.client.receive() == 0 and client.client.over)
    assert client.said() == []


def test_many_at_once_are_answered_in_any_order(stage: Stage):
    hand = stage.hand(threads=100)
    client = Http2Client(stage)
    numbers = [client.start(f"/{index}") for index in range(100)]
    tasks = [hand.take() for _ in numbers]
    for task in reversed(tasks):
        hand.reply(task, task.head.split(b" ")[1])
    for index, number in enumerate(numbers):
        assert client.response(number).body == b"/%d" % index
    assert not stage.pump.endings.streams


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("status", [200, 204, 304, 404])
@pytest.mark.parametrize("length", [0, 5, -1])
def test_every_kind_of_end(stage: Stage, method: str, status: int, length: int):
    """With and without a body, of a size that is known or not: one END_STREAM, and no byte too many."""
    hand = stage.hand()
    client = Http2Client(stage)
    number = client.start("/", method, body=b"" if method == "POST" else None)
    body = b"" if length == 0 else b"12345"
    hand.reply(hand.take(), body, status=status, length=length, ending=Ending.DONE)
    response = client.response(number)
    bodiless = method == "HEAD" or status in (204, 304)
    assert response.status == status
    assert response.body == (b"" if bodiless else body)
    assert response.ended
    assert response.reset is None
    if status in (200, 404):
        assert response.fields.get("content-length") == (None if length < 0 else str(length))
    number = client.start("/next")
    hand.reply(hand.take(), b"next")
    assert client.response(number).body == b"next"


def test_a_body_of_megabytes(stage: Stage):
    """More than the windows: it goes as the client opens them."""
    hand = stage.hand()
    client = Http2Client(stage)
    number = client.start()
    body = os.urandom(3_000_000)
    task = hand.take()
    hand.reply(task, length=len(body), ending=Ending.UNFINISHED)
    for at in range(0, len(body), 100_000):
        hand.part(task, Memory(body[at : at + 100_000]))
    hand.part(task, ending=Ending.DONE)
    assert client.response(number).body == body


@pytest.mark.parametrize("stamped", [False, True])
def test_a_file(stage: Stage, stamped: bool):
    """By sendfile(2), if nobody can change it; else it is read."""
    body = os.urandom(1_000_000)
    with no_descriptor_left(stage):
        hand = stage.hand()
        client = Http2Client(stage)
        fd = os.memfd_create("body")
        os.write(fd, body)
        stamp = stamp_of(os.fstat(fd)) if stamped else None
        number = client.start()
        hand.reply(hand.take(), b"begin", objects=[File(0, 10, 999_990, stamp)], fds=(fd,))
        assert client.response(number).body == b"begin" + body[10:]
        hand.close()
        client.client.leave()


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES])
def test_what_a_file_system_says_is_not_taken_for_the_client_having_left(
    error: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """Frames that are made say how long they are, so without the file's bytes the connection can't go on."""

    def fails(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    with Stage(access_logfile="-") as stage:
        hand, client = stage.hand(), Http2Client(stage)
        client.start()
        task = hand.take()
        fd = os.memfd_create("body")
        os.write(fd, bytes(5000))
        for name in ("sendfile", "preadv", "pread"):  # whichever the transport sends with
            monkeypatch.setattr(os, name, fails)
        hand.reply(task, objects=[File(0, 0, 5000)], fds=(fd,))
        stage.until(lambda: stage.pump.access.records)
        assert stage.reasons() == [CloseReason.INTERNAL_ERROR]
    assert os.strerror(error) in capfd.readouterr().err


def test_a_pipe_and_parts(stage: Stage):
    hand = stage.hand()
    client = Http2Client(stage)
    number = client.start()
    task = hand.take()
    hand.reply(task, b"a", ending=Ending.UNFINISHED)
    hand.part(task, Memory(b"b"))
    client.settle()
    assert client.responses[number].body == b"ab"
    assert not client.responses[number].over
    reading, writing = os.pipe2(os.O_NONBLOCK)
    hand.part(task, Pipe(0), fds=(reading,))
    os.write(writing, b"c")
    client.settle()
    assert client.responses[number].body == b"abc"
    os.close(writing)
    hand.part(task, ending=Ending.DONE)
    response = client.response(number)
    assert response.body == b"abc"
    assert response.ended


@pytest.mark.parametrize("known_length", [True, False])
def test_a_response_that_is_cut_short_is_reset(stage: Stage, known_length: bool):
    """It never looks complete, and the other streams don't notice."""
    hand = stage.hand()
    client = Http2Client(stage)
    first, second = client.start("/1"), client.start("/2")
    one, two = hand.take(), hand.take()
    hand.reply(one, b"abc", length=10 if known_length else -1, ending=Ending.UNFINISHED)
    hand.part(one, ending=Ending.ABORTED)
    response = client.response(first)
    assert response.body == b"abc"
    assert not response.ended
    assert response.reset == 2
    hand.reply(two, b"whole")
    assert client.response(second).body == b"whole"
    assert CloseReason.REPLY_CUT_SHORT in stage.reasons()


def test_too_few_bytes_are_cut_short(stage: Stage):
    hand = stage.hand()
    client = Http2Client(stage)
    number = client.start()
    hand.reply(hand.take(), b"abc", length=10)
    assert client.response(number).reset == 2
    assert stage.reasons() == [CloseReason.REPLY_CUT_SHORT]


def test_too_many_bytes_are_cut(stage: Stage):
    hand = stage.hand()
    client = Http2Client(stage)
    number = client.start()
    hand.reply(hand.take(), b"abcdef", length=3)
    response = client.response(number)
    assert (response.body, response.ended) == (b"abc", True)


def test_a_worker_that_dies(stage: Stage):
    """What it had begun gets 502, or a reset if the response had started; the connection stays."""
    hand = stage.hand(threads=2)
    stage.status = 11  # its own fault: nothing is retried
    client = Http2Client(stage)
    first, second = client.start("/1"), client.start("/2", "POST", body=b"x")
    one = hand.take()
    hand.take()
    hand.reply(one, b"abc", ending=Ending.UNFINISHED)
    client.settle()
    hand.die()
    assert client.response(first).reset == 2
    assert client.response(second).status == 502
    stage.hand(answers=True)
    assert client.ask("/3").status == 200


# --- request bodies -------------------------------------------------------------------------------


def test_a_body_reaches_the_worker(stage: Stage):
    stage.hand(answers=True)
    client = Http2Client(stage)
    assert client.ask("/up", "POST", body=b"hello").body == b"POST /up HTTP/2.0\nhello"


def test_a_body_of_megabytes_is_spooled(stage: Stage):
    """The windows are opened as the spool takes the bytes: it holds a file's worth, we hold none."""
    hand = stage.hand()
    client = Http2Client(stage)
    body = os.urandom(2_500_000)
    number = client.start("/up", "POST", body=body)
    task = hand.take()
    assert task.body is None
    assert hand.bodies[task.number] == body
    hand.reply(task, b"ok")
    assert client.response(number).body == b"ok"


def test_two_bodies_at_once(stage: Stage):
    hand = stage.hand()
    client = Http2Client(stage)
    first = client.start("/1", "POST", end=False)
    second = client.start("/2", "POST", end=False)
    for _ in range(20):
        client.upload(first, b"a" * 10_000, end=False)
        client.upload(second, b"b" * 10_000, end=False)
    client.upload(first, b"!")
    client.upload(second, b"?")
    one, two = sorted((hand.take(), hand.take()), key=lambda task: task.head)
    assert hand.bodies[one.number] == b"a" * 200_000 + b"!"
    assert hand.bodies[two.number] == b"b" * 200_000 + b"?"
    hand.reply(two, b"2")
    hand.reply(one, b"1")
    assert (client.response(first).body, client.response(second).body) == (b"1", b"2")


def test_expect(stage: Stage):
    """100 (Continue) comes before the body is sent."""
    stage.hand(answers=True)
    client = Http2Client(stage)
    number = client.start("/", "POST", fields=[(b"expect", b"100-continue")], end=False)
    client.settle()
    assert client.responses[number].interim == [100]
    client.upload(number, b"x")
    assert client.response(number).status == 200


@pytest.mark.parametrize("said", [True, False])
def test_a_body_that_is_too_large(said: bool):
    """413, whether content-length says so or it turns out. The client is told to stop sending, and the
    connection is of use."""
    with Stage(limit_request_body=100_000) as stage:
        stage.hand(answers=True)
        client = Http2Client(stage)
        length = [(b"content-length", b"100001")] if said else []
        number = client.start("/", "POST", fields=length, end=False)
        if not said:
            client.upload(number, b"x" * 100_001, end=False)
        response = client.early_response(number)
        assert response.status == 413
        client.settle()
        assert (response.ended, response.reset) == (True, 0)
        assert client.ask("/").status == 200


def test_dropped_bodies_give_their_windows_back():
    """What comes of a body after its response counts for nothing: the connection's window is not used up."""
    with Stage(limit_request_body=10_000) as stage:
        stage.hand(answers=True)
        client = Http2Client(stage)
        for _ in range(40):  # 40 times 64 KiB are more than the connection's window
            number = client.start("/", "POST", end=False)
            for _ in range(3):
                client.engine.send_data(number, b"x" * 16_384)
            client.flush()
            client.settle()
            assert client.responses[number].status == 413
        stage.later(2)
        assert client.ask("/", "POST", body=b"x").status == 200


def test_a_request_whose_client_leaves_amid_the_body(stage: Stage):
    with no_descriptor_left(stage):
        client = Http2Client(stage)
        client.start("/", "POST", body=b"x" * 200_000, end=False)
        client.client.leave()
        stage.until(lambda: not stage.pump.connections)
    assert stage.reasons() == [CloseReason.CLIENT_DISCONNECTED]
    assert stage.pump.http1.spool_space.used == 0


# --- leases ---------------------------------------------------------------------------------------


def grant(stage: Stage, client: Http2Client, body: bytes = b"leased", path: str = "/") -> None:
    hand = stage.hands[0]
    number = client.start(path)
    hand.reply(hand.take(), body, lease=Lease(10.0, ()))
    assert client.response(number).body == body


def test_a_lease_answers_without_a_worker(stage: Stage):
    hand = stage.hand()
    client = Http2Client(stage)
    grant(stage, client)
    for count in range(3):
        response = client.ask("/")
        assert (response.status, response.body) == (200, b"leased")
        assert response.fields["content-length"] == "6"
        assert len(stage.pump.access.records) == count + 2
    assert not hand.tasks
    first, *others = stage.pump.access.records
    assert {record[2:5] for record in others} == {first[2:5]}
    assert [record[10] for record in others] == [1, 2, 3]


def test_leases_hold_for_both_versions(stage: Stage):
    stage.hand()
    client = Http2Client(stage)
    grant(stage, client)
    old = stage.client()
    assert old.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").body == b"leased"
    # and the bytes of an HTTP/2 head are none of HTTP/1.1
    old.send(b"GET / HTTP/2.0\r\nHost: a\r\n\r\n")
    assert old.answer().status == 505


def test_a_leased_response_to_head(stage: Stage):
    hand = stage.hand()
    client = Http2Client(stage)
    number = client.start("/", "HEAD")
    hand.reply(hand.take(), b"", length=6, lease=Lease(10.0, ()))
    assert client.response(number).fields["content-length"] == "6"
    for _ in range(2):
        response = client.ask("/", "HEAD")
        assert (response.body, response.ended, response.fields["content-length"]) == (b"", True, "6")


def test_a_leased_response_larger_than_a_window(stage: Stage):
    """It waits for the client's window as any other; and is what it is, byte by byte."""
    stage.hand()
    client = Http2Client(stage, window=1000)
    body = os.urandom(50_000)
    grant(stage, client, body)
    for _ in range(2):
        assert client.ask("/").body == body


def test_a_lease_of_an_open_file(stage: Stage):
    hand = stage.hand()
    client = Http2Client(stage)
    body = os.urandom(300_000)
    fd = os.memfd_create("body")
    os.write(fd, body)
    number = client.start()
    hand.reply(hand.take(), objects=[File(0, 0, len(body))], fds=(fd,), lease=Lease(10.0, ()))
    assert client.response(number).body == body
    assert client.ask("/").body == body
    assert not hand.tasks


def test_a_leased_dates_second(stage: Stage):
    stage.hand()
    client = Http2Client(stage)
    grant(stage, client)
    first = client.ask("/").fields["date"]
    stage.later(1.5)
    assert client.ask("/").fields["date"] > first


def test_a_hundred_leased_at_once(stage: Stage):
    """One read, one send."""
    stage.hand()
    client = Http2Client(stage)
    grant(stage, client)
    numbers = [client.start("/", flush=False) for _ in range(100)]
    client.flush()
    for number in numbers:
        assert client.response(number).body == b"leased"


# --- the connection -------------------------------------------------------------------------------


def test_an_idle_connection_is_closed_with_goaway(stage: Stage):
    """After keep_alive (75 s), in good order."""
    stage.hand(answers=True)
    client = Http2Client(stage)
    client.ask("/")
    stage.later(74)
    client.ask("/")
    stage.later(74)
    client.settle()
    assert not client.goaways
    stage.later(2)
    client.until_closed()
    assert client.goaways == [(0, 3)]
    assert client.client.ended


def test_idle_frames_keep_nothing_open(stage: Stage):
    stage.hand(answers=True)
    client = Http2Client(stage)
    client.ask("/")
    for _ in range(16):
        client.engine.ping(b"12345678")
        client.flush()
        client.settle()
        stage.later(5)
    client.until_closed()


def test_a_preface_without_settings(stage: Stage):
    client = stage.client()
    client.send(PREFACE)
    stage.later(19)
    assert stage.pump.connections
    stage.later(2)
    assert not stage.pump.connections


def test_headers_that_are_not_completed(stage: Stage):
    """head_timeout (20 s) runs from HEADERS on."""
    stage.hand(answers=True)
    client = RawHttp2(stage, headers(1))
    stage.later(30)
    client.send(headers(3, b"\x82", 0))
    stage.later(19)
    assert stage.pump.connections
    stage.later(2)
    assert not stage.pump.connections


def test_a_client_that_says_goaway_gets_its_responses(stage: Stage):
    hand = stage.hand()
    client = Http2Client(stage)
    number = client.start()
    task = hand.take()
    client.client.send(b"\0\0\x08\x07\0\0\0\0\0" + bytes(8))
    hand.reply(task, b"hello")
    assert client.response(number).body == b"hello"
    client.until_closed()
    assert client.client.ended


def test_a_client_that_leaves(stage: Stage):
    """Its workers are told, and what it had going on is logged."""
    hand = stage.hand(threads=1)
    with no_descriptor_left(stage):
        client = Http2Client(stage)
        client.start("/1")
        client.start("/2")
        task = hand.take()
        stage.until(lambda: len(stage.pump.endings.streams) == 2)
        client.client.leave()
    assert stage.reasons() == [CloseReason.CLIENT_DISCONNECTED] * 2
    assert len(hand.heard()) == 1
    hand.reply(task, b"nobody")
    assert not stage.pump.endings.streams
    assert hand.worker is not None
    assert hand.worker.outstanding == 0


def test_a_stop_loses_nothing(stage: Stage):
    """What was sent before the client has read that the server stops is served; then the last GOAWAY names
    it."""
    hand = stage.hand(threads=10)
    client = RawHttp2(stage, headers(1))
    client.frames()
    one = hand.take()
    stage.pump.draining.begin(30)
    client.send(headers(3))  # it was under way
    assert client.said() == ["GOAWAY NO_ERROR", "PING"]
    two = hand.take()
    client.send(ping(bytes(8), 1))
    last = client.frames()
    assert said(last) == ["GOAWAY NO_ERROR"]
    assert last[0][3][:4] == b"\0\0\0\3"
    client.send(headers(5))  # to be sent again elsewhere: GOAWAY has said so
    assert client.frames() == []
    assert not hand.tasks
    hand.reply(one, b"1")
    hand.reply(two, b"2")
    assert [frame[3] for frame in client.frames() if frame[0] == 0] == [b"1", b"2"]
    stage.until(lambda: client.client.receive() >= 0 and client.client.ended)
    client.client.finish()
    assert not stage.pump.connections


def test_a_stop_does_not_wait_for_a_client_that_does_not_read(stage: Stage):
    stage.hand(answers=True)
    client = RawHttp2(stage, headers(1))
    client.frames()
    stage.pump.draining.begin(30)
    stage.later(2)
    assert client.said() == ["GOAWAY NO_ERROR", "PING", "GOAWAY NO_ERROR"]
    stage.until(lambda: client.client.receive() >= 0 and client.client.ended)


@pytest.mark.parametrize("when", ["before anything is sent", "amid the preface", "with a request"])
def test_a_listening_socket_that_is_removed(stage: Stage, when: str):
    """What its connections have requested is served; then they end."""
    hand = stage.hand()
    client = RawHttp2(stage) if when == "with a request" else None
    raw = prompt(stage.client()) if client is None else client.client
    if when == "amid the preface":
        raw.send(PREFACE[:9])
    elif client is not None:
        client.send(headers(1))
        client.frames()
    [conn] = stage.pump.connections.values()
    PlanChange(stage.pump)._close_after_next_response(conn)
    if client is None:
        raw.send((PREFACE[9:] if when == "amid the preface" else PREFACE) + settings() + headers(1))
    hand.reply(hand.take(), b"last")
    raw.send(ping(bytes(8), 1))
    raw.send(headers(3))
    stage.until(lambda: raw.receive() >= 0 and raw.ended)
    assert b"last" in raw.inbox
    assert not hand.tasks
