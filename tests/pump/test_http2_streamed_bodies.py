"""Bodies of HTTP/2 requests that are passed on while they come (`stream_body`): by credit, within the windows
of the protocol, and each stream for itself."""

from __future__ import annotations

import random
from typing import Any

import h2.exceptions
import pytest

from halfsync.objects import Memory
from halfsync.pump.bodies.streamed import WORTH_A_PIECE
from halfsync.pump.http2.output import AHEAD
from halfsync.pump.http2.streams import Session, Stream
from halfsync.wire.blocks import BLOCK_SIZE
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import BODY_WINDOW, ClientDisconnected, Ending, Piece, StreamedTask, Task
from tests.pump.harness import Hand, Stage, no_descriptor_left, skip_with_single_bytes
from tests.pump.http2_client import Http2Client, RawHttp2
from tests.wire.http2_frames import EH, ES, POST, block, data, headers, rst, window

DATA = random.Random(7).randbytes(2_000_000)
WINDOW = 65_535


def streaming(**settings: Any) -> Stage:
    return Stage(stream_body=True, access_logfile="-", **settings)


def begun(
    stage: Stage, *fields: tuple[bytes, bytes], first: bytes = b""
) -> tuple[Http2Client, Hand, int, Task]:
    """A client whose request a worker has; the rest of its body has yet to come."""
    hand, client = stage.hand(), Http2Client(stage)
    number = client.start("/", "POST", fields=[*fields], end=False, flush=False)
    if first:
        skip_with_single_bytes("does not come with its head")
        client.engine.send_data(number, first)
    client.flush()
    return client, hand, number, hand.take()


def stream_of(stage: Stage) -> Stream:
    [stream] = stage.pump.endings.streams
    assert isinstance(stream, Stream)
    return stream


def session_of(stage: Stage) -> Session:
    [conn] = stage.pump.connections.values()
    assert isinstance(conn.session, Session)
    return conn.session


def send_what_may_be(client: Http2Client, number: int, body: memoryview) -> memoryview:
    """As much as the windows let; what is left."""
    while room := min(client.engine.local_flow_control_window(number), 16_384, len(body)):
        client.engine.send_data(number, bytes(body[:room]))
        body = body[room:]
    client.flush()
    client.read()
    return body


# --- how it comes ---------------------------------------------------------------------------------


def test_the_head_alone_is_enough_to_begin():
    with streaming() as stage:
        client, hand, number, task = begun(stage, (b"content-length", b"10"), first=b"abc")
        assert isinstance(task, StreamedTask)
        assert (task.body_size, task.first) == (10, b"abc")
        client.engine.send_data(number, b"defg")
        client.engine.send_data(number, b"hij", end_stream=True)
        client.flush()
        assert hand.collect(task) is Ending.UNFINISHED
        assert hand.bodies[task.number] == b"abc", "nothing more was wanted"
        hand.ask(task)
        assert hand.collect(task) is Ending.DONE
        assert hand.bodies[task.number] == b"abcdefghij"
        hand.reply(task, b"thanks")
        assert client.response(number).body == b"thanks"


@pytest.mark.parametrize("body", [b"", b"hello"])
def test_a_body_that_is_whole_in_time_is_like_any_other(body: bytes):
    with streaming() as stage:
        hand = stage.hand()
        client = RawHttp2(stage)
        client.send(headers(1, POST, EH), data(1, body, ES))
        task = hand.take()
        assert type(task) is Task
        assert task.body == body


@pytest.mark.parametrize("behind", [b"", b"x" * 10, DATA[:30_000]])
@pytest.mark.parametrize("trailers", [False, True])
@pytest.mark.parametrize("handed_over", [False, True])
def test_frames_that_are_read_at_once_are_all_of_the_body(behind: bytes, trailers: bool, handed_over: bool):
    """The last of them says that the body is over: that is so behind it, and not behind the first."""
    with streaming() as stage:
        hand = stage.hand()
        frames = [data(1, b"abc"), *(data(1, behind[at : at + 9000]) for at in range(0, len(behind), 9000))]
        frames.append(headers(1, block((b"x-sum", b"1"))) if trailers else data(1, b"def", ES))
        client = RawHttp2(stage)
        body = b"abc" + behind + (b"" if trailers else b"def")
        if handed_over:
            client.send(headers(1, POST, EH))
            task = hand.take()
            client.send(b"".join(frames))
        else:
            client.send(headers(1, POST, EH), b"".join(frames))
            task = hand.take()
        if type(task) is Task:
            assert task.body == body
            return
        hand.ask(task)
        assert hand.collect(task) is Ending.DONE
        assert hand.bodies[task.number] == body


@pytest.mark.parametrize("trailers", [False, True])
def test_the_end_comes_alone(trailers: bool):
    """An empty DATA frame, or trailers, which are dropped."""
    with streaming() as stage:
        hand = stage.hand()
        client = RawHttp2(stage, headers(1, POST, EH), data(1, b"abc"))
        task = hand.take()
        hand.ask(task)
        assert hand.collect(task) is Ending.UNFINISHED
        client.send(headers(1, block((b"x-sum", b"1"))) if trailers else data(1, b"", ES))
        assert hand.collect(task) is Ending.DONE
        assert hand.bodies[task.number] == b"abc"


def test_the_client_may_send_no_more_than_is_taken():
    """Its stream's window is opened as the handler takes the body, and what the pump holds of it is one
    window."""
    with streaming() as stage:
        client, hand, number, task = begun(stage, first=b"x")
        rest = memoryview(DATA)
        for _ in range(5):
            rest = send_what_may_be(client, number, rest)
        sent = len(DATA) - len(rest)
        assert sent < WINDOW
        assert sum(map(len, stream_of(stage).parts)) == sent
        taken = 1
        for size in (BODY_WINDOW, 70_000):
            hand.ask(task, size)
            for _ in range(20):
                rest = send_what_may_be(client, number, rest)
                hand.collect(task)
            taken += size
            got = len(hand.bodies[task.number])
            assert taken - WORTH_A_PIECE < got <= taken
            stream = stream_of(stage)
            assert sum(map(len, stream.parts)) <= WINDOW + stream.state_of.grown
        assert hand.bodies[task.number] == b"x" + DATA[: got - 1]


def test_what_has_come_for_a_handler_that_pauses_is_passed_on_in_pieces_that_fit_a_packet():
    """Its window has grown while it kept up, and is full when it reads again."""
    with streaming() as stage:
        client, hand, number, task = begun(stage, first=b"x")
        rest = memoryview(DATA)
        hand.ask(task)
        stream = stream_of(stage)
        for _ in range(100):
            if stream.state_of.grown >= 2 * BODY_WINDOW:
                break
            before = len(hand.bodies[task.number])
            rest = send_what_may_be(client, number, rest)
            hand.collect(task)
            hand.ask(task, len(hand.bodies[task.number]) - before)
        for _ in range(10):
            rest = send_what_may_be(client, number, rest)
        assert sum(map(len, stream.parts)) > BODY_WINDOW
        got = len(hand.bodies[task.number])
        for _ in range(10):
            hand.ask(task, BODY_WINDOW)
            client.settle()
            for piece in hand.heard():
                if isinstance(piece, Piece):
                    assert 0 < len(piece.data) <= BLOCK_SIZE
                    assert piece.data == DATA[got - 1 : got - 1 + len(piece.data)]
                    got += len(piece.data)
        assert got == 1 + len(DATA) - len(rest)


def test_pieces_do_not_become_ever_smaller():
    """Though the handler gives back little by little."""
    with streaming() as stage:
        client, hand, number, task = begun(stage, first=b"x")
        rest = memoryview(DATA)
        hand.ask(task)
        for _ in range(20):
            rest = send_what_may_be(client, number, rest)
            hand.collect(task)
        pieces = 0
        for _ in range(150):
            before = len(hand.bodies[task.number])
            hand.ask(task, 1000)
            rest = send_what_may_be(client, number, rest)
            hand.collect(task)
            pieces += len(hand.bodies[task.number]) > before
        assert 1 <= pieces <= 4


def test_every_byte_comes_once_and_in_order_on_two_streams():
    with streaming() as stage:
        hand, client = stage.hand(), Http2Client(stage)
        numbers = [client.start(f"/{index}", "POST", end=False) for index in range(2)]
        tasks = [hand.take() for _ in numbers]
        for task in tasks:
            hand.ask(task)
        bodies = [memoryview(DATA[: 700_000 + index]) for index in range(2)]
        over = [False, False]
        while not all(over):
            for index, number in enumerate(numbers):
                if over[index]:
                    continue
                had = len(bodies[index])
                bodies[index] = send_what_may_be(client, number, bodies[index])
                if had and not bodies[index]:
                    client.engine.end_stream(number)
                    client.flush()
            before = [len(hand.bodies[task.number]) for task in tasks]
            messages = hand.heard()
            for index, task in enumerate(tasks):
                for piece in messages:
                    if isinstance(piece, Piece) and piece.number == task.number:
                        hand.bodies[task.number] += piece.data
                        over[index] = piece.ending is Ending.DONE
                if taken := len(hand.bodies[task.number]) - before[index]:
                    hand.ask(task, taken)
        for index, task in enumerate(tasks):
            assert hand.bodies[task.number] == DATA[: 700_000 + index]
            hand.reply(task, b"%d" % index)
            assert client.response(numbers[index]).body == b"%d" % index


def test_the_response_goes_out_while_the_body_comes():
    with streaming() as stage:
        client, hand, number, task = begun(stage)
        hand.ask(task)
        for index, piece in enumerate((b"abc", b"def", b"ghi")):
            client.engine.send_data(number, piece)
            client.flush()
            hand.collect(task)
            if not index:
                hand.reply(task, b"<abc>", ending=Ending.UNFINISHED)
            else:
                hand.part(task, Memory(b"<" + piece + b">"))
            hand.ask(task, 3)
            client.settle()
            assert client.responses[number].body.endswith(b"<" + piece + b">")
        client.engine.end_stream(number)
        client.flush()
        hand.part(task, ending=Ending.DONE)
        response = client.response(number)
        assert response.body == b"<abc><def><ghi>"
        client.settle()
        assert response.reset is None


def test_early_hints():
    with streaming() as stage:
        client, hand, number, task = begun(stage)
        exchange = stream_of(stage).exchange
        assert exchange is not None
        stream_of(stage).protocol.hint(exchange, b"Link: </a.css>; rel=preload\r\nConnection: close\r\n")
        client.settle()
        assert client.responses[number].interim == [103]
        hand.reply(task, b"a")
        assert client.early_response(number).body == b"a"


def test_hints_to_a_client_that_does_not_read_are_bounded():
    """They are no use to it, and an application may send any number of them."""
    with streaming() as stage:
        client, hand, number, task = begun(stage)
        stream = stream_of(stage)
        assert stream.exchange is not None
        line = b"Link: </%b>; rel=preload\r\n" % (b"a" * 8000)
        for _ in range(1000):  # 8 MB: sockets on both sides hold less
            stream.protocol.hint(stream.exchange, line)
            stage.turn()
        [conn] = stage.pump.connections.values()
        session = session_of(stage)
        assert session.framed - conn.wire_bytes < 2 * AHEAD
        hand.reply(task, b"a")
        assert client.early_response(number).body == b"a"


# --- Expect: 100-continue -------------------------------------------------------------------------

EXPECT = (b"expect", b"100-continue")


def test_the_client_is_told_to_go_on_when_the_handler_reads():
    with streaming() as stage:
        client, hand, number, task = begun(stage, EXPECT)
        client.settle()
        assert client.responses[number].interim == []
        hand.ask(task)
        client.settle()
        assert client.responses[number].interim == [100]
        client.upload(number, b"hello")
        assert hand.collect(task) is Ending.DONE
        hand.reply(task, b"well")
        assert client.response(number).body == b"well"


def test_a_client_that_does_not_wait_is_not_told():
    with streaming() as stage:
        client, hand, number, task = begun(stage, EXPECT, first=b"he")
        hand.ask(task)
        client.settle()
        assert client.responses[number].interim == []


def test_a_refused_upload_is_never_sent():
    with streaming() as stage:
        client, hand, number, task = begun(stage, EXPECT)
        hand.reply(task, b"no", status=403, reason="Forbidden")
        response = client.early_response(number)
        assert (response.status, response.interim) == (403, [])


def test_a_client_that_stops_when_it_has_its_response():
    """It ends its stream, with less than content-length has said: that is no mistake then."""
    with streaming() as stage:
        hand, client = stage.hand(), RawHttp2(stage)
        client.send(headers(1, POST + block((b"content-length", b"10")), EH), data(1, b"abc"))
        task = hand.take()
        hand.ask(task)
        hand.reply(task, b"n", ending=Ending.UNFINISHED)
        client.send(data(1, b"d", ES))
        assert hand.collect(task) is Ending.ABORTED
        assert hand.bodies[task.number] == b"abcd"
        hand.part(task, Memory(b"o"), ending=Ending.DONE)
        frames = client.frames()
        assert [(flags, payload) for kind, flags, _, payload in frames if kind == 0] == [(0, b"n"), (1, b"o")]
        assert not [one for one in frames if one[0] == 3]


# --- a response before the body is whole ----------------------------------------------------------


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("parts", [False, True])
def test_a_response_that_is_over_first(reads: bool, parts: bool):
    """It is whole; the client is told to send no more, the handler that there will be no more, and the
    connection is of use."""
    with streaming() as stage:
        client, hand, number, task = begun(stage, first=b"x" * 16_000)
        if reads:
            hand.ask(task)
        client.engine.send_data(number, b"y" * 10_000)
        client.flush()
        if parts:
            hand.reply(task, b"eno", ending=Ending.UNFINISHED)
            hand.part(task, Memory(b"ugh"), ending=Ending.DONE)
        else:
            hand.reply(task, b"enough")
        client.settle()
        client.engine.send_data(number, b"z" * 10_000)
        client.flush()
        response = client.early_response(number)
        client.settle()
        assert (response.body, response.ended, response.reset) == (b"enough", True, 0)
        assert hand.collect(task) is Ending.ABORTED
        assert stage.reasons() == [CloseReason.BODY_NOT_READ]
        other = client.start("/next")
        hand.reply(hand.take(), b"next")
        assert client.response(other).body == b"next"


def test_what_nobody_takes_gives_its_window_back():
    """Sixty times half a stream's window is more than the connection's."""
    with streaming() as stage:
        hand, client = stage.hand(), Http2Client(stage)
        for _ in range(60):
            number = client.start("/", "POST", end=False)
            task = hand.take()
            for _ in range(2):
                client.engine.send_data(number, b"x" * 16_000)
            client.flush()
            hand.reply(task, b"enough")
            client.settle()
        assert len(stage.pump.endings.streams) == 60
        stage.later(2)
        client.settle()
        assert not stage.pump.endings.streams
        assert all(response.ended for response in client.responses.values())
        assert client.engine.outbound_flow_control_window > 400_000


# --- what is refused ------------------------------------------------------------------------------


def test_an_announced_size_is_limited_before_anybody_is_told():
    with streaming(limit_request_body=1000) as stage:
        hand, client = stage.hand(), Http2Client(stage)
        number = client.start("/", "POST", fields=[(b"content-length", b"1001")], end=False)
        assert client.early_response(number).status == 413
        assert not hand.tasks


@pytest.mark.parametrize("responds", [False, True])
def test_a_body_is_limited_as_it_comes(responds: bool):
    """413; or, if the response has begun, its stream is reset. The handler is told."""
    with streaming(limit_request_body=1000) as stage:
        client, hand, number, task = begun(stage, first=b"x" * 600)
        hand.ask(task)
        if responds:
            hand.reply(task, b"begun", ending=Ending.UNFINISHED)
        client.engine.send_data(number, b"x" * 401)
        client.flush()
        response = client.response(number) if responds else client.early_response(number)
        assert response.reset == 2 if responds else response.status == 413
        assert ClientDisconnected(task.number) in hand.heard()
        assert stage.reasons() == [CloseReason.REFUSED]


def test_a_body_that_breaks_its_promise():
    """Another size than content-length says: the stream is reset, and the handler is told."""
    with streaming() as stage:
        hand = stage.hand()
        client = RawHttp2(stage, headers(1, POST + block((b"content-length", b"5")), EH), data(1, b"abc"))
        task = hand.take()
        client.send(data(1, b"def"))
        client.until_said("RST 1 PROTOCOL_ERROR")
        assert hand.heard() == [ClientDisconnected(task.number)]
        assert stage.reasons() == [CloseReason.HTTP2_ERROR]


def test_a_full_queue_refuses():
    with streaming(queue_limit=1) as stage:
        client = Http2Client(stage)
        client.start("/")
        number = client.start("/", "POST", end=False)
        assert client.early_response(number).status == 503


# --- whose turn it is -----------------------------------------------------------------------------


@pytest.mark.parametrize("responds", [False, True])
def test_a_client_that_stalls_while_it_is_awaited(responds: bool):
    with streaming(body_timeout=10) as stage:
        client, hand, number, task = begun(stage, first=b"x" * 10)
        stage.later(30)
        hand.ask(task)
        if responds:
            hand.reply(task, b"begun", ending=Ending.UNFINISHED)
        client.settle()
        stage.later(9)
        assert not client.responses[number].over
        stage.later(3)
        response = client.response(number) if responds else client.early_response(number)
        assert response.reset == 2 if responds else response.status == 408
        assert ClientDisconnected(task.number) in hand.heard()
        assert stage.reasons() == [CloseReason.BODY_TIMEOUT]


def test_a_client_is_not_blamed_while_others_fill_the_connections_window():
    """Handlers that do not read keep so much of what their streams have sent that the window is shut for one
    whose handler does."""
    with streaming(body_timeout=10, handler_timeout=0) as stage:
        hand, client = stage.hand(threads=50), Http2Client(stage)
        awaited = client.start("/", "POST", end=False)
        task = hand.take()
        hand.ask(task)
        for _ in range(40):
            number = client.start("/", "POST", end=False)
            send_what_may_be(client, number, memoryview(DATA))
            hand.take()
            send_what_may_be(client, number, memoryview(DATA))
        assert session_of(stage).wire.receive_window == 0
        stage.later(30)
        client.settle()
        assert not client.responses[awaited].over
        for number in list(client.responses):
            if number != awaited:
                client.reset(number)
        client.settle()
        stage.later(9)
        client.upload(awaited, b"at last")
        assert hand.collect(task) is Ending.DONE


# --- who leaves, who dies -------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["resets", "disconnects"])
@pytest.mark.parametrize("reads", [False, True])
def test_a_client_that_leaves_in_the_middle(way: str, reads: bool):
    with streaming() as stage, no_descriptor_left(stage):
        hand = stage.hand()
        client = RawHttp2(stage, headers(1, POST, EH), data(1, b"abc"))
        task = hand.take()
        if reads:
            hand.ask(task)
        client.send(data(1, b"def"))
        if way == "resets":
            client.send(rst(1), window(0, 1))
        else:
            client.client.leave()
        heard = hand.heard()
        assert ClientDisconnected(task.number) in heard
        assert not stage.pump.endings.streams
        expected = CloseReason.STREAM_RESET if way == "resets" else CloseReason.CLIENT_DISCONNECTED
        assert stage.reasons() == [expected]
        hand.reply(task, b"nobody")
        if way == "resets":
            client.client.leave()
        hand.close()


def test_a_worker_that_dies():
    with streaming() as stage:
        stage.status = 11
        client, hand, number, _ = begun(stage, first=b"abc")
        hand.die()
        assert client.early_response(number).status == 502
        stage.hand(answers=True)
        assert client.ask("/").status == 200


def test_a_client_that_keeps_the_rules_is_never_too_far():
    """(Of the client's engine: it would complain if a window were passed.)"""
    with streaming() as stage:
        client, _, number, _ = begun(stage)
        assert not send_what_may_be(client, number, memoryview(DATA)[:WINDOW])
        with pytest.raises(h2.exceptions.FlowControlError):
            client.engine.send_data(number, b"x")
