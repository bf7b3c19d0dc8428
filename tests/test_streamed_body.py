"""The worker's end of a streamed request body: what the handler reads, and what credit the pump gets."""

from __future__ import annotations

import contextlib
import io
import random
import select
import socket
import threading
from collections.abc import Callable
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from halfsync.http.response import ClientDisconnectedError
from halfsync.wire.messages import BODY_WINDOW, Ending, Piece, StreamedTask, encode
from halfsync.worker.main import WatchThread
from halfsync.worker.streamed import BodyCutError, StreamedBodies, StreamedBody
from tests.worker_stage import TIMEOUT, Stage

DATA = random.Random(1).randbytes(3 * BODY_WINDOW)


class Pump:
    """Gives a body's bytes within the window, as the pump does; at once, in the reader's own thread."""

    def __init__(self, first: int = 0, piece: int = 64 * 1024, size: int = len(DATA)) -> None:
        self.window = 0
        self.at = first
        self.size = size
        self.piece = piece
        self.credits: list[int] = []
        self.bodies = StreamedBodies(self.ask)
        self.body = self.bodies.open(task(DATA[:first]))

    def ask(self, number: int, size: int) -> None:
        assert number == 7
        self.credits.append(size)
        self.window += size
        assert self.window <= BODY_WINDOW
        while self.window and self.at < self.size:
            data = DATA[self.at : min(self.at + min(self.piece, self.window), self.size)]
            ending = Ending.DONE if self.at + len(data) == self.size else Ending.UNFINISHED
            self.bodies.deliver(Piece(7, self.at, data, ending))
            self.at += len(data)
            self.window -= len(data)


def task(first: bytes = b"", number: int = 7) -> StreamedTask:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n"
    return StreamedTask(number, 0, head, None, 99, "192.0.2.1", 4711, 0, 1, first=first)


def nothing(*_: Any) -> None:
    pass


READS: dict[str, Callable[[io.BufferedReader], bytes]] = {
    "all": io.BufferedReader.read,
    "in pieces": lambda file: b"".join(iter(partial(file.read, 1000), b"")),
    "as it comes": lambda file: b"".join(iter(lambda: file.read1(100_000), b"")),
    "line by line": b"".join,
    "into": lambda file: b"".join(iter(partial(into, file), b"")),
}


def into(file: io.BufferedReader) -> bytes:
    room = bytearray(70_000)
    return bytes(room[: file.readinto(room)])


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("first", [0, 1, 64 * 1024])
@pytest.mark.parametrize("piece", [999, 64 * 1024])
def test_every_byte_is_read_in_order(read: str, first: int, piece: int):
    """However it is read, and the window is never wider than it is meant to be."""
    pump = Pump(first, piece)
    assert READS[read](io.BufferedReader(pump.body, 64 * 1024)) == DATA
    assert pump.credits[0] == BODY_WINDOW
    assert len(pump.credits) < 20


def test_nobody_is_asked_before_the_first_read():
    pump = Pump(5)
    assert pump.credits == []
    assert pump.body.read(3) == DATA[:3]
    assert pump.credits == [BODY_WINDOW], "the sign that it is read"


def test_all_that_was_taken_is_given_back_before_it_waits():
    """So an open window of full size says to the pump that the handler waits."""
    said: list[int] = []
    body = StreamedBody(task(), lambda _number, size: said.append(size), nothing)
    body.deliver(Piece(7, 0, b"abc", Ending.UNFINISHED))
    assert body.read(2) == b"ab"
    assert body.read(5) == b"c"
    assert said == [BODY_WINDOW]
    thread = threading.Thread(target=body.read, args=[1])
    thread.start()
    while len(said) < 2:
        pass
    assert said == [BODY_WINDOW, 3]
    body.deliver(Piece(7, 3, b"", Ending.DONE))
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert said == [BODY_WINDOW, 3]


def test_what_is_delivered_twice_is_read_once():
    """The watch thread handles a packet again if a signal handler of the application has raised meanwhile."""
    body = StreamedBody(task(b"ab"), nothing, nothing)
    pieces = [
        Piece(7, 2, b"cd", Ending.UNFINISHED),
        Piece(7, 4, b"ef", Ending.UNFINISHED),
        Piece(7, 6, b"", Ending.DONE),
    ]
    for piece in (*pieces[:2], *pieces[:2], *pieces, *pieces):
        body.deliver(piece)
    assert body.readall() == b"abcdef"
    assert body.read(1) == b""


@pytest.mark.parametrize("ending", ["aborted", "cut", "lost"])
def test_what_never_comes_is_an_error_behind_what_did(ending: str):
    """An OSError, as of a file or socket; and for the server, a client that has disconnected."""
    bodies = StreamedBodies(nothing)
    body = bodies.open(task(b"ab"))
    bodies.deliver(Piece(7, 2, b"c", Ending.UNFINISHED))
    if ending == "aborted":
        bodies.deliver(Piece(7, 3, b"", Ending.ABORTED))
    elif ending == "cut":
        bodies.cut(7)
    else:
        bodies.cut_all()
    file = io.BufferedReader(body)
    assert file.read1(10) + file.read1(10) == b"abc"
    for _ in range(2):
        with pytest.raises(OSError, match="will not come") as caught:
            file.read(1)
    assert isinstance(caught.value, BodyCutError)
    assert isinstance(caught.value, ClientDisconnectedError)


def test_a_body_that_is_opened_when_the_pump_is_gone():
    bodies = StreamedBodies(nothing)
    bodies.cut_all()
    with pytest.raises(BodyCutError):
        bodies.open(task()).read(1)


def test_nothing_is_kept_of_a_body_that_is_closed():
    """What comes for it later is dropped."""
    bodies = StreamedBodies(nothing)
    for number in range(5):
        with bodies.open(task(number=number)):
            pass
        bodies.deliver(Piece(number, 0, b"late", Ending.DONE))
        bodies.cut(number)
    assert bodies._bodies == {}


# --- in the threads of a worker ---------------------------------------------------------------------


def echo(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
    start("200 OK", [("X-Size", environ.get("CONTENT_LENGTH", "none"))])
    return iter(lambda: environ["wsgi.input"].read1(65536), b"")


def streamed(stage: Stage, size: int, first: bytes = b"") -> StreamedTask:
    framing = f"Content-Length: {size}" if size >= 0 else "Transfer-Encoding: chunked"
    plain = stage.task(f"POST / HTTP/1.1\nHost: a\n{framing}")
    found = StreamedTask(
        plain.number, 0, plain.head, None, size, plain.client, 4711, 0, plain.queued_ns, first=first
    )
    stage.send(found)
    return found


@pytest.mark.parametrize("size", [6, -1])
def test_a_wsgi_application_reads_while_it_comes(size: int):
    """And answers meanwhile; a body in chunks has no CONTENT_LENGTH."""
    with Stage(echo) as stage:
        found = streamed(stage, size, b"ab")
        answer = stage.answers[found.number]
        while answer.body != b"ab":
            stage.read_packet()
        assert [(one.number, one.size) for one in stage.credits] == [(found.number, BODY_WINDOW)]
        assert answer.fields["x-size"] == ("6" if size > 0 else "none")
        stage.threads.bodies.deliver(Piece(found.number, 2, b"cd", Ending.UNFINISHED))
        while answer.body != b"abcd":
            stage.read_packet()
        stage.threads.bodies.deliver(Piece(found.number, 4, b"ef", Ending.DONE))
        assert stage.wait(found.number).body == b"abcdef"
        assert answer.done


def test_an_application_that_does_not_read_asks_for_nothing():
    def deaf(_environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        start("200 OK", [])
        return [b"no"]

    with Stage(deaf) as stage:
        assert stage.wait(streamed(stage, 99).number).body == b"no"
        assert stage.credits == []
        assert stage.threads.bodies._bodies == {}


def test_an_application_whose_body_is_cut_aborts_its_response():
    """Without a traceback in the error log: it is its client that has left."""
    with Stage(echo) as stage:
        found = streamed(stage, 99, b"ab")
        while stage.answers[found.number].body != b"ab":
            stage.read_packet()
        stage.threads.bodies.cut(found.number)
        assert stage.wait(found.number).ending is Ending.ABORTED
        assert stage.ask("GET / HTTP/1.1\nHost: a").status == 200


def test_tasks_of_both_kinds_in_one_packet(tmp_path):
    """A descriptor belongs to the one that is spooled. (One thread takes both, in order.)"""
    with Stage(echo) as stage, open(tmp_path / "body", "w+b") as file:
        file.write(b"spooled")
        file.flush()
        one = stage.task("POST / HTTP/1.1\nHost: a\nContent-Length: 3")
        streams = StreamedTask(one.number, 0, one.head, None, 3, "", 0, 0, 1, first=b"ab")
        spooled = stage.task("POST / HTTP/1.1\nHost: a\nContent-Length: 7", b"spooled", spooled=True)
        stage.send(spooled, streams, descriptors=[file.fileno()])
        assert stage.wait(spooled.number).body == b"spooled"
        while not stage.credits:
            stage.read_packet()
        stage.threads.bodies.deliver(Piece(one.number, 2, b"c", Ending.DONE))
        assert stage.wait(one.number).body == b"abc"


def test_a_signal_handler_that_raises_loses_no_message(monkeypatch: pytest.MonkeyPatch):
    """Whatever the watch thread was doing with a packet: it is there still, and is handled again."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    bodies = StreamedBodies(nothing)
    body = bodies.open(task())
    watch: Any = WatchThread.__new__(WatchThread)
    watch._threads = SimpleNamespace(bodies=bodies)
    for offset in (0, 3, 6):
        pieces = [
            Piece(7, offset, b"abc", Ending.UNFINISHED),
            Piece(7, offset + 3, b"def", Ending.UNFINISHED),
        ]
        ours.send(encode(pieces[: 1 if offset else 2]))
    ours.send(encode([Piece(7, 9, b"", Ending.DONE)]))
    deliver = bodies.deliver
    for raising in range(8):
        calls = count()

        def failing(piece: Piece, calls: Any = calls, raising: int = raising) -> None:
            deliver(piece)
            if next(calls) == raising % 2:
                raise Interrupted

        monkeypatch.setattr(bodies, "deliver", failing)
        with contextlib.suppress(Interrupted):
            watch._receive_message(theirs)
    monkeypatch.setattr(bodies, "deliver", deliver)
    while select.select([theirs], [], [], 0)[0]:
        watch._receive_message(theirs)
    assert body.readall() == b"abcdefabc"
    ours.close()
    theirs.close()


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("where", ["cut_all", "close"])
def test_a_signal_handler_that_raises_amid_the_end_of_the_channel_keeps_nobody(where: str):
    pump, watched = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent, orders = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    raised: list[str] = []
    cut: list[bool] = []

    def handler(step: str) -> None:
        if step == where and not raised:
            raised.append(step)
            raise Interrupted

    class Watched:
        fileno, recv = watched.fileno, watched.recv

        def close(self) -> None:
            watched.close()
            handler("close")

    def cut_all() -> None:
        cut.append(True)
        handler("cut_all")

    watch: Any = WatchThread.__new__(WatchThread)
    interrupts = SimpleNamespace(timeout=None, work=nothing)
    watch._threads = SimpleNamespace(bodies=SimpleNamespace(cut_all=cut_all), interrupts=interrupts)
    watch._orders, watch._watch, watch._retired, watch._alone_since = orders, Watched(), True, 0.0
    pump.close()
    with pytest.raises(Interrupted):
        watch._turn()
    assert watch._turn() is False, "it leaves"
    assert cut
    parent.close()
    orders.close()
    watched.close()
