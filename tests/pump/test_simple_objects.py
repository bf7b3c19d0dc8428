"""One contract for every kind of simple object: `check_simple_object`, a list of promises.

Whatever it is that a handler hands back, and however its client behaves, the client gets all of it
or can tell that it did not.
"""

from __future__ import annotations

import errno
import os
import select
import tempfile
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from halfsync.objects import SAME_FILE, File, Memory, Pipe, SimpleObject
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import Ending, Task
from tests.pump.harness import Client, Hand, Stage, get, no_descriptor_left, parse_answer
from tests.pump.tls_ends import certificates

DATA = b"".join(b"%07d\n" % number for number in range(37_500))  # 300,000 bytes, no two lines alike
LARGE = DATA * 10  # 3 MB: more than the socket buffers of both sides hold


class Kind(Protocol):
    """Hands `data` over as simple objects; `length` is what the head says, -1 for nothing."""

    def __call__(
        self, hand: Hand, task: Task, data: bytes, length: int, *, ending: Ending, status: int = 200
    ) -> None: ...


def give_memory(
    hand: Hand, task: Task, data: bytes, length: int, *, ending: Ending, status: int = 200
) -> None:
    """As many `Memory` objects as it takes, in as many packets."""
    hand.reply(task, data[:100], length=length, ending=Ending.UNFINISHED, status=status)
    for at in range(100, len(data), 100_000):
        hand.part(task, Memory(data[at : at + 50_000]), Memory(data[at + 50_000 : at + 100_000]))
    hand.part(task, ending=ending)


def give_files(
    hand: Hand, task: Task, data: bytes, length: int, *, ending: Ending, status: int = 200
) -> None:
    """Two spans of one file, whose own position is elsewhere."""
    fd = os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR)
    with open(fd, "wb", closefd=False) as file:
        file.write(b"before" + data + b"behind")
    half = len(data) // 2
    objects: list[SimpleObject] = [File(0, 6, half), File(SAME_FILE, 6 + half, len(data) - half)]
    hand.reply(task, length=length, objects=objects, fds=(fd,), ending=ending, status=status)


def give_pipe(hand: Hand, task: Task, data: bytes, length: int, *, ending: Ending, status: int = 200) -> None:
    """A pipe, written to whenever it has room, as a handler's thread would."""
    read = write_behind(hand, task, data, ending)
    hand.reply(task, length=length, objects=[Pipe(0)], fds=(read,), ending=Ending.UNFINISHED, status=status)


def write_behind(hand: Hand, task: Task, data: bytes, ending: Ending) -> int:
    """A pipe's end to read from; `data` is written to the other one in the turns that follow, and
    then the body is ended."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    room = select.poll()
    room.register(write, select.POLLOUT)
    left = memoryview(data)

    def helper() -> int:
        nonlocal left
        if left and not room.poll(0):  # a write that fails would wake the reader all the same
            return 0
        try:
            left = left[os.write(write, left[:65536]) :] if left else left
        except BrokenPipeError:
            left = left[:0]  # the client is gone: stop
        if not left:
            os.close(write)
            hand.stage.helpers.remove(helper)
            if hand.open:
                hand.part(task, ending=ending)
        return 1

    hand.stage.helpers.append(helper)
    return read


def give_mixture(
    hand: Hand, task: Task, data: bytes, length: int, *, ending: Ending, status: int = 200
) -> None:
    """What a worker makes of a long generator: memory at first, then a file, and a pipe at last."""
    third = len(data) // 3
    fd = os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR)
    os.write(fd, data[third : 2 * third])
    hand.reply(task, length=length, ending=Ending.UNFINISHED, status=status)
    for at in range(0, third, 100_000):
        hand.part(task, Memory(data[at : min(at + 100_000, third)]))
    hand.part(task, File(0, 0, third), fds=(fd,))
    read = write_behind(hand, task, data[2 * third :], ending)
    hand.part(task, Pipe(0), fds=(read,))


KINDS: dict[str, Kind] = {
    "memory": give_memory,
    "file": give_files,
    "pipe": give_pipe,
    "mixture": give_mixture,
}

FRAMINGS = ("counted", "chunked", "until close")


class Ground:
    """A stage, a worker and a client that has asked for something."""

    def __init__(self, stage: Stage, kind: Kind) -> None:
        self.stage = stage
        self.kind = kind
        self.hand = stage.hand()

    def ask(self, framing: str, method: str = "GET", rcvbuf: int = 0) -> tuple[Client, Task]:
        client = self.stage.client(rcvbuf=rcvbuf)
        client.send(get(method=method, version="1.0" if framing == "until close" else "1.1"))
        return client, self.hand.take()

    def give(
        self,
        task: Task,
        data: bytes,
        framing: str = "counted",
        *,
        promise: int | None = None,
        ending: Ending = Ending.DONE,
        status: int = 200,
    ) -> None:
        length = (len(data) if promise is None else promise) if framing == "counted" else -1
        self.kind(self.hand, task, data, length, ending=ending, status=status)
        self.stage.settle()

    def still_serves(self, client: Client) -> None:
        """The connection is in order: the next request on it gets its own response."""
        client.send(get("/next"))
        self.hand.reply(self.hand.take(), b"next")
        assert client.answer().body == b"next"
        assert client.quiet()


# --- the promises ---------------------------------------------------------------------------------


def whole_when_counted(ground: Ground) -> None:
    """A body of a known length arrives whole, and the connection is kept."""
    for data in (b"", b"x", DATA):
        client, task = ground.ask("counted")
        ground.give(task, data)
        answer = client.answer()
        assert answer.fields["content-length"] == str(len(data))
        assert answer.body == data
        ground.still_serves(client)


def whole_when_chunked(ground: Ground) -> None:
    """One of unknown length arrives in chunks, and the connection is kept."""
    for data in (b"", b"x", DATA):
        client, task = ground.ask("chunked")
        ground.give(task, data, "chunked")
        answer = client.answer()
        assert answer.fields["transfer-encoding"] == "chunked"
        assert answer.body == data
        ground.still_serves(client)


def whole_until_close(ground: Ground) -> None:
    """To a 1.0 client its end is told by the close: one in good order."""
    client, task = ground.ask("until close")
    ground.give(task, DATA, "until close")
    answer = client.answer()
    assert answer.until_close
    assert answer.closes
    assert answer.body == DATA
    assert client.ended


def slow_reader_gets_all(ground: Ground) -> None:
    """A client that takes it in drips gets every byte, and meanwhile others are served."""
    client, task = ground.ask("counted", rcvbuf=65536)
    ground.give(task, LARGE)
    other = ground.stage.client()
    ground.still_serves(other)
    received = 0
    pieces: list[bytes] = []

    def drip() -> bool:
        nonlocal received
        received += client.receive(100_000)
        pieces.append(client.inbox)
        client.inbox = b""
        return received > len(LARGE) or client.over

    while not drip():
        ground.stage.turn()
    client.inbox = b"".join(pieces)
    assert client.answer().body == LARGE
    ground.still_serves(client)


def client_may_leave(ground: Ground) -> None:
    """A client that leaves in the middle leaves no descriptor behind, here or at the worker."""
    with no_descriptor_left(ground.stage):
        client, task = ground.ask("counted", rcvbuf=65536)
        ground.give(task, LARGE)
        assert client.receive(1000)
        client.leave()
    ground.stage.until(lambda: not ground.stage.pump.connections)
    assert ground.stage.reasons()[-1] is CloseReason.CLIENT_DISCONNECTED
    ground.still_serves(ground.stage.client())


def nothing_left_afterwards(ground: Ground) -> None:
    """Nor does one that stays to the end."""
    client, task = ground.ask("counted")
    with no_descriptor_left(ground.stage):
        ground.give(task, DATA)
        assert client.answer().body == DATA


def not_whole(client: Client, method: str = "GET") -> None:
    """No client can take this for a whole response."""
    data = client.rest()
    assert data.startswith(b"HTTP/1.1 200")
    assert client.reset
    assert parse_answer(data, method, client.ended) is None


def too_few_bytes_show(ground: Ground) -> None:
    """A worker that says DONE before the promised length: reset."""
    client, task = ground.ask("counted")
    ground.give(task, DATA, promise=len(DATA) + 1)
    not_whole(client)
    assert ground.stage.reasons()[-1] is CloseReason.REPLY_CUT_SHORT


def too_many_bytes_are_cut(ground: Ground) -> None:
    """More than the promised length never reaches the wire: it would be the next response's head."""
    for promise in (0, 1000, len(DATA) - 1):
        client, task = ground.ask("counted")
        ground.give(task, DATA, promise=promise)
        assert client.answer().body == DATA[:promise]
        ground.still_serves(client)


def aborted_shows(ground: Ground) -> None:
    """A handler that failed in the middle: reset, however the body was framed."""
    for framing in FRAMINGS:
        client, task = ground.ask(framing)
        ground.give(task, DATA, framing, promise=len(DATA) + 1, ending=Ending.ABORTED)
        not_whole(client)
        assert ground.stage.reasons()[-1] is CloseReason.REPLY_CUT_SHORT


def aborted_at_the_end_shows(ground: Ground) -> None:
    """Even if every promised byte was there: an ABORTED answer is not whole."""
    client, task = ground.ask("chunked")
    ground.give(task, DATA, "chunked", ending=Ending.ABORTED)
    not_whole(client)


def dead_worker_shows(ground: Ground) -> None:
    """A worker that died in the middle: reset, however the body was framed."""
    for framing in FRAMINGS:
        client, task = ground.ask(framing)
        ground.give(task, DATA, framing, promise=len(DATA) + 1, ending=Ending.UNFINISHED)
        ground.hand.die()
        not_whole(client)
        assert ground.stage.reasons()[-1] is CloseReason.WORKER_DIED
        ground.hand = ground.stage.hand()


def head_has_no_body(ground: Ground) -> None:
    """HEAD gets the same head and no byte of a body, and the connection is kept."""
    for framing in ("counted", "chunked"):
        with no_descriptor_left(ground.stage):
            client, task = ground.ask(framing, method="HEAD")
            ground.give(task, DATA, framing)
            answer = client.answer("HEAD")
            ground.still_serves(client)
            client.leave()
        assert answer.fields.get("content-length", str(len(DATA))) == str(len(DATA))


def bodiless_statuses_have_no_body(ground: Ground) -> None:
    """204 and 304 end with their head, whatever the handler gave (RFC 9112 6.3)."""
    for status in (204, 304):
        for framing in ("counted", "chunked"):
            client, task = ground.ask(framing)
            ground.give(task, b"not to be seen", framing, status=status)
            answer = client.answer()
            assert answer.status == status
            assert not {"transfer-encoding", "content-length"} & answer.fields.keys()
            ground.still_serves(client)


PROMISES: tuple[Callable[[Ground], None], ...] = (
    whole_when_counted,
    whole_when_chunked,
    whole_until_close,
    slow_reader_gets_all,
    client_may_leave,
    nothing_left_afterwards,
    too_few_bytes_show,
    too_many_bytes_are_cut,
    aborted_shows,
    aborted_at_the_end_shows,
    dead_worker_shows,
    head_has_no_body,
    bodiless_statuses_have_no_body,
)


def check_simple_object(make: Kind, promise: Callable[[Ground], None]) -> None:
    """Hold one kind to one promise."""
    with Stage(access_logfile="-") as stage:
        promise(Ground(stage, make))


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_simple_object(kind: str, promise: Callable[[Ground], None]):
    """Each kind keeps each promise."""
    check_simple_object(KINDS[kind], promise)


# --- what only one kind can do --------------------------------------------------------------------


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage(access_logfile="-") as stage:
        yield stage


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_file_that_shrinks_shows(stage: Stage, version: str):
    """A file that became shorter than was announced: reset, not a short response and no padding."""
    hand = stage.hand()
    client = stage.client(rcvbuf=65536)
    client.send(get(version=version))
    task = hand.take()
    with tempfile.TemporaryFile() as file:
        file.write(LARGE)
        file.flush()
        hand.reply(task, objects=[File(0, 0, len(LARGE))], fds=(os.dup(file.fileno()),), length=len(LARGE))
        assert client.receive(1000)
        file.truncate(100)
    assert len(client.rest()) < len(LARGE)
    assert client.reset
    assert stage.reasons() == [CloseReason.FILE_SHRANK]


def test_a_file_that_has_shrunk_before_shows(stage: Stage):
    """The same when nothing of it is left from the start."""
    hand = stage.hand()
    client = stage.client()
    client.send(get())
    task = hand.take()
    with tempfile.TemporaryFile() as file:
        hand.reply(task, objects=[File(0, 0, 10)], fds=(os.dup(file.fileno()),))
    client.rest()
    assert client.reset


def test_a_chunk_reaches_the_client_when_it_is_given(stage: Stage):
    """A streamed piece is not held back for batching, neither from memory nor from a pipe."""
    hand = stage.hand()
    client = stage.client()
    client.send(get())
    task = hand.take()
    hand.reply(task, b"one", ending=Ending.UNFINISHED)
    stage.until(lambda: client.receive() or client.inbox.endswith(b"3\r\none\r\n"))
    hand.part(task, Memory(b"two"))
    stage.until(lambda: client.receive() or client.inbox.endswith(b"3\r\ntwo\r\n"))
    read, write = os.pipe()
    hand.part(task, Pipe(0), fds=(read,))
    os.write(write, b"three")
    stage.until(lambda: client.receive() or client.inbox.endswith(b"5\r\nthree\r\n"))
    os.close(write)
    assert not client.inbox.endswith(b"0\r\n\r\n")
    stage.settle()
    hand.part(task, ending=Ending.DONE)
    assert client.answer().body == b"onetwothree"


def test_the_end_of_a_pipe_is_not_the_end_of_the_body(stage: Stage):
    """End of file may also mean that the writer died: only DONE makes it whole."""
    hand = stage.hand()
    client = stage.client()
    client.send(get())
    task = hand.take()
    read, write = os.pipe()
    hand.reply(task, objects=[Pipe(0)], fds=(read,), ending=Ending.UNFINISHED)
    os.write(write, b"some")
    os.close(write)
    stage.settle()
    hand.die()
    assert b"0\r\n\r\n" not in client.rest()
    assert client.reset


def test_a_pipe_for_nobody_breaks(stage: Stage):
    """When the client has disconnected, the handler that writes to the pipe learns of it."""
    hand = stage.hand()
    client = stage.client()
    client.send(get())
    task = hand.take()
    read, write = os.pipe()
    hand.reply(task, objects=[Pipe(0)], fds=(read,), ending=Ending.UNFINISHED)
    os.write(write, b"some")
    stage.settle()
    client.leave()
    stage.until(lambda: not stage.pump.connections)
    with pytest.raises(BrokenPipeError):
        os.write(write, b"more")
    os.close(write)


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_file_that_cannot_be_read_is_a_fault_and_a_reset(version: str, capfd: pytest.CaptureFixture[str]):
    """It is not the client that left; and where only a close would end the body, a close must not."""
    with Stage(access_logfile="-") as stage:
        hand, client = stage.hand(), stage.client()
        client.send(get("/x", version=version))
        task = hand.take()
        fd = os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_WRONLY)
        os.ftruncate(fd, 5000)
        hand.reply(task, b"begun", length=-1, objects=[File(0, 0, 5000)], fds=(fd,))
        client.rest()
        assert client.reset
        assert stage.reasons() == [CloseReason.INTERNAL_ERROR]
    assert "cannot read what is being sent" in capfd.readouterr().err


@pytest.mark.parametrize("over_tls", [False, True])
@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_is_read_where_sendfile_is_refused(
    error: int, over_tls: bool, monkeypatch: pytest.MonkeyPatch
):
    """By a file system, or by a sandbox: those of certificates, too."""
    monkeypatch.setattr(os, "sendfile", raising(error))
    with Stage(tls=certificates() if over_tls else None) as stage:
        hand, client = stage.hand(), stage.client()
        client.send(get("/x"))
        give_files(hand, hand.take(), LARGE, len(LARGE), ending=Ending.DONE)
        assert client.answer().body == LARGE


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE, errno.EUCLEAN, errno.EBADMSG, errno.EACCES])
def test_what_a_file_system_says_is_not_taken_for_the_client_having_left(
    error: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    with Stage(access_logfile="-") as stage:
        hand, client = stage.hand(), stage.client()
        for name in ("sendfile", "preadv", "pread"):  # whichever the transport sends with
            monkeypatch.setattr(os, name, raising(error))
        client.send(get("/x"))
        give_files(hand, hand.take(), DATA, len(DATA), ending=Ending.DONE)
        client.rest()
        assert client.reset
        assert stage.reasons() == [CloseReason.INTERNAL_ERROR]
    assert os.strerror(error) in capfd.readouterr().err


def raising(error: int) -> Callable[..., int]:
    def call(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    return call
