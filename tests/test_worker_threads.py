"""How a worker's threads share tasks and send replies: batched, and never behind one that hangs."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time

import pytest

from halfsync.http.response import Head
from halfsync.objects import File, Memory
from halfsync.system.temporary_files import temporary_file
from halfsync.wire.messages import MAX_PACKET, Ending, Nudge, Part, Reply, Task
from halfsync.worker.bodies import ResponseLimits, TaskReplier
from halfsync.worker.outbox import Outbox
from tests.descriptors import open_descriptors
from tests.worker_stage import TIMEOUT, Seam, Stage

GET = "GET / HTTP/1.1\nHost: a"
PLAIN = [("Content-Type", "text/plain")]


class Gate:
    """An application that waits at /wait until it is let through."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.inside = threading.Semaphore(0)

    def __call__(self, environ, start_response):
        if environ["PATH_INFO"] == "/wait":
            self.inside.release()
            assert self.open.wait(60)
        start_response("200 OK", PLAIN)
        return [environ["PATH_INFO"].encode()]


def wait(stage: Stage) -> Task:
    return stage.task("GET /wait HTTP/1.1\nHost: a")


def test_responses_of_one_packet_leave_in_one_packet(monkeypatch: pytest.MonkeyPatch):
    """Of one thread: that of a sibling which is in the middle of another task when the last one ends follows
    in a packet of its own."""
    monkeypatch.setattr("halfsync.worker.outbox.MAX_WAIT", 60_000_000_000)  # a busy machine takes its time
    with Stage(Gate(), threads=1) as stage:
        tasks = [stage.task(GET) for _ in range(20)]
        stage.send(*tasks)
        for task in tasks:
            assert stage.wait(task.number).body == b"/"
        assert stage.packets == 1


def test_the_scoreboard_says_what_was_begun():
    gate = Gate()
    with Stage(gate, threads=1) as stage:
        first, second = wait(stage), stage.task(GET)
        before = time.monotonic_ns()
        stage.send(first, second)
        assert gate.inside.acquire(timeout=TIMEOUT)
        assert before <= stage.scoreboard[first.number] <= time.monotonic_ns()
        assert stage.scoreboard[second.number] == 0
        gate.open.set()
        assert stage.wait(second.number).done
        assert stage.scoreboard[second.number] > 0


def test_a_nudge_lets_a_sibling_take_what_waits_behind_a_thread_that_hangs():
    gate = Gate()
    with Stage(gate, threads=2) as stage:
        hanging, behind = wait(stage), stage.task(GET)
        stage.send(hanging, behind)
        assert gate.inside.acquire(timeout=TIMEOUT)
        stage.send(Nudge())
        assert stage.wait(behind.number).done
        gate.open.set()
        assert stage.wait(hanging.number).done


def test_a_thread_that_is_free_takes_from_the_task_queue_of_another():
    gate = Gate()
    with Stage(gate, threads=2) as stage:
        hanging, behind = wait(stage), stage.task(GET)
        stage.send(hanging, behind)
        assert gate.inside.acquire(timeout=TIMEOUT)
        assert stage.get("/other").done  # whoever took this goes on with the task queue
        assert stage.wait(behind.number).done
        gate.open.set()
        assert stage.wait(hanging.number).done


def test_a_finished_response_gets_past_a_sibling_that_hangs():
    """What the watch thread does at a Nudge."""
    gate = Gate()
    with Stage(gate, threads=1) as stage:
        fast, hanging = stage.task(GET), wait(stage)
        stage.send(fast, hanging)
        assert gate.inside.acquire(timeout=TIMEOUT)
        stage.threads.outbox.flush()
        assert stage.wait(fast.number).done
        gate.open.set()
        assert stage.wait(hanging.number).done


def test_a_response_does_not_wait_long_to_be_batched():
    def app(environ, start_response):
        time.sleep(0.003)
        start_response("200 OK", PLAIN)
        return [b"slow"]

    with Stage(app, threads=1) as stage:
        tasks = [stage.task(GET) for _ in range(3)]
        stage.send(*tasks)
        stage.wait(tasks[0].number)
        assert not stage.answers[tasks[2].number].done
        stage.wait(tasks[2].number)


def test_much_that_waits_leaves():
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        return [b"x" * 60_000]

    with Stage(app, threads=1) as stage:
        tasks = [stage.task(GET) for _ in range(30)]
        stage.send(*tasks)
        assert all(len(stage.wait(task.number).body) == 60_000 for task in tasks)
        assert stage.packets >= 30 * 60_000 / (160 * 1024)


def test_many_descriptors_are_spread_over_packets(tmp_path):
    (tmp_path / "big").write_bytes(b"x" * 100_000)
    with Stage(folder=str(tmp_path), threads=1) as stage:
        tasks = [stage.task("GET /big HTTP/1.1\nHost: a") for _ in range(150)]
        stage.send(*tasks)
        for task in tasks:
            answer = stage.wait(task.number)
            assert len(answer.body) == 100_000


def test_several_spooled_bodies_in_one_packet():
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        return [environ["wsgi.input"].read()]

    with Stage(app, threads=2) as stage:
        bodies = [b"one", b"two", b"in memory", b"three"]
        tasks = [stage.task(GET, body, spooled=body != b"in memory") for body in bodies]
        tasks[2].body = bodies[2]
        descriptors = []
        for body in (b"one", b"two", b"three"):
            descriptors.append(temporary_file("/tmp"))
            os.write(descriptors[-1], body)
        stage.send(*tasks, descriptors=descriptors)
        assert [stage.wait(task.number).body for task in tasks] == bodies
        for descriptor in descriptors:
            os.close(descriptor)


def test_a_body_whose_descriptor_did_not_arrive_is_a_503():
    with Stage(Gate()) as stage:
        task = stage.task(GET, b"lost", spooled=True)
        stage.send(task)
        assert stage.wait(task.number).status == 503


def test_the_stack_of_a_hanging_handler_is_logged(capfd):
    gate = Gate()
    with Stage(gate) as stage:
        slot = stage.start("GET /wait?secret HTTP/1.1\nHost: a")
        assert gate.inside.acquire(timeout=TIMEOUT)
        stage.threads.log_stack(slot)
        gate.open.set()
        stage.wait(slot)
    said = capfd.readouterr().err
    assert "GET /wait from 192.0.2.1 passed its deadline" in said
    assert "self.open.wait(60)" in said
    assert "secret" not in said


def test_threads_end_when_the_pump_is_gone_even_during_a_response():
    go_on = threading.Event()
    closed = threading.Event()

    class Endless:
        def __iter__(self):
            while True:
                yield b"x" * 1000
                go_on.wait(60)

        def close(self):
            closed.set()

    stage = Stage(lambda e, start_response: start_response("200 OK", PLAIN) and Endless(), threads=2)
    stage.start(GET)
    stage.read_packet()
    stage.tasks.shutdown(socket.SHUT_RDWR)
    go_on.set()
    stage.threads.join()
    stage.close()
    assert closed.is_set()


def test_handler_time_is_reported():
    def app(environ, start_response):
        time.sleep(0.01)
        start_response("200 OK", PLAIN)
        return [b""]

    with Stage(app) as stage:
        reply = stage.get("/").reply
    assert reply is not None
    assert reply.handler_ns > 9_000_000


# --- the outbox and bodies alone --------------------------------------------------------------------------


def test_messages_of_a_slot_stay_in_order_across_packets():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        outbox, seam = Outbox(theirs), Seam(ours)
        task = seam.task(GET)
        outbox.put(Reply(task.number, 200, "OK", b"", -1, b"", [], Ending.UNFINISHED), 0, 1)
        expected = b""
        for n in range(150):
            descriptor = temporary_file("/tmp")
            data = b"%d " % n
            os.write(descriptor, data)
            outbox.put(Part(task.number, [File(descriptor, 0, len(data))], Ending.UNFINISHED), 0, 1)
            expected += data
        outbox.put(Part(task.number, [], Ending.DONE), 0, 1)
        outbox.flush()
        assert seam.wait(task.number).body == expected
        assert seam.packets == 3
        seam.close()


def test_large_pieces_stand_behind_their_messages_and_leave_in_order():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        outbox, seam = Outbox(theirs), Seam(ours)
        small, large = seam.task(GET), seam.task(GET)
        outbox.put(Reply(large.number, 200, "OK", b"", -1, b"a", [], Ending.UNFINISHED), 0, 1)
        outbox.put(Part(large.number, [Memory(b"b" * 5000), Memory(b"c")], Ending.UNFINISHED), 0, 1)
        pieces = [b"d" * 3000, b"e" * 3000]
        outbox.put_pieces(Part(large.number, [Memory(b"", 6000)], Ending.UNFINISHED), pieces, 6000, 1)
        outbox.put(Reply(small.number, 200, "OK", b"", 3, b"abc"), 3, 1)
        outbox.put(Part(large.number, [Memory(b"f" * 50_000)], Ending.DONE), 0, 1)
        outbox.flush()
        assert seam.wait(small.number).body == b"abc"
        expected = b"a" + b"b" * 5000 + b"c" + b"d" * 3000 + b"e" * 3000 + b"f" * 50_000
        assert seam.wait(large.number).body == expected
        assert seam.packets == 1
        assert not outbox._behind
        seam.close()


def test_what_no_packet_has_room_for_costs_its_own_response(capfd):
    """The others of the same moment leave; the worker is not cut off from its pump."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        outbox, seam = Outbox(theirs), Seam(ours)
        before, large, after, part = (seam.task(GET) for _ in range(4))
        outbox.put(Reply(before.number, 200, "OK", b"", 0), 0, 1)
        outbox.put(Reply(large.number, 200, "OK", b"X: " + b"y" * MAX_PACKET + b"\r\n", 0), 0, 1)
        outbox.put(Reply(part.number, 200, "OK", b"", -1, b"", [], Ending.UNFINISHED), 0, 1)
        outbox.put(Part(part.number, [Memory(bytes(MAX_PACKET))], Ending.UNFINISHED), 0, 1)
        outbox.put(Reply(after.number, 200, "OK", b"", 0), 0, 1)
        outbox.flush()
        assert not outbox.gone
        assert [seam.wait(task.number).status for task in (before, large, after)] == [200, 500, 200]
        assert seam.wait(part.number).ending is Ending.ABORTED
        seam.close()
    assert capfd.readouterr().err.count("too large to be sent") == 2


@pytest.mark.parametrize("with_file", [False, True], ids=["memory", "descriptors"])
def test_what_the_socket_never_takes_costs_its_own_response(capfd, with_file: bool):
    """Its buffer may be smaller than our packets (net.core.wmem_max). The pump is not gone for that."""
    before = open_descriptors()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
    with theirs:
        outbox, seam = Outbox(theirs), Seam(ours)
        tasks = [seam.task(GET) for _ in range(6)]
        *small, large, part = tasks
        for task in small[:2]:
            outbox.put(Reply(task.number, 200, "OK", b"", 3, b"abc"), 3, 1)
        outbox.put(Reply(large.number, 200, "OK", b"", 60_000, bytes(60_000)), 60_000, 1)
        outbox.put(Reply(part.number, 200, "OK", b"", -1, b"", [], Ending.UNFINISHED), 0, 1)
        outbox.put(Part(part.number, [Memory(bytes(60_000))], Ending.UNFINISHED), 60_000, 1)
        for task in small[2:]:
            descriptor = temporary_file("/tmp")
            os.write(descriptor, b"abc")
            whole = Reply(task.number, 200, "OK", b"", 3, b"abc")
            spooled = Reply(task.number, 200, "OK", b"", 3, b"", [File(descriptor, 0, 3)])
            outbox.put(spooled if with_file else whole, 3, 1)
            if not with_file:
                os.close(descriptor)
        outbox.flush()
        assert not outbox.gone
        assert [(seam.wait(task.number).status, seam.wait(task.number).body) for task in small] == [
            (200, b"abc")
        ] * 4
        assert seam.wait(large.number).status == 500
        assert seam.wait(part.number).ending is Ending.ABORTED
        seam.close()
    assert open_descriptors() == before
    assert capfd.readouterr().err.count("too large to be sent") == 2


def test_an_outbox_whose_pump_is_gone_closes_descriptors_and_says_so():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        ours.close()
        outbox = Outbox(theirs)
        descriptor = temporary_file("/tmp")
        outbox.put(Part(0, [File(descriptor, 0, 0)], Ending.DONE), 0, 1)
        outbox.flush()
        assert outbox.gone
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(descriptor)


def test_a_spool_that_can_not_be_written_raises_and_leaves_nothing_open(tmp_path):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        replier = TaskReplier(Outbox(theirs), ResponseLimits(0, 1 << 20, str(tmp_path / "none")), 0, 0, [])
        with pytest.raises(OSError, match="No such file"):
            replier.whole(Head(200, "OK", b""), 100_000, b"x" * 100_000)
        assert not replier.begun


def test_a_full_spool_is_a_500_and_a_line_in_the_log(capfd, tmp_path):
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        return [b"x" * 1_000_000]

    with Stage(app, spool_dir=str(tmp_path / "none")) as stage:
        assert stage.get("/").status == 500
    assert "No such file" in capfd.readouterr().err


def test_descriptors_run_out_and_come_back(capfd, tmp_path):
    (tmp_path / "big").write_bytes(b"x" * 100_000)
    with Stage(folder=str(tmp_path), threads=1) as stage:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.open("/dev/null", os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            slot = stage.start("GET /big HTTP/1.1\nHost: a")
            status = stage.wait(slot).status
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert status == 500  # and not 404, which might be leased
        assert stage.get("/big").status == 200
