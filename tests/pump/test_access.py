"""Records on their way to the access log: when a batch is due, what is bounded, what is not lost."""

from __future__ import annotations

import re

import pytest

from halfsync.pump import access
from halfsync.pump.access import BATCH_RECORDS, DELAY, AccessLog
from halfsync.pump.connection import NEVER, Record


def record(head: bytes = b"GET / HTTP/1.1\r\n\r\n") -> Record:
    return (0.0, "127.0.0.1", head, 200, 0, 0, -1, -1, 0, 0, 0)


def test_a_record_waits_a_moment_to_be_batched_and_many_do_not_wait():
    log = AccessLog(enabled=True)
    assert not log.ready(10.0)
    assert log.due == NEVER
    log.records.append(record())
    assert not log.ready(10.0)
    assert log.due == 10.0 + DELAY
    assert log.ready(10.0 + DELAY)
    log = AccessLog(enabled=True)
    log.records += [record()] * BATCH_RECORDS
    assert log.ready(10.0)


def test_with_nobody_to_take_it_a_batch_is_offered_again_after_a_while():
    """And not in every turn: while the built-in worker is away the loop must not spin."""
    log = AccessLog(enabled=True)
    log.records.append(record())
    log.ready(10.0)
    assert log.ready(11.0)
    assert log.due == 11.0 + DELAY
    assert not log.ready(11.0 + DELAY / 2)
    assert log.ready(11.0 + DELAY)


@pytest.mark.parametrize("size", [20, 1000, 64_000])
def test_what_waits_is_bounded_in_bytes_also_while_a_batch_is_under_way(size, monkeypatch, capfd):
    """Whatever clients send: few large heads are as much as many small ones. The newest are kept, and it is
    said how many were not."""
    limit = 10_000_000
    monkeypatch.setattr(access, "MAX_WAITING", limit)
    log = AccessLog(enabled=True)
    log.records.append(record())
    assert log.take_batch() == [record()]
    whole = 100_000_000 // (size + 400)
    for number in range(whole):
        log.records.append(record(b"%d" % number + bytes(size)))
        if number % 50 == 49:
            log.ready(10.0 + number * 1e-6)
        assert sum(len(each[2]) + 330 for each in log.records[-1:]) * len(log.records) < limit + 300 * 70_000
    log.ready(20.0)
    kept = len(log.records)
    assert kept > 50
    assert log.records[-1][2].startswith(b"%d" % (whole - 1))
    said = capfd.readouterr().err
    dropped = [int(number) for number in re.findall(r"(\d+) records dropped", said)]
    assert sum(dropped) == whole - kept
    assert len(dropped) <= 2, "said once a second at most"


@pytest.mark.parametrize("stops", [False, True])
def test_all_that_was_dropped_is_said_though_nothing_more_comes(stops, monkeypatch, capfd):
    """What is dropped within a second of the last line waits for the next one, and that line comes."""
    limit = 100_000
    monkeypatch.setattr(access, "MAX_WAITING", limit)
    log = AccessLog(enabled=True)
    for number in range(3):
        log.records += [record(bytes(1000))] * access.COUNT_EVERY
        log.ready(10.0 + number * 0.1)
    written = 0
    while batch := log.take_batch():
        written += len(batch)
        log.written()
        log.ready(10.5)
    assert log.idle
    if stops:
        log.end()
    else:
        assert 10.5 < log.due <= 10.0 + access.SAY_EVERY
        log.ready(log.due)
        assert log.due == NEVER
    dropped = re.findall(r"(\d+) records dropped", capfd.readouterr().err)
    assert len(dropped) == 2
    assert sum(map(int, dropped)) + written == 3 * access.COUNT_EVERY


def test_records_that_are_handed_over_make_room(monkeypatch):
    """What has been written is not counted any more: nothing is ever dropped of a log that moves."""
    monkeypatch.setattr(access, "MAX_WAITING", 1_000_000)
    log = AccessLog(enabled=True)
    taken = 0
    for number in range(20_000):
        log.records.append(record(b"%d" % number))
        log.ready(number * 0.001)
        if number % 300 == 299:
            if number % 900 == 899:
                log.take_batch()
                log.lost()
            while batch := log.take_batch():
                assert batch[0][2] == b"%d" % taken
                taken += len(batch)
                log.written()
    assert taken + len(log.records) == 20_000


def test_a_lost_batch_comes_first_again():
    log = AccessLog(enabled=True)
    log.records += [record(b"1"), record(b"2")]
    assert len(log.take_batch()) == 2
    assert log.take_batch() == []
    log.records.append(record(b"3"))
    log.lost()
    assert [each[2] for each in log.take_batch()] == [b"1", b"2", b"3"]
    log.written()
    assert log.idle


@pytest.mark.parametrize("size", [10, 5000, 64_000])
def test_a_batch_fits_a_packet(size):
    log = AccessLog(enabled=True)
    log.records += [record(b"x" * size)] * 600
    batch = log.take_batch()
    assert batch
    assert sum(len(each[2]) + 80 for each in batch) < 160 * 1024


# --- when the loop asks: it does not in most turns ----------------------------------------------------------


def turn(log: AccessLog, now: float) -> bool:
    """What the loop does at the end of a turn."""
    return (len(log.records) >= log.look_at or now >= log.due) and log.ready(now)


def test_the_first_record_sets_the_time_and_the_others_wait_with_it():
    log = AccessLog(enabled=True)
    assert not turn(log, 10.0)
    for number in range(BATCH_RECORDS - 1):
        log.records.append(record())
        assert not turn(log, 10.0 + number * 1e-5)
        assert log.due == 10.0 + DELAY
    log.records.append(record())
    assert turn(log, 10.01), "a whole batch does not wait"
    assert len(log.take_batch()) == BATCH_RECORDS
    assert log.due == NEVER, "nothing wakes the loop meanwhile"


@pytest.mark.parametrize("how", ["written", "lost"])
def test_what_came_while_a_batch_was_under_way_is_looked_at_when_that_is_over(how: str):
    log = AccessLog(enabled=True)
    log.records.append(record())
    assert not turn(log, 10.0)
    assert turn(log, 10.0 + DELAY)
    assert log.take_batch()
    log.records.append(record())
    assert not turn(log, 20.0)
    assert log.due == NEVER
    getattr(log, how)()
    assert not turn(log, 21.0)
    assert log.due == 21.0 + DELAY
    assert turn(log, 21.0 + DELAY)


def test_records_pile_up_no_further_though_the_loop_asks_seldom(monkeypatch, capfd):
    monkeypatch.setattr(access, "MAX_WAITING", 1_000_000)
    log = AccessLog(enabled=True)
    log.records.append(record())
    assert log.take_batch()
    for number in range(10_000):
        log.records.append(record(bytes(1000)))
        turn(log, 10.0 + number * 1e-6)
        assert len(log.records) <= 1_000_000 // 1400 + access.COUNT_EVERY
    assert "records dropped" in capfd.readouterr().err
    assert log.due < NEVER, "what was dropped since has yet to be said"
    turn(log, log.due)
    assert log.due == NEVER
    assert "records dropped" in capfd.readouterr().err
