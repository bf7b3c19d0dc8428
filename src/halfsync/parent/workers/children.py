"""A child as the parent knows it: its state, its orders channel, and what waits to be sent there."""

from __future__ import annotations

import os
import random
import signal
import socket
from collections import deque
from enum import Enum

import msgspec

from halfsync import channel
from halfsync.parent.limits import LAST_WORD
from halfsync.parent.states import TRANSITIONS, ChildEvent, ChildState
from halfsync.parent.workers.thread_rows import ThreadRows
from halfsync.settings.table import Settings
from halfsync.system.stacks_signal import SHOW_STACKS
from halfsync.wire import orders

UNKNOWN = 0
"""The process id of a worker that a template forks, until it has told it."""

NEVER = float("inf")


_luck = random.SystemRandom().random


class Role(Enum):
    PUMP = "pump"
    WORKER = "worker"
    TEMPLATE = "template"
    WATCHER = "watcher"
    ISSUER = "acme"


class ProtocolError(Exception):
    """The child sent a malformed report."""


class Child(msgspec.Struct, eq=False):
    """One child process. Times are monotonic seconds."""

    id: int  # given once, never again; messages call it `worker`
    role: Role
    name: str  # in the log
    pool: int  # index into Plan.pools; -1 for the pump and the watcher
    generation: int  # which import of the pool's code it has
    channel: socket.socket | None  # the parent's end of its orders; None once closed
    started: float
    pid: int = UNKNOWN
    state: ChildState = ChildState.STARTING
    was_ready: bool = False
    threads: int = 0  # of a worker
    concurrency: int = 0  # of a worker with an event loop: tasks that it takes at a time
    limit: float = NEVER  # when it is to be killed
    ready_by: float = NEVER  # when it is to be killed if it has not said Ready (startup_timeout)
    pump: int = -1  # id of the pump that knows it
    shortage: int | None = None  # errno for which a pump can't be told of a plan, and that was logged
    join_after: float = 0.0  # when it may be told of it again
    opened: bool = False  # a pump that was told to accept
    sent_plan: int = 0  # the newest plan that a pump was sent, by its number
    has_plan: int = 0  # and the newest that it said it has; of a watcher: what it watches
    failure: orders.Failed | None = None
    drained: bool = False
    may_leave: bool = False  # at a stop, when the pump lets go of it: maybe before that is known here
    has_responded: bool = True  # to the watchdog's last Ping
    has_done: int = 0  # of a pump: the latest Ping of Reloads that it has confirmed, by its number
    worn: str = ""  # why it is to be replaced, in words, as soon as another one is there
    luck: float = msgspec.field(default_factory=_luck)  # from 0 to 1, at random: how much later that is
    ends_soon: bool = False  # it has LAST_WORD to exit
    at_fault: bool = False  # it was killed for what it did
    has_shown_stacks: bool = False  # it was told to, and is killed next
    row: int = -1  # on the scoreboard; -1: it has none
    task_rows: tuple[int, int] = (0, 0)  # there: the first one, and how many
    thread_rows: ThreadRows | None = None  # of a worker with threads that has joined
    ending: str = ""  # how it ended, in words
    access_log: object = None  # the AccessLogFile that a built-in worker was given
    _unsent: deque[tuple[bytes, tuple[int, ...]]] = msgspec.field(default_factory=deque)
    stuck_since: float = NEVER

    def on(self, event: ChildEvent) -> None:
        """Go where the table says. An event that the state has no place for is a bug of ours."""
        self.state = TRANSITIONS[self.state, event]

    @property
    def who(self) -> str:
        return f"{self.name} [{self.pid}]" if self.pid != UNKNOWN else self.name

    def why_overdue(self, settings: Settings) -> str:
        """Said when its limit is past."""
        if self.ends_soon:
            return f"did not exit within {LAST_WORD:g} s"
        if self.state in (ChildState.RETIRING, ChildState.EXITING):
            return f"did not exit in time (graceful_timeout, {settings.graceful_timeout:g} s)"
        return "closed its channel to the parent and did not exit"

    # --- orders

    def order(self, message: orders.Order, descriptors: tuple[int, ...] = ()) -> None:
        """Send this when there is room, after what waits already. Takes the descriptors over."""
        self._unsent.append((orders.encode(message), descriptors))

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def flush(self, now: float) -> None:
        """Send what there is room for. Never waits."""
        while self._unsent:
            packet, descriptors = self._unsent[0]
            sent = channel.SendResult.GONE
            if self.channel is not None:
                sent = channel.send(self.channel, packet, descriptors)
            if sent is channel.SendResult.FULL:
                self.stuck_since = min(self.stuck_since, now)
                return
            self._unsent.popleft()
            channel.close_all(descriptors)
        self.stuck_since = NEVER

    # --- reports

    def receive(self) -> orders.Report | None:
        """The next report; None if there is none now, or never again (then `channel` is None).

        Raises ProtocolError. Descriptors that came along are closed: no report has any.
        """
        if self.channel is None:
            return None
        try:
            received = channel.receive(self.channel)
        except BlockingIOError:
            return None
        if received is None:
            self.close_channel()
            return None
        channel.close_all(received[1])
        try:
            report: orders.Report = orders.decode_report(received[0])
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise ProtocolError(str(error)) from None
        return report

    # --- ending

    def close_channel(self) -> None:
        """The child sees the end of its orders. What waits to be sent is dropped."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        for _, descriptors in self._unsent:
            channel.close_all(descriptors)
        self._unsent.clear()
        self.stuck_since = NEVER

    def kill(self) -> None:
        """SIGKILL. Safe: until it is reaped, its number is nobody else's."""
        self.on(ChildEvent.KILLED)
        self.close_channel()  # if its number is not known, this is what ends it
        if self.pid != UNKNOWN:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def show_stacks(self) -> None:
        """Of a worker whose number is known: have it say where its threads are."""
        self.has_shown_stacks = True
        try:
            os.kill(self.pid, SHOW_STACKS)
        except ProcessLookupError:
            pass

    def forget_in_child(self) -> None:
        """In a forked process: its descriptor is closed already, and its number may be another's."""
        if self.channel is not None:
            self.channel.detach()
            self.channel = None
        if self.thread_rows is not None:
            self.thread_rows.forget_in_child()
