"""The socket at the other end of a tunnel, and how far each of its two ways is. (Its steps: tunnel.py.)"""

from __future__ import annotations

import os
import socket

from halfsync.pump.descriptors import Descriptor
from halfsync.pump.poller import Poller
from halfsync.pump.states import TUNNEL_TABLE, TunnelEvent, TunnelState


class TunnelEnds:
    """What is on its way to the socket is in the connection's inbox."""

    __slots__ = ("hung_up", "moved_at", "peer", "readable", "state", "stopping", "to_client", "watched")

    def __init__(self, file: Descriptor) -> None:
        """`file` is a connected stream socket. Raises OSError."""
        self.peer = socket.socket(fileno=os.dup(file.fd))
        self.state = TunnelState.OPEN
        self.to_client = b""  # read, and not taken by the client
        self.readable = True  # the socket may have something (edge-triggered: it says so once)
        self.hung_up = False  # its other end is closed altogether
        self.stopping = False  # nothing more is to come from the client
        self.watched = False
        self.moved_at = 0.0  # monotonic: when a byte moved last

    def move(self, event: TunnelEvent) -> None:
        """To the state that the table names."""
        state = TUNNEL_TABLE[self.state][event]
        if state is None:
            raise AssertionError(f"no {event.name} in {self.state.name}")
        self.state = state

    def abort(self, poller: Poller) -> None:
        """The connection closes."""
        self.move(TunnelEvent.ABORT)
        self.close(poller)

    def close(self, poller: Poller) -> None:
        if self.watched:
            self.watched = False
            poller.forget(self.peer.fileno())
        self.peer.close()
