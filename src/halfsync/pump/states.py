"""A client connection's states: one table, state x event -> state.

Theory of operation
-------------------
A connection is in exactly one state, and the state alone says whose turn it is: the client's
(FRESH, HEAD, BODY, IDLE, LINGERING), the pump's queue's (QUEUED), a worker's (WORKING), the client's
again as a reader (SENDING), or the source's of the response (PRODUCING: the worker, its pipe, or the
disk has to give more). Each state has one time limit of its own, and there is nothing else to
time. There are no flags beside the state that say the same thing in other words.

A kept connection's life is IDLE -> QUEUED -> WORKING -> SENDING -> IDLE. A reply from a lease that
the socket takes whole is IDLE -> IDLE: the request begins and ends within one step, so the hot
path changes no state at all.

**In IDLE nothing is buffered.** The hot path reads from the socket and answers what it has read; if
bytes of an earlier request were waiting in the inbox, it would answer past them. So when a
response ends and more of the client's bytes are here already, the next state is HEAD.

The pump reads from a client only where the table has an event for what may come: in IDLE, FRESH,
HEAD, BODY and LINGERING. Everywhere else a client that goes on sending fills its own buffers.

`python -m halfsync.pump.states` prints the table as a diagram; docs/architecture.md shows it, and a
test holds the two together.
"""

from __future__ import annotations

from enum import IntEnum


class State(IntEnum):
    """The value is an index into TABLE and into the time limits."""

    FRESH = 0  # accepted; no byte has come
    IDLE = 1  # kept after a reply; no byte of the next request is buffered
    HEAD = 2  # a part of a head has come, or was buffered behind the request before it
    BODY = 3  # the head is whole, the body is not
    QUEUED = 4  # the request is whole and waits for a worker with room
    WORKING = 5  # a worker has it
    SENDING = 6  # the reply has begun, and the client has yet to take what there is of it
    PRODUCING = 7  # the client has taken what there is, and the worker, pipe or disk has yet to give more
    LINGERING = 8  # answered and shut down our way; reads on until the client has read it too
    CLOSED = 9


class Event(IntEnum):
    PART_OF_HEAD = 0  # bytes came, and the head is not whole
    HEAD_WITH_BODY = 1  # the head is whole and announces a body
    REQUEST = 2  # head and body are whole
    LEASE = 3  # a lease answers, and the socket took it all
    ANSWER = 4  # the pump answers by itself: a refusal, a time limit, a lease that takes longer
    HANDED_OVER = 5  # sent to a worker
    TAKEN_BACK = 6  # the worker died, or is busy with slow ones; another is to have it
    REPLY = 7  # the worker's reply began
    OUT_OF_DATA = 8  # the socket took all there is, and the response goes on
    MORE_CAME = 9  # the worker, pipe or disk gave more
    SENT = 10  # the last byte was taken by the socket; the connection is kept
    SENT_PIPELINED = 11  # the same, and bytes of the next request are buffered
    SENT_LAST = 12  # the last byte was taken, and this was the connection's last response
    CLOSE = 13  # see closes.CloseReason


# In Python 3.11 an enum's member is found through a hook written in Python (0.1 µs); what is used for
# every request is so imported by name.
FRESH, IDLE, HEAD, BODY, QUEUED, WORKING, SENDING, PRODUCING, LINGERING, CLOSED = State
REQUEST, HANDED_OVER, REPLY, SENT = Event.REQUEST, Event.HANDED_OVER, Event.REPLY, Event.SENT

S, E = State, Event

_TRANSITIONS: dict[State, dict[Event, State]] = {
    S.FRESH: {
        E.PART_OF_HEAD: S.HEAD,
        E.HEAD_WITH_BODY: S.BODY,
        E.REQUEST: S.QUEUED,
        E.ANSWER: S.SENDING,
        E.CLOSE: S.CLOSED,
    },
    S.IDLE: {
        E.PART_OF_HEAD: S.HEAD,
        E.HEAD_WITH_BODY: S.BODY,
        E.REQUEST: S.QUEUED,
        E.LEASE: S.IDLE,
        E.ANSWER: S.SENDING,
        E.CLOSE: S.CLOSED,
    },
    S.HEAD: {
        E.PART_OF_HEAD: S.HEAD,
        E.HEAD_WITH_BODY: S.BODY,
        E.REQUEST: S.QUEUED,
        E.ANSWER: S.SENDING,
        E.CLOSE: S.CLOSED,
    },
    S.BODY: {
        E.REQUEST: S.QUEUED,
        E.ANSWER: S.SENDING,
        E.CLOSE: S.CLOSED,
    },
    S.QUEUED: {
        E.HANDED_OVER: S.WORKING,
        E.ANSWER: S.SENDING,
        E.CLOSE: S.CLOSED,
    },
    S.WORKING: {
        E.TAKEN_BACK: S.QUEUED,
        E.REPLY: S.SENDING,
        E.ANSWER: S.SENDING,
        E.CLOSE: S.CLOSED,
    },
    S.SENDING: {
        E.OUT_OF_DATA: S.PRODUCING,
        E.SENT: S.IDLE,
        E.SENT_PIPELINED: S.HEAD,
        E.SENT_LAST: S.LINGERING,
        E.CLOSE: S.CLOSED,
    },
    S.PRODUCING: {
        E.MORE_CAME: S.SENDING,
        E.CLOSE: S.CLOSED,
    },
    S.LINGERING: {
        E.CLOSE: S.CLOSED,
    },
    S.CLOSED: {},
}

TABLE: tuple[tuple[State | None, ...], ...] = tuple(
    tuple(_TRANSITIONS[state].get(event) for event in Event) for state in State
)
"""TABLE[state][event]; None: cannot be, and if it is, that is a bug of ours."""


def diagram() -> str:
    """The table as a Mermaid state diagram, edges between the same two states joined."""
    lines = ["stateDiagram-v2", "    [*] --> FRESH"]
    for state, row in _TRANSITIONS.items():
        edges: dict[State, list[str]] = {}
        for event, target in row.items():
            edges.setdefault(target, []).append(event.name)
        lines += [
            f"    {state.name} --> {target.name}: {', '.join(names)}" for target, names in edges.items()
        ]
    return "\n".join([*lines, "    CLOSED --> [*]", ""])


if __name__ == "__main__":
    print(diagram(), end="")
