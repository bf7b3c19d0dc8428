"""What is checked of a worker's messages before they touch a connection.

A message that can't be sent is not a violation of the channel: it costs its own request and nobody
else's. Descriptors get the most attention, for the pump never waits for one: what is said to be a file must
be a regular one (to open a FIFO, or to read a terminal, may take for ever), and a pipe is read
through an open file description of the pump's own, whose O_NONBLOCK no other process can clear.
"""

from __future__ import annotations

import os
import stat

from halfsync.objects import SAME_FILE, File, Memory, SimpleObject
from halfsync.pump.connection import Exchange
from halfsync.pump.descriptors import Descriptor
from halfsync.wire.messages import Part, Reply

MEMORY_SLACK = 512 * 1024
"""Bytes of one response's body that a worker may send in memory beyond `reply_memory`: the first 64 KiB
travel in the Reply, and the last piece may be as large as a packet."""
MAX_OUT = 4096
"""Objects of one response that may wait. A worker sends at most some 130 pieces in memory, each of which
takes up to three places; pieces in a file that follow each other become one."""


class UnsendableError(Exception):
    """This message can't be sent. `status` is what its request gets, if that is still possible."""

    def __init__(self, sentence: str, status: int = 500) -> None:
        super().__init__(sentence)
        self.status = status


def check_objects(
    message: Reply | Part, exchange: Exchange, fds: list[Descriptor], memory: int, waiting: int, *, cut: bool
) -> None:
    """Raises UnsendableError. `fds`: the packet's descriptors; `cut`: the last of them did not arrive;
    `memory`: bytes of a body that a worker may give in memory; `waiting`: how many objects wait to be sent.
    Pipes are made the pump's own."""
    for item in message.objects:
        if isinstance(item, Memory):
            exchange.memory += len(item.data)
        elif isinstance(item, File) and item.fd == SAME_FILE:
            if exchange.shared_file is None and not _names_a_file(message.objects, item):
                raise UnsendableError("it names a file that was not sent")
        else:
            _check_descriptor(item, fds, cut)
        if isinstance(item, File) and (item.offset < 0 or item.count < 0):
            raise UnsendableError("its part of a file has a negative size or offset")
    if exchange.memory > memory + MEMORY_SLACK:
        raise UnsendableError(f"it is more in memory than reply_memory ({memory} bytes) allows")
    if waiting > MAX_OUT:
        raise UnsendableError(f"more than {MAX_OUT} pieces of it wait")


def _names_a_file(objects: list[SimpleObject], last: File) -> bool:
    """Whether one before `last` has a descriptor."""
    for item in objects:
        if item is last:
            return False
        if isinstance(item, File) and item.fd >= 0:
            return True
    return False


def _own_pipe(descriptor: Descriptor) -> None:
    try:
        descriptor.own_pipe()
    except OSError as error:
        raise UnsendableError(f"its pipe can't be opened: {error.strerror}", 503) from None


def _check_descriptor(item: SimpleObject, fds: list[Descriptor], cut: bool) -> None:
    assert not isinstance(item, Memory)
    if not 0 <= item.fd < len(fds):
        if cut and item.fd >= 0:
            raise UnsendableError("its descriptor found no room here", 503)
        raise UnsendableError("it names a descriptor that was not sent")
    descriptor = fds[item.fd]
    mode = os.fstat(descriptor.fd).st_mode
    if isinstance(item, File):
        if not stat.S_ISREG(mode):
            raise UnsendableError("what it names as a file is no regular file")
    elif not stat.S_ISFIFO(mode):
        raise UnsendableError("what it names as a pipe is no pipe")
    else:
        _own_pipe(descriptor)
