"""Python's modules as they were before an application was imported.

Applications replace functions of these modules: gevent and eventlet put their own in place of
`threading.Lock`, `socket.socket`, `select.poll` and `time.sleep`, a test tool stops `time.time`. What
the server's threads call must not change with that. So the files that run in a process with an
application import these names from here: each is a copy of the module, made when the server started.
A lookup in it costs what a lookup in the module costs.
"""

from __future__ import annotations

import threading as _threading_now
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import _thread
    import os
    import select
    import signal
    import socket
    import threading
    import time

    __all__ = ["_thread", "os", "select", "signal", "socket", "threading", "time"]
else:

    def _copy(name: str) -> ModuleType:
        module = __import__(name)
        copy = ModuleType(name, module.__doc__)
        vars(copy).update(vars(module))
        return copy

    _thread = _copy("_thread")
    os = _copy("os")
    select = _copy("select")
    signal = _copy("signal")
    socket = _copy("socket")
    threading = _copy("threading")
    time = _copy("time")

_THREADING = (
    "Lock",
    "RLock",
    "Event",
    "Condition",
    "_start_new_thread",
    "_start_joinable_thread",
    "get_ident",
)


def threading_is_patched() -> bool:
    """Whether a `threading.Thread` may be something else than a thread of the operating system now."""
    return any(
        getattr(_threading_now, name, None) is not getattr(threading, name, None) for name in _THREADING
    )
