"""Whether a file's next bytes are in the page cache; on a miss, helper threads read them.

On a page cache miss sendfile(2) blocks for milliseconds, and the whole loop with it. So before a span is
sent, preadv2(2) with RWF_NOWAIT asks the kernel for the span's last byte. On a miss a helper reads the span
(its data is dropped, its pages stay), and the connection goes on when that is done. A probe costs 1 µs for
SEND_SHARE bytes, and to probe the end alone is enough for the common cases: all of it is in the page cache,
or none. Where the kernel has evicted pages in the middle, sendfile blocks for one read-ahead.
"""

from __future__ import annotations

import os
from functools import partial

from halfsync.logs.error import log
from halfsync.pump.connection import Connection
from halfsync.pump.helpers import Helpers
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.sendables import FileSpan

_PIECE = 256 * 1024


class PageCache:
    """`is_cached` is called by the loop. After a miss, the connection is ready when its pages are."""

    def __init__(self, helpers: Helpers, run_queue: RunQueue) -> None:
        self._helpers = helpers
        self._run_queue = run_queue
        self.misses = 0
        self._probe = bytearray(1)

    def is_cached(self, conn: Connection, span: FileSpan, count: int) -> bool:
        """Whether `count` bytes of the span can be sent without waiting for a disk."""
        if span.being_read:
            return False
        try:
            os.preadv(span.file.fd, [self._probe], span.offset + count - 1, os.RWF_NOWAIT)
        except BlockingIOError:
            span.being_read = True
            self.misses += 1
            self._helpers.submit(partial(_read, span, count), partial(self._run_queue.ready, conn))
            return False
        except OSError:
            pass  # a file system that can't tell; sendfile will do, or say what is wrong
        span.cached_until = span.offset + count
        return True


def _read(span: FileSpan, count: int) -> None:
    """In a helper thread."""
    offset = span.offset
    buffer = bytearray(min(count, _PIECE))
    try:
        for at in range(offset, offset + count, _PIECE):
            if os.preadv(span.file.fd, [buffer], at) == 0:
                break
    except OSError as error:
        log("error", f"cannot read a file that is being sent: {error.strerror}")
    span.cached_until = offset + count  # even after an error: sendfile will say it again
    span.being_read = False
