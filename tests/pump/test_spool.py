"""Request bodies that are kept aside: who writes them, what bounds them, and what is said when it fails."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from halfsync.pump.bodies import spool as spool_module
from halfsync.pump.bodies.spool import DIRECT, Spool, SpoolSpace
from halfsync.wire.messages import Task
from tests.pump.harness import Client, Hand, Stage, get

MIB = 1024 * 1024


def pattern(size: int) -> bytes:
    return b"".join(b"%07d\n" % number for number in range(size // 8))


def digest(hand: Hand, task: Task) -> None:
    hand.reply(task, hashlib.sha256(hand.bodies[task.number]).hexdigest().encode())


def digest_of(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def head(size: int) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size


class Disk:
    """Stands in for the disk: what helper threads write waits until it is let go."""

    def __init__(self) -> None:
        self.goes = threading.Event()
        self.loop = threading.get_ident()
        self.writers: set[int] = set()
        self.is_full = False

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, fd: int, data: bytes) -> int:
        if threading.get_ident() != self.loop:
            self.goes.wait(60)
            if self.is_full:
                raise OSError(errno.ENOSPC, "No space left on device")
        self.writers.add(threading.get_ident())
        return os.write(fd, data)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(spool_module, "os", disk)
    yield disk
    disk.goes.set()


def test_a_large_body_is_written_by_a_helper_while_others_are_served(disk: Disk):
    """A disk that makes its writer wait makes that client wait, and no other."""
    data = pattern(8 * MIB)
    with Stage() as stage:
        stage.hand(answers=True)
        stage.handler = digest
        client, other = stage.client(), stage.client()
        client.send(head(len(data)) + data[: DIRECT + 100_000])
        sent = DIRECT + 100_000
        for _ in range(100):  # until the pump reads it no more
            try:
                sent += client.sock.send(data[sent : sent + 65536])
            except BlockingIOError:
                break
            stage.turn()
        assert sent < len(data)
        assert other.ask("/other").status == 200
        stage.later(100)  # it is the disk's turn: body_timeout does not run
        assert not client.over
        disk.goes.set()
        stage.until(lambda: not stuck(stage))
        client.send(data[sent:])
        assert client.answer().body == digest_of(data)
        assert len(disk.writers) > 1


def stuck(stage: Stage) -> bool:
    return any(
        c.exchange and isinstance(c.exchange.spool, Spool) and c.exchange.spool.is_behind
        for c in stage.pump.connections.values()
    )


@pytest.mark.parametrize("size", [DIRECT - 1, DIRECT, DIRECT + 1, DIRECT + 300_000, 5 * MIB + 17])
@pytest.mark.parametrize("chunked", [False, True])
def test_every_byte_arrives_whoever_wrote_it(size: int, chunked: bool):
    """Around the size from which on helpers write."""
    data = pattern(size + 8)[:size]
    with Stage() as stage:
        stage.hand(answers=True)
        stage.handler = digest
        client = stage.client()
        if chunked:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            for start in range(0, size, 100_000):
                piece = data[start : start + 100_000]
                client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            client.send(b"0\r\n\r\n")
        else:
            client.send(head(size) + data)
        assert client.answer().body == digest_of(data)
        assert stage.pump.http1.spool_space.used == 0


@pytest.mark.parametrize("size", [60_000, DIRECT + 200_000])
def test_what_comes_in_small_pieces_is_not_held_in_them(tmp_path: Path, size: int):
    """A WebSocket's message may have a frame for each byte: as objects they would take 20 times as much."""
    spool = Spool(64 * 1024, str(tmp_path), SpoolSpace(2 * MIB))
    spool.write(bytes(size - 50_000))
    tracemalloc.start()
    for at in range(0, 50_000, 2):
        spool.write(at.to_bytes(2, "big"))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 150_000
    jobs: list[Callable[[], None]] = []
    assert spool.flush(jobs.append, whole=True) == (not jobs)
    for job in jobs:
        job()
    data = spool.memory() if spool.file is None else os.pread(spool.file.fd, size + 1, 0)
    assert data == bytes(size - 50_000) + b"".join(at.to_bytes(2, "big") for at in range(0, 50_000, 2))


def test_a_disk_that_is_full_when_a_helper_writes(disk: Disk, capfd: pytest.CaptureFixture[str]):
    """507, and a line that names the folder's setting; what was kept is let go of."""
    disk.is_full = True
    with Stage() as stage:
        client = stage.client()
        client.sock.send(head(4 * MIB))
        disk.goes.set()
        send_what_is_taken(client, bytes(4 * MIB))
        assert client.answer().status == 507
        stage.until(lambda: stage.pump.http1.spool_space.used == 0)
    assert "(spool_dir): No space left on device" in capfd.readouterr().err


def test_a_client_that_leaves_while_a_helper_writes(disk: Disk):
    """What was kept goes when the write is over."""
    with Stage() as stage:
        client = stage.client()
        client.sock.send(head(16 * MIB))
        send_what_is_taken(client, bytes(8 * MIB))
        stage.until(lambda: stuck(stage))
        client.leave()
        stage.until(lambda: not stage.pump.connections)
        disk.goes.set()
        stage.until(lambda: stage.pump.http1.spool_space.used == 0)


def send_what_is_taken(client: Client, data: bytes) -> None:
    for start in range(0, len(data), 65536):
        try:
            client.sock.send(data[start : start + 65536])
        except (BlockingIOError, ConnectionError):
            pass
        client.stage.turn()


def test_spool_limit(capfd: pytest.CaptureFixture[str]):
    """One that announces too much is refused before its body; one that grows too large, then. The log
    names the setting; when there is room again all is well."""
    with Stage(spool_limit=100_000) as stage:
        stage.hand(answers=True)
        stage.handler = digest
        large = stage.client()
        large.send(head(100_001))
        answer = large.answer()
        assert answer.status == 503
        assert answer.fields["retry-after"]
        first, second = stage.client(), stage.client()
        first.send(head(90_000) + bytes(60_000))
        second.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nea60\r\n" + bytes(60_000)
        )
        assert second.answer().status == 503
        assert "spool_limit is 100000" in capfd.readouterr().err
        first.send(bytes(30_000))
        assert first.answer().status == 200
        third = stage.client()
        third.send(head(100_000) + bytes(100_000))
        assert third.answer().status == 200
        assert third.ask(get("/")).status == 200


def test_without_room_for_a_thread_bodies_are_written_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """By the loop itself, until there is room for one."""
    start = threading.Thread.start
    room = [0]

    def start_if_there_is_room(thread: threading.Thread) -> None:
        if not room[0]:
            raise RuntimeError("can't start new thread")
        room[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_there_is_room)
    data = pattern(3 * MIB)
    with Stage() as stage:
        stage.hand(answers=True)
        stage.handler = digest
        client = stage.client()
        for room[0] in (0, 0, 1, 2):
            client.send(head(len(data)) + data)
            assert client.answer().body == digest_of(data)
    assert capfd.readouterr().err.count("no thread for the disk: can't start new thread (ulimit -u") == 1
