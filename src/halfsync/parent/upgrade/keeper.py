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
from halfsync.parent.signals import Signals
from halfsync.parent.workers.reaping import ended_processes, exit_status_of
from halfsync.wire import upgrade


def keep(signals: Signals, sock: socket.socket | None, servers: list[int], status: int | None) -> int:
    """Until the server ends, which is the last of these processes now; those before it may still finish what
    they have. Gives its exit status. `status`: its wait status, if it has ended already.

    While the version before the server lives, that is the server's parent: it reaps it, and ends with the
    same status."""
    before = 0  # wait status of the last one of those before that has ended
    while status is None:
        _wait(signals, sock)
        for number in signals.take():
            if number != signal.SIGCHLD and sock is not None:
                channel.send(sock, upgrade.encode(upgrade.Forwarded(number)))
        sock = _listen(sock, servers)
        for ended, how in ended_processes():
            if ended == servers[-1]:
                status = how
            elif ended in servers:
                before = how
        servers[:-1] = filter(_exists, servers[:-1])
        if status is None and sock is None and not any(map(_exists, servers)):
            status = before
    return exit_status_of(status)


def _wait(signals: Signals, sock: socket.socket | None) -> None:
    poller = select.poll()
    poller.register(signals.wake, select.POLLIN)
    if sock is not None:
        poller.register(sock, select.POLLIN)
    poller.poll(1000 * LONGEST_WAIT)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _listen(sock: socket.socket | None, servers: list[int]) -> socket.socket | None:
    """Whether another one is the server now: then it is added to them."""
    while sock is not None:
        try:
            received = channel.receive(sock)
        except BlockingIOError:
            break
        if received is None:
            sock.close()
            return None
        channel.close_all(received[1])
        try:
            message = upgrade.decode_from_new(received[0])
        except msgspec.MsgspecError:
            continue
        if isinstance(message, upgrade.Succeeded):
            log("info", f"process {message.pid} is the server now.")
            servers.append(message.pid)
    return sock
