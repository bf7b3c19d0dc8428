"""WebSockets: clients and applications, in every order in which they may speak, stop, and leave."""

from __future__ import annotations

import os
import random

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode

from halfsync.objects import File
from halfsync.pump.connection import Connection
from halfsync.pump.states import WebSocketState
from halfsync.pump.websocket.protocol import EVENTS_A_STEP
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import (
    MESSAGE_IN_PACKET,
    MESSAGE_WINDOW,
    RESPONSE_WINDOW,
    Accept,
    ClientDisconnected,
    Close,
    Ending,
    Lease,
    Message,
    Task,
    WebSocketTask,
)
from halfsync.wire.websocket import BINARY, PING, TEXT
from tests.pump.harness import Stage, get, no_descriptor_left
from tests.pump.websocket_pair import Pair, stage
from tests.wire.websocket_frames import close as close_frame
from tests.wire.websocket_frames import frame

LARGE = random.Random(3).randbytes(700_000)
UPGRADE = get(
    "/chat",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


# --- the beginning ----------------------------------------------------------------------------------


def test_messages_go_both_ways():
    with stage() as one:
        pair = Pair(one)
        pair.say("hello")
        pair.say(b"\x00\xff")
        assert pair.texts() == ["hello", b"\x00\xff"]
        pair.tell("hällo", b"\xfe", "")
        assert pair.wait(3) == [
            Frame(Opcode.TEXT, "hällo".encode()),
            Frame(Opcode.BINARY, b"\xfe"),
            Frame(Opcode.TEXT, b""),
        ]


def test_what_the_application_says_when_it_accepts():
    with stage() as one:
        pair = Pair(
            one, subprotocols=["v1", "v2"], subprotocol="v2", fields=b"Set-Cookie: a=b\r\nX-Who: me\r\n"
        )
        assert pair.protocol.subprotocol == "v2"
        client = one.client()
        client.send(UPGRADE)
        task = pair.hand.take()
        pair.hand.send([Accept(task.number, b"X-Who: me\r\n")])
        found = client.interim()
        assert found.status == 101
        assert found.fields == {
            "upgrade": "websocket",
            "connection": "Upgrade",
            "sec-websocket-accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
            "x-who": "me",
        }


def test_what_comes_before_it_is_accepted_waits():
    with stage() as one:
        pair = Pair(one, accept=False, behind=frame(TEXT, b"early") + frame(TEXT, b"bird")[:3])
        assert pair.heard() == []
        pair.accept()
        pair.client.send(frame(TEXT, b"bird")[3:])
        assert pair.texts() == ["early", "bird"]


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (("Upgrade: websocket",), 400),
        (("Upgrade: websocket", "Connection: Upgrade"), 426),
        (("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 12"), 426),
        (("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"), 400),
    ],
)
def test_requests_in_a_wrong_form_are_refused(lines: tuple[str, ...], status: int):
    """No worker hears of them, and the connection is kept."""
    with stage() as one:
        hand, client = one.hand(), one.client()
        client.send(get("/chat", *lines))
        found = client.answer()
        assert found.status == status
        assert not found.closes
        assert found.fields.get("sec-websocket-version") == ("13" if status == 426 else None)
        client.send(get("/next"))
        task = hand.take()
        assert type(task) is Task
        hand.reply(task, b"next")
        assert client.answer().body == b"next"


def test_it_may_be_rejected_like_any_request():
    with stage(access_logfile="-") as one:
        hand, client = one.hand(), one.client()
        client.send(UPGRADE + get("/next"))
        hand.reply(hand.take(), b"not you", status=403, reason="")
        found = client.answer()
        assert (found.status, found.body, found.closes) == (403, b"not you", False)
        hand.reply(hand.take(), b"next")
        assert client.answer().body == b"next"
        assert [record[3] for record in one.pump.access.records] == [403, 200]


def test_where_no_websockets_are_it_is_an_ordinary_request():
    """As RFC 9110 7.8 allows; the application sees its fields."""
    with Stage() as one:
        hand, client = one.hand(), one.client()
        for _ in range(3):
            client.send(UPGRADE)
            task = hand.take()
            assert type(task) is Task
            assert task.head == UPGRADE
            hand.reply(task, b"plain")
            assert client.answer().body == b"plain"


def test_the_same_bytes_again_ask_again():
    """Heads that were read before are known by their bytes: such a one is not."""
    with stage() as one:
        hand = one.hand()
        for _ in range(3):
            client = one.client()
            client.send(UPGRADE)
            task = hand.take()
            assert type(task) is WebSocketTask
            hand.reply(task, b"no", status=403)
            assert client.answer().status == 403


def test_a_lease_for_the_path_is_not_for_it():
    with stage() as one:
        hand, client = one.hand(), one.client()
        client.send(get("/chat"))
        hand.reply(hand.take(), b"page", lease=Lease(1000.0, ()))
        assert client.answer().body == b"page"
        assert client.ask("/chat").body == b"page"
        client.send(UPGRADE)
        assert type(hand.take()) is WebSocketTask


# --- what clients send ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [125, 126, MESSAGE_IN_PACKET, MESSAGE_IN_PACKET + 1, 700_000, 3_000_000])
def test_messages_of_all_sizes_to_the_application(size: int):
    """Large ones are in a descriptor."""
    data = random.Random(size).randbytes(size)
    with stage() as one, no_descriptor_left(one):
        pair = Pair(one)
        pair.say("before")
        pair.say(data)
        pair.say("behind")
        assert pair.wait_for_texts(3) == ["before", data, "behind"]
        pair.client.leave()
        pair.hand.die()


def test_fragments_are_one_message():
    with stage() as one:
        pair = Pair(one)
        pair.say("κ", fin=False)
        pair.protocol.send_ping(b"between")
        pair.say_more("όσ".encode()[:1], fin=False)
        pair.say_more("όσ".encode()[1:], fin=True)
        assert pair.texts() == ["κόσ"]
        assert pair.wait() == [Frame(Opcode.PONG, b"between")]
        pair.say(LARGE[:100_000], fin=False)
        pair.say_more(LARGE[100_000:], fin=True)
        assert pair.texts() == [LARGE]


def test_byte_by_byte():
    with stage() as one:
        pair = Pair(one)
        data = frame(TEXT, b"one") + frame(PING, b"p") + frame(TEXT, b"x" * 200) + close_frame(1001, b"bye")
        for at in range(len(data)):
            pair.client.send(data[at : at + 1])
        assert pair.heard() == [
            pair.message("one"),
            pair.message("x" * 200),
            Close(pair.task.number, 1001, b"bye"),
        ]


def test_an_application_that_does_not_take_stops_the_client():
    """No more than the window waits, and the pump reads on as it is taken: everything comes, in order."""
    with stage() as one:
        pair = Pair(one)
        sent = [f"{n:05}" + "x" * 1000 for n in range(1500)]
        data = b"".join(frame(TEXT, text.encode()) for text in sent)
        pair.client.sock.setblocking(False)
        at = 0
        found: list[str | bytes] = []

        def push() -> int:
            nonlocal at
            try:
                at += pair.client.sock.send(data[at : at + 50_000]) if at < len(data) else 0
            except BlockingIOError:
                return 0
            return at < len(data)

        one.helpers.append(push)
        one.settle()
        held = [message for message in pair.heard(grants=False) if isinstance(message, Message)]
        assert (
            MESSAGE_WINDOW - 2000 <= sum(len(message.data) + 256 for message in held) <= MESSAGE_WINDOW + 2000
        )
        assert pair.heard() == []
        assert len(pair.conn.inbox) + pair.ws.reader.unread <= 128 * 1024
        found += [message.data.decode() for message in held]
        pair.grant(held)
        assert found + pair.wait_for_texts(len(sent) - len(found)) == sent


def test_pings_are_answered_in_order():
    with stage() as one:
        pair = Pair(one)
        pair.client.send(b"".join(frame(PING, b"%d" % n) for n in range(10)))
        assert pair.wait(10) == [Frame(Opcode.PONG, b"%d" % n) for n in range(10)]


def test_pings_of_a_client_that_reads_nothing():
    """Pongs do not pile up; when it reads again, the latest Ping is answered."""
    with stage() as one:
        pair = Pair(one, rcvbuf=4096)
        while not pair.conn.out:
            pair.tell(bytes(60_000))
        for n in range(1000):
            pair.client.send(frame(PING, b"%d" % n))
        assert pair.conn.out is not None
        assert len(pair.conn.out) < 100
        pongs: list[bytes] = []

        def answered() -> bool:
            pongs.extend(bytes(found.data) for found in pair.got() if found.opcode is Opcode.PONG)
            return bool(pongs) and pongs[-1] == b"999"

        one.until(answered)


@pytest.mark.parametrize("kind", ["pings", "pongs", "fragments", "messages"])
@pytest.mark.parametrize("reads", [True, False])
def test_a_flood_is_taken_in_by_shares(monkeypatch: pytest.MonkeyPatch, kind: str, reads: bool):
    """However many frames a client has sent, others are served before all of them are read."""
    frames = {
        "pings": frame(PING, b"p" * 20),
        "pongs": frame(10, b"p" * 20),
        "fragments": frame(0, fin=False),
        "messages": frame(TEXT, b"m"),
    }
    with stage() as one:
        pair = Pair(one, rcvbuf=0 if reads else 4096)
        while not reads and not pair.conn.out:
            pair.tell(bytes(60_000))
        if kind == "fragments":
            pair.client.send(frame(TEXT, fin=False))
        ws, conn = pair.ws, pair.conn
        shares: list[int] = []
        drive = one.pump.drive

        def driven(driven_conn: Connection) -> None:
            before = len(conn.inbox) + ws.reader.unread
            drive(driven_conn)
            shares.append(max(0, before - len(conn.inbox) - ws.reader.unread))

        monkeypatch.setattr(one.pump, "drive", driven)
        one.settle()
        pair.client.send(frames[kind] * 2000)
        one.settle()
        assert max(shares) <= 2 * EVENTS_A_STEP * len(frames[kind])


# --- what applications send ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 140_000])
def test_messages_of_all_sizes_to_the_client(size: int):
    with stage() as one:
        pair = Pair(one)
        pair.tell(LARGE[:size])
        pair.tell("behind")
        assert pair.wait(2) == [Frame(Opcode.BINARY, LARGE[:size]), Frame(Opcode.TEXT, b"behind")]


def test_a_large_message_in_a_file():
    with stage(access_logfile="-") as one, no_descriptor_left(one):
        pair = Pair(one)
        pair.tell_in_file(LARGE)
        pair.tell("behind")
        assert pair.wait(2) == [Frame(Opcode.BINARY, LARGE), Frame(Opcode.TEXT, b"behind")]
        pair.client.leave()
        pair.hand.die()


def test_messages_of_one_packet_stay_in_order():
    """Also behind one that the socket does not take at once."""
    with stage() as one:
        pair = Pair(one, rcvbuf=4096)
        fd = os.memfd_create("message")
        os.write(fd, LARGE)
        number = pair.task.number
        in_file = Message(number, BINARY, b"", [File(0, 0, len(LARGE))])
        small = [pair.message(text) for text in ("one", "two")]
        pair.hand.send([small[0], in_file, small[1]], (fd,))
        assert [bytes(found.data) for found in pair.wait(3)] == [b"one", LARGE, b"two"]
        pair.hand.send([pair.message(LARGE[:n]) for n in (60_000, 5, 60_000, 3)])
        assert [len(found.data) for found in pair.wait(4)] == [60_000, 5, 60_000, 3]


def test_a_client_that_does_not_read_stops_the_application():
    """What was sent and not taken is less than the window; and the worker is told what was."""
    with stage() as one:
        pair = Pair(one, rcvbuf=4096)
        sent = 0
        while sent - pair.taken + 60_256 <= RESPONSE_WINDOW:
            pair.tell(bytes(60_000))
            sent += 60_256
            pair.heard()
        one.settle()
        pair.heard()
        assert sent - pair.taken > RESPONSE_WINDOW - 60_256
        assert sum(len(item) for item in pair.conn.out or () if isinstance(item, bytes)) <= RESPONSE_WINDOW
        count = sent // 60_256
        assert [len(one.data) for one in pair.wait(count)] == [60_000] * count
        pair.heard()
        assert sent - pair.taken < RESPONSE_WINDOW // 2


def test_small_messages_are_counted_too():
    with stage() as one:
        pair = Pair(one)
        count = 0
        while not pair.taken:
            pair.tell("x" * 32)
            assert len(pair.wait()) == 1
            count += 1
            pair.heard()
            assert count < 2000
        assert pair.taken == count * 288


# --- the end ----------------------------------------------------------------------------------------


def ended(one: Stage, reason: CloseReason) -> None:
    """It was logged, once."""
    one.until(lambda: not one.pump.connections, "no connection")
    assert one.reasons() == [reason]
    [record] = one.pump.access.records
    assert record[3] == 101


@pytest.mark.parametrize(("code", "told"), [(1000, 1000), (1001, 1001), (4999, 4999)])
def test_the_client_closes(code: int, told: int):
    with stage(access_logfile="-") as one:
        pair = Pair(one)
        pair.tell("hello")
        pair.close(code, "why")
        assert pair.heard() == [Close(pair.task.number, told, b"why")]
        assert pair.wait_for_end() == (code, "")
        pair.client.sock.close()
        ended(one, CloseReason.WEBSOCKET_CLOSED)
        [record] = one.pump.access.records
        assert record[4] == 5
        assert record[5] > 100
        pair.returns()
        assert not pair.hand.worker.owners  # type: ignore[union-attr]


def test_the_client_closes_without_a_code():
    with stage() as one:
        pair = Pair(one)
        pair.client.send(frame(8))
        assert pair.heard() == [Close(pair.task.number, 1005, b"")]
        assert pair.client.rest() == b"\x88\x00"


def test_what_the_application_had_sent_comes_before_the_close():
    with stage() as one:
        pair = Pair(one, rcvbuf=4096)
        pair.tell_in_file(LARGE)
        pair.tell("last")
        pair.close()
        assert [len(one.data) for one in pair.wait(3)] == [len(LARGE), 4, 2]
        assert pair.wait_for_end() == (1000, "")


def test_the_application_closes():
    with stage(access_logfile="-") as one:
        pair = Pair(one)
        pair.close_by_application(4000, "enough")
        assert pair.wait_for_end() == (4000, "enough")
        assert pair.heard() == []  # it knows
        pair.client.sock.close()
        ended(one, CloseReason.WEBSOCKET_CLOSED)


def test_a_client_that_ends_its_side_in_place_of_a_close():
    """It gets what the application had sent before it closed, and is not waited for."""
    with stage(access_logfile="-") as one:
        pair = Pair(one, rcvbuf=4096)
        pair.tell_in_file(LARGE)
        pair.close_by_application(4000, "enough")
        pair.client.finish()
        one.settle()
        assert pair.client.rest()[-10:] == b"\x88\x08\x0f\xa0enough"
        ended(one, CloseReason.WEBSOCKET_CLOSED)


def test_what_comes_behind_the_applications_close_is_dropped():
    with stage() as one:
        pair = Pair(one)
        pair.close_by_application()
        pair.client.send(frame(TEXT, b"crossed") + frame(PING, b"x"))
        assert pair.heard() == []
        assert pair.wait_for_end() == (1000, "")


def test_a_client_that_does_not_answer_a_close():
    with stage(access_logfile="-", linger_timeout=5) as one:
        pair = Pair(one)
        pair.close_by_application(1000)
        one.later(4)
        assert one.pump.connections
        one.later(2)  # now it is told that nothing more comes
        assert pair.client.rest()[:4] == b"\x88\x02\x03\xe8"
        one.later(6)
        ended(one, CloseReason.WEBSOCKET_CLOSED)


@pytest.mark.parametrize("how", ["leave", "finish"])
def test_a_client_that_vanishes(how: str):
    """Its last message counts."""
    with stage(access_logfile="-") as one:
        pair = Pair(one)
        pair.client.send(frame(TEXT, b"last"))
        if how == "leave":
            pair.client.leave()
        else:
            pair.client.finish()
        assert pair.heard() == [pair.message("last"), ClientDisconnected(pair.task.number)]
        ended(one, CloseReason.CLIENT_DISCONNECTED)
        pair.returns()
        assert not pair.hand.worker.owners  # type: ignore[union-attr]


def test_a_client_that_vanishes_before_it_is_accepted(capfd: pytest.CaptureFixture[str]):
    """What the worker says before it knows is dropped without a word."""
    with stage() as one:
        pair = Pair(one, accept=False)
        pair.client.leave()
        assert pair.heard() == [ClientDisconnected(pair.task.number)]
        pair.hand.send([Accept(pair.task.number, b"")])
        pair.tell("hello")
        pair.close_by_application()
        pair.returns()
        assert not pair.hand.worker.owners  # type: ignore[union-attr]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"x", mask=None), 1002),
        (frame(3), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"x" * 101), 1009),
        (frame(8, b"\x03"), 1002),
    ],
)
def test_a_client_that_breaks_the_rules(data: bytes, code: int, caplog: pytest.LogCaptureFixture):
    """It is told why, the application too, and nothing behind it counts."""
    with stage(access_logfile="-", ws_max_size=100) as one:
        pair = Pair(one)
        pair.client.send(frame(TEXT, b"good") + data + frame(TEXT, b"late"))
        found = pair.heard()
        assert found[0] == pair.message("good")
        assert isinstance(found[1], Close)
        assert found[1].code == code
        assert len(found) == 2
        assert pair.wait_for_end()[0] == code
        pair.client.sock.close()
        ended(one, CloseReason.WEBSOCKET_FAILED)


def test_the_application_returns():
    with stage() as one:
        pair = Pair(one)
        pair.returns()
        assert pair.wait_for_end() == (1000, "")


def test_the_application_fails():
    with stage() as one:
        pair = Pair(one)
        pair.returns(Ending.ABORTED)
        assert pair.wait_for_end() == (1011, "")


# --- time -------------------------------------------------------------------------------------------


def test_it_may_be_idle_for_long():
    with stage(keep_alive=5, stream_timeout=5, handler_timeout=5, queue_timeout=5, tunnel_timeout=5) as one:
        pair = Pair(one)
        for _ in range(60):
            one.later(10)
            pair.got()  # and answers Pings
        pair.say("still here")
        assert pair.texts() == ["still here"]


def test_pings():
    with stage(ws_ping_interval=20, ws_ping_timeout=5) as one:
        pair = Pair(one)
        one.later(19)
        assert pair.got() == []
        for _ in range(3):
            one.later(2)
            assert pair.got() == [Frame(Opcode.PING, b"")]
            one.later(17.5)
            assert pair.got() == []


def test_a_client_that_does_not_answer_pings():
    with stage(access_logfile="-", ws_ping_interval=20, ws_ping_timeout=5) as one:
        pair = Pair(one)
        one.later(24)
        assert pair.heard() == []
        one.later(2)
        assert pair.heard() == [Close(pair.task.number, 1011, b"keepalive ping timeout")]
        assert pair.wait_for_end() == (1011, "keepalive ping timeout")
        pair.client.sock.close()
        ended(one, CloseReason.PING_TIMEOUT)


def test_pings_of_a_shorter_interval_than_their_timeout():
    """They keep what is between alive, so they come as often as that says, answered or not."""
    with stage(ws_ping_interval=20, ws_ping_timeout=70) as one:
        pair = Pair(one)
        one.later(19)
        for _ in range(4):
            assert pair.got() == []
            one.later(2.5)
            assert pair.got() == [Frame(Opcode.PING, b"")]
            one.later(17.5)


def test_the_timeout_runs_from_the_first_ping_that_is_not_answered():
    with stage(access_logfile="-", ws_ping_interval=20, ws_ping_timeout=50) as one:
        pair = Pair(one)
        for _ in range(4):  # Pings at 20, 40 and 60 seconds
            one.later(17)
            assert pair.heard() == []
        one.later(4)
        assert pair.heard() == [Close(pair.task.number, 1011, b"keepalive ping timeout")]
        assert [found.opcode for found in pair.wait(4)] == [Opcode.PING] * 3 + [Opcode.CLOSE]


def test_any_bytes_of_the_client_are_a_sign_of_life():
    with stage(ws_ping_interval=20, ws_ping_timeout=5) as one:
        pair = Pair(one)
        one.later(23)
        pair.client.send(frame(TEXT, b"busy")[:3])
        one.later(10)
        pair.client.send(frame(TEXT, b"busy")[3:])
        assert pair.texts() == ["busy"]


def test_no_pong_is_missed_while_the_application_does_not_take():
    with stage(ws_ping_interval=20, ws_ping_timeout=5) as one:
        pair = Pair(one)
        for _ in range(6):
            pair.say(bytes(50_000))
        assert len(pair.heard(grants=False)) == 6
        one.later(200)
        pair.tell("still open")
        one.until(lambda: any(found.data == b"still open" for found in pair.got()))


@pytest.mark.parametrize("settings", [{"ws_ping_interval": 0}, {"ws_ping_timeout": 0}])
def test_without_pings_or_without_their_timeout(settings: dict[str, float]):
    with stage(**settings) as one:
        pair = Pair(one)
        one.later(300)
        pair.tell("still open")
        found = pair.wait()
        assert (found[0].opcode is Opcode.PING) == ("ws_ping_timeout" in settings)


def test_a_client_that_takes_nothing():
    with stage(access_logfile="-", send_timeout=10, min_rate=0) as one:
        pair = Pair(one, rcvbuf=4096)
        while not pair.conn.out:
            pair.tell(bytes(60_000))
        one.later(25)
        assert ClientDisconnected(pair.task.number) in pair.heard()
        ended(one, CloseReason.SEND_TIMEOUT)


# --- what ends around it ------------------------------------------------------------------------------


def test_the_worker_dies():
    with stage(access_logfile="-") as one:
        pair = Pair(one)
        pair.tell("hello")
        pair.hand.die()
        pair.say("too late")
        assert pair.wait_for_end() == (1012, "")
        pair.client.sock.close()
        ended(one, CloseReason.WORKER_DIED)


def test_the_worker_dies_before_it_has_accepted():
    """A GET is tried once more, on another worker."""
    with stage() as one:
        pair = Pair(one, accept=False)
        other = one.hand()
        pair.hand.die()
        task = other.take()
        assert type(task) is WebSocketTask
        other.send([Accept(task.number, b"")])
        assert pair.client.interim().status == 101


def test_a_reload():
    """The client is told to come again; the old worker leaves when its application has returned."""
    with stage() as one:
        pair = Pair(one)
        one.pump.pools.retire(pair.hand.number)
        assert pair.heard() == [Close(pair.task.number, 1012, b"")]
        assert pair.hand.worker is not None
        assert pair.wait_for_end() == (1012, "")
        pair.returns()
        one.until(lambda: pair.hand.worker is None)


def test_one_that_is_accepted_by_a_worker_that_is_to_leave():
    with stage() as one:
        pair = Pair(one, accept=False)
        one.pump.pools.retire(pair.hand.number)
        assert pair.heard() == []
        pair.accept()
        assert pair.heard() == [Close(pair.task.number, 1012, b"")]
        assert pair.wait_for_end() == (1012, "")


def test_a_stop():
    with stage(access_logfile="-") as one:
        pair = Pair(one)
        silent = Pair(one, pair.hand)
        one.pump.draining.begin(30)
        assert pair.wait_for_end() == (1001, "")
        pair.client.sock.close()
        one.later(2)  # who does not answer is not waited for long
        assert silent.client.rest()[:4] == b"\x88\x02\x03\xe9"
        assert not one.pump.connections
        assert one.reasons() == [CloseReason.DRAINING] * 2


def test_one_that_is_accepted_during_a_stop():
    with stage() as one:
        pair = Pair(one, accept=False)
        one.pump.draining.begin(30)
        pair.accept()
        assert pair.heard() == [Close(pair.task.number, 1001, b"")]
        assert pair.wait_for_end() == (1001, "")


# --- permessage-deflate ------------------------------------------------------------------------------


def test_compressed_both_ways():
    with stage(ws_per_message_deflate=True) as one:
        pair = Pair(one, extensions=[ClientPerMessageDeflateFactory()])
        assert pair.protocol.extensions
        text = "the quick brown fox " * 5000
        pair.say(text)
        pair.say(LARGE)
        assert pair.wait_for_texts(2) == [text, LARGE]
        pair.tell("the quick brown fox " * 500)
        pair.tell_in_file(LARGE)
        assert [one.data for one in pair.wait(2)] == [b"the quick brown fox " * 500, LARGE]
        assert pair.conn.wire_bytes < len(LARGE) + 5000


def test_not_compressed_by_default():
    with stage() as one:
        pair = Pair(one, extensions=[ClientPerMessageDeflateFactory()])
        assert not pair.protocol.extensions
        pair.client.send(frame(TEXT, b"x", rsv=4))
        assert pair.wait_for_end()[0] == 1002


def test_a_bomb():
    with stage(ws_per_message_deflate=True, ws_max_size=1 << 20) as one:
        pair = Pair(one, extensions=[ClientPerMessageDeflateFactory()])
        pair.say(bytes(50 << 20))
        assert pair.wait_for_end()[0] == 1009
        [found] = pair.heard()
        assert isinstance(found, Close)


# --- workers that do what they may not ------------------------------------------------------------------


def test_a_message_before_it_is_accepted():
    with stage() as one:
        pair = Pair(one, accept=False)
        pair.tell("hello")
        assert pair.client.answer().status == 500


def test_a_subprotocol_that_the_client_has_not_named():
    with stage() as one:
        pair = Pair(one, accept=False)
        pair.hand.send([Accept(pair.task.number, b"", "other")])
        assert pair.client.answer().status == 500


@pytest.mark.parametrize("what", ["accepts again", "responds", "sends too much", "names no file"])
def test_it_costs_the_websocket_and_nothing_else(what: str):
    with stage() as one:
        pair = Pair(one)
        number = pair.task.number
        if what == "accepts again":
            pair.hand.send([Accept(number, b"")])
        elif what == "responds":
            pair.hand.reply(pair.task, b"hello")
        elif what == "sends too much":
            for _ in range(200):
                pair.tell(bytes(60_000))
        else:
            pair.hand.send([Message(number, TEXT, b"", [File(0, 0, 5)])])
        assert pair.wait_for_end()[0] == 1011
        assert pair.hand.open


def test_others_are_served_meanwhile():
    with stage() as one:
        pair = Pair(one)
        one.hand(answers=True)
        pair.say(LARGE)
        assert one.client().ask("/other").status == 200
        assert pair.ws.state is WebSocketState.OPEN
