"""Telling what gevent and eventlet can do here, when an application has let them patch Python's modules."""

from __future__ import annotations

import sys

from halfsync.logs.error import log
from halfsync.system.primitives import threading_is_patched

LIBRARIES = ("gevent", "eventlet")


def warn_of_patches() -> None:
    """To be called once the application is imported."""
    if not threading_is_patched():
        return
    by = next((name for name in LIBRARIES if name in sys.modules), None)
    log(
        "warning",
        f"{by or 'The application'} has patched Python's threading module: halfsync still runs each request "
        "in a thread of its own (the setting `threads` says how many at once), a patched call blocks only "
        "that thread, and a greenlet runs only while the thread that started it waits in such a call.",
    )
