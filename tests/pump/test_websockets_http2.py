"""WebSockets over HTTP/2 (RFC 8441): the same on a stream, beside others."""

from __future__ import annotations

import pytest
from h2.errors import ErrorCodes

from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import Accept, ClientDisconnected, Close, Message, WebSocketTask
from halfsync.wire.websocket import BINARY, TEXT
from tests.pump.harness import Hand, Stage
from tests.pump.http2_client import Http2Client, Response
from tests.pump.websocket_pair import stage
from tests.wire.websocket_frames import close as close_frame
from tests.wire.websocket_frames import frame

VERSION = [(b"sec-websocket-version", b"13")]


class Pair:
    """An open WebSocket on a stream."""

    def __init__(self, one: Stage, hand: Hand | None = None, client: Http2Client | None = None) -> None:
        self.stage = one
        self.hand = hand or one.hand()
        self.client = client or Http2Client(one)
        self.number = begin(self.client)
        self.task = self.hand.take()
        assert type(self.task) is WebSocketTask
        self.hand.send([Accept(self.task.number, b"X-Who: me\r\n")])
        one.until(lambda: self.client.read() >= 0 and self.client.responses[self.number].status)

    def say(self, data: bytes) -> None:
        self.client.upload(self.number, data, end=False)

    def got(self, size: int) -> bytes:
        """So many bytes of what the server sends."""
        response = self.client.responses[self.number]
        self.stage.until(lambda: self.client.read() >= 0 and (len(response.body) >= size or response.over))
        found, response.body = response.body[:size], response.body[size:]
        return found

    def heard(self) -> list[object]:
        return [one for one in self.hand.heard() if isinstance(one, Message | Close | ClientDisconnected)]

    def tell(self, kind: int, data: bytes) -> None:
        self.hand.send([Message(self.task.number, kind, data)])

    def wait_for_end(self) -> None:
        """The client ends its side too, as it would close a connection."""
        self.client.engine.end_stream(self.number)
        self.client.flush()
        response = self.client.responses[self.number]
        self.stage.until(lambda: self.client.read() >= 0 and response.over)


def finished(one: Stage, client: Http2Client, number: int) -> Response:
    """A response that is over before its request: the client is given a moment to end that."""
    one.until(lambda: client.read() >= 0 and client.responses[number].status)
    one.later(5)
    client.read()
    assert client.responses[number].over
    return client.responses[number]


def refused(one: Stage, client: Http2Client, number: int) -> Response:
    """A response in place of a WebSocket, which is whole at once: it keeps nobody from sending a body."""
    response = client.responses[number]
    one.until(lambda: client.read() >= 0 and response.status)
    one.settle()
    client.read()
    assert (response.ended, response.reset) == (True, None)
    one.later(5)
    client.read()
    assert response.reset == ErrorCodes.NO_ERROR
    assert not one.pump.endings.streams
    return response


def begin(client: Http2Client, protocol: bytes = b"websocket", path: str = "/chat") -> int:
    fields = [(b":protocol", protocol), *VERSION]
    return client.start(path, "CONNECT", fields=fields, end=False)


def test_messages_go_both_ways():
    with stage() as one:
        pair = Pair(one)
        response = pair.client.responses[pair.number]
        assert (response.status, response.fields["x-who"]) == (200, "me")
        assert "sec-websocket-accept" not in response.fields
        assert pair.task.head.startswith(b"GET /chat HTTP/2.0\r\n")
        data = frame(TEXT, b"hello") + frame(BINARY, b"x" * 1000)
        for piece in (data[:3], data[3:20], data[20:]):
            pair.say(piece)
        number = pair.task.number
        assert pair.heard() == [Message(number, TEXT, b"hello"), Message(number, BINARY, b"x" * 1000)]
        pair.tell(TEXT, b"one")
        pair.tell(TEXT, b"two")
        assert pair.got(10) == b"\x81\x03one\x81\x03two"


def test_the_client_announces_nothing_and_is_told():
    """SETTINGS_ENABLE_CONNECT_PROTOCOL."""
    with stage() as one:
        client = Http2Client(one)
        client.settle()
        assert client.engine.remote_settings[8] == 1


def test_the_client_closes():
    with stage(access_logfile="-") as one:
        pair = Pair(one)
        pair.say(close_frame(1000, b"why"))
        assert pair.heard() == [Close(pair.task.number, 1000, b"why")]
        assert pair.got(4) == b"\x88\x02\x03\xe8"
        pair.wait_for_end()
        assert pair.client.responses[pair.number].reset in (None, 0)
        one.until(lambda: one.pump.access.records)
        assert one.reasons() == [CloseReason.WEBSOCKET_CLOSED]
        assert one.pump.connections, "the connection goes on"


def test_the_application_closes():
    with stage() as one:
        pair = Pair(one)
        pair.hand.send([Close(pair.task.number, 4000, b"")])
        assert pair.got(4) == b"\x88\x02\x0f\xa0"
        pair.say(close_frame(4000))
        pair.wait_for_end()


def test_a_client_that_ends_the_stream_in_place_of_a_close():
    with stage() as one:
        pair = Pair(one)
        for _ in range(4):  # more than the client's window
            pair.tell(BINARY, bytes(60_000))
        pair.hand.send([Close(pair.task.number, 4000, b"")])
        pair.client.engine.end_stream(pair.number)
        pair.client.flush()
        assert pair.got(4 * 60_004 + 4)[-4:] == b"\x88\x02\x0f\xa0"
        response = pair.client.responses[pair.number]
        one.until(lambda: response.over or pair.client.read() < 0)
        assert response.reset is None


@pytest.mark.parametrize("ends", [True, False])
def test_our_side_ends_first(ends: bool):
    """As RFC 6455 7.1.1 has it: a client may wait for that before it ends its own. One that does not end it
    is told to stop."""
    with stage(access_logfile="-") as one:
        pair = Pair(one)
        pair.say(close_frame(1000))
        assert pair.got(4) == b"\x88\x02\x03\xe8"
        response = pair.client.responses[pair.number]
        one.until(lambda: response.over or pair.client.read() < 0)
        assert (response.ended, response.reset) == (True, None)
        if ends:
            pair.client.engine.end_stream(pair.number)
            pair.client.flush()
        else:
            pair.say(frame(TEXT, b"late"))
            assert one.pump.endings.streams
            one.later(5)
        one.until(lambda: pair.client.read() >= 0 and not one.pump.endings.streams)
        assert response.reset == (None if ends else ErrorCodes.NO_ERROR)
        assert pair.heard() == [Close(pair.task.number, 1000, b"")]
        assert one.reasons() == [CloseReason.WEBSOCKET_CLOSED]
        again = Pair(one, pair.hand, pair.client)
        again.say(frame(TEXT, b"next"))
        assert again.heard() == [Message(again.task.number, TEXT, b"next")]


def test_a_client_that_resets_the_stream():
    with stage() as one:
        pair = Pair(one)
        pair.client.engine.reset_stream(pair.number, 8)
        pair.client.flush()
        assert pair.heard() == [ClientDisconnected(pair.task.number)]


def test_a_client_that_resets_the_stream_when_it_is_closed():
    """In place of ending its side."""
    with stage(access_logfile="-") as one:
        pair = Pair(one)
        pair.say(close_frame(1000))
        assert pair.got(4) == b"\x88\x02\x03\xe8"
        pair.client.engine.reset_stream(pair.number, ErrorCodes.CANCEL)
        pair.client.flush()
        assert pair.heard() == [Close(pair.task.number, 1000, b"")]
        assert one.reasons() == [CloseReason.WEBSOCKET_CLOSED]


def test_a_client_that_ends_the_stream_without_a_close():
    with stage() as one:
        pair = Pair(one)
        pair.client.upload(pair.number, frame(TEXT, b"last"))
        number = pair.task.number
        assert pair.heard() == [Message(number, TEXT, b"last"), ClientDisconnected(number)]
        response = pair.client.responses[pair.number]
        one.until(lambda: pair.client.read() >= 0 and response.over)
        assert response.reset == ErrorCodes.CANCEL


@pytest.mark.parametrize("size", [4, 5000])
def test_the_last_frame_of_the_stream_ends_it(size: int):
    """Nothing of what came in it, or just before it, is lost."""
    with stage(access_logfile="-") as one:
        pair = Pair(one)
        messages = frame(BINARY, bytes(size)) * 3
        pair.client.engine.send_data(pair.number, messages)
        pair.client.engine.send_data(pair.number, close_frame(1000, b"why"), end_stream=True)
        pair.client.flush()
        number = pair.task.number
        message = Message(number, BINARY, bytes(size))
        assert pair.heard() == [message, message, message, Close(number, 1000, b"why")]
        response = pair.client.responses[pair.number]
        one.until(lambda: pair.client.read() >= 0 and response.over)
        assert (response.body, response.ended, response.reset) == (b"\x88\x02\x03\xe8", True, None)
        assert one.reasons() == [CloseReason.WEBSOCKET_CLOSED]


def test_the_end_of_the_stream_waits_behind_what_the_application_does_not_take():
    with stage() as one:
        pair = Pair(one)
        engine = pair.client.engine
        sent = 0
        while engine.local_flow_control_window(pair.number) >= 8192:
            engine.send_data(pair.number, frame(BINARY, bytes(8000)))
            pair.client.flush()
            sent += 1
            pair.client.read()
        engine.end_stream(pair.number)
        pair.client.flush()
        heard = pair.heard()
        assert len(heard) < sent
        exchange = next(iter(one.pump.endings.streams)).exchange
        assert exchange is not None
        assert exchange.websocket is not None
        one.pump.websockets.grant(exchange, exchange.websocket.outstanding)
        heard += pair.heard()
        assert heard == [
            *[Message(pair.task.number, BINARY, bytes(8000))] * sent,
            ClientDisconnected(pair.task.number),
        ]


def test_what_came_before_it_is_accepted_and_the_end_of_the_stream():
    with stage() as one:
        hand, client = one.hand(), Http2Client(one)
        number = begin(client)
        task = hand.take()
        client.engine.send_data(number, frame(TEXT, b"early") + close_frame(1000), end_stream=True)
        client.flush()
        one.settle()
        hand.send([Accept(task.number, b"")])
        found = [message for message in hand.heard() if isinstance(message, Message | Close)]
        assert found == [Message(task.number, TEXT, b"early"), Close(task.number, 1000, b"")]


def test_many_on_one_connection():
    with stage() as one:
        first = Pair(one)
        pairs = [first, *(Pair(one, first.hand, first.client) for _ in range(4))]
        for n, pair in enumerate(pairs):
            pair.say(frame(TEXT, b"%d" % n))
        found = {one.number: one.data for one in first.heard() if isinstance(one, Message)}
        assert found == {pair.task.number: b"%d" % n for n, pair in enumerate(pairs)}


def test_an_application_that_does_not_take_stops_the_stream():
    """By its window; and it is opened when the application takes."""
    with stage() as one:
        pair = Pair(one)
        sent = 0
        engine = pair.client.engine
        while True:
            pair.client.read()
            if engine.local_flow_control_window(pair.number) < 8192:
                break
            engine.send_data(pair.number, frame(BINARY, bytes(8000)))
            pair.client.flush()
            sent += 1
            assert sent < 1000
        assert len(pair.heard()) < sent
        ws = next(iter(one.pump.endings.streams)).exchange.websocket  # type: ignore[union-attr]
        assert ws is not None
        one.pump.websockets.grant(next(iter(one.pump.endings.streams)).exchange, ws.outstanding)  # type: ignore[arg-type]
        one.until(lambda: pair.client.read() >= 0 and engine.local_flow_control_window(pair.number) >= 8192)


def test_a_stop():
    with stage() as one:
        pair = Pair(one)
        one.pump.draining.begin(30)
        assert pair.heard() == [Close(pair.task.number, 1001, b"")]
        one.settle()
        pair.client.client.receive()
        assert b"\x88\x02\x03\xe9" in pair.client.client.inbox
        one.later(10)
        assert not one.pump.connections


def test_a_rejection():
    with stage() as one:
        hand, client = one.hand(), Http2Client(one)
        number = begin(client)
        hand.reply(hand.take(), b"no", status=403)
        response = refused(one, client, number)
        assert (response.status, response.body) == (403, b"no")


@pytest.mark.parametrize(("with_loops", "protocol"), [(False, b"websocket"), (True, b"connect-udp")])
def test_where_there_are_none(with_loops: bool, protocol: bytes):
    """An application that knows nothing of them is not asked: a 200 would say that there is one."""
    with stage() if with_loops else Stage() as one:
        one.hand()
        client = Http2Client(one)
        number = begin(client, protocol)
        over = finished if with_loops else refused
        assert over(one, client, number).status == 501


def test_a_version_that_is_none():
    with stage() as one:
        one.hand()
        client = Http2Client(one)
        number = client.start("/", "CONNECT", fields=[(b":protocol", b"websocket")], end=False)
        assert refused(one, client, number).status == 426
