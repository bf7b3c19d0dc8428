"""The fast path of WebSockets: what goes by it, and that nothing is lost, doubled or overtaken there."""

from __future__ import annotations

import os
import select
import socket
from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from halfsync.objects import File
from halfsync.pump.poller import Poller
from halfsync.pump.task_messages import GATHER_TURNS, MOST, OVERHEAD, TaskMessages
from halfsync.pump.websocket.small_messages import AT_ONCE
from halfsync.wire.messages import (
    MAX_PACKET,
    MESSAGE_TAG,
    MESSAGE_WINDOW,
    Close,
    Credit,
    Message,
    Taken,
    decode_watch,
)
from halfsync.wire.websocket import BINARY, PING, TEXT
from tests.pump.tls_ends import certificates
from tests.pump.websocket_pair import Pair, stage
from tests.wire.websocket_frames import frame


@pytest.fixture
def roads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which steps were taken on the general road."""
    taken: list[str] = []
    from halfsync.pump.websocket.protocol import WebSockets

    for name in ("step", "send"):
        usual = getattr(WebSockets, name)

        def noted(self: Any, *args: Any, usual: Any = usual, name: str = name) -> Any:
            taken.append(name)
            return usual(self, *args)

        monkeypatch.setattr(WebSockets, name, noted)
    return taken


# --- from clients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("over_tls", [False, True])
def test_an_echo_goes_by_it(over_tls: bool, roads: list[str]):
    with stage(tls=certificates() if over_tls else None) as one:
        pair = Pair(one)
        one.settle()
        roads.clear()
        for size in (0, 5, 125, 126, 4096):
            pair.say("x" * size)
            assert pair.texts() == ["x" * size]
            pair.tell("y" * size)
            assert len(pair.wait()[0].data) == size
        if os.environ.get("HALFSYNC_TEST_TRANSPORT", "plain") == "plain":
            assert not roads


def test_what_is_not_small_and_whole_in_the_midst_of_messages():
    """Pings, fragments and half frames, in one packet: in order, each once."""
    with stage() as one:
        pair = Pair(one)
        one.settle()
        last = frame(TEXT, b"last")
        data = [frame(TEXT, b"a"), frame(BINARY, b"\xff"), frame(PING, b"p"), frame(TEXT, b"b"), frame(TEXT)]
        data += [frame(TEXT, b"c", fin=False), frame(PING, b"q"), frame(0, b"d"), frame(TEXT, b"e" * 300)]
        pair.client.send(b"".join(data) + last[:7])
        assert pair.wait_for_texts(6) == ["a", b"\xff", "b", "", "cd", "e" * 300]
        assert [(found.opcode, found.data) for found in pair.wait(2)] == [
            (Opcode.PONG, b"p"),
            (Opcode.PONG, b"q"),
        ]
        pair.client.send(last[7:] + frame(TEXT, b"over"))
        assert pair.wait_for_texts(2) == ["last", "over"]
        assert pair.ws.reader.is_between


def test_more_messages_than_are_passed_on_at_once():
    with stage() as one:
        pair = Pair(one)
        one.settle()
        count = 3 * AT_ONCE + 7
        pair.client.send(b"".join(frame(TEXT, str(n).encode()) for n in range(count)))
        assert pair.wait_for_texts(count) == [str(n) for n in range(count)]


def test_the_window_is_kept():
    """Of small messages no more is read than may be outstanding, and one."""
    with stage() as one:
        pair = Pair(one)
        one.settle()
        count = MESSAGE_WINDOW // 257 + 300
        pair.client.send(b"".join(frame(BINARY, b"x") for _ in range(count)))
        found = pair.heard(grants=False)
        assert len(found) == -(-MESSAGE_WINDOW // 257)
        assert pair.ws.outstanding == 257 * len(found)
        pair.grant([one for one in found if isinstance(one, Message)])
        pair.wait_for_texts(count - len(found))


def test_a_frame_that_breaks_the_rules_behind_messages():
    with stage() as one:
        pair = Pair(one)
        one.settle()
        pair.client.send(frame(TEXT, b"a") + frame(TEXT, b"b") + frame(TEXT, b"\xff") + frame(TEXT, b"c"))
        one.settle()
        heard = pair.heard()
        assert [type(found) for found in heard] == [Message, Message, Close]
        assert pair.wait_for_end()[0] == 1007


# --- to clients -------------------------------------------------------------------------------------


def test_messages_for_several_in_one_packet():
    """Each client has its own, in order; those that stand side by side leave in one write."""
    with stage() as one:
        pairs = [Pair(one)]
        pairs += [Pair(one, pairs[0].hand) for _ in range(3)]
        order = [0, 1, 1, 1, 2, 0, 3, 3, 0]
        pairs[0].hand.send([pairs[n].message(f"{at}") for at, n in enumerate(order)])
        for n, pair in enumerate(pairs):
            mine = [str(at).encode() for at, whose in enumerate(order) if whose == n]
            assert pair.wait(len(mine)) == [Frame(Opcode.TEXT, data) for data in mine]


def test_nothing_overtakes_a_message_in_a_file():
    with stage() as one:
        pair = Pair(one)
        other = Pair(one, pair.hand)
        fd = os.memfd_create("message")
        os.write(fd, b"file")
        in_file = Message(pair.task.number, BINARY, b"", [File(0, 0, 4)])
        packet = [pair.message("a"), in_file, other.message("x"), pair.message("b"), other.message("y")]
        pair.hand.send(packet, (fd,))
        assert [bytes(found.data) for found in pair.wait(3)] == [b"a", b"file", b"b"]
        assert [bytes(found.data) for found in other.wait(2)] == [b"x", b"y"]


def test_what_the_application_has_taken_is_no_obstacle(roads: list[str]):
    with stage() as one:
        pair = Pair(one)
        one.settle()
        roads.clear()
        pair.hand.send([Credit(pair.task.number, 5), pair.message("a")])
        assert pair.wait() == [Frame(Opcode.TEXT, b"a")]
        assert not roads


@pytest.mark.parametrize("kind", [TEXT, BINARY])
def test_headers_of_all_sizes(kind: int, roads: list[str]):
    """Where a size takes 7 bits, 16 and 64, as one message of a packet and as the second one for a client."""
    with stage() as one:
        pair = Pair(one)
        one.settle()
        roads.clear()
        for size in (0, 125, 126, 127, 255, 256, 32_768, 65_535, 65_536):
            sent = Message(pair.task.number, kind, b"z" * size)
            pair.hand.send([sent])
            [found] = pair.wait(1)
            assert (found.opcode, found.data) == (kind, sent.data)
            pair.hand.send([pair.message("first"), sent])
            assert [len(found.data) for found in pair.wait(2)] == [5, size]
        assert "send" not in roads or os.environ.get("HALFSYNC_TEST_TRANSPORT", "plain") != "plain"


def test_many_messages_side_by_side_to_a_client_that_is_slow():
    """The socket takes a part of what is sent in one write; the rest follows, and is counted once."""
    with stage() as one:
        pair = Pair(one, rcvbuf=4096)
        sizes = [n * 97 % 3000 for n in range(60)]
        pair.hand.send([pair.message(b"z" * size) for size in sizes])
        assert [len(found.data) for found in pair.wait(len(sizes))] == sizes
        one.settle()
        conn = pair.conn
        assert conn.body_bytes - pair.exchange.body_before == sum(sizes)
        assert not conn.out


def test_a_message_behind_the_close_of_the_same_packet():
    with stage() as one:
        pair = Pair(one)
        pair.hand.send([pair.message("a"), Close(pair.task.number, 1000, b""), pair.message("b")])
        assert pair.wait(2)[0] == Frame(Opcode.TEXT, b"a")
        assert pair.wait_for_end()[0] == 1000


def test_an_error_of_ours_closes_those_whose_messages_it_had(monkeypatch: pytest.MonkeyPatch):
    """Which of them were sent nobody knows: so none is sent twice, and the clients are told."""
    with stage() as one:
        pair = Pair(one)
        other = Pair(one, pair.hand)

        def fail(*_: object) -> None:
            raise RuntimeError("made by the test")

        monkeypatch.setattr(one.pump.websockets.small, "put_out", fail)
        pair.tell("lost")
        assert pair.wait_for_end()[0] == 1011
        monkeypatch.undo()
        other.tell("on")
        assert other.wait() == [Frame(Opcode.TEXT, b"on")]


# --- packets for workers ----------------------------------------------------------------------------


def test_messages_are_gathered_while_events_come_and_the_worker_has_something_to_do():
    with stage() as one:
        pair = Pair(one)
        others = [Pair(one, pair.hand) for _ in range(3)]
        one.settle()
        messages = one.pump.pools.tasks.messages
        for at, text in enumerate((b"first", b"a", b"b")):
            ([pair, *others][at]).client.sock.send(frame(TEXT, text))
            one.pump._turn()
            assert bool(messages.gathered) == bool(at), "at first the worker had nothing to do"
        for _ in range(3):
            one.pump._turn()
        assert not messages.gathered
        packets = []
        while (packet := pair._packet()) is not None:
            packets.append([found.data for found in packet[0] if isinstance(found, Message)])
        assert packets == [[b"first"], [b"a", b"b"]]


class Channel:
    """A worker's `watch` socket, and what comes out of it."""

    def __init__(self) -> None:
        self.here, self.there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.here.setblocking(False)
        self.there.setblocking(False)

    def packets(self) -> list[list[Any]]:
        found = []
        while select.select([self.there], [], [], 0)[0]:
            found.append(decode_watch(self.there.recv(2 * MAX_PACKET)))
        return found

    def close(self) -> None:
        self.here.close()
        self.there.close()


@pytest.fixture
def channel():
    made = Channel()
    yield made
    made.close()


@pytest.fixture
def messages():
    poller = Poller()
    yield TaskMessages(poller)
    poller.close()


def columns(number: int, data: bytes = b"") -> tuple[int, int, int, bytes]:
    return MESSAGE_TAG, number, TEXT, data


def put(messages: TaskMessages, channel: Channel, small: list[tuple[int, int, int, bytes]]) -> None:
    queue = messages.queue_of(channel.here)
    for one in small:
        queue.messages.append(one)
        queue.size += OVERHEAD + len(one[3])
        if not queue.is_known:
            queue.gather()


def test_small_messages_do_not_wait_if_the_worker_has_nothing_to_do(messages: TaskMessages, channel: Channel):
    put(messages, channel, [columns(1), columns(2)])
    messages.end_of_turn(5)
    assert [[one.number for one in packet] for packet in channel.packets()] == [[1, 2]]
    put(messages, channel, [columns(3)])
    messages.end_of_turn(5)
    assert channel.packets() == [], "it has something to do"
    messages.heard(channel.here)
    messages.end_of_turn(5)
    assert [[one.number for one in packet] for packet in channel.packets()] == [[3]]


def test_small_messages_do_not_wait_for_long(messages: TaskMessages, channel: Channel):
    messages.queue_of(channel.here).is_silent = True
    for turn in range(GATHER_TURNS):
        put(messages, channel, [columns(turn)])
        messages.end_of_turn(1)
        assert channel.packets() == []
    messages.end_of_turn(1)
    assert [[one.number for one in packet] for packet in channel.packets()] == [list(range(GATHER_TURNS))]
    put(messages, channel, [columns(9)])
    messages.end_of_turn(0)
    assert len(channel.packets()) == 1, "nothing more was coming"
    assert not messages.gathered


def test_other_messages_take_the_small_ones_along(messages: TaskMessages, channel: Channel):
    messages.queue_of(channel.here).is_silent = True
    put(messages, channel, [columns(1)])
    messages.put(channel.here, Taken(2, 5))
    put(messages, channel, [columns(3)])
    assert not messages.gathered
    messages.flush()
    assert [[one.number for one in packet] for packet in channel.packets()] == [[1, 2, 3]]
    put(messages, channel, [columns(1)])
    messages.say(channel.here, Close(2, 1000, b""))
    assert [[one.number for one in packet] for packet in channel.packets()] == [[1, 2]]


def test_packets_have_room_for_what_is_in_them(messages: TaskMessages, channel: Channel):
    sizes = [60_000, 60_000, 60_000, 1, 50_000, 160_000]
    for number, size in enumerate(sizes):
        put(messages, channel, [columns(number, bytes(size))])
    messages.end_of_turn(0)
    packets = channel.packets()
    messages.flush()
    for _ in range(10):
        if messages.queue_of(channel.here).messages:
            messages._poller.sources[channel.here.fileno()](select.EPOLLOUT)
            packets += channel.packets()
    found = [[len(one.data) for one in packet] for packet in packets]
    assert found == [
        [60_000] * 2,
        [60_000, 1, 50_000],
        [160_000],
    ]
    put(messages, channel, [columns(n) for n in range(2 * MOST + 1)])
    messages.end_of_turn(0)
    assert [len(packet) for packet in channel.packets()] == [MOST, MOST, 1]


def test_a_worker_that_is_no_more(messages: TaskMessages, channel: Channel):
    messages.queue_of(channel.here).is_silent = True
    put(messages, channel, [columns(1)])
    messages.forget(channel.here)
    assert not any((messages.gathered, messages.due))
    messages.end_of_turn(0)
    messages.flush()
    assert channel.packets() == []
