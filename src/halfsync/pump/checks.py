"""What is checked of a worker's messages before they touch a connection.

A message that can't be sent is not a violation of the channel: it costs its own request and nobody
else's. Descriptors get the most attention, for the pump never waits for one: what is said to be a file must
be a regular one (to open a FIFO, or to read a terminal, may take for ever), and a pipe is read
through an open file description of the pump's own, whose O_NONBLOCK no other process can clear.
"""

from __future__ import annotations

import os
import socket
import stat

from halfsync.objects import SAME_FILE, File, Memory, SimpleObject, Tunnel
from halfsync.pump.connection import Exchange
from halfsync.pump.descriptors import Descriptor
from halfsync.wire.messages import RESPONSE_WINDOW, Ending, Part, Reply, cost_of

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
        if isinstance(item, Tunnel):
            _check_tunnel(message, exchange)
        if isinstance(item, Memory):
            exchange.memory += 0 if exchange.window else len(item.data)
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


def count_window(exchange: Exchange, objects: list[SimpleObject]) -> None:
    """What a worker with an event loop sends before the client has taken more. Raises UnsendableError."""
    exchange.window += sum(map(cost_of, objects))
    if exchange.window > RESPONSE_WINDOW + MEMORY_SLACK:
        raise UnsendableError(f"it is more than the client has taken and {RESPONSE_WINDOW} bytes")


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


def _check_tunnel(message: Reply | Part, exchange: Exchange) -> None:
    """It is the whole of a 101, to a request that may be followed by one: of HTTP/1.1, and with nothing of
    its body yet to come (RFC 9110 7.8)."""
    whole = isinstance(message, Reply) and message.status == 101 and message.ending is Ending.DONE
    if not whole or len(message.objects) > 1 or (isinstance(message, Reply) and message.body):
        raise UnsendableError("a tunnel is all of a response, whose status is 101")
    if exchange.head.minor != 1 or (exchange.stream is not None and not exchange.stream.is_whole):
        raise UnsendableError("its request can't become a tunnel")


def _check_socket(descriptor: Descriptor, mode: int) -> None:
    """Connected, and one of bytes, not of packets."""
    if not stat.S_ISSOCK(mode):
        raise UnsendableError("what it names as a tunnel is no socket")
    try:
        peer = socket.socket(fileno=os.dup(descriptor.fd))
        try:
            connected = peer.type == socket.SOCK_STREAM and peer.getpeername() is not None
        finally:
            peer.close()
    except OSError:
        connected = False
    if not connected:
        raise UnsendableError("what it names as a tunnel is no connected stream socket")


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
    elif isinstance(item, Tunnel):
        _check_socket(descriptor, mode)
    elif not stat.S_ISFIFO(mode):
        raise UnsendableError("what it names as a pipe is no pipe")
    else:
        _own_pipe(descriptor)
