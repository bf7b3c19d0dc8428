"""Replies on their way to the pump: collected by all threads of a worker, sent in few packets.

A packet costs the worker a system call and, on a shared core, a switch to the pump: sent one by
one, trivial replies cost 70 µs each, in company 20. So replies wait here until the backlog is empty
(`threads` says when), and every packet takes as many as fit.

Descriptors stand beside the packet, in order (SCM_RIGHTS). In a message that waits here, a `File` or
`Pipe` has the true descriptor; when the packet is made it gets its index. What was sent is closed
here. Messages of one slot leave in the order in which they were put.
"""

from __future__ import annotations

import array
import os
import socket
import threading
import time
from collections.abc import Iterator

from halfsync.objects import File, Memory, Pipe
from halfsync.wire.messages import MAX_DESCRIPTORS, MAX_PACKET, Part, Reply, encode

Message = Reply | Part

_SMALL_PACKET = MAX_PACKET // 2
"""Bytes of bodies and fields. Messages that have less in all, and no more than `_FEW`, fit one packet."""
_FEW = 256
_OVERHEAD = 160
"""Bytes that a message can take beside its fields and bodies: numbers, reason, a lease's names."""


class Outbox:
    """Any thread may call any method."""

    def __init__(self, tasks: socket.socket) -> None:
        self._tasks = tasks
        self._lock = threading.Lock()
        self._sending = threading.Lock()  # taken first, then `_lock`
        self._waiting: list[Message] = []
        self._gone = False
        self.plain = True  # nothing that waits has objects
        self.size = 0  # bytes of bodies and fields that wait
        self.since = 0  # monotonic nanoseconds when the oldest that waits was put; 0: none does

    @property
    def gone(self) -> bool:
        """The pump will read nothing more."""
        return self._gone

    def put(self, message: Reply, now: int) -> None:
        """A reply without objects, to leave in company."""
        with self._lock:
            self._waiting.append(message)
            self.size += len(message.body) + len(message.fields)
            if not self.since:
                self.since = now

    def put_objects(self, message: Message) -> None:
        """A message with objects. Their descriptors are closed after it left."""
        with self._lock:
            self._waiting.append(message)
            self.plain = False
            self.size += _size(message)
            if not self.since:
                self.since = time.monotonic_ns()

    def flush(self) -> None:
        """Send all that waits. Waits while the pump reads too slowly; never raises."""
        with self._sending:
            with self._lock:
                messages, plain, size = self._waiting, self.plain, self.size
                self._waiting = []
                self.plain, self.size, self.since = True, 0, 0
            if not messages:
                return
            if plain and size < _SMALL_PACKET and len(messages) <= _FEW:
                self._send(encode(messages), [])
                return
            for packet in _packets(messages):
                descriptors = _index_descriptors(packet)
                self._send(encode(packet), descriptors)
                for descriptor in descriptors:
                    os.close(descriptor)

    def _send(self, packet: bytes, descriptors: list[int]) -> None:
        if self._gone:
            return
        try:
            if descriptors:
                rights = array.array("i", descriptors)
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                self._tasks.sendmsg([packet], ancillary, socket.MSG_NOSIGNAL)
            else:
                self._tasks.send(packet, socket.MSG_NOSIGNAL)
        except OSError:  # the pump died; its connections are gone with it
            self._gone = True


def _size(message: Message) -> int:
    """Of its encoding, at most."""
    size = _OVERHEAD
    if type(message) is Reply:
        size += len(message.fields) + len(message.body) + 3 * len(message.reason)
        size += 3 * sum(map(len, message.lease.names)) if message.lease is not None else 0
    for item in message.objects:
        size += 24 + (len(item.data) if type(item) is Memory else 0)
    return size


def _packets(messages: list[Message]) -> Iterator[list[Message]]:
    """The same messages in the same order, in packets that have room for them."""
    packet: list[Message] = []
    size = descriptors = 0
    for message in messages:
        its_size, its_descriptors = _size(message), _descriptors(message)
        full = size + its_size > MAX_PACKET or descriptors + its_descriptors > MAX_DESCRIPTORS
        if full and packet:
            yield packet
            packet, size, descriptors = [], 0, 0
        packet.append(message)
        size += its_size
        descriptors += its_descriptors
    yield packet


def _descriptors(message: Message) -> int:
    return sum(1 for item in message.objects if not isinstance(item, Memory) and item.fd >= 0)


def _index_descriptors(packet: list[Message]) -> list[int]:
    """Write indexes where descriptors are, and return these in order."""
    descriptors: list[int] = []
    for message in packet:
        for item in message.objects:
            if isinstance(item, (File, Pipe)) and item.fd >= 0:
                descriptors.append(item.fd)
                item.fd = len(descriptors) - 1
    return descriptors
