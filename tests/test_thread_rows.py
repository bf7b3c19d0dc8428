"""What the threads of a worker say of themselves, and which task each of them is in."""

from __future__ import annotations

import os
import tempfile
import time

import pytest

from halfsync.parent.workers.thread_rows import TRIES, ThreadRows
from halfsync.wire.messages import Ending, LogTask
from halfsync.wire.task_slots import SCOREBOARD_BYTES, SCOREBOARD_SLOTS
from halfsync.wire.thread_rows import THREAD_ROWS, ThreadRow, at_work, idle, paired, rows_of
from tests.e2e.harness import until
from tests.test_worker_threads import GET, Gate, wait
from tests.worker_stage import TIMEOUT, Stage

FIRST = 2 * SCOREBOARD_SLOTS + 1


def rows(stage: Stage) -> list[ThreadRow]:
    return rows_of(stage.scoreboard[FIRST:], 3)


def test_each_thread_says_whether_it_works_and_since_when():
    gate = Gate()
    with Stage(gate, threads=2) as stage:
        until(lambda: all(row.since_ns for row in rows(stage)[:2]))
        started = rows(stage)
        assert [row.is_busy for row in started] == [False, False, False]
        assert started[2] == ThreadRow(0, False), "there is no third thread"
        before = time.monotonic_ns()
        first = wait(stage)
        stage.send(first)
        assert gate.inside.acquire(timeout=TIMEOUT)
        [busy] = [row for row in rows(stage) if row.is_busy]
        assert before <= busy.since_ns <= stage.scoreboard[first.number] <= time.monotonic_ns()
        [other] = set(rows(stage)[:2]) - {busy}
        assert other in started, "it has slept all the time"
        gate.open.set()
        assert stage.wait(first.number).done
        until(lambda: not any(row.is_busy for row in rows(stage)))
        assert max(row.since_ns for row in rows(stage)) > busy.since_ns
    until(lambda: [row.since_ns for row in rows(stage)] == [0] * 3)  # the threads have ended
    assert sum(row.request_count for row in rows(stage)) == 1, "which is known of them still"


def test_one_that_fails_is_idle_again(monkeypatch: pytest.MonkeyPatch):
    with Stage(Gate(), threads=1) as stage:
        was_busy: list[bool] = []

        def fail(*_: object) -> None:
            was_busy.append(rows(stage)[0].is_busy)
            raise RuntimeError("as it should be")

        with monkeypatch.context() as patched:
            patched.setattr("halfsync.worker.outbox.Outbox.flush", fail)
            stage.send(stage.task(GET))
            until(lambda: was_busy and not rows(stage)[0].is_busy)
            assert all(was_busy)
        last = stage.task(GET)
        stage.send(last)
        assert stage.wait(last.number).done


def test_the_parent_reads_them(tmp_path):
    """Whatever else is on the scoreboard; and its descriptor is its own."""
    with (tmp_path / "scoreboard").open("w+b") as file:
        os.truncate(file.fileno(), SCOREBOARD_BYTES)
        words = [at_work(5_000), idle(7_000), 2**64 - 1, 0]
        for column, content in enumerate((words, [11, 12], [1_000])):
            data = b"".join(word.to_bytes(8, "little") for word in content)
            os.pwrite(file.fileno(), data, 8 * (FIRST + column * THREAD_ROWS))
        found = ThreadRows.of(file.fileno(), 4)
        assert found is not None
    assert found.read() == [
        ThreadRow(5_000, True, 11, 1_000),
        ThreadRow(7_000, False, 12),
        ThreadRow(2**63 - 1, True),
        ThreadRow(0, False),
    ]
    assert ThreadRows.of(10**6, 4) is None
    found.forget_in_child()
    assert found.read() == []


def test_the_parent_reads_them_though_they_change_all_the_time(tmp_path, monkeypatch):
    """A worker has its scoreboard mapped, so an application may write there without pause."""
    with (tmp_path / "scoreboard").open("w+b") as file:
        os.truncate(file.fileno(), SCOREBOARD_BYTES)
        rows = ThreadRows.of(file.fileno(), 1)
        assert rows is not None
        real, reads = os.pread, []

        def pread(fd: int, size: int, at: int) -> bytes:
            reads.append(at)
            os.pwrite(file.fileno(), idle(len(reads)).to_bytes(8, "little"), 8 * FIRST)
            return real(fd, size, at)

        monkeypatch.setattr(os, "pread", pread)
        assert rows.read() == [ThreadRow(len(reads), False)]
    assert len(reads) == TRIES + 1


class Kinds:
    """Responses of each kind that is handed over in another way."""

    def __call__(self, environ, start_response):
        kind = environ["PATH_INFO"].strip("/")
        length = [("Content-Length", "300000")] if kind == "file" else []
        start_response("200 OK", length)
        if kind == "file":
            file = tempfile.TemporaryFile()  # noqa: SIM115 (the server closes it)
            file.write(b"f" * 300_000)
            file.seek(0)
            return environ["wsgi.file_wrapper"](file)
        if kind == "fail":
            raise ValueError("as it should")
        return {
            "small": [b"12345"],
            "none": [],
            "large": [b"l" * 100_000],
            "huge": [b"h" * 900_000],
            "pieces": iter([b"1" * 10, b"", b"2" * 200_000, b"3"]),
        }[kind]


SIZES = {"small": 5, "none": 0, "large": 100_000, "huge": 900_000, "pieces": 200_011, "file": 300_000}


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("rules", [{}, {"X-Rule": "yes"}], ids=["plain", "ruled"])
def test_each_thread_says_how_many_requests_it_has_handled_and_the_bytes_of_their_bodies(kind, rules):
    with Stage(Kinds(), threads=1, header_rules=rules) as stage:
        sizes = [len(stage.get(f"/{kind}").body) for _ in range(3)]
        assert sizes == [SIZES[kind]] * 3
        until(lambda: rows(stage)[0][2:] == (3, 3 * SIZES[kind]))
        assert stage.get(f"/{kind}").done
        until(lambda: rows(stage)[0][2:] == (4, 4 * SIZES[kind]))


def test_a_response_to_head_has_no_bytes_and_a_failed_handler_has_a_request():
    with Stage(Kinds(), threads=1) as stage:
        assert stage.ask("HEAD /small HTTP/1.1\nHost: a").done
        until(lambda: rows(stage)[0][2:] == (1, 0))
        failed = stage.get("/fail")
        assert failed.status == 500
        until(lambda: rows(stage)[0][2:] == (2, len(failed.body)))


def test_it_is_the_thread_that_has_handled_them():
    gate = Gate()
    with Stage(gate, threads=2) as stage:
        stage.send(wait(stage))
        assert gate.inside.acquire(timeout=TIMEOUT)
        [busy] = [number for number in (0, 1) if rows(stage)[number].is_busy]
        tasks = [stage.task(GET) for _ in range(20)]
        stage.send(*tasks)
        assert all(stage.wait(task.number).done for task in tasks)
        until(lambda: rows(stage)[1 - busy][2:] == (20, 20))
        assert rows(stage)[busy][2:] == (0, 0)
        gate.open.set()
        until(lambda: rows(stage)[busy][2:] == (1, len(b"/wait")))


def test_neither_log_records_nor_what_was_withdrawn_is_a_request():
    with Stage(Kinds(), threads=1) as stage:
        withdrawn, after, log_task = (
            stage.task(GET),
            stage.task("GET /small HTTP/1.1\nHost: a"),
            stage.task(""),
        )
        stage.scoreboard[SCOREBOARD_SLOTS + withdrawn.number] = withdrawn.number
        stage.send(withdrawn, LogTask(log_task.number, []), after)
        assert stage.wait(withdrawn.number).ending is Ending.NOT_BEGUN
        assert stage.wait(log_task.number).done
        assert stage.wait(after.number).done
        until(lambda: rows(stage)[0][2:] == (1, 5))


def test_they_go_on_with_the_next_pump():
    """The worker says what its threads have served from its start, though a pump was killed meanwhile; and a
    thread that is in its last task for the pump before adds to it."""
    gate, served = Gate(), [0] * (2 * THREAD_ROWS)
    with Stage(gate, threads=1, served=served) as before:
        assert before.get("/").done
        until(lambda: rows(before)[0][2:] == (1, 1))
        before.send(wait(before))
        assert gate.inside.acquire(timeout=TIMEOUT)
        with Stage(gate, threads=1, served=served) as after:
            until(lambda: rows(after)[0][2:] == (1, 1))
            assert after.get("/two").done
            until(lambda: rows(after)[0][2:] == (2, 5))
            gate.open.set()
            until(lambda: rows(before)[0][2:] == (3, 10))
            assert after.get("/").done
            until(lambda: rows(after)[0][2:] == (4, 11))


B, I = True, False  # noqa: E741


@pytest.mark.parametrize(
    ("threads", "begun", "expected"),
    [
        ([], [], []),
        ([(5, I), (6, I)], [], [None, None]),
        ([(5, I), (6, B)], [6], [None, 0]),
        ([(9, B), (6, B)], [6, 9], [1, 0]),
        ([(9, B), (6, B)], [9, 6], [0, 1]),
        # one of them has only begun, and its task is not known yet
        ([(9, B), (6, B)], [8], [None, 0]),
        # the second task of a packet
        ([(5, B), (9, B)], [7, 9], [0, 1]),
        # rows that are behind
        ([(5, I), (9, I)], [7, 9], [0, 1]),
        ([(5, I), (9, B)], [7, 9], [0, 1]),
        ([(9, B), (5, I)], [7], [0, None]),
        # more tasks than threads: a process that is not the worker has written there
        ([(9, B)], [1, 2, 3], [0]),
    ],
)
def test_which_task_a_thread_is_in(threads, begun, expected):
    assert paired([ThreadRow(*one) for one in threads], begun) == expected


def test_many_threads():
    threads = [ThreadRow(number * 10, True) for number in range(THREAD_ROWS)]
    assert paired(threads, [one.since_ns + 3 for one in threads]) == list(range(THREAD_ROWS))
