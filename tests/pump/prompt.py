"""A client's TCP socket for which the network takes no time.

A segment on the loopback interface is delivered by a software interrupt. As a rule that runs before `send`
returns. But while the processor is busy it is left to a kernel thread, which has to wait for its turn like
any other: then the pump's next look finds nothing, and a test that counts on it fails. So this socket asks
the kernel (TCP_INFO) how many bytes each end has sent and received, and returns when these agree.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

LONGEST = 5.0
"""Seconds. What has not arrived by then was dropped, for want of room at the other end, and is sent again. (A
machine that is busy with tasks of real-time priority delivers nothing for 0.95 s.)"""
LONGEST_END = 0.5
"""Seconds. An end that has not come by then stands behind bytes for which there is no room."""

OPEN = 1
"""TCP_ESTABLISHED in the kernel's net/tcp_states.h: neither FIN nor RST has come."""


class Info(NamedTuple):
    """Some of the kernel's struct tcp_info. Zeros if the socket has none."""

    state: int = 0
    received: int = 0  # bytes, in order
    sent: int = 0  # bytes that were put on the wire, for the first time


def _info_of(end: socket.socket) -> Info:
    try:
        raw = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 216)
    except OSError:  # closed, or no TCP
        return Info()
    if len(raw) < 216:
        return Info()  # before Linux 4.19
    sent, again = struct.unpack_from("QQ", raw, 200)
    return Info(raw[0], struct.unpack_from("Q", raw, 128)[0], sent - again)


class PromptSocket(socket.socket):
    """`find_peer` first."""

    peer: socket.socket | None = None

    def find_peer(self, candidates: Iterable[socket.socket]) -> None:
        if self.family != socket.AF_INET:
            return  # Unix sockets are prompt anyway
        # Or a small piece behind one that is not acknowledged yet would wait for that, up to 40 ms.
        self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for one in candidates:
            with contextlib.suppress(OSError):
                if one.getpeername() == self.getsockname():
                    self.peer = one

    def send(self, data: Any, flags: int = 0, /) -> int:
        count = super().send(data, flags)
        self._wait(self._is_sent)
        return count

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        super().sendall(data, flags)
        self._wait(self._is_sent)

    def shutdown(self, how: int, /) -> None:
        super().shutdown(how)
        if how != socket.SHUT_RD:
            self._wait(self._is_ended, LONGEST_END)

    def close(self) -> None:
        super().close()
        self._wait(self._is_ended, LONGEST_END)

    def recv_promptly(self, size: int) -> bytes:
        """As `recv` of a non-blocking socket, but also what is still on its way from the other end."""
        try:
            return self.recv(size)
        except BlockingIOError:
            self._wait(self._is_received)
            return self.recv(size)

    def _wait(self, is_there: Callable[[socket.socket], bool], longest: float = LONGEST) -> None:
        if self.peer is None:
            return
        give_up = time.monotonic() + longest
        while not is_there(self.peer) and time.monotonic() < give_up:
            time.sleep(0.0002)

    def _is_sent(self, peer: socket.socket) -> bool:
        return peer.fileno() < 0 or _info_of(peer).received >= _info_of(self).sent

    def _is_received(self, peer: socket.socket) -> bool:
        """If the other end is closed, a FIN or RST has to come."""
        ours = _info_of(self)
        return ours.state != OPEN if peer.fileno() < 0 else ours.received >= _info_of(peer).sent

    def _is_ended(self, peer: socket.socket) -> bool:
        return _info_of(peer).state != OPEN  # closed: 0
