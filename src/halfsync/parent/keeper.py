"""What is left of a server that was upgraded, where others know its process by its number: a process that
passes signals on, and ends as the server ends.

It is who a container's runtime, supervisord or a shell has started, and in a container it may be process 1,
with which everything ends. It serves nothing, and has no child of its own; but it is the parent of each
version that follows, and of orphans, which it reaps.
"""

from __future__ import annotations

import os
import select
import signal
import socket

import msgspec

from halfsync import channel
from halfsync.logs.error import log
from halfsync.parent.limits import LONGEST_WAIT
from halfsync.parent.reaping import ended_processes
from halfsync.parent.signals import Signals
from halfsync.wire import upgrade

BY_SIGNAL = 128
"""Added to a signal's number it is the exit status of whoever was ended by it, as a shell has it."""


def keep(signals: Signals, sock: socket.socket | None, process: int, status: int | None) -> int:
    """Until the server ends, which is this process now. Gives its exit status. `status`: its wait status, if
    it has ended already."""
    while status is None:
        _wait(signals, sock)
        for number in signals.take():
            if number != signal.SIGCHLD and sock is not None:
                channel.send(sock, upgrade.encode(upgrade.Forwarded(number)))
        sock, process = _listen(sock, process)
        for ended, how in ended_processes():
            if ended == process:
                status = how
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else BY_SIGNAL - code


def _wait(signals: Signals, sock: socket.socket | None) -> None:
    poller = select.poll()
    poller.register(signals.wake, select.POLLIN)
    if sock is not None:
        poller.register(sock, select.POLLIN)
    poller.poll(1000 * LONGEST_WAIT)


def _listen(sock: socket.socket | None, process: int) -> tuple[socket.socket | None, int]:
    """Whether another one is the server now."""
    while sock is not None:
        try:
            received = channel.receive(sock)
        except BlockingIOError:
            break
        if received is None:
            sock.close()
            return None, process
        channel.close_all(received[1])
        try:
            message = upgrade.decode_from_new(received[0])
        except msgspec.MsgspecError:
            continue
        if isinstance(message, upgrade.Succeeded):
            log("info", f"process {message.pid} is the server now.")
            process = message.pid
    return sock, process
