"""A WebSocket: how far it is, and what the pump holds of it. (Its steps: protocol.py.)"""

from __future__ import annotations

from halfsync.pump.bodies.spool import Spool
from halfsync.pump.states import WEBSOCKET_TABLE, WebSocketEvent, WebSocketState
from halfsync.pump.task_messages import MessageQueue
from halfsync.wire.closes import KEPT
from halfsync.wire.websocket import FrameReader
from halfsync.wire.websocket_deflate import Deflator
from halfsync.wire.websocket_handshake import Offer


class WebSocket:
    """It stands in an exchange in place of a Spool too, until its task is handed over."""

    __slots__ = (
        "at_rest",
        "close_reason",
        "deadline",
        "deflator",
        "has_begun",
        "is_collected",
        "is_pinged",
        "is_plain",
        "is_told",
        "kind",
        "offer",
        "outstanding",
        "ping_at",
        "pong",
        "pong_by",
        "queue",
        "reader",
        "spool",
        "state",
    )
    file = None  # as a Spool has one; it has no body
    size = 0
    is_whole = False

    def __init__(self, offer: Offer, limit: int) -> None:
        self.state = WebSocketState.OFFERED
        self.has_begun = False  # it was accepted
        self.offer: Offer | None = offer  # None: it was accepted
        self.reader = FrameReader(limit)
        self.deflator: Deflator | None = None  # if permessage-deflate was negotiated
        self.outstanding = 0  # of MESSAGE_WINDOW: what the application has yet to take
        self.kind = 0  # of the message in the spool
        self.spool: Spool | None = None  # a message that came in pieces, or is large
        self.is_collected = False  # and that is whole
        self.pong: bytes | None = None  # the answer to the latest Ping, when there is room for it
        self.is_pinged = False  # and nothing came since
        self.is_told = False  # the worker knows that it is closed
        self.ping_at = 0.0  # monotonic: when the next Ping is due
        self.pong_by = 0.0  # monotonic: if `is_pinged`, the end of waiting
        self.deadline = 0.0  # monotonic: of these, what is due first; or the end of waiting for a Close
        self.close_reason = KEPT  # why it is closed
        self.queue: MessageQueue | None = None  # of messages for its worker, since it was accepted
        # For the fast path (see small_messages.py):
        self.is_plain = False  # it is open, on a connection of its own, and nothing is deflated
        self.at_rest = False  # the same, and all that was read of its client is passed on

    def move(self, event: WebSocketEvent) -> None:
        """To the state that the table names."""
        state = WEBSOCKET_TABLE[self.state][event]
        if state is None:
            raise AssertionError(f"no {event.name} in {self.state.name}")
        self.state = state
        self.is_plain = self.at_rest = False
        if event is WebSocketEvent.ACCEPTED:
            self.has_begun = True

    @property
    def is_open(self) -> bool:
        """Messages go both ways."""
        return self.state is WebSocketState.OPEN

    def is_read(self, is_awaited: bool) -> bool:
        """Whether what the client sends counts. `is_awaited`: there is no response yet."""
        if self.state is WebSocketState.OFFERED:
            return is_awaited
        return self.state in (WebSocketState.OPEN, WebSocketState.CLOSING)
