"""A request's body that is passed on while it comes: what is known of it, and whose turn it is.

It stands in an exchange in place of a Spool. (Its steps: streamed.py.)
"""

from __future__ import annotations

from halfsync.pump.states import BODY_TABLE, BodyEvent, BodyState
from halfsync.wire.messages import BODY_WINDOW


class BodyStream:
    """`size` is what has come of it. What the sweep sees of the client's progress (`moved` to `timed`, see
    timeouts.py) counts in AWAITED alone, and is no matter while the client has nothing to do."""

    __slots__ = (
        "_first",
        "checked_at",
        "handlers_turn_ns",
        "moved",
        "paused_at",
        "progress_at",
        "size",
        "state",
        "timed",
        "window",
    )
    file = None  # as a Spool has one; this goes to none

    def __init__(self) -> None:
        self.state = BodyState.UNREAD
        self._first: list[bytes] = []
        self.size = 0
        self.window = 0  # bytes that the worker has room for
        self.handlers_turn_ns = 0  # monotonic: since when
        self.paused_at = 0.0  # monotonic: since when the client has all there is of the response
        self.moved = 0
        self.progress_at = 0.0
        self.checked_at = 0.0
        self.timed = 0.0

    def move(self, event: BodyEvent) -> None:
        """To the state that the table names."""
        state = BODY_TABLE[self.state][event]
        if state is None:
            raise AssertionError(f"no {event.name} in {self.state.name}")
        self.state = state

    @property
    def is_over(self) -> bool:
        """Nothing more of it is passed on."""
        return self.state >= BodyState.COMPLETE

    @property
    def is_whole(self) -> bool:
        """What it is before its task is handed over: whole already, so that no pieces need follow."""
        return self.state is BodyState.COMPLETE

    @property
    def has_been_read(self) -> bool:
        """Whether some of it was passed on, or asked for, beyond what its task carried: that is not here any
        more."""
        if self.state in (BodyState.AWAITED, BodyState.OFFERED):
            return True
        return self.size > len(self.memory())

    @property
    def is_awaited(self) -> bool:
        """It is the client's turn."""
        return self.state is BodyState.AWAITED

    def keep(self, data: bytes) -> None:
        """It came before the task was handed over, and goes with it."""
        self._first.append(data)
        self.size += len(data)

    def memory(self) -> bytes:
        """What has come before the task was handed over."""
        if len(self._first) != 1:
            self._first = [b"".join(self._first)]
        return self._first[0]

    def open_window(self, size: int) -> None:
        """Never wider than it is meant to be, whatever the worker says."""
        self.window = min(BODY_WINDOW, self.window + max(0, size))
