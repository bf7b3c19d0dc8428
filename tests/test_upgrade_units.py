"""What two versions say to each other, as far as it does not need both of them."""

from __future__ import annotations

import os
import socket

import msgspec
import pytest

from halfsync.parent import predecessor
from halfsync.parent.signals import TWICE, Doubles
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
