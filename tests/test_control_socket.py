"""The control socket, and clients that do not keep to it: with real sockets, and a clock of the test's."""

from __future__ import annotations

import contextlib
import json
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from halfsync.parent.service.control_socket import (
    CROWDED,
    MOST_CLIENTS,
    MOST_UNREAD,
    SILENT,
    ControlClient,
    ControlSocket,
)
from halfsync.wire.control import MAX_LINE, done


class Stage:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.control = ControlSocket(str(path), 0o600)
        self.opened: list[socket.socket] = []
        self.now = 1000.0

    def client(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(60)
        made.connect(str(self.path))
        self.opened.append(made)
        return made

    def turn(self) -> list[tuple[ControlClient, bytes]]:
        self.control.receive(self.now)
        found = list(self.control.requests())
        self.control.flush(self.now)
        return found

    def wakes(self) -> bool:
        """Whether the parent's loop would go on at once."""
        poller = select.poll()
        self.control.register(poller, self.now)
        return bool(poller.poll(0))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path / "control")
    yield made
    for one in made.opened:
        one.close()
    made.control.close()


@pytest.mark.parametrize("how", ["closes", "says no more", "says much, and closes"])
def test_who_goes_while_his_command_is_carried_out_keeps_nobody_busy(stage, how):
    """As with Ctrl-C in a `halfsyncctl reload`: a reload may take minutes."""
    client = stage.client()
    client.sendall(b"reload\n" + (b"x" * 200_000 if how.startswith("says much") else b""))
    [(served, line)] = stage.turn()
    assert line == b"reload"
    served.is_waiting = True
    if how == "says no more":
        client.shutdown(socket.SHUT_WR)
    else:
        client.close()
    for _ in range(10):
        stage.turn()
    assert not stage.wakes()
    served.is_waiting = False
    served.say(done())
    stage.turn()
    if how == "says no more":
        assert json.loads(client.recv(100)) == {"ok": True}
    assert stage.control.clients == [] or len(served.inbox) > 0


def test_what_a_client_says_meanwhile_is_bounded(stage):
    client = stage.client()
    client.sendall(b"reload\n")
    [(served, _)] = stage.turn()
    served.is_waiting = True
    client.setblocking(False)
    for _ in range(200):
        try:
            client.send(b"status\n" * 1000)
        except BlockingIOError:
            pass
        stage.turn()
    assert len(served.inbox) <= 3 * MAX_LINE
    served.is_waiting = False
    assert len(stage.turn()) > 1000


def test_the_last_line_needs_no_end(stage):
    client = stage.client()
    client.sendall(b"first\nlast")
    client.shutdown(socket.SHUT_WR)
    lines = [line for _ in range(3) for _, line in stage.turn()]
    assert lines == [b"first", b"last"]
    assert stage.control.clients == []


def test_silent_clients_give_way_when_there_are_too_many(stage):
    silent = [stage.client() for _ in range(MOST_CLIENTS - 1)]
    stage.turn()
    stage.now += CROWDED + 1
    stage.turn()
    assert len(stage.control.clients) == len(silent)
    last, more = stage.client(), stage.client()
    stage.turn()
    stage.turn()
    assert len(stage.control.clients) == 2  # as soon as there are too many
    stage.now += SILENT + 1
    more.sendall(b"status\n")
    assert [line for _, line in stage.turn()] == [b"status"]
    assert len(stage.control.clients) == 1
    assert last.recv(10) == b""


def test_what_is_kept_for_who_never_reads_is_bounded(stage):
    client = stage.client()
    client.setblocking(False)
    sent, responses = 0, 0
    for _ in range(300):
        with contextlib.suppress(BlockingIOError):
            sent += client.send(b"dance\n" * 1000)
        stage.control.receive(stage.now)
        for served, _line in stage.control.requests():
            served.say(done(text="x" * 100))
            responses += 1
        stage.control.flush(stage.now)
    [served] = stage.control.clients
    assert len(served.outbox) < 2 * MOST_UNREAD
    assert len(served.inbox) <= MAX_LINE + 64 * 1024
    assert not stage.wakes()
    client.settimeout(60)
    while responses < sent // len("dance\n"):  # once he reads, the rest is carried out, with no word from him
        client.recv(1 << 20)
        assert stage.wakes()
        stage.control.receive(stage.now)
        for served, _line in stage.control.requests():
            served.say(done(text="x" * 100))
            responses += 1
        stage.control.flush(stage.now)
    client.close()


def test_who_never_reads_is_sent_away(stage):
    client = stage.client()
    client.sendall(b"dance\n")
    for _ in range(50):
        for served, _line in stage.turn():
            served.say(done(text="x" * 500_000))
        stage.control.flush(stage.now)
    stage.now += SILENT + 1
    stage.turn()
    assert stage.control.clients == []
