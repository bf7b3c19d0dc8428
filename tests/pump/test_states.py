"""The table of states: nothing but what it says, and all that it says, happens to real connections.

`SCENARIOS` names for each transition a piece of real traffic that takes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest

from halfsync.objects import Memory
from halfsync.pump.connection import Connection
from halfsync.pump.states import TABLE, Event, State
from halfsync.wire.messages import Ending, Lease
from tests.pump.harness import Client, Stage, get

S, E = State, Event

BAD = b"nonsense\r\n\r\n"
UPLOAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe"
TRANSITIONS = [(state, event) for state in State for event in Event if TABLE[state][event] is not None]


class Tape:
    """What all connections of a stage went through."""

    def __init__(self) -> None:
        self.moves: list[tuple[State, Event]] = []


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> Tape:
    tape = Tape()
    move = Connection.move

    def recorded(conn: Connection, event: Event) -> None:
        tape.moves.append((conn.state, event))
        move(conn, event)

    monkeypatch.setattr(Connection, "move", recorded)
    return tape


# --- before the state in question -----------------------------------------------------------------


def fresh(stage: Stage) -> Client:
    return stage.client()


def idle(stage: Stage) -> Client:
    """Kept after an answer, by a worker that is dead by now."""
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


# --- what happens then ----------------------------------------------------------------------------


def sends(data: bytes) -> Callable[[Stage, Client], None]:
    return lambda _stage, client: client.send(data)


def leaves(stage: Stage, client: Client) -> None:
    client.leave()
    stage.until(lambda: not stage.pump.connections)


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
    hand.reply(task, b"a", length=2, ending=Ending.MORE)
    hand.part(task, Memory(b"b"), ending=ending)


def it_is_the_last_answer(stage: Stage, client: Client) -> None:
    client.send(get("/", "Connection: close"))
    hand = stage.hand()
    hand.reply(hand.take(), b"a")


def a_worker_pauses(stage: Stage, client: Client) -> None:
    hand = stage.hand()
    client.send(get())
    hand.reply(hand.take(), b"a", length=2, ending=Ending.MORE)


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

SCENARIOS: dict[tuple[State, Event], tuple[Before, Then]] = {
    (S.FRESH, E.PART_OF_HEAD): (fresh, sends(get()[:5])),
    (S.FRESH, E.HEAD_WITH_BODY): (fresh, sends(UPLOAD)),
    (S.FRESH, E.REQUEST): (fresh, sends(get())),
    (S.FRESH, E.ANSWER): (fresh, sends(BAD)),
    (S.FRESH, E.CLOSE): (fresh, leaves),
    (S.IDLE, E.PART_OF_HEAD): (idle, sends(get()[:5])),
    (S.IDLE, E.HEAD_WITH_BODY): (idle, sends(UPLOAD)),
    (S.IDLE, E.REQUEST): (idle, sends(get())),
    (S.IDLE, E.LEASE): (idle, a_lease_answers),
    (S.IDLE, E.ANSWER): (idle, sends(BAD)),
    (S.IDLE, E.CLOSE): (idle, leaves),
    (S.HEAD, E.PART_OF_HEAD): (in_head, sends(get()[5:6])),
    (S.HEAD, E.HEAD_WITH_BODY): (in_head, sends(b" HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n")),
    (S.HEAD, E.REQUEST): (in_head, sends(get()[5:])),
    (S.HEAD, E.ANSWER): (in_head, sends(BAD)),
    (S.HEAD, E.CLOSE): (in_head, leaves),
    (S.BODY, E.REQUEST): (in_body, sends(b"llo")),
    (S.BODY, E.ANSWER): (in_body, it_takes_too_long),
    (S.BODY, E.CLOSE): (in_body, leaves),
    (S.QUEUED, E.HANDED_OVER): (queued, a_worker_comes),
    (S.QUEUED, E.ANSWER): (queued, it_takes_too_long),
    (S.QUEUED, E.CLOSE): (queued, leaves),
    (S.WORKING, E.TAKEN_BACK): (working, a_worker_dies),
    (S.WORKING, E.REPLY): (fresh, a_worker_answers),
    (S.WORKING, E.ANSWER): (working, a_worker_ends_without_an_answer),
    (S.WORKING, E.CLOSE): (working, leaves),
    (S.SENDING, E.OUT_OF_DATA): (fresh, a_worker_pauses),
    (S.PRODUCING, E.MORE_CAME): (fresh, a_worker_goes_on),
    (S.PRODUCING, E.CLOSE): (fresh, it_leaves_while_a_worker_pauses),
    (S.SENDING, E.SENT_PIPELINED): (fresh, it_has_sent_two_requests),
    (S.SENDING, E.SENT): (fresh, a_worker_answers),
    (S.SENDING, E.SENT_LAST): (fresh, it_is_the_last_answer),
    (S.SENDING, E.CLOSE): (fresh, its_answer_is_aborted),
    (S.LINGERING, E.CLOSE): (lingering, leaves),
}


def test_each_transition_has_its_scenario():
    """Neither more nor fewer than the table has."""
    assert set(SCENARIOS) == set(TRANSITIONS)


@pytest.mark.parametrize("transition", SCENARIOS, ids=lambda pair: f"{pair[0].name}-{pair[1].name}")
def test_transition(transition: tuple[State, Event], tape: Tape, capfd: pytest.CaptureFixture[str]):
    """Real traffic takes it, and no fault is logged on the way."""
    before, then = SCENARIOS[transition]
    with Stage() as stage:
        client = before(stage)
        tape.moves.clear()
        then(stage, client)
        if transition != (S.IDLE, E.LEASE):
            assert transition in tape.moves
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("state", State)
def test_a_pair_is_in_the_table_or_raises(state: State, event: Event):
    """A transition that is not in the table is a bug of ours, and says so."""
    with Stage() as stage:
        stage.client()
        [conn] = stage.pump.connections.values()
        conn.state = state
        target = TABLE[state][event]
        if target is None:
            with pytest.raises(AssertionError, match=f"no {event.name} in {state.name}"):
                conn.move(event)
            assert conn.state is state
        else:
            conn.move(event)
            assert conn.state is target
        conn.state = S.LINGERING  # whatever was played here, the stage can close it


def test_every_state_can_be_reached_and_left():
    """From FRESH; and from every state the end."""
    reached, due = {S.FRESH}, deque([S.FRESH])
    while due:
        for target in TABLE[due.popleft()]:
            if target is not None and target not in reached:
                reached.add(target)
                due.append(target)
    assert reached == set(State)
    assert all(TABLE[state][E.CLOSE] is S.CLOSED for state in State if state is not S.CLOSED)
    assert not any(TABLE[S.CLOSED])
