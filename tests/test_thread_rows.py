"""What the threads of a worker say of themselves, and which task each of them is in."""

from __future__ import annotations

import os
import time

import pytest

from halfsync.parent.thread_rows import TRIES, ThreadRows
from halfsync.wire.messages import SCOREBOARD_BYTES, SCOREBOARD_SLOTS
from halfsync.wire.thread_rows import THREAD_ROWS, ThreadRow, at_work, idle, paired, row_of
from tests.e2e.harness import until
from tests.test_worker_threads import GET, Gate, wait
from tests.worker_stage import TIMEOUT, Stage

FIRST = 2 * SCOREBOARD_SLOTS + 1


def rows(stage: Stage) -> list[ThreadRow]:
    return [row_of(word) for word in stage.scoreboard[FIRST : FIRST + 3]]


def test_each_thread_says_whether_it_works_and_since_when():
    gate = Gate()
    with Stage(gate, threads=2) as stage:
        until(lambda: all(row.since_ns for row in rows(stage)[:2]))
        started = rows(stage)
        assert [row.is_busy for row in started] == [False, False, False]
        assert started[2] == (0, False), "there is no third thread"
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
    until(lambda: rows(stage) == [ThreadRow(0, False)] * 3)  # the threads have ended


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
        os.pwrite(file.fileno(), b"".join(word.to_bytes(8, "little") for word in words), 8 * FIRST)
        found = ThreadRows.of(file.fileno(), 4)
        assert found is not None
    expected = [(5_000, True), (7_000, False), (2**63 - 1, True), (0, False)]
    assert found.read() == expected
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
        assert rows.read() == [(len(reads), False)]
    assert len(reads) == TRIES + 1


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
