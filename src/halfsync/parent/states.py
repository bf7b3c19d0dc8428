"""The states of a child, and what brings it from one to the next. All of it; nothing else decides.

A state says what may be asked of the child, not what it is doing. `ENDED` is reached from
everywhere: a child can die at any moment, and then it leaves the table.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    STARTING = "starting"  # forked, or asked of a template; has not said Ready
    READY = "ready"  # can work; the pump does not know it yet
    WORKING = "working"  # the pump gives it tasks (a pump accepts, a template forks)
    RETIRING = "retiring"  # gets no more tasks, finishes those it has; has a limit
    LEAVING = "leaving"  # its orders are closed, so it exits by itself; has a limit
    KILLED = "killed"  # SIGKILL was sent; only reaping is left
    ENDED = "ended"  # reaped


class Event(Enum):
    READIED = "it said Ready"
    JOINED = "the pump was told of it"
    RETIRED = "another is to take its place"
    DISMISSED = "its orders were closed"
    KILLED = "SIGKILL was sent"
    ENDED = "it was reaped"


_ALIVE = (State.STARTING, State.READY, State.WORKING, State.RETIRING, State.LEAVING, State.KILLED)

TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.STARTING, Event.READIED): State.READY,
    (State.READY, Event.JOINED): State.WORKING,
    (State.WORKING, Event.JOINED): State.WORKING,  # with a new pump
    (State.WORKING, Event.RETIRED): State.RETIRING,
    **{(state, Event.DISMISSED): State.LEAVING for state in _ALIVE if state is not State.KILLED},
    **{(state, Event.KILLED): State.KILLED for state in _ALIVE},
    **{(state, Event.ENDED): State.ENDED for state in _ALIVE},
}
