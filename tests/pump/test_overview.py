"""What the pump tells of itself when it is asked: bounded, since nobody is served meanwhile."""

from __future__ import annotations

import pytest

from halfsync.pump import overview
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
