"""Files whose pages are not in memory: read by helper threads, so that one does not stop the loop.

sendfile(2) on a cold disk blocks for milliseconds, and with the loop everyone. Before a span is
sent, preadv2(2) with RWF_NOWAIT asks the kernel whether its last page is at hand; if it is not, a
helper reads the span (its data is dropped, its pages stay), and the connection goes on when that
is done. A probe costs 1 µs for SEND_SHARE bytes, and one look at the end of a span is enough for
the common cases: all there (warm), or nothing there (cold). What the kernel evicted from its middle
blocks for one read-ahead.
"""

from __future__ import annotations

import os
import queue
import threading
from typing import TYPE_CHECKING

from halfsync.logs.error import log

if TYPE_CHECKING:
    from halfsync.pump.connection import Connection
    from halfsync.pump.loop import Pump
    from halfsync.pump.sendables import FileSpan

HELPERS = 2
_PIECE = 256 * 1024


class ColdFiles:
    """`is_warm` is called by the loop; when it says no, the connection is driven again later."""

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._wanted: queue.SimpleQueue[tuple[Connection, FileSpan, int]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self.reading: set[Connection] = set()
        self.asked = 0  # how often a helper was needed
        self._started = False
        self._probe = bytearray(1)
        self.wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def is_warm(self, conn: Connection, span: FileSpan, count: int) -> bool:
        """Whether `count` bytes of the span can be sent without waiting for a disk."""
        if conn in self.reading:
            return False
        try:
            os.preadv(span.file.fd, [self._probe], span.offset + count - 1, os.RWF_NOWAIT)
        except BlockingIOError:
            self.reading.add(conn)
            self.asked += 1
            self._start()
            self._wanted.put((conn, span, count))
            return False
        except OSError:
            pass  # a file system that can't tell; sendfile will do, or say what is wrong
        span.warm_until = span.offset + count
        return True

    def finished(self) -> None:
        """The eventfd spoke: go on with the connections whose pages were read."""
        try:
            os.eventfd_read(self.wakeup)
        except BlockingIOError:
            return
        while True:
            try:
                conn = self._done.get_nowait()
            except queue.Empty:
                return
            self.reading.discard(conn)
            self._pump.drive(conn)

    def _start(self) -> None:
        if not self._started:
            self._started = True
            for number in range(HELPERS):
                threading.Thread(target=self._help, name=f"cold-{number}", daemon=True).start()

    def _help(self) -> None:
        buffer = bytearray(_PIECE)
        while True:
            # No name here may hold on to what was read, or its descriptor stays open until the next.
            self._read(*self._wanted.get(), buffer)

    def _read(self, conn: Connection, span: FileSpan, count: int, buffer: bytearray) -> None:
        offset = span.offset
        try:
            for at in range(offset, offset + count, _PIECE):
                if os.preadv(span.file.fd, [buffer], at) == 0:
                    break
        except OSError as error:
            log("error", f"cannot read a file that is being sent: {error.strerror}")
        span.warm_until = offset + count  # even after an error: sendfile will say it again
        self._done.put(conn)
        os.eventfd_write(self.wakeup, 1)
