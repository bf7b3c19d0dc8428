"""Messages that can be read and not be sent: each costs its own request, and nobody else anything."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable

import pytest

from halfsync import channel
from halfsync.objects import SAME_FILE, File, Memory, Pipe
from halfsync.parent.workers import joins
from halfsync.pump.checks import MAX_OUT
from halfsync.wire.messages import Ending, Part, Reply, Task
from tests.pump.harness import Client, Hand, Stage, get, no_descriptor_left

Make = Callable[[int], Reply]


def reply(number: int, *objects: Memory | File | Pipe, status: int = 200, reason: str = "OK") -> Reply:
    return Reply(number, status, reason, b"", 5, b"", list(objects))


UNSENDABLE: dict[str, Make] = {
    "a descriptor that is not": lambda number: reply(number, File(3, 0, 5)),
    "a descriptor of the next": lambda number: reply(number, File(1, 0, 5)),
    "a pipe that is not": lambda number: reply(number, Pipe(3)),
    "a pipe counted from the end": lambda number: reply(number, Pipe(-1)),
    "a file counted from the end": lambda number: reply(number, File(-2, 0, 5)),
    "no descriptor to share": lambda number: reply(number, File(SAME_FILE, 0, 5)),
    "a negative size": lambda number: reply(number, File(0, 0, -5)),
    "a negative offset": lambda number: reply(number, File(0, -1, 5)),
    "a reason beyond latin-1": lambda number: reply(number, reason="\u20ac"),
    "a reason of two lines": lambda number: reply(number, reason="OK\r\nX: y"),
    "a status of two digits": lambda number: reply(number, status=42),
    "a status of four digits": lambda number: reply(number, status=4200, reason="Fine"),
    "a negative status": lambda number: reply(number, status=-200),
}


def both(stage: Stage) -> tuple[Hand, Client, Client, Task, Task]:
    """A worker with two requests."""
    hand = stage.hand()
    victim, innocent = stage.client(), stage.client()
    victim.send(get("/victim"))
    bad = hand.take()
    innocent.send(get("/innocent"))
    return hand, victim, innocent, bad, hand.take()


@pytest.mark.parametrize("name", UNSENDABLE)
def test_what_cannot_be_sent_is_a_500_of_its_own(name: str, capfd: pytest.CaptureFixture[str], tmp_path):
    """In one packet with a good one, whose descriptor it must not get."""
    (tmp_path / "file").write_bytes(b"right")
    with Stage() as stage, no_descriptor_left(stage):
        hand, victim, innocent, bad, good = both(stage)
        descriptor = os.open(tmp_path / "file", os.O_RDONLY)
        hand.send([UNSENDABLE[name](bad.number), reply(good.number, File(0, 0, 5))], (descriptor,))
        assert victim.answer().status == 500
        assert innocent.answer().body == b"right"
        assert hand.open
        assert stage.lost == []
        assert "GET '/victim'" in capfd.readouterr().err
        victim.send(get("/again"))
        hand.reply(hand.take(), b"well")
        assert victim.answer().body == b"well"
        victim.leave()
        innocent.leave()
        hand.die()


def test_every_status_is_sent_with_and_without_a_reason():
    """One that nobody knows has an empty reason."""
    with Stage() as stage:
        hand, client = stage.hand(), stage.client()
        for status in range(200, 1000):
            for reason in ("", "As I Say"):
                client.send(get())
                task = hand.take()
                hand.send([Reply(task.number, status, reason, b"", 0)])
                answer = client.answer()
                assert answer.status == status
                line = answer.head.partition(b"\r\n")[0].decode()
                assert line.startswith(f"HTTP/1.1 {status} ")
                assert not reason or line.endswith(reason)
        assert hand.open


def test_a_part_that_cannot_be_sent_resets_its_connection():
    """Its head is out: it must not look whole."""
    with Stage() as stage:
        hand, victim, innocent, bad, good = both(stage)
        hand.reply(bad, b"some", ending=Ending.UNFINISHED)
        hand.send(
            [Part(bad.number, [File(7, 0, 5)], Ending.UNFINISHED), Reply(good.number, 200, "OK", b"", 0)]
        )
        victim.rest()
        assert victim.reset
        assert innocent.answer().status == 200
        hand.part(bad, Memory(b"more"))
        hand.part(bad, ending=Ending.DONE)
        assert hand.worker is not None
        assert hand.worker.outstanding == 0


def test_after_a_bad_response_its_parts_are_nobodys():
    """They must not go out behind the 500."""
    with Stage() as stage:
        hand, victim, _, bad, _ = both(stage)
        hand.send([Reply(bad.number, 200, "OK", b"", -1, b"", [File(7, 0, 5)], Ending.UNFINISHED)])
        hand.part(bad, Memory(b"evil"))
        assert victim.answer().status == 500
        hand.part(bad, Memory(b"evil"), ending=Ending.DONE)
        assert victim.quiet()
        assert hand.worker is not None
        assert hand.worker.outstanding == 1


def test_a_second_response_is_a_reset():
    with Stage() as stage:
        hand, victim, innocent, bad, good = both(stage)
        hand.reply(bad, b"some", ending=Ending.UNFINISHED)
        hand.reply(bad, b"other")
        victim.rest()
        assert victim.reset
        hand.reply(good, b"right")
        assert innocent.answer().body == b"right"


# --- descriptors that are something else -----------------------------------------------------------


def fifo(folder: str) -> int:
    os.mkfifo(folder + "/fifo")
    return os.open(folder + "/fifo", os.O_RDWR)


def a_socket(_folder: str) -> int:
    return socket.socket(socket.AF_UNIX).detach()


OTHERS: dict[str, Callable[[str], int]] = {
    "a fifo": fifo,
    "a socket": a_socket,
    "a device": lambda _folder: os.open("/dev/zero", os.O_RDONLY),
    "a folder": lambda folder: os.open(folder, os.O_RDONLY),
    "a pipe": lambda _folder: os.pipe()[0],
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_that_is_no_regular_file_is_a_500(name: str):
    with Stage() as stage:
        hand, victim, innocent, bad, good = both(stage)
        hand.send([reply(bad.number, File(0, 0, 5))], (OTHERS[name](stage.folder),))
        assert victim.answer().status == 500
        hand.reply(good, b"right")
        assert innocent.answer().body == b"right"


@pytest.mark.parametrize("name", ["a socket", "a device", "a folder"])
def test_a_pipe_that_is_no_pipe_is_a_500(name: str):
    with Stage() as stage:
        hand, victim, innocent, bad, good = both(stage)
        hand.send([reply(bad.number, Pipe(0))], (OTHERS[name](stage.folder),))
        assert victim.answer().status == 500
        hand.reply(good, b"right")
        assert innocent.answer().body == b"right"


def test_a_worker_that_makes_its_pipe_blocking_does_not_stop_the_pump():
    """It has a copy of the descriptor that the pump reads from, and clears O_NONBLOCK there, again and again.
    A read that blocks would be this test's end."""
    with Stage() as stage:
        hand, victim, innocent, bad, good = both(stage)
        reading, writing = os.pipe()
        kept = os.dup(reading)
        hand.reply(bad, objects=[Pipe(0)], fds=(reading,), ending=Ending.UNFINISHED)
        for piece in (b"one ", b"two ", b"three"):
            os.set_blocking(kept, True)
            os.write(writing, piece)
            stage.settle()
        os.set_blocking(kept, True)
        hand.reply(good, b"right")
        assert innocent.answer().body == b"right"
        os.close(writing)
        os.close(kept)
        hand.part(bad, ending=Ending.DONE)
        assert victim.answer().body == b"one two three"


# --- floods ---------------------------------------------------------------------------------------


def test_more_in_memory_than_a_worker_may_give_is_cut_off():
    """A client that reads nothing, and a worker that sends pieces without end."""
    with Stage(reply_memory=256 * 1024) as stage:
        hand, victim, innocent, bad, good = both(stage)
        hand.reply(bad, b"", ending=Ending.UNFINISHED)
        for _ in range(100):
            hand.part(bad, Memory(bytes(100_000)))
        stage.until(lambda: victim.receive() or victim.over)
        victim.rest()
        assert victim.reset
        assert len(victim.inbox) < 2_000_000
        hand.reply(good, b"right")
        assert innocent.answer().body == b"right"


def test_endless_small_pieces_are_cut_off(tmp_path):
    (tmp_path / "file").write_bytes(bytes(100))
    with Stage() as stage:
        hand = stage.hand()
        client = stage.client(rcvbuf=4096)
        client.send(get())
        task = hand.take()
        hand.reply(task, ending=Ending.UNFINISHED)
        hand.part(task, File(0, 0, 1), fds=(os.open(tmp_path / "file", os.O_RDONLY),))
        conn = next(iter(stage.pump.connections.values()))
        hand.part(task, Memory(bytes(100_000)))
        for _ in range(60):
            hand.part(task, Memory(bytes(100_000)))
        most = 0
        for number in range(100):
            hand.part(task, *(File(SAME_FILE, (n + number) % 2 * 50, 1) for n in range(1000)))
            most = max(most, len(conn.out or ()))
        assert conn.exchange is None
        assert most < 2 * MAX_OUT


def test_small_pieces_of_a_file_that_follow_each_other_are_one():
    """Also where each would be a chunk: what a slow client leaves waiting is bounded."""
    with Stage() as stage:
        hand = stage.hand()
        client = stage.client(rcvbuf=65536)
        client.send(get())
        task = hand.take()
        descriptor = os.memfd_create("spool")
        body = b"".join(b"%05d\n" % number for number in range(5000))
        os.write(descriptor, body)
        hand.reply(task, b"", ending=Ending.UNFINISHED)
        for _ in range(11):
            hand.part(task, Memory(bytes(100_000)))
        hand.part(task, File(0, 0, 6), fds=(descriptor,))
        conn = next(iter(stage.pump.connections.values()))
        for number in range(1, 5000):
            hand.part(task, File(SAME_FILE, 6 * number, 6))
        assert conn.exchange is not None
        assert len(conn.out or ()) < 200
        hand.part(task, ending=Ending.DONE)
        assert client.answer().body == bytes(1_100_000) + body


# --- the scoreboard ------------------------------------------------------------------------------------


def test_the_scoreboard_cannot_be_made_smaller_by_a_worker():
    """Memory behind the end of its file is SIGBUS for whoever reads it."""
    pumps, workers = joins.make()
    try:
        for size in (0, 8, 1 << 20):
            with pytest.raises(PermissionError):
                os.ftruncate(workers[2], size)
        os.pwrite(workers[2], struct.pack("Q", 7), 0)
        assert os.pread(pumps[2], 8, 0) == struct.pack("Q", 7)
    finally:
        channel.close_all(pumps)
        channel.close_all(workers)
