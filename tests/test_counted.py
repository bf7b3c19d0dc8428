"""What a server has counted, handed to the next version's scoreboard."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from halfsync.parent.status import counted
from halfsync.parent.status.counted import CountsForNext, CountsFromBefore, carry, gathered
from halfsync.scoreboard.counts import (
    BYTES_SENT,
    CLOSED_FOR,
    LEASE_HITS,
    STATUS,
    TOTAL_NS,
    WORD,
    Counts,
    History,
    PoolCounts,
)
from halfsync.scoreboard.scoreboard import POOLS, SAMPLES, TIMES, Scoreboard
from halfsync.wire.upgrade import Counted, CountedPool

POOL_NAMES = ["built-in", "app:app", "shop:app"]
FAR = 1e9
"""Monotonic seconds."""


@pytest.fixture(autouse=True)
def _always(monkeypatch):
    monkeypatch.setattr(counted, "EVERY", 0.0)


@pytest.fixture
def boards() -> Iterator[list[Scoreboard]]:
    made = [Scoreboard() for _ in range(3)]
    yield made
    for one in made:
        one.close()


def counts_of(scoreboard: Scoreboard) -> Counts:
    return Counts(scoreboard.counts, scoreboard.counts_before)


def pool_of(scoreboard: Scoreboard, index: int) -> PoolCounts:
    return PoolCounts(scoreboard.pool(index), scoreboard.pool_before(index))


def history_of(scoreboard: Scoreboard) -> History:
    return History(scoreboard.history, scoreboard.history_before)


def is_over(counts: CountsFromBefore) -> bool:
    return counts.is_over


def sample(scoreboard: Scoreboard, now: float) -> None:
    pools = [pool_of(scoreboard, index) for index in range(len(POOL_NAMES))]
    history_of(scoreboard).sweep(counts_of(scoreboard), pools, now)


def serve(scoreboard: Scoreboard, requests: int) -> None:
    """As a pump counts."""
    counts, pool = counts_of(scoreboard), pool_of(scoreboard, 1)
    counts.words[LEASE_HITS] += requests
    counts.words[STATUS + 200] += requests
    counts.words[BYTES_SENT] += 1000 * requests
    counts.words[CLOSED_FOR + 3] += requests
    counts.refused(429, "")
    pool.words[20] += requests
    pool.words[TOTAL_NS] += 2**19 * requests
    pool.refuse("queue_limit")


def shown(scoreboard: Scoreboard, pool: int = 1) -> tuple[object, ...]:
    counts, of_pool = counts_of(scoreboard), pool_of(scoreboard, pool)
    return (
        counts.requests,
        counts.statuses,
        counts.closes,
        counts.total(BYTES_SENT),
        counts.refusals,
        of_pool.all_times[20],
        of_pool.total_ns,
        of_pool.refused,
    )


def all_after(requests: int, times: int) -> tuple[object, ...]:
    return (
        2 * requests,
        {200: requests},
        {3: requests},
        1000 * requests,
        {"client_rate": times},
        requests,
        2**19 * requests,
        {"queue_limit": times},
    )


def test_counters_go_on_from_version_to_version(boards):
    """Also what each of them counts while it finishes what it has, and nothing twice."""
    first, second, third = boards
    serve(first, 10)
    to_second = CountsForNext(first)
    in_second = CountsFromBefore(os.dup(to_second.fd), second)
    to_second.write(POOL_NAMES, 1.0, FAR)
    in_second.copy(POOL_NAMES, 1.0)
    assert shown(second) == all_after(10, 1)
    serve(second, 5)
    serve(first, 3)  # its last ones
    to_second.write(POOL_NAMES, 2.0, FAR)
    for _ in range(3):
        in_second.copy(POOL_NAMES, 2.0)
    assert shown(second) == all_after(18, 3)
    # and another one while the first is not at its end
    to_third = CountsForNext(second)
    in_third = CountsFromBefore(os.dup(to_third.fd), third)
    to_third.write(POOL_NAMES, 3.0, FAR)
    in_third.copy(POOL_NAMES, 3.0)
    serve(first, 1)
    serve(third, 2)
    to_second.end(POOL_NAMES)
    assert not is_over(in_second)
    in_second.copy(POOL_NAMES, 4.0)
    assert is_over(in_second)
    to_third.end(POOL_NAMES)
    in_third.copy(POOL_NAMES, 4.0)
    assert is_over(in_third)
    assert shown(third) == all_after(21, 5)
    in_third.copy(POOL_NAMES, 5.0)
    assert pool_of(third, 1).times[20] == 2, "own ones are as they were: what is done by them is not upset"


def test_one_that_ends_tells_what_the_one_before_it_has_counted_at_last(boards):
    first, second, _ = boards
    to_second = CountsForNext(first)
    in_second = CountsFromBefore(os.dup(to_second.fd), second)
    to_second.write(POOL_NAMES, 1.0, FAR)
    in_second.copy(POOL_NAMES, 1.0)
    serve(first, 1)
    to_second.end(POOL_NAMES)
    in_second.end(POOL_NAMES)
    assert is_over(in_second)
    assert shown(second) == all_after(1, 1)


def test_the_plots_go_on(boards):
    """Without a gap and without a peak at the upgrade."""
    first, second, _ = boards
    first.header[0] = 17
    for second_of in range(0, 5 * (SAMPLES + 3), 5):
        serve(first, 10)
        sample(first, 1000.0 + second_of)
    last = 1000.0 + 5 * (SAMPLES + 2)
    carry(gathered(first, POOL_NAMES, FAR), second, POOL_NAMES)
    assert second.header[0] == 17
    assert history_of(second).points() == history_of(first).points()
    for place in range(1, 4):
        serve(second, 10)
        sample(second, last + 5 * place)
    points = history_of(second).points()
    assert [point.at for point in points] == [last + 5 * place for place in range(5 - SAMPLES, 4)]
    assert {point.requests for point in points} == {4.0}  # 10 with a lease, 10 without, in 5 s
    assert {point.bytes_sent for point in points} == {2000.0}


def test_a_history_is_taken_once(boards):
    """The old version's pump takes samples while it finishes what it has: they are no others'."""
    first, second, _ = boards
    sample(first, 5.0)
    carry(gathered(first, POOL_NAMES, FAR), second, POOL_NAMES)
    sample(first, 10.0)
    carry(gathered(first, POOL_NAMES, FAR), second, POOL_NAMES)
    assert [one.at for one in history_of(second).samples] == [5.0]


def test_pools_are_found_by_their_names(boards):
    first, second, third = boards
    serve(first, 10)
    carry(gathered(first, POOL_NAMES, FAR), second, ["built-in", "new:app", "app:app"])
    assert shown(second, 2) == all_after(10, 1)
    assert sum(pool_of(second, 1).all_times) == 0
    assert sum(pool_of(second, 0).all_times) == 0
    twice = ["built-in", "app:app", "app:app"]
    first.pool(2)[20] += 7
    carry(gathered(first, twice, FAR), third, twice)
    assert [pool_of(third, index).all_times[20] for index in (1, 2)] == [10, 7]


def test_a_pool_that_is_there_no_more_makes_no_hole_in_the_plots(boards):
    first, second, _ = boards
    serve(first, 10)
    sample(first, 5.0)
    carry(gathered(first, POOL_NAMES, FAR), second, ["built-in"])
    sample(second, 10.0)
    [point] = history_of(second).points()
    assert (point.requests, point.median) == (0.0, 0.0)


def test_what_another_version_counts_is_taken_as_far_as_it_has_a_place(boards):
    many = [CountedPool(f"{number}", [1] * (TIMES + 5)) for number in range(POOLS + 5)]
    other = Counted(
        0.0,
        5,
        {"lease_hits": 3, "moons": 4},
        {200: 5},
        {"other": 1, "moon": 2, "allow": 4},
        many,
        [[1], [10**9] + [2] * 100],
    )
    carry(other, boards[0], [pool.name for pool in many])
    counts = counts_of(boards[0])
    assert counts.requests == 8
    assert counts.refusals == {"other": 3, "allow": 4}
    assert [one.at for one in history_of(boards[0]).samples] == [1e-9, 1.0]


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\0\0\0\0", b"\0\0\0\0\x80", b"\x38\x4c\x21\xd1\x93\x01", b"x" * 1000]
)
def test_what_can_not_be_read_changes_nothing_and_is_read_the_next_time(boards, data):
    first, second, _ = boards
    to_second = CountsForNext(first)
    in_second = CountsFromBefore(os.dup(to_second.fd), second)
    os.pwrite(to_second.fd, data, 0)
    in_second.copy(POOL_NAMES, 1.0)
    assert shown(second) == shown(first)
    serve(first, 1)
    to_second.end(POOL_NAMES)
    in_second.copy(POOL_NAMES, 2.0)
    assert shown(second) == all_after(1, 1)
    assert is_over(in_second)


def test_one_that_was_killed_is_waited_for_no_longer_than_it_would_have_run(boards):
    first, second, _ = boards
    to_second = CountsForNext(first)
    in_second = CountsFromBefore(os.dup(to_second.fd), second)
    to_second.write(POOL_NAMES, 1.0, 30.0)
    to_second.close()
    in_second.copy(POOL_NAMES, 29.0)
    assert not is_over(in_second)
    in_second.copy(POOL_NAMES, 30.0)
    assert is_over(in_second)


def test_without_a_version_before_there_is_nothing_to_do(boards):
    none = CountsFromBefore(-1, boards[0])
    none.copy(POOL_NAMES, 1.0)
    assert is_over(none)


def test_words_do_not_overflow(boards):
    boards[0].pool(1)[TOTAL_NS] = WORD
    carry(gathered(boards[0], POOL_NAMES, FAR), boards[1], POOL_NAMES)
    boards[1].pool(1)[TOTAL_NS] = 6
    assert pool_of(boards[1], 1).total_ns == 5


def test_no_more_than_once_a_second(boards, monkeypatch):
    monkeypatch.setattr(counted, "EVERY", 1.0)
    first, second, _ = boards
    to_second = CountsForNext(first)
    in_second = CountsFromBefore(os.dup(to_second.fd), second)
    for now, requests in ((10.0, 0), (10.5, 0), (11.0, 2)):
        to_second.write(POOL_NAMES, now, FAR)
        in_second.copy(POOL_NAMES, now)
        assert counts_of(second).requests == 2 * requests
        serve(first, 1)
    to_second.close()
    in_second.close()
