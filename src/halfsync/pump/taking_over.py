"""At an upgrade: connections come from the pump of the server before (see handing_over.py)."""

from __future__ import annotations

import socket
from collections.abc import Mapping

import msgspec

from halfsync import channel
from halfsync.logs.error import log
from halfsync.pump.acceptor import Acceptor
from halfsync.pump.poller import Poller
from halfsync.wire.upgrade import Passed, decode_passed

PACKETS_A_TURN = 8


class TakingOver:
    """`is_open`: there may be more to come."""

    def __init__(
        self, sock: socket.socket, places: Mapping[int, int], acceptor: Acceptor, poller: Poller
    ) -> None:
        """`places`: of listeners, here by what they are there."""
        self._sock = sock
        self._sock.setblocking(False)
        self._places = places
        self._acceptor = acceptor
        self._poller = poller
        self.is_open = True
        poller.watch(sock.fileno(), self._event)

    def close(self) -> None:
        """Take no more: the other pump closes what it has left."""
        if self.is_open:
            self.is_open = False
            self._poller.forget(self._sock.fileno())
            self._sock.close()

    def _event(self, _mask: int) -> None:
        """As with new clients: see `Acceptor.accept_due`."""
        self._acceptor.due.append(self._receive)

    def _receive(self) -> None:
        for _ in range(PACKETS_A_TURN):
            try:
                received = channel.receive(self._sock)
            except BlockingIOError:
                return
            if received is None:
                self.close()
                return
            self._take(*received)

    def _take(self, packet: bytes, descriptors: list[int]) -> None:
        try:
            passed = decode_passed(packet)
        except msgspec.MsgspecError as error:
            channel.close_all(descriptors)
            log("error", f"connections of the version before are lost: {error}.")
            return
        if len(passed) != len(descriptors):
            channel.close_all(descriptors)
            log(
                "error",
                f"{len(passed)} connections of the version before are lost: there are too few file "
                "descriptors (ulimit -n, LimitNOFILE).",
            )
            return
        for one, descriptor in zip(passed, descriptors, strict=True):
            self._adopt(one, descriptor)

    def _adopt(self, one: Passed, descriptor: int) -> None:
        place = self._places.get(one.listener)
        try:
            if place is None:
                raise OSError(None, "nobody listens at its address any more")
            self._acceptor.adopt(one, place, descriptor)
        except OSError as error:
            channel.close_all([descriptor])
            log("error", f"a connection of {one.client or 'a unix socket'} is lost: {error.strerror}.")
