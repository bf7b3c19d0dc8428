"""What two versions say to each other, as far as it does not need both of them."""

from __future__ import annotations

import os
import signal
import socket
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from halfsync import channel
from halfsync.parent.service.systemd import Notifier
from halfsync.parent.signals import TWICE, Doubles
from halfsync.parent.upgrade import predecessor
from halfsync.parent.upgrade.probes import SECONDS, NotServed, Probes
from halfsync.parent.upgrade.upgrades import Holdings, Stage, Upgrades
from halfsync.parent.workers.children import NEVER
from halfsync.parent.workers.reaping import UnknownChildren
from halfsync.settings.errors import SettingError
from halfsync.settings.probes import MOST, probes_of
from halfsync.wire import upgrade


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch):
    """The old version's end, and the environment of the new one."""
    monkeypatch.setattr(predecessor, "_current", None)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        yield ours, {upgrade.VARIABLE: str(theirs.detach())}


def test_versions_that_do_not_understand_each_other(ends):
    ours, environment = ends
    ours.send(upgrade.encode(upgrade.Inherited(upgrade.VERSION + 1)))
    with pytest.raises(SystemExit):
        predecessor.find(environment)
    said = upgrade.decode_from_new(ours.recv(65536))
    assert isinstance(said, upgrade.CantStart)
    assert said.sentences == ["the two versions do not understand each other: restart the server instead."]
    predecessor.current()._sock.close()  # type: ignore[union-attr]


def test_what_a_later_version_adds_is_skipped(ends):
    ours, environment = ends
    told = msgspec.msgpack.decode(upgrade.encode(upgrade.Inherited(upgrade.VERSION)))
    ours.send(upgrade.encode({**told, "later": [1]}))
    predecessor.find(environment)
    found = predecessor.current()
    assert found is not None
    assert found.version == upgrade.VERSION
    assert upgrade.VARIABLE not in environment
    found._sock.close()


def test_a_variable_that_no_server_has_set_is_ignored(ends, capfd):
    for number in ("4711", "x", str(os.open("/dev/null", os.O_RDONLY))):
        predecessor.find({upgrade.VARIABLE: number})
        assert predecessor.current() is None
    os.close(int(number))
    assert "HALFSYNC_UPGRADES is set, but not by a running server" in capfd.readouterr().err
    os.close(int(ends[1][upgrade.VARIABLE]))


def test_a_signal_to_the_whole_group_is_one():
    """Directly, and passed on by the process that stays; but a second one is a second one."""
    doubles = Doubles()
    assert not doubles.is_one(15, 0.0, passed_on=False)
    assert doubles.is_one(15, 0.1, passed_on=True)
    assert not doubles.is_one(15, 0.2, passed_on=False)
    assert not doubles.is_one(15, 0.3, passed_on=False)
    assert not doubles.is_one(15, 0.3 + TWICE, passed_on=True)
    assert not doubles.is_one(2, 0.0, passed_on=True)
    assert not doubles.is_one(2, 0.1, passed_on=True)


def test_of_a_new_version_whose_channel_ends_with_it_nothing_is_left_to_do():
    """A process that it was forking may hold its end of the channel a moment longer than it lives."""
    tree: Any = SimpleNamespace(is_upgrading=True)
    reloads: Any = SimpleNamespace(go_on=lambda: None)
    no_file: Any = None
    upgrades = Upgrades(
        tree, reloads, UnknownChildren(), Notifier(), None, Holdings(), no_file, lambda _places, _fd: None
    )
    ours, theirs = channel.pair()
    ours.setblocking(False)
    upgrades._stage, upgrades._sock, upgrades.process = Stage.STARTING, ours, 4711
    theirs.close()
    upgrades._ended(signal.SIGKILL, 10.0)
    assert upgrades.due == NEVER
    assert upgrades.failure == "The new version, process 4711, was killed by SIGKILL before it was ready."
    assert not upgrades.is_under_way


# --- upgrade_probe -----------------------------------------------------------------------------------


class StandIn:
    """In place of a pump: `accepted` are the connections that it was handed."""

    def __init__(self) -> None:
        self.accepted: list[socket.socket] = []

    def order(self, _: object, descriptors: tuple[int, ...]) -> None:
        with socket.socket(fileno=descriptors[0]) as passed:
            received = channel.receive(passed)
        assert received is not None
        packet, descriptors_of_clients = received
        assert {(one.state, one.client) for one in upgrade.decode_passed(packet)} == {("FRESH", "127.0.0.1")}
        self.accepted = [socket.socket(fileno=descriptor) for descriptor in descriptors_of_clients]


class Probing:
    def __init__(self, *texts: str) -> None:
        site = SimpleNamespace(hosts=(), is_health=False)
        listener = SimpleNamespace(is_removed=False, scheme="http", port=80, sites=(0,))
        settings = SimpleNamespace(upgrade_probe=list(texts), redirect_http=False)
        self._plan: Any = SimpleNamespace(
            settings=settings, listeners=[listener], sites=[site], is_for_health=lambda _: False
        )
        self.pump = StandIn()
        self._probes = Probes()

    def are_over(self, now: float = 0.0) -> bool:
        return self._probes.are_over(self._plan, cast(Any, self.pump), now)

    def close(self) -> None:
        self._probes._close()
        for one in self.pump.accepted:
            one.close()


@pytest.fixture
def probing():
    made = Probing("/one", "shop.example:8000/two?x=1")
    yield made
    made.close()


def test_probes_are_over_when_each_has_a_final_response(probing):
    assert not probing.are_over()
    first, second = probing.pump.accepted
    assert first.recv(65536).startswith(b"GET /one HTTP/1.1\r\nHost: localhost\r\n")
    assert second.recv(65536).startswith(b"GET /two?x=1 HTTP/1.1\r\nHost: shop.example:8000\r\n")
    for piece in (b"HTTP/1.1 103 Early", b" Hints\r\nLink: </a>\r\n\r", b"\nHTTP/1.1 2"):
        first.send(piece)
        assert not probing.are_over()
    first.send(b"00 OK\r\n\r\n")
    assert not probing.are_over()
    second.send(b"HTTP/1.1 399 \r\n\r\n")
    assert probing.are_over(SECONDS + 1)
    assert probing.are_over()


@pytest.mark.parametrize(
    ("response", "sentence"),
    [
        (b"HTTP/1.1 400 x\r\n\r\n", r"GET /one of localhost got 400 Bad Request; 200 to 399 would be right"),
        (b"HTTP/1.1 599 x\r\n\r\n", r"GET /one of localhost got 599; 200 to 399 would be right"),
        (b"", r"GET /one of localhost got no response: its connection was closed \(upgrade_probe\)"),
        (b"HTTP/1.1 2", r"got no response"),
        (b"x" * 300_000, r"got what is no response"),
    ],
)
def test_a_probe_that_fails_is_told_in_a_sentence(probing, response, sentence):
    assert not probing.are_over()
    first = probing.pump.accepted[0]
    first.setblocking(False)
    with pytest.raises(NotServed, match=sentence):  # noqa: PT012 (what does not fit is sent later)
        while response:
            response = response[first.send(response) :]
            probing.are_over()
        first.close()
        probing.are_over()


def test_probes_have_a_time(probing):
    assert not probing.are_over(1.0)
    assert not probing.are_over(SECONDS)
    with pytest.raises(NotServed, match=r"GET /one of localhost was not responded to within 20 s"):
        probing.are_over(SECONDS + 1)


def test_without_probes_there_is_nothing_to_wait_for():
    assert Probing().are_over()


@pytest.mark.parametrize(
    "text", ["healthz", "http://a/healthz", "a b/x", "/a b", "/ü", "/a#b", "", "a:b/x", "//\n"]
)
def test_what_is_no_path_is_told_in_a_sentence(text):
    with pytest.raises(SettingError, match="is no path such as /healthz"):
        probes_of(["/right", text])


def test_there_are_so_many_probes_at_most():
    assert len(probes_of(["[::1]:8000/a"] * MOST)) == MOST
    with pytest.raises(SettingError, match="16 paths at most, not 17"):
        probes_of(["/a"] * (MOST + 1))
