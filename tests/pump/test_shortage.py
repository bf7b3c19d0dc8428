"""The kernel has no room: for a packet, for a descriptor, for another client."""

from __future__ import annotations

import errno
import gc
import os
import resource
import socket
from typing import Any

import pytest

from halfsync import channel
from halfsync.objects import File
from halfsync.parent.workers import joins
from halfsync.pump.descriptors import RESERVE, Reserve
from halfsync.pump.main import Orders, _take_order
from halfsync.pump.pools.workers import Worker
from halfsync.pump.reconfigure import PlanChange
from halfsync.wire.messages import Reply, encode
from halfsync.wire.orders import Cut, Join, decode_report
from tests.pump.harness import (
    Client,
    Hand,
    Stage,
    get,
    open_descriptors,
    skip_with_single_bytes,
    skip_with_tls,
)


class Sending:
    """In place of a worker's socket: fails so often, with this error."""

    def __init__(self, sock: socket.socket, error: int, times: int = 1 << 30) -> None:
        self._sock = sock
        self.error = error
        self.times = times
        self.tries = 0

    def send(self, packet: bytes) -> int:
        self.tries += 1
        if self.tries <= self.times:
            raise OSError(self.error, os.strerror(self.error))
        return self._sock.send(packet)

    def sendmsg(self, *arguments: Any) -> int:
        self.tries += 1
        if self.tries <= self.times:
            raise OSError(self.error, os.strerror(self.error))
        return self._sock.sendmsg(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def failing(hand: Hand, error: int, times: int = 1 << 30) -> Sending:
    worker = hand.worker
    assert isinstance(worker, Worker)
    sending = Sending(worker.tasks, error, times)
    worker.tasks = sending  # type: ignore[assignment]
    return sending


@pytest.mark.parametrize("error", [errno.ETOOMANYREFS, errno.ENOMEM, errno.ENOBUFS])
def test_a_shortage_is_tried_again_after_a_while_and_not_in_every_turn(
    error: int, capfd: pytest.CaptureFixture[str]
):
    with Stage() as stage:
        hand = stage.hand()
        sending = failing(hand, error, times=3)
        assert hand.worker is not None
        client = stage.client()
        client.send(get())
        stage.settle()  # it spins if this never comes to rest
        assert sending.tries == 1
        for tries in (2, 3, 4):
            stage.time.advance(0.011)
            stage.settle()
            assert sending.tries == tries
        hand.reply(hand.take(), b"at last")
        assert client.answer().body == b"at last"
        (said,) = [line for line in capfd.readouterr().err.splitlines() if "can't be handed" in line]
        assert (
            f"requests can't be handed to worker {hand.worker.pid} of {hand.worker.pool.name} now: " in said
        )
        assert ("descriptors" if error == errno.ETOOMANYREFS else "memory") in said


def test_a_shortage_that_stays_ends_with_queue_timeout():
    with Stage(queue_timeout=5) as stage:
        failing(stage.hand(), errno.ETOOMANYREFS)
        client = stage.client()
        client.send(get())
        stage.later(6)
        assert client.answer().status == 503


def test_descriptors_that_can_not_be_handed_over_cost_their_requests_and_no_others(
    capfd: pytest.CaptureFixture[str],
):
    """Other processes of the same user have as many on their way as one may have: uploads get 503 after a
    moment, and what waits behind them is served."""
    with Stage(body_memory=10, queue_timeout=60) as stage:
        hand = stage.hand(answers=True)
        sending = failing(hand, errno.ETOOMANYREFS)
        sending.send = sending._sock.send  # type: ignore[assignment]  # it is only so with descriptors
        uploads = [stage.client() for _ in range(3)]
        for upload in uploads:
            upload.send(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n" + b"x" * 100)
            stage.settle()
        behind = stage.client()
        behind.send(get("/behind"))
        stage.later(0.5)
        assert not any(upload.receive() for upload in uploads), "it may be over in a moment"
        for _ in range(12):
            stage.later(0.1)
        assert [upload.answer().status for upload in uploads] == [503] * 3
        assert behind.answer().status == 200
        said = capfd.readouterr().err
        assert said.count("POST '/upload' is refused: its body's file can't be handed to a worker") == 3
        sending.times = 0
        again = stage.client()
        again.send(b"POST /again HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n" + b"x" * 100)
        assert again.answer().status == 200


def test_another_worker_takes_what_one_has_no_room_for():
    with Stage() as stage:
        hands = [stage.hand(), stage.hand()]
        sending = failing(hands[0], errno.ENOBUFS)
        other_sending = failing(hands[1], errno.ENOBUFS)
        client = stage.client()
        client.send(get())
        stage.settle()
        assert (sending.tries, other_sending.tries) == (1, 1)
        other_sending.times = 0
        stage.time.advance(0.011)
        stage.settle()
        hands[1].reply(hands[1].take(), b"well")
        assert client.answer().body == b"well"


def test_a_packet_that_is_too_large_costs_its_request(capfd: pytest.CaptureFixture[str]):
    """And nobody waits until there is room for it, for there never will be."""
    with Stage() as stage:
        hand = stage.hand()
        sending = failing(hand, errno.EMSGSIZE, times=1)
        client = stage.client()
        client.send(get("/large"))
        assert client.answer().status == 500
        assert "GET '/large' is too large" in capfd.readouterr().err
        assert sending.tries == 1
        client.send(get())
        hand.reply(hand.take(), b"well")
        assert client.answer().body == b"well"


@pytest.mark.parametrize("error", [errno.EPIPE, errno.ECONNRESET])
def test_a_worker_that_is_gone_is_not_waited_for(error: int):
    with Stage() as stage:
        gone = stage.hand()
        failing(gone, error)
        client = stage.client()
        client.send(get())
        stage.settle()
        other = stage.hand()
        other.reply(other.take(), b"well")
        assert client.answer().body == b"well"


def hog(left: int) -> list[int]:
    """Take all descriptors that this process may have but so many."""
    hogs: list[int] = []
    highest = max(map(int, os.listdir("/proc/self/fd"))) + 1
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, before[1]))
    try:
        while True:
            hogs.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        for _ in range(left):
            os.close(hogs.pop())
    return hogs


class Hogged:
    """No descriptors are left but so many."""

    def __init__(self, left: int) -> None:
        self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._hogs = hog(left)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        for fd in self._hogs:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)


def test_a_response_whose_descriptor_finds_no_room_is_a_503(tmp_path):
    """It, and what needed the ones behind it; what needed none, and the worker, go on."""
    (tmp_path / "file").write_bytes(b"right")
    with Stage() as stage:
        hand = stage.hand()
        clients = [stage.client() for _ in range(3)]
        tasks = []
        for client in clients:
            client.send(get())
            tasks.append(hand.take())
        packet = [
            Reply(tasks[0].number, 200, "OK", b"", 5, b"", [File(0, 0, 5)]),
            Reply(tasks[1].number, 200, "OK", b"", 5, b"", [File(1, 0, 5)]),
            Reply(tasks[2].number, 200, "OK", b"", 5, b"right"),
        ]
        files = [os.open(tmp_path / "file", os.O_RDONLY) for _ in range(2)]
        with Hogged(1):
            sock = hand.tasks_sock
            socket.send_fds(sock, [encode(packet)], files)
            stage.settle()
        for fd in files:
            os.close(fd)
        answers = [client.answer() for client in clients]
        assert [answer.status for answer in answers] == [200, 503, 200]
        assert answers[0].body == answers[2].body == b"right"
        assert "retry-after" in answers[1].fields
        assert hand.open
        assert stage.lost == []


def test_the_reserve_gives_room_when_it_matters():
    gc.collect()  # what earlier tests have left in circles is not to be closed in between
    before = open_descriptors()
    reserve = Reserve()
    assert open_descriptors() == before + RESERVE
    with Hogged(0):
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        with reserve.released():
            mine = [os.dup(0) for _ in range(RESERVE)]
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        for fd in mine:
            os.close(fd)
        with reserve.released():
            pass
    assert open_descriptors() == before + RESERVE
    del reserve
    assert open_descriptors() == before


def test_no_more_clients_than_there_are_descriptors_for(capfd: pytest.CaptureFixture[str]):
    """The oldest idle ones make room for new ones; where nobody idles, new ones wait in the backlog. It is
    said once."""
    skip_with_tls("who waits in the backlog can't shake hands, and so has sent no request")
    with Stage() as stage:
        stage.pump.acceptor._most = 10
        hand = stage.hand(threads=64)
        busy = [stage.client() for _ in range(10)]
        for client in busy:
            client.send(get())
        hand.work()
        waiting = [Client(stage) for _ in range(5)]
        stage.clients += waiting
        for client in waiting:
            client.sock.send(get("/late"))
        for _ in range(50):
            stage.time.advance(0.03)
            stage.settle()
        assert len(stage.pump.connections) == 10
        assert len(hand.tasks) == 10
        assert capfd.readouterr().err.count("ulimit -n, LimitNOFILE") == 1
        for task in list(hand.tasks):
            hand.reply(task, b"well")
        hand.tasks.clear()
        stage.time.advance(0.03)
        stage.settle()
        stage.time.advance(0.03)
        stage.settle()
        assert len(hand.tasks) == 5
        for task in list(hand.tasks):
            hand.reply(task, b"well")
        assert [client.answer().body for client in waiting] == [b"well"] * 5
        assert len(stage.pump.connections) <= 10


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [(b"", 0.5), (b"\r\n", 0.5), (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", 1.0)],
    ids=["nothing", "an empty line", "a part of its headers"],
)
def test_clients_without_a_request_make_room_for_those_who_have_one(sent: bytes, seconds: float):
    """They have head_timeout as long as there is room, and a little when there is none; and whoever has a
    request in flight stays."""
    if sent == b"\r\n":
        skip_with_single_bytes("may be half of an empty line, which counts as a beginning of the headers")
    with Stage(head_timeout=1000) as stage:
        stage.pump.acceptor._most = 10
        hand = stage.hand()
        busy = stage.client()
        busy.send(get("/busy"))
        task = hand.take()
        silent = [stage.client() for _ in range(9)]
        for client in silent:
            client.send(sent)
        waited = 0.0

        def wait() -> None:
            nonlocal waited
            assert waited > seconds or not any(client.receive() or client.over for client in silent)
            assert waited < 1.1
            stage.time.advance(0.03)
            waited += 0.03
            stage.settle()

        late = Client(stage, turn=wait)
        stage.clients.append(late)
        late.sock.send(get("/late"))
        while not hand.tasks:
            wait()
        assert waited > seconds
        hand.reply(hand.take(), b"well")
        assert late.answer().body == b"well"
        assert all(client.rest() == b"" for client in silent)
        hand.reply(task, b"done")
        assert busy.answer().body == b"done"
        patient = stage.client()
        patient.send(sent)
        stage.later(500)
        assert not patient.over


def test_a_join_that_came_cut_is_reported(capfd: pytest.CaptureFixture[str]):
    """So that it comes again; and until then nothing is handed to a worker that is half there."""
    ours, parents = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with Stage() as stage, ours, parents:
        orders = Orders(ours)
        parents.setblocking(True)
        with Hogged(0):
            socket.send_fds(parents, [encode(Join(7, 4007, 1, 4))], [0, 1])
            _take_order(stage.pump, orders, PlanChange(stage.pump))
        assert decode_report(parents.recv(4096)) == Cut(7)
        assert stage.pump.pools.workers == {}
        assert "can't join now" in capfd.readouterr().err


def test_a_join_finds_room_when_nothing_else_does():
    """That is what the reserve is for."""
    ours, parents = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with Stage() as stage, ours, parents:
        orders = Orders(ours)
        pumps, workers = joins.make()
        with Hogged(0):
            socket.send_fds(parents, [encode(Join(7, 4007, 1, 4))], list(pumps))
            _take_order(stage.pump, orders, PlanChange(stage.pump))
        assert list(stage.pump.pools.workers) == [7]
        channel.close_all(pumps)
        channel.close_all(workers)
