"""The states of a connection, of an exchange, and of a body that is streamed: three tables, state x event ->
state. Nothing else decides.

Theory of operation
-------------------
A *connection* is a wire to one client, an *exchange* is one request on it and the response. HTTP/1.1 has
one exchange at a time or none; other protocols may have many. So there are two questions, and each has a
table of its own: how far is the wire, and how far is the request.

A connection that has an exchange is BUSY, and then the exchange's state says whose turn it is: the
client's (RECEIVING, SENDING), the queue's (QUEUED), a worker's (WORKING), or the source's of the response
(PRODUCING: the worker, its pipe, or the disk has to give more). Each state has one time limit
of its own, and only the limit of him whose turn it is runs (see timeouts.py).

**In IDLE nothing is buffered.** The hot path reads from the socket and responds to what it has read; if
bytes of an earlier request were waiting in the inbox, it would pass them by. So when an
exchange ends and more of the client's bytes are here already, the next state is HEAD.

A request's body is whole before the exchange leaves RECEIVING; or it is *streamed*, and comes while the
exchange goes on. Then it has a state of its own, which says whose turn it is: the client's (AWAITED), or the
handler's (UNREAD, OFFERED). The client's limits (`body_timeout`, `min_rate`) run in AWAITED only, the
handler's in the other two; unless the response has begun and the client has yet to take some of it (SENDING),
for then that is what everybody waits for.

A kept connection's life is IDLE -> BUSY -> IDLE; that of its exchange is RECEIVING -> QUEUED -> WORKING ->
SENDING -> ENDED. A response from a lease that the socket takes whole is IDLE -> IDLE without an
exchange: the request begins and ends within one step, so the hot path changes no state at all.

With HTTP/2 a connection is MULTIPLEXED, and each of its streams has an exchange. A stream is a connection to
whoever serves that exchange (see http2/streams.py): it is FRESH, BUSY, and CLOSED.

`python -m halfsync.pump.states` prints the tables as diagrams; docs/architecture.md shows them, and a
test holds them together.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar


class ConnectionState(IntEnum):
    """The value is an index into CONNECTION_TABLE."""

    FRESH = 0  # accepted; no byte has come
    IDLE = 1  # kept after a response; no byte of the next request is buffered
    HEAD = 2  # a part of a head has come, or was buffered behind the request before it
    BUSY = 3  # has an exchange, whose own state says whose turn it is
    LINGERING = 4  # our way is shut behind the last response, or alert; reads until the client closes too
    CLOSED = 5
    TUNNEL = 6  # the client and a socket talk through it, and HTTP is over: see TunnelState
    HANDSHAKE = 7  # accepted where TLS is spoken, or a proxy says first for whom; HTTP has not begun yet
    MULTIPLEXED = 8  # HTTP/2: its streams have the exchanges, any number of them


class ConnectionEvent(IntEnum):
    PART_OF_HEAD = 0  # bytes came, and the head is not whole
    EXCHANGE_BEGAN = 1  # a head is whole, or refused, or has not come in time
    LEASE = 2  # a lease had the response, and the socket took it all
    EXCHANGE_ENDED = 3  # its last byte was taken by the socket; the connection is kept
    ENDED_PIPELINED = 4  # the same, and bytes of the next request are buffered
    ENDED_LAST = 5  # its last byte was taken, and it was the connection's last; or a handshake has failed
    CLOSE = 6  # see closes.CloseReason
    SWITCHED = 7  # the head of a 101 was taken
    PREPARED = 8  # the TLS handshake is done, or the PROXY header read where there is no TLS
    EMPTY_LINES = 9  # what had come of a head was the half of an empty line, and now the other half
    PREFACE = 10  # it speaks HTTP/2


class ExchangeState(IntEnum):
    """The value is an index into EXCHANGE_TABLE."""

    RECEIVING = 0  # the head is whole, the body is not (or has not been looked for)
    QUEUED = 1  # the request is whole, or its body streamed, and waits for a worker with room
    WORKING = 2  # a worker has it
    SENDING = 3  # the response has begun, and the client has yet to take what there is of it
    PRODUCING = 4  # the client has taken what there is, and worker, pipe or disk have yet to give more
    ENDED = 5  # the last byte was taken
    ABORTED = 6  # the connection closed before


class ExchangeEvent(IntEnum):
    WHOLE = 0  # head and body are whole; or the head, and the body is streamed
    HANDED_OVER = 1  # sent to a worker
    TAKEN_BACK = 2  # the worker died, or is busy with slow ones; another is to have it
    RESPONSE = 3  # it began: a worker's, a lease's, or our own (a refusal, a time limit)
    OUT_OF_DATA = 4  # the socket took all there is, and the response goes on
    MORE_CAME = 5  # the worker, pipe or disk gave more
    TAKEN = 6  # the last byte was taken by the socket
    ABORT = 7  # the connection closes


class BodyState(IntEnum):
    """Of a body that is streamed. The value is an index into BODY_TABLE."""

    UNREAD = 0  # the handler has not begun to read it; what comes first goes with the task
    AWAITED = 1  # the handler has taken all there is, and waits for more
    OFFERED = 2  # it has yet to take what was passed on; more is passed on while the window has room
    COMPLETE = 3  # all of it has come, and was passed on
    UNWANTED = 4  # the response is over, or the request refused: whatever comes is dropped


class BodyEvent(IntEnum):
    REQUESTED = 0  # the handler reads for the first time
    PIECE = 1  # some of it was passed on
    TAKEN = 2  # all that was passed on was taken
    LAST = 3  # the last of it was passed on, or goes with the task
    DROPPED = 4  # nobody will read the rest


class TunnelState(IntEnum):
    """Of a tunnel's two ways. The value is an index into TUNNEL_TABLE."""

    OPEN = 0
    CLIENT_ENDED = 1  # what the client had to say is said
    PEER_ENDED = 2  # what the socket had to say is said
    OVER = 3


class WebSocketState(IntEnum):
    """The value is an index into WEBSOCKET_TABLE."""

    OFFERED = 0  # the application has yet to accept or reject it
    OPEN = 1  # messages go both ways
    CLOSING = 2  # we have sent a Close, and wait for the client's
    ENDING = 3  # nothing more is read; what is queued is sent, and then the connection ends
    OVER = 4


class WebSocketEvent(IntEnum):
    ACCEPTED = 0
    CLOSE = 1  # we send a Close: the application's, or our own
    CLIENT_CLOSE = 2  # the client sent one, or has not in time
    FAILED = 3  # the client broke the rules, and was told
    ABORT = 4  # the connection closes


class TunnelEvent(IntEnum):
    CLIENT_END = 0  # the client's end of file was passed on; or nobody takes what it says
    PEER_END = 1  # the socket's end of file was passed on
    ABORT = 2  # the connection closes


# In Python 3.11 an enum's member is found through a hook written in Python (0.1 µs); what is used for
# every request is so imported by name.
FRESH, IDLE, HEAD, BUSY, LINGERING, CLOSED, TUNNEL, HANDSHAKE, MULTIPLEXED = ConnectionState
RECEIVING, QUEUED, WORKING, SENDING, PRODUCING, ENDED, ABORTED = ExchangeState
EXCHANGE_BEGAN, EXCHANGE_ENDED = ConnectionEvent.EXCHANGE_BEGAN, ConnectionEvent.EXCHANGE_ENDED
WHOLE, HANDED_OVER, RESPONSE, TAKEN = (
    ExchangeEvent.WHOLE,
    ExchangeEvent.HANDED_OVER,
    ExchangeEvent.RESPONSE,
    ExchangeEvent.TAKEN,
)

_S, _E = ConnectionState, ConnectionEvent

_CONNECTION: dict[ConnectionState, dict[ConnectionEvent, ConnectionState]] = {
    _S.HANDSHAKE: {
        _E.PREPARED: _S.FRESH,
        _E.ENDED_LAST: _S.LINGERING,
        _E.CLOSE: _S.CLOSED,
    },
    _S.FRESH: {
        _E.PART_OF_HEAD: _S.HEAD,
        _E.EXCHANGE_BEGAN: _S.BUSY,
        _E.PREFACE: _S.MULTIPLEXED,
        _E.CLOSE: _S.CLOSED,
    },
    _S.IDLE: {
        _E.PART_OF_HEAD: _S.HEAD,
        _E.EXCHANGE_BEGAN: _S.BUSY,
        _E.LEASE: _S.IDLE,
        _E.CLOSE: _S.CLOSED,
    },
    _S.HEAD: {
        _E.PART_OF_HEAD: _S.HEAD,
        _E.EMPTY_LINES: _S.IDLE,
        _E.EXCHANGE_BEGAN: _S.BUSY,
        _E.PREFACE: _S.MULTIPLEXED,
        _E.CLOSE: _S.CLOSED,
    },
    _S.BUSY: {
        _E.EXCHANGE_ENDED: _S.IDLE,
        _E.ENDED_PIPELINED: _S.HEAD,
        _E.ENDED_LAST: _S.LINGERING,
        _E.SWITCHED: _S.TUNNEL,
        _E.CLOSE: _S.CLOSED,
    },
    _S.TUNNEL: {
        _E.ENDED_LAST: _S.LINGERING,
        _E.CLOSE: _S.CLOSED,
    },
    _S.LINGERING: {
        _E.CLOSE: _S.CLOSED,
    },
    _S.CLOSED: {},
    _S.MULTIPLEXED: {
        _E.ENDED_LAST: _S.LINGERING,
        _E.CLOSE: _S.CLOSED,
    },
}

_X, _V = ExchangeState, ExchangeEvent

_EXCHANGE: dict[ExchangeState, dict[ExchangeEvent, ExchangeState]] = {
    _X.RECEIVING: {
        _V.WHOLE: _X.QUEUED,
        _V.RESPONSE: _X.SENDING,
        _V.ABORT: _X.ABORTED,
    },
    _X.QUEUED: {
        _V.HANDED_OVER: _X.WORKING,
        _V.RESPONSE: _X.SENDING,
        _V.ABORT: _X.ABORTED,
    },
    _X.WORKING: {
        _V.TAKEN_BACK: _X.QUEUED,
        _V.RESPONSE: _X.SENDING,
        _V.ABORT: _X.ABORTED,
    },
    _X.SENDING: {
        _V.OUT_OF_DATA: _X.PRODUCING,
        _V.TAKEN: _X.ENDED,
        _V.ABORT: _X.ABORTED,
    },
    _X.PRODUCING: {
        _V.MORE_CAME: _X.SENDING,
        _V.ABORT: _X.ABORTED,
    },
    _X.ENDED: {},
    _X.ABORTED: {},
}

_B, _W = BodyState, BodyEvent

_BODY: dict[BodyState, dict[BodyEvent, BodyState]] = {
    _B.UNREAD: {
        _W.REQUESTED: _B.AWAITED,
        _W.LAST: _B.COMPLETE,
        _W.DROPPED: _B.UNWANTED,
    },
    _B.AWAITED: {
        _W.PIECE: _B.OFFERED,
        _W.LAST: _B.COMPLETE,
        _W.DROPPED: _B.UNWANTED,
    },
    _B.OFFERED: {
        _W.PIECE: _B.OFFERED,
        _W.TAKEN: _B.AWAITED,
        _W.LAST: _B.COMPLETE,
        _W.DROPPED: _B.UNWANTED,
    },
    _B.COMPLETE: {},
    _B.UNWANTED: {},
}

_T, _U = TunnelState, TunnelEvent

_TUNNEL: dict[TunnelState, dict[TunnelEvent, TunnelState]] = {
    _T.OPEN: {
        _U.CLIENT_END: _T.CLIENT_ENDED,
        _U.PEER_END: _T.PEER_ENDED,
        _U.ABORT: _T.OVER,
    },
    _T.CLIENT_ENDED: {
        _U.PEER_END: _T.OVER,
        _U.ABORT: _T.OVER,
    },
    _T.PEER_ENDED: {
        _U.CLIENT_END: _T.OVER,
        _U.ABORT: _T.OVER,
    },
    _T.OVER: {},
}

_K, _L = WebSocketState, WebSocketEvent

_WEBSOCKET: dict[WebSocketState, dict[WebSocketEvent, WebSocketState]] = {
    _K.OFFERED: {
        _L.ACCEPTED: _K.OPEN,
        _L.ABORT: _K.OVER,
    },
    _K.OPEN: {
        _L.CLOSE: _K.CLOSING,
        _L.CLIENT_CLOSE: _K.ENDING,
        _L.FAILED: _K.ENDING,
        _L.ABORT: _K.OVER,
    },
    _K.CLOSING: {
        _L.CLIENT_CLOSE: _K.ENDING,
        _L.FAILED: _K.ENDING,
        _L.ABORT: _K.OVER,
    },
    _K.ENDING: {
        _L.ABORT: _K.OVER,
    },
    _K.OVER: {},
}

CONNECTION_TABLE: tuple[tuple[ConnectionState | None, ...], ...] = tuple(
    tuple(_CONNECTION[state].get(event) for event in ConnectionEvent) for state in ConnectionState
)
"""CONNECTION_TABLE[state][event]; None: cannot be, and if it is, that is a bug of ours."""

EXCHANGE_TABLE: tuple[tuple[ExchangeState | None, ...], ...] = tuple(
    tuple(_EXCHANGE[state].get(event) for event in ExchangeEvent) for state in ExchangeState
)
"""The same for exchanges."""

BODY_TABLE: tuple[tuple[BodyState | None, ...], ...] = tuple(
    tuple(_BODY[state].get(event) for event in BodyEvent) for state in BodyState
)
"""The same for streamed bodies."""

TUNNEL_TABLE: tuple[tuple[TunnelState | None, ...], ...] = tuple(
    tuple(_TUNNEL[state].get(event) for event in TunnelEvent) for state in TunnelState
)
"""The same for tunnels."""

WEBSOCKET_TABLE: tuple[tuple[WebSocketState | None, ...], ...] = tuple(
    tuple(_WEBSOCKET[state].get(event) for event in WebSocketEvent) for state in WebSocketState
)
"""The same for WebSockets."""

_AnyState = TypeVar("_AnyState", bound=IntEnum)
_AnyEvent = TypeVar("_AnyEvent", bound=IntEnum)


def diagrams() -> str:
    """The tables as Mermaid state diagrams: the connection's, the exchange's, the streamed body's, the
    tunnel's, the WebSocket's."""
    return "\n".join(
        (
            _diagram(_CONNECTION, ConnectionState.FRESH, ConnectionState.HANDSHAKE),
            _diagram(_EXCHANGE, ExchangeState.RECEIVING),
            _diagram(_BODY, BodyState.UNREAD),
            _diagram(_TUNNEL, TunnelState.OPEN),
            _diagram(_WEBSOCKET, WebSocketState.OFFERED),
        )
    )


def _diagram(table: dict[_AnyState, dict[_AnyEvent, _AnyState]], *first: _AnyState) -> str:
    """Edges between the same two states are joined."""
    lines = ["stateDiagram-v2", *(f"    [*] --> {one.name}" for one in first)]
    ends = []
    for state, row in table.items():
        edges: dict[_AnyState, list[str]] = {}
        for event, target in row.items():
            edges.setdefault(target, []).append(event.name)
        lines += [
            f"    {state.name} --> {target.name}: {', '.join(names)}" for target, names in edges.items()
        ]
        if not row:
            ends.append(f"    {state.name} --> [*]")
    return "\n".join([*lines, *ends, ""])


if __name__ == "__main__":
    print(diagrams(), end="")
