"""The thread beside an event loop: it reads what the parent orders, whatever the loop does.

It also looks whether the loop is blocked, if a route has a `handler_timeout`, and then says where. (What is
to be done about it the pump decides, which sees it on the scoreboard.)
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Protocol

from halfsync import channel
from halfsync.logs.error import failure, log, reopen
from halfsync.system.primitives import os, select, socket, time
from halfsync.wire.orders import Attach, Cut, ErrorLogFile, Retire, decode_order, encode
from halfsync.worker.threads import OUT_OF_DESCRIPTORS

LOOK = 0.25
"""Seconds between two looks at the loop."""
ATTACHED = 3
"""Descriptors that come with Attach."""


class Loop(Protocol):
    """What it needs of the worker. Each method may be called by this thread."""

    def attach(self, tasks: int, watch: int, scoreboard: int) -> None: ...

    def retire(self) -> None: ...

    def stop(self) -> None: ...

    @property
    def turned(self) -> float:
        """When the loop last turned (monotonic seconds); inf if it has nothing to do."""

    def named_running(self) -> str: ...


class OrdersThread:
    def __init__(
        self, orders: socket.socket, loop: Loop, main_thread: int, limit: float, last: float
    ) -> None:
        """`limit`: seconds for which the loop may be blocked, 0 for any. `last`: seconds within which the
        process has to end after `stop`, or it is ended."""
        self._orders = orders
        self._loop = loop
        self._main_thread = main_thread
        self._limit = limit
        self._last = last
        self._told = 0.0  # when the loop had last turned that was complained of

    def live(self) -> None:
        while True:
            try:
                if self._is_readable() and not self._receive():
                    break
            except BaseException:  # noqa: BLE001 - the thread outlives everything
                log("error", f"In the thread that reads orders:\n{failure()}")
                time.sleep(0.01)
        self._loop.stop()
        time.sleep(self._last)
        log("error", "the event loop does not end; this worker ends without it.")
        os._exit(1)

    def _is_readable(self) -> bool:
        poller = select.poll()
        poller.register(self._orders, select.POLLIN)
        found = poller.poll(LOOK * 1000 if self._limit else None)
        if self._limit:
            self._look()
        return bool(found)

    def _look(self) -> None:
        turned = self._loop.turned
        seconds = time.monotonic() - turned
        if seconds < self._limit or turned == self._told:
            return
        self._told = turned
        frame = sys._current_frames().get(self._main_thread)
        lines = "".join(traceback.format_stack(frame)) if frame is not None else "(its stack is not known)"
        log("error", f"The event loop is blocked by {self._loop.named_running()}; it is here:\n{lines}")

    def _receive(self) -> bool:
        """The next order. False if the parent is gone or has let go."""
        packet = channel.receive(self._orders)
        if packet is None:
            return False
        data, descriptors = packet
        order = decode_order(data)
        if isinstance(order, Attach) and len(descriptors) == ATTACHED:
            self._loop.attach(*descriptors)
        elif isinstance(order, Attach):
            channel.close_all(descriptors)
            log("error", f"this worker can't be attached to the pump now: {OUT_OF_DESCRIPTORS}")
            channel.send(self._orders, encode(Cut(-1)))
        elif isinstance(order, ErrorLogFile) and descriptors:
            reopen(descriptors[0])
            channel.close_all(descriptors)
        elif isinstance(order, Retire):
            self._loop.retire()
        else:
            channel.close_all(descriptors)
        return True


Start = Callable[[Callable[[], None], str], object]
