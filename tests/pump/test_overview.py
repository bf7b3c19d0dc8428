"""What the pump tells of itself when it is asked: bounded, since nobody is served meanwhile."""

from __future__ import annotations

import pytest

from halfsync.pump.status import overview
from halfsync.wire.messages import Lease
from tests.pump.harness import Stage, get


def test_no_more_than_so_many_are_listed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(overview, "MOST", 3)
    with Stage() as stage:
        hand = stage.hand()
        clients = [stage.client() for _ in range(5)]
        for number, client in enumerate(clients):
            client.send(get(f"/{number}"))
        tasks = [hand.take() for _ in clients]
        [worker] = overview.workers(stage.pump)["workers"]
        assert [one["request"] for one in worker["tasks"]] == [f"GET '/{number}'" for number in range(3)]
        found = overview.connections(stage.pump)
        assert (found["total"], len(found["connections"])) == (5, 3)
        for task in tasks:
            hand.reply(task, b"leased", lease=Lease(60.0, ()))
        stage.settle()
        found = overview.leases(stage.pump)
        assert (found["total"], len(found["leases"])) == (5, 3)


def test_what_runs_at_this_moment_is_written_on_the_scoreboard_when_somebody_looks():
    """No sweep has seen these requests: the clock of this test stands."""
    with Stage() as stage:
        hand = stage.hand()
        worker = hand.worker
        assert worker is not None
        worker.rows = range(7, 9)

        def shown() -> list[str]:
            assert overview.describe(stage.pump, "rows") == b"{}"
            found = [stage.pump.scoreboard.task(row) for row in worker.rows]
            return [row.request for row in found if row is not None]

        client = stage.client()
        client.send(get("/young"))
        task = hand.take()
        assert [stage.pump.scoreboard.task(row) for row in worker.rows] == [None, None]
        assert shown() == ["GET '/young'"]
        hand.reply(task, b"done")
        stage.settle()
        assert shown() == []
