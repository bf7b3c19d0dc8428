"""TLS handshakes whose clients stop in the middle: how many there may be, and who has to wait or to go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from halfsync.pump.states import HANDSHAKE
from halfsync.pump.tls.half_open import SILENCE, HalfOpen
from halfsync.pump.tls.handshakes import MAX_BUFFERED
from halfsync.pump.tls.transport import TLSTransport
from halfsync.wire.closes import CloseReason
from tests.pump.harness import Client, Stage, get
from tests.pump.test_tls import Raw, hello
from tests.pump.tls_ends import certificates

MOST = 3


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage(tls=certificates(), handshake_timeout=10.0, max_handshakes=MOST) as stage:
        stage.hand(answers=True)
        yield stage


def half_open(stage: Stage) -> Raw:
    """A client that has sent its ClientHello, and says no more."""
    raw = Raw(stage)
    raw.send(hello())
    return raw


def held(stage: Stage) -> int:
    """Handshakes that OpenSSL holds memory for."""
    return sum(
        isinstance(conn.transport, TLSTransport) and conn.transport.has_begun and conn.state is HANDSHAKE
        for conn in stage.pump.connections.values()
    )


def book(stage: Stage) -> HalfOpen:
    return stage.pump.handshakes.half_open


def closes(stage: Stage) -> dict[int, int]:
    return stage.pump.endings.counts.closes


def test_no_more_than_the_setting_says_are_begun(stage: Stage):
    raws = [half_open(stage) for _ in range(3 * MOST)]
    assert held(stage) == MOST
    assert len(stage.pump.connections) == len(raws)


def test_who_waits_goes_on_when_another_has_shaken_hands(stage: Stage):
    """Or has left: in their order."""
    first, *_ = [half_open(stage) for _ in range(MOST)]
    waiting = [half_open(stage) for _ in range(2)]
    assert [len(book(stage).begun), len(book(stage).waiting)] == [MOST, 2]
    first.sock.close()
    stage.until(lambda: len(book(stage).waiting) == 1, "the first to go on")
    stage.settle()
    assert waiting[0].sock.recv(1) == b"\x16"
    with pytest.raises(BlockingIOError):
        waiting[1].sock.recv(1)


def test_who_says_nothing_for_long_is_ended_if_others_wait(stage: Stage, capfd: Any):
    """The oldest first; log and count of closes name the reason, and a client that goes on is served."""
    raws = [half_open(stage) for _ in range(MOST)]
    stage.later(2 * SILENCE)
    assert held(stage) == MOST  # nobody waits
    client = Client(stage)  # (Stage.client waits until the connections are more)
    stage.clients.append(client)
    stage.until(lambda: closes(stage), "one to be closed")
    plain = [getattr(conn.transport, "plain", conn.transport) for conn in stage.pump.connections.values()]
    client.sock.find_peer(plain)
    assert client.ask(get("/x")).body == b"GET /x HTTP/1.1\n"
    assert closes(stage) == {int(CloseReason.HANDSHAKES_FULL): 1}
    assert raws[0].rest()[:1] == b"\x16"
    assert "max_handshakes" in capfd.readouterr().err


def test_who_is_not_slow_is_not_ended(stage: Stage):
    """One that comes when there is no room waits until the others have had their time."""
    for _ in range(MOST):
        half_open(stage)
    late = half_open(stage)
    stage.later(SILENCE / 2)
    assert not closes(stage)
    with pytest.raises(BlockingIOError):
        late.sock.recv(1)
    stage.later(SILENCE)
    assert closes(stage) == {int(CloseReason.HANDSHAKES_FULL): 1}
    assert late.sock.recv(1) == b"\x16"


def test_those_that_are_over_do_not_count(stage: Stage):
    """Done, refused, left, or timed out."""
    for _ in range(2 * MOST):
        assert stage.client().ask(get("/x")).status == 200
    for _ in range(2 * MOST):
        Raw(stage).send(b"\x16\x03\x01\x00\x05\x02\0\0\0\0")
    for _ in range(2 * MOST):
        half_open(stage).sock.close()
        stage.until(lambda: not book(stage).begun, "it to be forgotten")
    for _ in range(2 * MOST):
        half_open(stage)
    stage.later(12)
    assert not book(stage).begun
    assert not book(stage).waiting
    assert int(CloseReason.HANDSHAKE_TIMEOUT) in closes(stage)


def test_who_waits_may_leave_and_must_not_send_without_end(stage: Stage):
    for _ in range(MOST):
        half_open(stage)
    leaving, sending = half_open(stage), half_open(stage)
    leaving.sock.close()
    stage.until(lambda: len(book(stage).waiting) == 1, "one to leave")
    sending.sock.setblocking(True)
    sending.sock.sendall(bytes(MAX_BUFFERED))
    stage.until(lambda: not book(stage).waiting, "the other one to be closed")
    assert closes(stage) == {
        int(CloseReason.CLIENT_DISCONNECTED): 1,
        int(CloseReason.HANDSHAKE_FAILED): 1,
    }


def test_a_higher_limit_counts_at_once(stage: Stage):
    for _ in range(2 * MOST):
        half_open(stage)
    book(stage).most = 2 * MOST
    stage.later(0.5)
    assert held(stage) == 2 * MOST
