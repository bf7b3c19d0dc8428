"""The states of a child, and what brings it from one to the next. All of it; nothing else decides.

A state says what may be asked of the child, not what it is doing. `ENDED` is reached from
everywhere: a child can die at any moment, and then it leaves the table.

The ways to end, each with one word everywhere:

    drain          the pump stops accepting, finishes what is in flight, logs it, reports Drained
    retire         a worker gets no more tasks, finishes those it has, and exits (RETIRING)
    close orders   a child sees the end of its orders channel, and exits when it can (EXITING)
    kill           SIGKILL (KILLED)
"""

from __future__ import annotations

from enum import Enum


class ChildState(Enum):
    STARTING = "starting"  # forked, or asked of a template; has not said Ready
    READY = "ready"  # can work; the pump does not know it yet
    WORKING = "working"  # the pump gives it tasks (a pump accepts, a template forks)
    RETIRING = "retiring"  # gets no more tasks, finishes those it has; has a limit
    EXITING = "exiting"  # its orders are closed, so it exits by itself; has a limit
    KILLED = "killed"  # SIGKILL was sent; only reaping is left
    ENDED = "ended"  # reaped


class ChildEvent(Enum):
    READIED = "it said Ready"
    JOINED = "the pump was told of it"
    RETIRED = "another is to take its place"
    ORDERS_CLOSED = "its orders were closed"
    KILLED = "SIGKILL was sent"
    ENDED = "it was reaped"


_ALIVE = tuple(state for state in ChildState if state is not ChildState.ENDED)
_NOT_KILLED = tuple(state for state in _ALIVE if state is not ChildState.KILLED)

TRANSITIONS: dict[tuple[ChildState, ChildEvent], ChildState] = {
    (ChildState.STARTING, ChildEvent.READIED): ChildState.READY,
    (ChildState.READY, ChildEvent.JOINED): ChildState.WORKING,
    (ChildState.WORKING, ChildEvent.JOINED): ChildState.WORKING,  # with a new pump
    (ChildState.WORKING, ChildEvent.RETIRED): ChildState.RETIRING,
    **{
        (state, ChildEvent.ORDERS_CLOSED): ChildState.EXITING
        for state in _ALIVE
        if state is not ChildState.KILLED
    },
    **{(state, ChildEvent.KILLED): ChildState.KILLED for state in _ALIVE},
    **{(state, ChildEvent.ENDED): ChildState.ENDED for state in _ALIVE},
}
