"""The scoreboard: what several processes write and read at once, without locks."""

from __future__ import annotations

import ast
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from halfsync.parent.status.process_rows import FreeRows
from halfsync.scoreboard.counts import REFUSALS, Counts, History, PoolCounts
from halfsync.scoreboard.scoreboard import (
    CONTENT,
    HALF,
    POOLS,
    PROCESSES,
    REASONS,
    RECORD,
    SAMPLES,
    TASKS,
    TIMES,
    ProcessRow,
    Scoreboard,
    TaskRow,
    cut,
)
from tests.e2e.harness import LONG, until

PACKAGE = Path(__file__).resolve().parent.parent / "src/halfsync"


@pytest.fixture
def scoreboard() -> Iterator[Scoreboard]:
    made = Scoreboard()
    yield made
    made.close()


def row(number: int) -> ProcessRow:
    """All of it says the same number."""
    text = str(number % 1000)
    return ProcessRow("worker", number, text * 3, number, number, number, text * 20, number, number)


def is_whole(found: ProcessRow) -> bool:
    return found == row(found.pid)


def test_what_was_written_is_read(scoreboard):
    assert scoreboard.process(0) is None
    for number in range(1, 6):
        for place in (0, 7, PROCESSES - 1):
            scoreboard.write_process(place, row(number + place))
            assert scoreboard.process(place) == row(number + place)
    assert scoreboard.process(1) is None
    task = TaskRow(5, 17, "GET '/'", "here", "127.0.0.1")
    scoreboard.write_task(TASKS - 1, task)
    assert scoreboard.task(TASKS - 1) == task
    scoreboard.write_task(TASKS - 1, TaskRow(0))
    assert scoreboard.task(TASKS - 1) is None
    assert scoreboard.process(PROCESSES - 1) is not None


def test_the_longest_rows_have_room(scoreboard):
    most = 2**63
    long = "\N{PILE OF POO}" * 100
    scoreboard.write_task(0, TaskRow(most, most, cut(long, 130), cut(long, 45), cut(long, 40)))
    float_ = 1e9 + 0.1
    scoreboard.write_process(
        0,
        ProcessRow(
            "x" * 8,
            most,
            "x" * 10,
            float_,
            float_,
            most,
            cut(long, 80),
            most,
            most,
            most,
            most,
            cut(long, 60),
        ),
    )
    assert scoreboard.process(0) is not None
    assert scoreboard.task(0) is not None


def test_no_row_is_torn_while_its_owner_writes(scoreboard):
    """One process writes all the time, and another reads. Where both have one processor, with many others, a
    row is seen for each turn that the writer gets there."""
    pid = os.fork()
    if pid == 0:
        number = 0
        while True:
            number += 1
            scoreboard.write_process(3, row(number))
    try:
        until(lambda: scoreboard.process(3) is not None)
        seen: set[int] = set()
        give_up = time.monotonic() + LONG
        while len(seen) < 500 and time.monotonic() < give_up:
            found = scoreboard.process(3)
            if found is not None:  # it may have been overwritten at each try
                assert is_whole(found), found
                seen.add(found.pid)
        assert len(seen) >= 50
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    # It was killed anywhere, perhaps in the middle of a row: the last whole version is there.
    last = scoreboard.process(3)
    assert last is not None
    assert is_whole(last)
    scoreboard.write_process(3, row(77))  # and its place can be used again
    assert scoreboard.process(3) == row(77)


def test_an_owner_that_is_killed_in_the_middle_leaves_the_version_before(scoreboard, monkeypatch):
    """Each byte of the next version may be the last that it wrote."""
    scoreboard.write_task(0, TaskRow(1, 2, "before"))
    before = bytes(scoreboard._memory)
    scoreboard.write_task(0, TaskRow(2, 3, "after"))
    after = bytes(scoreboard._memory)
    changed = [place for place in range(len(before)) if before[place] != after[place]]
    version, *content = changed
    for written in range(len(content) + 1):
        scoreboard._memory[:] = before
        for place in content[:written]:
            scoreboard._memory[place : place + 1] = after[place : place + 1]
        assert scoreboard.task(0) == TaskRow(1, 2, "before")
    scoreboard._memory[version : version + 1] = after[version : version + 1]
    assert scoreboard.task(0) == TaskRow(2, 3, "after")


def test_a_half_that_does_not_fit_its_version_is_not_taken(scoreboard):
    """As a processor may show it that makes another one's writes visible out of order."""
    scoreboard.write_task(0, TaskRow(1, 2, "before"))
    scoreboard.write_task(0, TaskRow(2, 3, "after"))
    words = memoryview(scoreboard._memory).cast("Q")
    at = next(place for place in range(len(words)) if words[place] == 2)
    words[at] = 4  # of which nothing is there yet
    assert scoreboard.task(0) is None
    words.release()


def test_what_has_a_place_here_fits():
    assert RECORD % 8 == 0
    assert HALF % 4 == 0
    assert CONTENT > 240
    assert len(REFUSALS) <= REASONS
    assert len(set(REFUSALS)) == len(REFUSALS)


def reasons_in_the_code() -> Iterator[tuple[str, str]]:
    """Names that are counted, and where: what a Refusal is given as its reason, and a pool's setting."""
    for path in sorted([*PACKAGE.glob("pump/**/*.py"), *PACKAGE.glob("wire/*.py")]):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            given = [one.value for one in node.keywords if one.arg == "reason" and "Refusal" in called]
            given += node.args[:1] if called == "overloaded" else []
            given += node.args[1:2] if called == "refused" else []
            for one in given:
                if isinstance(one, ast.Constant) and isinstance(one.value, str):
                    yield one.value, f"{path.name}:{one.lineno}"


def test_every_reason_has_a_name_of_its_own():
    found = list(reasons_in_the_code())
    assert len(found) > 8
    assert [(reason, where) for reason, where in found if reason not in REFUSALS] == []


def test_counts_go_on_where_the_process_before_was_killed(scoreboard):
    pid = os.fork()
    if pid == 0:
        counts, pool = Counts(scoreboard.counts), PoolCounts(scoreboard.pool(3))
        counts.words[0] += 5
        counts.refused(431, "")
        counts.refused(408, "head_timeout")
        counts.refused(599, "what nobody knows")
        pool.words[20] += 7
        pool.refuse("queue_limit")
        History(scoreboard.history).sweep(counts, [pool], 17.0)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    counts, pool = Counts(scoreboard.counts), PoolCounts(scoreboard.pool(3))
    counts.words[0] += 1
    assert counts.requests == 6
    assert counts.refusals == {"other": 1, "head_timeout": 1, "limit_request_head": 1}
    pool.words[20] += 1
    assert (pool.times[20], sum(pool.times)) == (8, 8)
    assert pool.refused == {"queue_limit": 1}
    history = History(scoreboard.history)
    history.sweep(counts, [pool], 27.0)
    [point] = history.points()
    assert (point.at, point.seconds, point.requests) == (27.0, 10.0, 0.1)


def test_the_history_has_the_last_quarter_of_an_hour(scoreboard):
    counts, pool = Counts(scoreboard.counts), PoolCounts(scoreboard.pool(0))
    history = History(scoreboard.history)
    for sweep in range(10 * (SAMPLES + 5)):
        history.sweep(counts, [pool], 1000.0 + sweep / 2)
        counts.words[0] += 1
    samples = history.samples
    assert len(samples) == SAMPLES
    assert samples[-1].at == 1000.0 + 5 * (SAMPLES + 4)
    assert samples[-1].at - samples[0].at == 900
    assert {round(point.requests, 6) for point in history.points()} == {2.0}


def test_more_pools_than_there_is_room_for_are_counted_all_the_same(scoreboard):
    pools = [PoolCounts(scoreboard.pool(index)) for index in range(POOLS + 3)]
    for number, pool in enumerate(pools):
        pool.words[1] += number
    assert [pool.times[1] for pool in pools] == list(range(POOLS + 3))
    assert len(pools[-1].times) == TIMES


def test_spans_are_given_once():
    spans = FreeRows(10)
    assert [spans.take(size) for size in (4, 4, 4, 2, 1)] == [(0, 4), (4, 4), (0, 0), (8, 2), (0, 0)]
    spans.give((4, 4))
    spans.give((0, 0))
    assert spans.take(5) == (0, 0)
    spans.give((0, 4))
    assert spans.take(8) == (0, 8)
    spans.give((8, 2))
    spans.give((0, 8))
    assert spans.take(10) == (0, 10)
