"""An error in what is done for all connections costs none of them its life, and is logged."""

from __future__ import annotations

import itertools
import operator
import socket
import time
from collections.abc import Callable

import pytest

from halfsync.pump import loop
from halfsync.pump.connection import Connection
from halfsync.pump.leases.known_heads import cut_cookie
from halfsync.wire.closes import CloseReason
from tests.pump import tls_ends
from tests.pump.harness import TIMEOUT, Stage, get


class Once:
    """Fails when it is first called; then it is what it replaced."""

    def __init__(self, true: Callable[..., object]) -> None:
        self.true = true
        self.failed = False

    def __call__(self, *arguments: object, **named: object) -> object:
        if not self.failed:
            self.failed = True
            raise ZeroDivisionError("the test's own")
        return self.true(*arguments, **named)


STAGES = [
    "acceptor.accept_due",
    "acceptor.resume",
    "pools.dispatcher.end_of_turn",
    "pools.hand_over_records",
    "pools.sweep",
    "pools.dispatcher.queue",
    "pools.dispatcher._hand_over",
    "pools._replies._after_packet",
    "timeouts.sweep",
    "leases.sweep",
    "access.ready",
    "clock.tick",
    "admission.admit",
    "http1._begin_exchange",
]


@pytest.mark.parametrize("name", STAGES)
def test_each_stage_of_a_turn_is_guarded(name: str, monkeypatch: pytest.MonkeyPatch, capfd):
    """Wherever a turn fails, connections that have nothing to do with it live on, and so does the pump."""
    with Stage(access_logfile="-") as stage:
        stage.hand(0)
        stage.hand(answers=True)
        kept = stage.client()
        assert kept.ask("/before").status == 200
        stage.pump.acceptor.retry_at = 0.0  # as after a shortage
        owner, _, attribute = name.rpartition(".")
        holder = operator.attrgetter(owner)(stage.pump)
        if owner == "clock":
            monkeypatch.setattr(type(holder), attribute, once := Once(getattr(holder, attribute)))
        else:
            monkeypatch.setattr(holder, attribute, once := Once(getattr(holder, attribute)))
        run_until(stage, once)
        monkeypatch.undo()
        assert stage.client().ask("/after").status == 200
        assert kept.ask("/still").status == 200
        assert "ZeroDivisionError" in capfd.readouterr().err


def run_until(stage: Stage, once: Once) -> None:
    """Go on as `Pump.run` does, with a client that comes and asks, until it has failed."""
    give_up = time.monotonic() + TIMEOUT
    numbers = itertools.count()

    def turn() -> None:
        assert time.monotonic() < give_up
        stage.time.advance(0.2 if next(numbers) < 200 else 0.0)  # and then it is the client that is late
        run_turn(stage)

    trouble = speaking(connected(stage.listener.getsockname()), stage, turn)
    trouble.sendall(get("/trouble"))
    while not once.failed:
        turn()
    run_turn(stage)
    trouble.close()
    for _ in range(5):
        run_turn(stage)


def connected(address: tuple[str, int]) -> socket.socket:
    """A blocking socket (the pump has changed the default)."""
    sock = socket.socket()
    sock.settimeout(TIMEOUT)
    try:
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def speaking(
    sock: socket.socket, stage: Stage, turn: Callable[[], object]
) -> socket.socket | tls_ends.TLSSocket:
    """A client that does what the stage's port is for."""
    if stage.tls is None:
        return sock
    sock.setblocking(False)
    return tls_ends.TLSSocket(sock, turn)


def run_turn(stage: Stage) -> None:
    """One round of `Pump.run`."""
    turn = stage.pump._turn
    over = False

    def once() -> None:
        nonlocal over
        if over:
            raise EndOfTest
        over = True
        turn()
        for hand in stage.hands:
            hand.work()

    stage.pump._turn = once  # type: ignore[method-assign]
    try:
        stage.pump.run()
    except EndOfTest:
        pass
    finally:
        del stage.pump._turn


class EndOfTest(BaseException):
    pass


def test_a_request_whose_handing_over_failed_is_handed_over_soon(monkeypatch: pytest.MonkeyPatch):
    """Though nothing else comes for its pool."""
    with Stage() as stage:
        stage.hand(answers=True)
        dispatcher = stage.pump.pools.dispatcher
        monkeypatch.setattr(dispatcher, "_hand_over", once := Once(dispatcher._hand_over))
        client = stage.client()
        client.send(get("/"))
        stage.settle()
        assert once.failed
        stage.later(1)
        assert client.answer().status == 200


def test_an_error_on_one_connection_does_not_lose_the_events_of_others(monkeypatch: pytest.MonkeyPatch):
    """Events are told once: those behind the one that failed are handled all the same."""
    with Stage() as stage:
        stage.hand(answers=True)
        clients = [stage.client() for _ in range(5)]
        for client in clients:
            client.ask("/")
        monkeypatch.setattr(loop, "cut_cookie", Once(cut_cookie))
        stage.pump.leases.known[0].uncookied[b"something"] = object()  # type: ignore[assignment]
        for client in clients:
            client.sock.send(get("/", "Cookie: a"))
        stage.settle()
        statuses = [client.answer().status for client in clients if not (client.receive(), client.over)[1]]
        assert statuses == [200] * 4
        stage.pump.leases.known[0].uncookied.clear()


@pytest.mark.parametrize("over_tls", [False, True])
def test_a_close_that_fails_lets_go_of_the_socket(over_tls: bool, monkeypatch: pytest.MonkeyPatch):
    """A connection whose end fails too is not kept for ever. (With TLS what fails is the handshake.)"""
    with Stage(tls=tls_ends.certificates() if over_tls else None) as stage:
        client = stage.client()
        [conn] = stage.pump.connections.values()
        monkeypatch.setattr(Connection, "move", Once(Connection.move))
        monkeypatch.setattr(stage.pump.endings, "reset", Once(stage.pump.endings.reset))
        stage.pump.drive(conn)
        client.send(b"nonsense\r\n\r\n")
        client.rest()
        assert not stage.pump.connections


def test_the_same_error_is_logged_once_a_second(capfd: pytest.CaptureFixture[str]):
    """What fails in every turn does not fill the disk; how often it failed is said."""
    with Stage() as stage:
        for _ in range(1000):
            stage.pump.errors.report("always the same")
        stage.pump.errors.report("another")
        err = capfd.readouterr().err
        assert err.count("always the same") == 1
        assert err.count("another") == 1
        stage.pump.errors._logged["always the same"] = (0.0, 999)
        stage.pump.errors.report("always the same")
        assert "999 times more" in capfd.readouterr().err


# --- a stop ----------------------------------------------------------------------------------------


def test_at_a_stop_late_clients_are_refused_and_early_ones_served():
    """The pump closes its copies of the listening sockets; the parent has closed its own before."""
    with Stage() as stage:
        stage.hand(answers=True)
        address = stage.listener.getsockname()
        sock = connected(address)
        stage.listener.close()
        stage.pump.draining.begin(30)
        with pytest.raises(ConnectionRefusedError):
            connected(address)
        early = speaking(sock, stage, stage.turn)
        early.sendall(get("/early"))
        stage.settle()
        assert b"GET /early" in early.recv(1000)
        early.close()


@pytest.mark.parametrize("before", [True, False])
def test_connections_that_linger_do_not_delay_a_stop(before: bool):
    """One that has its response and does not close is waited for half a second, not linger_timeout."""
    with Stage(access_logfile=None, linger_timeout=60) as stage:
        client = stage.client()
        if before:
            client.send(b"nonsense\r\n\r\n")
            stage.pump.draining.begin(30)
        else:
            client.send(b"GET / HT")
            stage.pump.draining.begin(30)
            client.send(b"nonsense\r\n\r\n")
        assert client.answer().status == 400
        stage.later(1.5)
        assert stage.pump.draining.is_over()


def test_a_paused_acceptor_stops_as_well():
    """A stop during a shortage of descriptors: no listening socket is left open."""
    with Stage() as stage:
        stage.pump.acceptor._out_of_room("Too many open files")
        stage.pump.draining.begin(30)
        assert all(listener.socket.fileno() == -1 for listener in stage.plan.listeners)
        assert stage.pump.draining.is_over()


def test_close_reasons_of_a_stop():
    """An idle connection is closed in good order."""
    with Stage(access_logfile="-") as stage:
        stage.hand(answers=True)
        client = stage.client()
        client.ask("/")
        stage.pump.draining.begin(30)
        assert client.rest() == b""
        assert client.ended
        assert stage.reasons() == [CloseReason.KEPT]
