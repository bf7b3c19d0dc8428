"""Time limits that end for many clients at once."""

from __future__ import annotations

import pytest

from halfsync.pump import timeouts
from tests.pump.harness import Client, Stage, get


def test_many_clients_whose_time_is_over_do_not_keep_the_others_waiting(monkeypatch: pytest.MonkeyPatch):
    """They are seen to in shares, one a turn; between two of them requests are served."""
    monkeypatch.setattr(timeouts, "SHARE", 0.0)
    with Stage(head_timeout=5.0) as stage:
        stage.hand(answers=True)
        late = [stage.client() for _ in range(5 * timeouts.AT_LEAST)]
        for client in late:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
        stage.time.advance(2.0)
        ordinary = stage.client()
        ordinary.send(get("/"))
        assert ordinary.answer().status == 200
        stage.time.advance(3.5)
        stage.turn()
        left = [len(stage.pump.timeouts.due)]
        while stage.pump.timeouts.due:
            stage.turn()
            left.append(len(stage.pump.timeouts.due))
        assert left == [timeouts.AT_LEAST * number for number in (5, 4, 3, 2, 1, 0)], (
            "the first share finds them"
        )
        for client in late:
            assert client.answer().status == 408
        ordinary.send(get("/"))
        assert ordinary.answer().status == 200
        # The next whole sweep comes at its time.
        assert 0 < stage.pump._next_sweep - stage.pump.clock.now <= 0.5


def test_whoever_gets_more_time_before_its_turn_has_come_keeps_its_connection(
    monkeypatch: pytest.MonkeyPatch,
):
    """It was found by a sweep, and has sent its request before it was seen to."""
    monkeypatch.setattr(timeouts, "SHARE", 0.0)
    monkeypatch.setattr(timeouts, "AT_LEAST", 1)
    with Stage(keep_alive=5.0) as stage:
        stage.hand(answers=True)
        clients = [stage.client() for _ in range(4)]
        for client in clients:
            client.send(get("/"))
            assert client.answer().status == 200
        stage.time.advance(5.5)
        stage.turn()
        assert len(stage.pump.timeouts.due) == 4
        clients[-1].sock.sendall(get("/again"))
        stage.until(lambda: not stage.pump.timeouts.is_under_way)
        assert clients[-1].answer().status == 200
        assert not clients[-1].over
        stage.until(lambda: all(map(is_over, clients[:3])), "the end of the others")


def test_a_look_at_many_connections_whose_time_is_not_over_takes_several_turns_too(
    monkeypatch: pytest.MonkeyPatch,
):
    """To find out that 6,000 have time left takes longer than a share."""
    monkeypatch.setattr(timeouts, "SHARE", 0.0)
    monkeypatch.setattr(timeouts, "SLICE", 8)
    with Stage(keep_alive=5.0) as stage:
        stage.hand(answers=True)
        clients = [stage.client() for _ in range(40)]
        for client in clients:
            client.send(get("/"))
            assert client.answer().status == 200
        stage.time.advance(0.6)
        shares = 0
        stage.turn()
        while stage.pump.timeouts.is_under_way:
            shares += 1
            assert stage.pump._next_due() <= stage.pump.clock.now, "the next share is due at once"
            if shares == 2:
                clients[0].sock.sendall(get("/meanwhile"))
            stage.turn()
        assert shares >= 4, "of five, the first one has been before"
        assert clients[0].answer().status == 200
        # The last ones that it looks at are disconnected as the first ones are.
        stage.time.advance(5.5)
        stage.turn()
        stage.until(lambda: all(map(is_over, clients)), "their end")


def is_over(client: Client) -> bool:
    client.receive()
    return client.over
