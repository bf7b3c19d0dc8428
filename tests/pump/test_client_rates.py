"""How many requests a client may send: a bucket for each, and the response to what is too much."""

from __future__ import annotations

import pytest

from halfsync.pump.connection import Exchange
from halfsync.pump.limits import client_rates
from halfsync.pump.limits.client_rates import ClientRate, key_of
from halfsync.wire.http1 import RequestHead
from halfsync.wire.refusals import Refusal


class Asked(Exchange):
    """An exchange as far as a check looks at it."""

    def __init__(self, body_size: int = 0) -> None:
        self.head = RequestHead.__new__(RequestHead)
        self.head.body_size = body_size
        self.head.method, self.head.target = b"GET", b"/x?secret"


def outcome(rate: ClientRate, now: float, client: str = "192.0.2.1", body_size: int = 0) -> int | None:
    """Retry-After; None if the request is served."""
    try:
        rate.check(Asked(body_size), client, now)
    except Refusal as refusal:
        found = refusal
    else:
        return None
    assert found.status == 429
    assert found.close == (body_size != 0)
    return found.retry_after


def test_a_burst_and_then_the_rate():
    rate = ClientRate(2.0, 4)
    assert [outcome(rate, 100.0) for _ in range(4)] == [None] * 4
    assert outcome(rate, 100.0) == 1
    assert outcome(rate, 100.4) == 1
    assert outcome(rate, 100.5) is None
    assert outcome(rate, 100.6) == 1
    assert [outcome(rate, 200.0) for _ in range(5)] == [None] * 4 + [1]


def test_what_is_refused_does_not_count():
    rate = ClientRate(1.0, 1)
    assert outcome(rate, 10.0) is None
    assert [outcome(rate, 10.5) for _ in range(100)] == [1] * 100
    assert outcome(rate, 11.0) is None


@pytest.mark.parametrize(("rate", "burst"), [(0.1, 1), (1.0, 1), (2.5, 3), (100.0, 100)])
def test_without_a_burst_it_is_what_a_second_has(rate, burst):
    limit = ClientRate(rate, 0)
    assert [outcome(limit, 5.0) for _ in range(burst)] == [None] * burst
    assert outcome(limit, 5.0) is not None


def test_how_long_to_wait_is_said_in_whole_seconds():
    rate = ClientRate(0.1, 1)
    assert outcome(rate, 0.0) is None
    assert outcome(rate, 0.5) == 10
    assert outcome(rate, 9.9) == 1
    assert outcome(rate, 10.0) is None


def test_each_client_has_its_own():
    rate = ClientRate(1.0, 1)
    clients = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1"]
    assert [outcome(rate, 1.0, client) for client in clients] == [None] * 4
    assert [outcome(rate, 1.0, client) for client in clients] == [1] * 4


def test_what_one_client_is():
    assert key_of("192.0.2.1") == key_of("::ffff:192.0.2.1") != key_of("192.0.2.2")
    assert key_of("2001:db8::1") == key_of("2001:db8::ffff:1:2:3") != key_of("2001:db8:0:1::1")
    assert key_of("") is None
    assert [outcome(ClientRate(1.0, 1), 1.0, "") for _ in range(3)] == [None] * 3


def test_a_body_that_is_not_read_closes_the_connection():
    rate = ClientRate(1.0, 1)
    assert outcome(rate, 1.0, body_size=5) is None
    assert outcome(rate, 1.0, body_size=5) == 1


def test_what_is_known_is_bounded(monkeypatch, capfd):
    monkeypatch.setattr(client_rates, "MOST", 100)
    rate = ClientRate(1.0, 1)
    for second in range(10):
        for number in range(50):
            assert outcome(rate, 2.0 * second, f"10.0.{second}.{number}") is None
    assert len(rate._full_at) <= 100
    assert "client_rate" not in capfd.readouterr().err
    for number in range(200):
        assert outcome(rate, 100.0, f"10.1.0.{number}") is None
    assert len(rate._full_at) <= 100
    assert "client_rate: more than 100 clients at once" in capfd.readouterr().err


def test_the_log_says_who_and_why_once_a_second(capfd):
    rate = ClientRate(1.0, 1)
    for now in (1.0, 1.0, 1.1, 1.2, 2.05, 2.5):
        outcome(rate, now)
    log = capfd.readouterr().err
    assert "429 to 192.0.2.1 for GET '/x': more than 1 requests a second (client_rate)." in log
    assert log.count("429 to") == 2
    assert "(2 more were refused since the last such line.)" in log
