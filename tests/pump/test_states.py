"""The tables of states: nothing but what they say, and all that they say, happens to real connections.

`SCENARIOS` names for each transition, of a connection or an exchange, a piece of real traffic that takes it.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from halfsync.objects import Memory, Tunnel
from halfsync.pump.bodies.stream import BodyStream
from halfsync.pump.connection import Connection, Exchange
from halfsync.pump.descriptors import Descriptor
from halfsync.pump.states import (
    BODY_TABLE,
    CONNECTION_TABLE,
    EXCHANGE_TABLE,
    TUNNEL_TABLE,
    BodyEvent,
    BodyState,
    ConnectionEvent,
    ConnectionState,
    ExchangeEvent,
    ExchangeState,
    TunnelEvent,
    TunnelState,
)
from halfsync.pump.tunnel_ends import TunnelEnds
from halfsync.tls.certificates import Certificates
from halfsync.wire.blocks import BLOCK_SIZE
from halfsync.wire.messages import Ending, Lease, Task
from tests.pump.harness import Client, Stage, get, skip_with_records, skip_with_single_bytes
from tests.pump.tls_ends import TLSSocket, certificates, site
from tests.wire.http2_frames import PREFACE, settings

S, E = ConnectionState, ConnectionEvent
X, V = ExchangeState, ExchangeEvent
B, W = BodyState, BodyEvent

T, U = TunnelState, TunnelEvent

State = ConnectionState | ExchangeState | BodyState | TunnelState
Event = ConnectionEvent | ExchangeEvent | BodyEvent | TunnelEvent

BAD = b"nonsense\r\n\r\n"
UPLOAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe"
TRANSITIONS: list[tuple[State, Event]] = [
    *((s, e) for s in S for e in E if CONNECTION_TABLE[s][e] is not None),
    *((x, v) for x in X for v in V if EXCHANGE_TABLE[x][v] is not None),
    *((t, u) for t in T for u in U if TUNNEL_TABLE[t][u] is not None),
    *((b, w) for b in B for w in W if BODY_TABLE[b][w] is not None),
]


class Tape:
    """What all connections of a stage went through."""

    def __init__(self) -> None:
        self.moves: list[str] = []


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> Tape:
    tape = Tape()
    record(tape, Connection, CONNECTION_TABLE, E, monkeypatch)
    record(tape, Exchange, EXCHANGE_TABLE, V, monkeypatch)
    record(tape, BodyStream, BODY_TABLE, W, monkeypatch)
    record(tape, TunnelEnds, TUNNEL_TABLE, U, monkeypatch)
    return tape


def record(tape: Tape, kind: Any, table: Any, event_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each transition, whether `move` makes it or a fast path writes the state that it leads to."""
    plain = kind.__setattr__

    def recorded(one: Any, name: str, value: Any) -> None:
        before = getattr(one, "state", None)
        if name == "state" and before is not None:
            events = [event for event, after in enumerate(table[before]) if after is value]
            tape.moves += [named(before, event_of(event)) for event in events]
        plain(one, name, value)

    monkeypatch.setattr(kind, "__setattr__", recorded)


# --- before the state in question -----------------------------------------------------------------


def fresh(stage: Stage) -> Client:
    client = stage.client()
    stage.settle()  # with TLS, the client's part of the handshake was the last
    return client


def connected(stage: Stage) -> Client:
    """To a socket for https."""
    return stage.client(in_clear=True)


def connected_without_certificate(stage: Stage) -> Client:
    """The same, where clients are to have one."""
    return connected(stage)


def idle(stage: Stage) -> Client:
    """Kept after a response, by a worker that is dead by now."""
    client = stage.client()
    hand = stage.hand()
    client.send(get())
    hand.reply(hand.take())
    client.answer()
    hand.die()
    return client


def in_head(stage: Stage) -> Client:
    client = stage.client()
    client.send(get()[:5])
    return client


def in_an_empty_line(stage: Stage) -> Client:
    client = idle(stage)
    client.send(b"\r")
    return client


def in_preface(stage: Stage) -> Client:
    client = stage.client()
    client.send(PREFACE[:9])
    return client


def multiplexed(stage: Stage) -> Client:
    client = stage.client()
    client.send(PREFACE + settings())
    return client


def it_breaks_the_protocol(stage: Stage, client: Client) -> None:
    client.send(bytes(9))


def in_body(stage: Stage) -> Client:
    client = stage.client()
    client.send(UPLOAD)
    return client


def queued(stage: Stage) -> Client:
    client = stage.client()
    client.send(get())
    return client


def working(stage: Stage) -> Client:
    hand = stage.hand()
    client = queued(stage)
    hand.take()
    return client


def lingering(stage: Stage) -> Client:
    client = stage.client()
    client.send(BAD)
    return client


def unread(stage: Stage) -> Client:
    """A worker has the request, and does not read its body."""
    client = stage.client()
    client.send(UPLOAD)
    stage.hand().take()
    return client


def awaited(stage: Stage) -> Client:
    """It waits for the rest."""
    client = unread(stage)
    stage.hands[-1].ask(its_task(stage))
    return client


def offered(stage: Stage) -> Client:
    """It has got one byte more, and not taken it."""
    client = awaited(stage)
    client.send(b"l")
    return client


def offered_of_a_large_body(stage: Stage) -> Client:
    """The same, and the body has more than a block to come."""
    client = stage.client()
    client.send(UPLOAD.replace(b"Length: 5", b"Length: %d" % (2 * BLOCK_SIZE)))
    stage.hand().take()
    stage.hands[-1].ask(its_task(stage))
    client.send(b"l")
    return client


UPGRADE = get("/", "Connection: Upgrade", "Upgrade: echo")


def upgrades(stage: Stage, client: Any) -> None:
    """A client that is connected to a socket, whose other end it has as `peer`."""
    hand = stage.hand()
    client.send(UPGRADE)
    client.peer, theirs = socket.socketpair()
    client.peer.setblocking(False)
    stage._undo.callback(client.peer.close)
    hand.reply(hand.take(), status=101, objects=[Tunnel(0)], fds=(theirs.detach(),), length=-1)
    assert client.interim().status == 101


def tunnel(stage: Stage) -> Client:
    client = stage.client()
    upgrades(stage, client)
    return client


def client_has_ended(stage: Stage) -> Client:
    client = tunnel(stage)
    client.finish()
    return client


def peer_has_ended(stage: Stage) -> Client:
    client = tunnel(stage)
    peer_ends(stage, client)
    return client


def peer_ends(stage: Stage, client: Any) -> None:
    client.peer.shutdown(socket.SHUT_WR)
    stage.settle()


def its_task(stage: Stage) -> Task:
    return next(one for packet in stage.hands[-1].packets for one in packet if isinstance(one, Task))


# --- what happens then ----------------------------------------------------------------------------


def sends(data: bytes) -> Callable[[Stage, Client], None]:
    return lambda _stage, client: client.send(data)


def leaves(stage: Stage, client: Client) -> None:
    client.leave()
    stage.until(lambda: not stage.pump.connections)


def shakes_hands(stage: Stage, client: Client) -> None:
    client.sock = TLSSocket(client.sock, stage.turn)
    stage.settle()


def a_worker_comes(stage: Stage, _client: Client) -> None:
    stage.hand()


def a_worker_dies(stage: Stage, _client: Client) -> None:
    stage.hands[-1].die()


def a_worker_ends_without_an_answer(stage: Stage, _client: Client) -> None:
    hand = stage.hands[-1]
    task = next(message for packet in hand.packets for message in packet)
    hand.part(task, ending=Ending.ABORTED)  # type: ignore[arg-type]


def it_takes_too_long(stage: Stage, _client: Client) -> None:
    stage.later(40)


def a_worker_answers(
    stage: Stage, client: Client, version: str = "1.1", ending: Ending = Ending.DONE
) -> None:
    hand = stage.hand()
    client.send(get(version=version))
    task = hand.take()
    hand.reply(task, b"a", length=2, ending=Ending.UNFINISHED)
    hand.part(task, Memory(b"b"), ending=ending)


def it_is_the_last_answer(stage: Stage, client: Client) -> None:
    client.send(get("/", "Connection: close"))
    hand = stage.hand()
    hand.reply(hand.take(), b"a")


def a_worker_pauses(stage: Stage, client: Client) -> None:
    hand = stage.hand()
    client.send(get())
    hand.reply(hand.take(), b"a", length=2, ending=Ending.UNFINISHED)


def a_worker_goes_on(stage: Stage, client: Client) -> None:
    a_worker_answers(stage, client)


def it_leaves_while_a_worker_pauses(stage: Stage, client: Client) -> None:
    a_worker_pauses(stage, client)
    leaves(stage, client)


def it_has_sent_two_requests(stage: Stage, client: Client) -> None:
    hand = stage.hand()
    client.send(get("/1") + get("/2"))
    hand.reply(hand.take())


def its_answer_is_aborted(stage: Stage, client: Client) -> None:
    a_worker_answers(stage, client, ending=Ending.ABORTED)


def a_lease_answers(stage: Stage, client: Client) -> None:
    """The hot path: the table says that it leaves the state alone, so it does not ask the table."""
    hand = stage.hand()
    client.send(get())
    hand.reply(hand.take(), b"leased", lease=Lease(10, ()))
    client.send(get())
    before = [conn.state for conn in stage.pump.connections.values()]
    client.send(get())
    assert before == [conn.state for conn in stage.pump.connections.values()] == [S.IDLE]
    assert not hand.tasks
    assert [client.answer().body for _ in range(3)] == [b"leased"] * 3


Before = Callable[[Stage], Client]
Then = Callable[[Stage, Client], None]


def named(state: State, event: Event) -> str:
    """(The members of two IntEnums are equal if their numbers are; so they can't be keys by themselves.)"""
    return f"{type(state).__name__}.{state.name}-{event.name}"


def it_leaves_before_its_body_is_whole(stage: Stage, client: Client) -> None:
    leaves(stage, client)


def it_leaves_before_it_has_taken_all(stage: Stage, _client: Client) -> None:
    client = stage.client(rcvbuf=8192)
    hand = stage.hand()
    client.send(get())
    task = hand.take()
    hand.reply(task, length=3_000_000, ending=Ending.UNFINISHED)
    for _ in range(30):
        hand.part(task, Memory(bytes(100_000)))
    client.leave()
    stage.until(lambda: len(stage.pump.connections) == 1)


def it_is_read(stage: Stage, _client: Client) -> None:
    stage.hands[-1].ask(its_task(stage))


def it_is_taken(stage: Stage, _client: Client) -> None:
    stage.hands[-1].ask(its_task(stage), 1)


def it_is_not_read(stage: Stage, client: Client) -> None:
    stage.hands[-1].reply(its_task(stage), b"enough")
    assert client.answer().closes


def it_comes_whole_before_a_worker_has_it(_stage: Stage, client: Client) -> None:
    client.send(UPLOAD)
    client.send(b"llo")


def client_ends(_stage: Stage, client: Client) -> None:
    client.finish()


def peer_closes(stage: Stage, client: Any) -> None:
    client.peer.close()
    stage.settle()


def it_asks_for_what_is_not_there(stage: Stage, client: Client) -> None:
    client.send(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")


SCENARIOS: dict[str, tuple[Before, Then]] = {
    named(S.HANDSHAKE, E.PREPARED): (connected, shakes_hands),
    named(S.HANDSHAKE, E.ENDED_LAST): (connected_without_certificate, shakes_hands),
    named(S.HANDSHAKE, E.CLOSE): (connected, leaves),
    named(S.FRESH, E.PART_OF_HEAD): (fresh, sends(get()[:5])),
    named(S.FRESH, E.EXCHANGE_BEGAN): (fresh, sends(get())),
    named(S.FRESH, E.CLOSE): (fresh, leaves),
    named(S.IDLE, E.PART_OF_HEAD): (idle, sends(get()[:5])),
    named(S.IDLE, E.EXCHANGE_BEGAN): (idle, sends(UPLOAD)),
    named(S.IDLE, E.LEASE): (idle, a_lease_answers),
    named(S.IDLE, E.CLOSE): (idle, leaves),
    named(S.HEAD, E.PART_OF_HEAD): (in_head, sends(get()[5:6])),
    named(S.HEAD, E.EXCHANGE_BEGAN): (in_head, sends(get()[5:])),
    named(S.HEAD, E.CLOSE): (in_head, leaves),
    named(S.HEAD, E.EMPTY_LINES): (in_an_empty_line, sends(b"\n")),
    named(S.FRESH, E.PREFACE): (fresh, sends(PREFACE)),
    named(S.HEAD, E.PREFACE): (in_preface, sends(PREFACE[9:])),
    named(S.MULTIPLEXED, E.ENDED_LAST): (multiplexed, it_breaks_the_protocol),
    named(S.MULTIPLEXED, E.CLOSE): (multiplexed, leaves),
    named(S.BUSY, E.EXCHANGE_ENDED): (fresh, a_worker_answers),
    named(S.BUSY, E.ENDED_PIPELINED): (fresh, it_has_sent_two_requests),
    named(S.BUSY, E.ENDED_LAST): (fresh, it_is_the_last_answer),
    named(S.BUSY, E.CLOSE): (fresh, its_answer_is_aborted),
    named(S.LINGERING, E.CLOSE): (lingering, leaves),
    named(X.RECEIVING, V.WHOLE): (in_body, sends(b"llo")),
    named(X.RECEIVING, V.RESPONSE): (fresh, it_asks_for_what_is_not_there),
    named(X.RECEIVING, V.ABORT): (in_body, it_leaves_before_its_body_is_whole),
    named(X.QUEUED, V.HANDED_OVER): (queued, a_worker_comes),
    named(X.QUEUED, V.RESPONSE): (queued, it_takes_too_long),
    named(X.QUEUED, V.ABORT): (queued, leaves),
    named(X.WORKING, V.TAKEN_BACK): (working, a_worker_dies),
    named(X.WORKING, V.RESPONSE): (working, a_worker_ends_without_an_answer),
    named(X.WORKING, V.ABORT): (working, leaves),
    named(X.SENDING, V.OUT_OF_DATA): (fresh, a_worker_pauses),
    named(X.SENDING, V.TAKEN): (fresh, a_worker_answers),
    named(X.SENDING, V.ABORT): (fresh, it_leaves_before_it_has_taken_all),
    named(X.PRODUCING, V.MORE_CAME): (fresh, a_worker_goes_on),
    named(X.PRODUCING, V.ABORT): (fresh, it_leaves_while_a_worker_pauses),
    named(S.BUSY, E.SWITCHED): (fresh, upgrades),
    named(S.TUNNEL, E.ENDED_LAST): (tunnel, peer_closes),
    named(S.TUNNEL, E.CLOSE): (tunnel, leaves),
    named(T.OPEN, U.CLIENT_END): (tunnel, client_ends),
    named(T.OPEN, U.PEER_END): (tunnel, peer_ends),
    named(T.CLIENT_ENDED, U.PEER_END): (client_has_ended, peer_ends),
    named(T.PEER_ENDED, U.CLIENT_END): (peer_has_ended, client_ends),
    named(T.OPEN, U.ABORT): (tunnel, leaves),
    named(T.CLIENT_ENDED, U.ABORT): (client_has_ended, leaves),
    named(T.PEER_ENDED, U.ABORT): (peer_has_ended, leaves),
    named(B.UNREAD, W.REQUESTED): (unread, it_is_read),
    named(B.UNREAD, W.LAST): (fresh, it_comes_whole_before_a_worker_has_it),
    named(B.UNREAD, W.DROPPED): (unread, it_is_not_read),
    named(B.AWAITED, W.PIECE): (awaited, sends(b"l")),
    named(B.AWAITED, W.LAST): (awaited, sends(b"llo")),
    named(B.AWAITED, W.DROPPED): (awaited, it_is_not_read),
    named(B.OFFERED, W.PIECE): (offered_of_a_large_body, sends(bytes(BLOCK_SIZE))),
    named(B.OFFERED, W.TAKEN): (offered, it_is_taken),
    named(B.OFFERED, W.LAST): (offered, sends(b"lo")),
    named(B.OFFERED, W.DROPPED): (offered, it_is_not_read),
}


def test_each_transition_has_its_scenario():
    """Neither more nor fewer than the table has."""
    assert set(SCENARIOS) == {named(state, event) for state, event in TRANSITIONS}
    assert len(SCENARIOS) == len(TRANSITIONS)


CERTIFICATES: dict[Before, Callable[[], Certificates]] = {
    connected: certificates,
    connected_without_certificate: lambda: certificates(site(cert_reqs="required")),
}
NEED_A_WHOLE_READ = {
    named(S.FRESH, E.EXCHANGE_BEGAN),
    named(S.IDLE, E.EXCHANGE_BEGAN),
    named(S.BUSY, E.ENDED_PIPELINED),
    named(S.FRESH, E.PREFACE),
    named(B.AWAITED, W.LAST),
}


@pytest.mark.parametrize("transition", SCENARIOS)
def test_transition(transition: str, tape: Tape, capfd: pytest.CaptureFixture[str]):
    """Real traffic takes it, and no internal error is logged on the way."""
    if transition == named(S.BUSY, E.ENDED_PIPELINED):
        skip_with_records("comes one request after the other")
    if transition in NEED_A_WHOLE_READ:
        skip_with_single_bytes("has a state between these")
    before, then = SCENARIOS[transition]
    tls = CERTIFICATES[before]() if before in CERTIFICATES else None
    with Stage(stream_body=transition.startswith("BodyState"), tls=tls) as stage:
        client = before(stage)
        tape.moves.clear()
        then(stage, client)
        if transition != named(S.IDLE, E.LEASE):
            assert transition in tape.moves
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("event", E)
@pytest.mark.parametrize("state", S)
def test_a_pair_is_in_the_connections_table_or_raises(state: ConnectionState, event: ConnectionEvent):
    """A transition that is not in the table is a bug of ours, and says so."""
    with Stage() as stage:
        stage.client()
        [conn] = stage.pump.connections.values()
        check_move(conn, state, event, CONNECTION_TABLE[state][event])
        conn.state = S.LINGERING  # whatever was played here, the stage can close it


@pytest.mark.parametrize("event", V)
@pytest.mark.parametrize("state", X)
def test_a_pair_is_in_the_exchanges_table_or_raises(state: ExchangeState, event: ExchangeEvent):
    """The same for exchanges."""
    with Stage() as stage:
        queued(stage)
        [conn] = stage.pump.connections.values()
        exchange = conn.exchange
        check_move(exchange, state, event, EXCHANGE_TABLE[state][event])
        assert exchange is not None
        exchange.state = X.QUEUED


@pytest.mark.parametrize("event", W)
@pytest.mark.parametrize("state", B)
def test_a_pair_is_in_the_bodies_table_or_raises(state: BodyState, event: BodyEvent):
    """The same for streamed bodies."""
    check_move(BodyStream(), state, event, BODY_TABLE[state][event])


@pytest.mark.parametrize("event", U)
@pytest.mark.parametrize("state", T)
def test_a_pair_is_in_the_tunnels_table_or_raises(state: TunnelState, event: TunnelEvent):
    """The same for tunnels."""
    one, other = socket.socketpair()
    ends = TunnelEnds(Descriptor(one.detach()))
    check_move(ends, state, event, TUNNEL_TABLE[state][event])
    ends.peer.close()
    other.close()


def check_move(one: Any, state: State, event: Event, target: State | None) -> None:
    one.state = state
    if target is None:
        with pytest.raises(AssertionError, match=f"no {event.name} in {state.name}"):
            one.move(event)
        assert one.state is state
    else:
        one.move(event)
        assert one.state is target


@pytest.mark.parametrize(
    ("table", "first", "ends"),
    [
        (CONNECTION_TABLE, [S.FRESH, S.HANDSHAKE], {S.CLOSED}),
        (EXCHANGE_TABLE, [X.RECEIVING], {X.ENDED, X.ABORTED}),
        (TUNNEL_TABLE, [T.OPEN], {T.OVER}),
        (BODY_TABLE, [B.UNREAD], {B.COMPLETE, B.UNWANTED}),
    ],
)
def test_every_state_can_be_reached_and_left(table: Any, first: list[State], ends: set[State]):
    """From the first; and from every state an end."""
    reached, due = set(first), deque(first)
    while due:
        state = due.popleft()
        targets = {target for target in table[state] if target is not None}
        assert bool(targets) == (state not in ends)
        assert targets & ends or state in ends
        due += targets - reached
        reached |= targets
    assert reached == set(type(first[0]))
