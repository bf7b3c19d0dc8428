"""Files into which somebody writes: what is sent of them, what is repeated, and what is not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from halfsync.objects import File
from halfsync.pump.changing import FileCopy
from halfsync.pump.leases.leased import MAX_COPY
from halfsync.system.stamps import is_same_content, stamp_of
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import Lease
from tests.certificates import client_context
from tests.pump.harness import Hand, Stage, get, no_descriptor_left, transport
from tests.pump.http2_client import Http2Client
from tests.pump.tls_ends import certificates

SIZES = [100_000, MAX_COPY, MAX_COPY + 1, 3_000_000]


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage(access_logfile="-") as stage:
        yield stage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def give(hand: Hand, path: Path, lease: float = 0.0) -> None:
    """Answer with the file as it is now."""
    descriptor = os.open(path, os.O_RDONLY)
    status = os.fstat(descriptor)
    hand.reply(
        hand.take(),
        objects=[File(0, 0, status.st_size, stamp_of(status))],
        fds=(descriptor,),
        lease=Lease(lease, ()) if lease else None,
    )


def rewrite(path: Path, data: bytes) -> None:
    with path.open("r+b", buffering=0) as file:
        file.write(data)


def set_back(path: Path, data: bytes) -> None:
    before = path.stat()
    rewrite(path, data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


CHANGES: list[Callable[[Path, bytes], object]] = [
    rewrite,
    set_back,
    append,
    lambda path, data: os.truncate(path, len(data) - 1),
    lambda path, _data: os.truncate(path, 10),
    lambda path, data: path.write_bytes(data),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_file_that_is_written_into_while_it_is_sent_is_cut(
    stage: Stage, path: Path, change: Callable[[Path, bytes], object], version: str
):
    """Visibly: not all of the bytes come, and then a reset."""
    size = 4_000_000
    path.write_bytes(b"a" * size)
    hand, client = stage.hand(), stage.client()
    client.send(get("/", "Host: a", version="1.0") if version == "1.0" else get("/"))
    give(hand, path)
    change(path, b"b" * size)
    rest = client.rest()
    assert client.reset
    body = rest.partition(b"\r\n\r\n")[2]
    assert len(body) < size
    assert stage.reasons()[0] in (CloseReason.FILE_CHANGED, CloseReason.FILE_SHRANK)


@pytest.mark.parametrize(
    "change",
    [
        Path.unlink,
        lambda path: path.chmod(0o600),
        lambda path: path.with_name("link").hardlink_to(path),
        lambda path: (path.with_name("new").write_bytes(b"new"), path.with_name("new").rename(path)),
    ],
)
def test_a_file_that_loses_its_name_is_sent_to_its_end(
    stage: Stage, path: Path, change: Callable[[Path], object]
):
    """That is how files are to be replaced."""
    data = os.urandom(3_000_000)
    path.write_bytes(data)
    path.chmod(0o644)
    hand, client = stage.hand(), stage.client(rcvbuf=8192)
    client.send(get("/"))
    give(hand, path)
    change(path)
    assert client.answer().body == data


@pytest.mark.parametrize("size", SIZES)
def test_what_was_sent_does_not_change_in_the_socket(stage: Stage, path: Path, size: int):
    """The client reads it after the file was written into. (sendfile(2) would show it the new bytes.)"""
    path.write_bytes(b"a" * size)
    hand, client = stage.hand(), stage.client()
    client.send(get("/"))
    give(hand, path)
    rewrite(path, b"b" * size)
    if stage.reasons():
        assert client.answer().body == b"a" * size
    else:  # the socket did not take all of it: it is cut
        assert len(client.rest().partition(b"\r\n\r\n")[2]) < size
        assert client.reset


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("change", [*CHANGES, lambda path, _data: path.unlink()])
def test_a_lease_on_a_file_ends_with_its_content(
    stage: Stage, path: Path, size: int, change: Callable[[Path, bytes], object]
):
    """Before its copy is made, any change sends the next request to a worker; a copy stays what it was."""
    path.write_bytes(b"a" * size)
    hand, client = stage.hand(), stage.client()
    client.send(get("/x"))
    give(hand, path, lease=10)
    assert client.answer().body == b"a" * size
    change(path, b"b" * size)
    client.send(get("/x"))
    hand.reply(hand.take(), b"fresh")
    assert client.answer().body == b"fresh"


def test_who_sees_that_a_file_has_changed_ends_all_leases_on_it(stage: Stage, path: Path):
    """HEAD and validators have leases of their own, with no file to look at."""
    size = MAX_COPY + 1
    path.write_bytes(b"a" * size)
    hand = stage.hand()
    others = (get("/x", method="HEAD"), get("/x", "Connection: close", method="HEAD"))
    for head in (get("/x"), *others):
        client = stage.client()
        client.send(head)
        if hand.tasks:
            give(hand, path, lease=10)
        assert client.answer(head[:4].decode().strip()).fields["content-length"] == str(size)
    for head in others:
        client = stage.client()
        client.send(head)
        assert not hand.tasks
        client.answer("HEAD")
    append(path, b"b")
    for head in (get("/x"), *others):
        client = stage.client()
        client.send(head)
        give(hand, path)
        assert client.answer(head[:4].decode().strip()).fields["content-length"] == str(size + 1)


@pytest.mark.parametrize("size", SIZES)
def test_a_copy_stays_what_it_was(stage: Stage, path: Path, size: int):
    path.write_bytes(b"a" * size)
    hand, client = stage.hand(), stage.client()
    client.send(get("/x"))
    give(hand, path, lease=10)
    assert client.answer().body == b"a" * size
    client.send(get("/x"))
    assert client.answer().body == b"a" * size
    rewrite(path, b"b" * size)
    client.send(get("/x"))
    if size <= MAX_COPY:
        assert client.answer().body == b"a" * size
    else:
        hand.reply(hand.take(), b"fresh")
        assert client.answer().body == b"fresh"


def test_a_renewed_lease_of_the_same_file_has_the_same_copy(stage: Stage, path: Path):
    """So slow clients of a hot file hold one copy and not one a second."""
    path.write_bytes(b"a" * 500_000)
    hand, client = stage.hand(), stage.client()
    for number in range(5):
        if number == 4:
            rewrite(path, b"b" * 500_000)
        client.send(get("/x"))
        give(hand, path, lease=1)
        client.answer()
        client.send(get("/x"))
        client.answer()
        stage.time.advance(1.5)
        # (a second time in memory, if sendfile(2) can't be used)
        assert stage.pump.changing.held == (500_000 if transport() == "plain" else 1_000_000)
    (variants,) = stage.pump.leases.table.values()
    (leased,) = variants.by_values.values()
    assert isinstance(leased.file, FileCopy)


def test_a_copy_is_read_once_where_it_is_encrypted(path: Path, monkeypatch: pytest.MonkeyPatch):
    """In all connections together; with HTTP/2 over TLS, too."""
    body = os.urandom(700_000)
    with Stage(tls=certificates()) as stage:
        path.write_bytes(body)
        hand, client = stage.hand(), stage.client()
        client.send(get("/x"))
        give(hand, path, lease=10)
        assert client.answer().body == body
        assert client.ask("/x").body == body
        assert stage.pump.changing.held == 2 * len(body)
        rewrite(path, b"x" * len(body))
        with monkeypatch.context() as without:
            without.setattr(os, "pread", None)
            for other in (client, stage.client()):
                assert other.ask("/x").body == body
            context = client_context()
            context.set_alpn_protocols(["h2"])
            spoken = Http2Client(stage, context=context)
            assert spoken.ask("/x").body == body
        assert not hand.tasks
        stage.later(11)
        assert stage.pump.changing.held == 0


def test_a_copy_for_which_there_is_no_room_in_memory(path: Path):
    body = os.urandom(700_000)
    with Stage(tls=certificates(), lease_memory=1_000_000) as stage:
        path.write_bytes(body)
        hand, client = stage.hand(), stage.client()
        client.send(get("/x"))
        give(hand, path, lease=10)
        assert client.answer().body == body
        for _ in range(2):
            assert client.ask("/x").body == body
            assert stage.pump.changing.held == len(body)
        assert not hand.tasks


def test_copies_are_bounded_and_let_go(path: Path):
    """Past the bound files are sent as they are, and still checked."""
    with Stage(lease_memory=2_000_000) as stage:
        hand, client = stage.hand(), stage.client()
        with no_descriptor_left(stage):
            path.write_bytes(b"a" * 900_000)
            for number in range(6):
                client.send(get(f"/{number}"))
                give(hand, path, lease=5)
                client.answer()
                for _ in range(2):
                    client.send(get(f"/{number}"))
                    if hand.tasks:  # its lease had to make room
                        hand.reply(hand.take(), b"a" * 900_000)
                    assert client.answer().body == b"a" * 900_000
                assert stage.pump.changing.held <= 2_000_000
            stage.later(6)
        assert stage.pump.changing.held == 0


def test_what_says_that_content_is_the_same(path: Path):
    path.write_bytes(b"a")
    before = stamp_of(path.stat())
    assert is_same_content(before, before)
    assert is_same_content(before, (*before[:4], before[4] + 1, 0, *before[6:])), "a link less"
    assert not is_same_content(before, (*before[:4], before[4] + 1, *before[5:])), "nothing else: written"
    for place in range(4):
        now = list(before)
        now[place] += 1
        assert not is_same_content(before, tuple(now))  # type: ignore[arg-type]
