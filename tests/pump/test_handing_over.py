"""At an upgrade, connections that are between two requests go from one pump to another."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from halfsync import channel
from halfsync.pump.handing_over import HandingOver
from halfsync.pump.states import IDLE
from halfsync.pump.taking_over import TakingOver
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import Task
from halfsync.wire.upgrade import PASSED_AT_ONCE
from tests.pump.harness import Client, Hand, Stage, get, transport

pytestmark = pytest.mark.skipif(transport() != "plain", reason="only plain sockets are handed over")


def saying(name: bytes) -> Callable[[Hand, Task], None]:
    return lambda hand, task: hand.reply(task, name)


@contextlib.contextmanager
def two() -> Iterator[tuple[Stage, Stage]]:
    """Of an old and of a new server; each says who it is."""
    with Stage() as old, Stage() as new:
        for stage, name in ((old, b"old"), (new, b"new")):
            stage.handler = saying(name)
            stage.hand(answers=True)
        yield old, new


@contextlib.contextmanager
def a_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = channel.pair()
    with ours, theirs:
        yield ours, theirs


def begin(old: Stage, sock: socket.socket) -> None:
    pump = old.pump
    pump.draining.begin(30.0, HandingOver(sock, [0], pump.passable, pump.poller))
    old.helpers.append(lambda: int(pump.draining.is_over()) * 0)  # which is what `run` does before each turn


def take(new: Stage, sock: socket.socket) -> None:
    new.pump.draining.taking_over = TakingOver(sock, {0: 0}, new.pump.acceptor, new.pump.poller)
    new.settle()


def kept(stage: Stage, count: int) -> list[Client]:
    """Clients that have had a response."""
    clients = [stage.client() for _ in range(count)]
    for client in clients:
        assert client.ask("/").body == b"old"
    return clients


def test_each_connection_is_in_one_pump_also_when_the_other_one_is_slow():
    """The channel has room for a few packets. Who is left is served by the old pump meanwhile."""
    with two() as (old, new), a_pair() as (ours, theirs):
        clients = kept(old, 8 * PASSED_AT_ONCE)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel's least
        begin(old, ours)
        old.settle()
        left = len(old.pump.connections)
        assert 0 < left < len(clients)
        assert old.pump.connections[min(old.pump.connections)].state.name == "IDLE"
        take(new, theirs)
        for _ in range(1000):
            old.settle()
            new.settle()
            if not old.pump.connections:
                break
        assert not old.pump.connections
        assert len(new.pump.connections) == len(clients)
        for client in clients:
            client.stage = new
            assert client.ask("/").body == b"new"
        assert old.pump.draining.is_over()


def test_what_a_client_has_sent_so_far_goes_with_it():
    with two() as (old, new), a_pair() as (ours, theirs):
        (half,) = kept(old, 1)
        fresh = old.client()
        half.send(get("/half")[:20])
        fresh.send(get("/fresh")[:7])
        deadlines = sorted(conn.deadline for conn in old.pump.connections.values())
        begin(old, ours)
        old.settle()
        take(new, theirs)
        assert sorted(conn.deadline for conn in new.pump.connections.values()) == deadlines
        for client, rest in ((half, get("/half")[20:]), (fresh, get("/fresh")[7:])):
            client.stage = new
            client.send(rest)
            assert client.answer().body == b"new"


def test_a_number_that_is_used_again_in_the_same_turn():
    """A connection of the new pump closes, its descriptor's number goes to a client that is passed on, and
    behind that comes an event that was meant for the former one."""
    gc.collect()  # what earlier tests have left in circles is not to set a lower number free meanwhile
    with two() as (old, new), a_pair() as (ours, theirs):
        (passed,) = kept(old, 1)
        former = new.client()
        assert former.ask("/").body == b"new"
        [conn] = new.pump.connections.values()
        first = os.eventfd(0, os.EFD_NONBLOCK)

        def close(_mask: int) -> None:
            new.pump.poller.forget(first)
            os.close(first)
            new.pump.endings.close(conn, CloseReason.INTERNAL_ERROR)

        new.pump.poller.watch(first, close)
        new.pump.draining.taking_over = TakingOver(theirs, {0: 0}, new.pump.acceptor, new.pump.poller)
        os.eventfd_write(first, 1)  # the kernel tells of events in the order in which they came
        begin(old, ours)
        old.settle()
        former.sock.shutdown(socket.SHUT_WR)
        taken = [os.open(os.devnull, os.O_RDONLY)]
        while taken[-1] < conn.fd:  # so that its number is the next one to be had
            taken.append(os.open(os.devnull, os.O_RDONLY))
        new.settle()
        channel.close_all(taken)
        [number] = new.pump.connections
        assert number == conn.fd
        assert new.pump.connections[number].state is IDLE
        passed.stage = new
        assert passed.ask("/").body == b"new"


def test_if_the_other_pump_is_gone_connections_end_as_at_a_stop():
    with two() as (old, _), a_pair() as (ours, theirs):
        idle, busy = kept(old, 2)
        held: list[tuple[Hand, Task]] = []
        old.handler = lambda hand, task: held.append((hand, task))
        busy.send(get("/busy"))
        old.until(lambda: held)
        theirs.close()
        begin(old, ours)
        assert idle.rest() == b""
        hand, task = held[0]
        hand.reply(task, b"late")
        answer = busy.answer()
        assert (answer.body, answer.closes) == (b"late", True)
