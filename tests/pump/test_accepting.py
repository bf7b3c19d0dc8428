"""How often accept(2) is called: once for a client that comes alone, and for many at once in few turns."""

from __future__ import annotations

import socket
from dataclasses import replace

import msgspec
import pytest

from halfsync.pump import acceptor as acceptor_module
from halfsync.pump.acceptor import ACCEPTS_A_TURN, MOST_SINGLY
from halfsync.pump.transport import PlainTransport
from tests.pump.harness import Stage
from tests.pump.tls_ends import certificates, site


class Calls:
    """Of accept(2), turn by turn."""

    def __init__(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._stage = stage
        real = stage.pump.acceptor.transport.accept_from

        def accept_from(listening: socket.socket) -> tuple[PlainTransport, object]:
            self.count += 1
            return real(listening)

        monkeypatch.setattr(stage.pump.acceptor.transport, "accept_from", accept_from)

    def until(self, clients: int) -> list[int]:
        """By turns in which there were some, up to the one after which there are as many clients."""
        found = []
        while len(self._stage.pump.connections) < clients:
            before = self.count
            self._stage.turn()
            if self.count > before:
                found.append(self.count - before)
        return found


def connected(stage: Stage, count: int) -> list[socket.socket]:
    where = stage.pump.acceptor._listeners[0].getsockname()
    return [socket.create_connection(where, timeout=60) for _ in range(count)]


def close_all(clients: list[socket.socket]) -> None:
    for client in clients:
        client.close()


def test_clients_that_come_one_after_the_other(monkeypatch: pytest.MonkeyPatch):
    """With none behind it, a call that finds this out is an exception: it is tried more and more rarely."""
    with Stage() as stage:
        calls = Calls(stage, monkeypatch)
        clients = []
        for count in range(1, 61):
            clients += connected(stage, 1)
            calls.until(count)
            stage.settle()
        assert calls.count == 60 + len([1, 3, 6, 11, 20, 37, 54])
        close_all(clients)


def test_clients_that_come_at_once(monkeypatch: pytest.MonkeyPatch):
    with Stage() as stage:
        calls = Calls(stage, monkeypatch)
        clients = connected(stage, 200)
        assert calls.until(200) == [ACCEPTS_A_TURN] * 3 + [200 - 3 * ACCEPTS_A_TURN + 1]
        close_all(clients)


def test_clients_that_come_at_once_behind_many_that_came_alone(monkeypatch: pytest.MonkeyPatch):
    with Stage() as stage:
        calls = Calls(stage, monkeypatch)
        clients = []
        for count in range(1, 38):
            clients += connected(stage, 1)
            calls.until(count)
            stage.settle()
        clients += connected(stage, 100)
        found = calls.until(137)
        assert found == [1] * MOST_SINGLY + [ACCEPTS_A_TURN, 100 - MOST_SINGLY - ACCEPTS_A_TURN + 1]
        close_all(clients)


def test_clients_of_a_listener_that_is_to_be_closed_are_accepted_at_once(monkeypatch: pytest.MonkeyPatch):
    """They are kept out of the queue, which is emptied before that, until they have said something."""

    def is_deferring() -> bool:
        return bool(listener.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT))

    with Stage(tls=certificates(site("", "a"))) as stage:
        acceptor, plan = stage.pump.acceptor, stage.pump.plan
        monkeypatch.setattr(acceptor_module, "DEFER_ACCEPT", 1)
        (listener,) = plan.listeners
        acceptor.expect(plan)
        assert is_deferring()
        acceptor.expect(replace(plan, listeners=(msgspec.structs.replace(listener, is_removed=True),)))
        assert not is_deferring()
        acceptor.expect(plan)  # the other one will not be in effect
        assert is_deferring()
