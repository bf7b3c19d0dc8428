"""Sending log messages as datagrams, to a unix socket or by UDP, without ever waiting long.
(By TCP: streams.py.)

The receiver may be away, come back at the same path, or read too slowly. So a socket that fails is made again
(once in RETRY seconds at most), and one that is full is waited for no longer than the caller says. What can't
be sent is the caller's to count.

A process that an application runs in may lose its descriptors, or find another file at their numbers. So the
socket's is high, and looked at before each use (see logs/error.py, which does the same for its file). And a
child that was forked makes a socket of its own.
"""

from __future__ import annotations

import errno
import fcntl

from halfsync.system.primitives import os, select, socket, time

RETRY = 1.0
"""Seconds between two attempts to reach a receiver that is away."""
HIGH = 250
"""Where the number of the descriptor is looked for first."""
_GONE = {errno.ECONNREFUSED, errno.ENOTCONN, errno.ECONNRESET, errno.EPIPE, errno.EBADF, errno.ENOTSOCK}
_FULL = {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM}

Address = str | tuple[str, int]
"""Path of a unix socket; or numeric address and port."""


class Datagrams:
    """`why` says, after a `send` that gave False, why. `is_of_other_kind`: because the receiver's socket is
    not of the kind that was tried."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._socket: socket.socket | None = None
        self._identity: tuple[int, int, int] | None = None  # process, device, inode
        self._retry_at = 0.0
        self.why = ""
        self.is_of_other_kind = False

    def send(self, data: bytes, wait: float = 0.0, fds: tuple[int, ...] = ()) -> bool:
        """Whether it was sent. Raises OSError (EMSGSIZE) if it is too long, and nothing else."""
        for _ in range(2):  # the receiver may have started again
            sock = self._connected()
            if sock is None:
                return False
            try:
                if fds:
                    socket.send_fds(sock, [data], list(fds))
                else:
                    sock.send(data)
                return True
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    raise
                self.why = os.strerror(error.errno or 0)
                if error.errno in _FULL:
                    self.why = "it reads too slowly"
                    if not wait or not has_room(sock, wait):
                        return False
                elif error.errno in _GONE:
                    self._drop()
                    self._retry_at = 0.0
                else:
                    return False
        return False

    def _connected(self) -> socket.socket | None:
        if self._socket is not None:
            if self._identity == _identity_of(self._socket.fileno()):
                return self._socket
            self._socket.detach()  # the number is somebody else's now
            self._socket = None
            self._retry_at = 0.0
        self.is_of_other_kind = False
        now = time.monotonic()
        if now < self._retry_at:
            return None
        self._retry_at = now + RETRY
        try:
            self._socket = self._connect()
            self._identity = _identity_of(self._socket.fileno())
        except OSError as error:
            self.why = os.strerror(error.errno or 0)
            self.is_of_other_kind = error.errno == errno.EPROTOTYPE
            self._drop()
        return self._socket

    def _connect(self) -> socket.socket:
        """Raises OSError."""
        return moved_up(connecting(self._address, socket.SOCK_DGRAM))

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        if self._socket is not None and self._identity == _identity_of(self._socket.fileno()):
            self._drop()


def connecting(address: Address, kind: int) -> socket.socket:
    """A socket that is connected, or (a stream) on its way. Raises OSError."""
    family = socket.AF_UNIX
    if not isinstance(address, str):
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    made = socket.socket(family, kind | socket.SOCK_CLOEXEC)
    try:
        made.setblocking(False)
        made.connect(address)
    except OSError as error:
        if error.errno != errno.EINPROGRESS:
            made.close()
            raise
    return made


def moved_up(made: socket.socket) -> socket.socket:
    try:
        high = fcntl.fcntl(made.fileno(), fcntl.F_DUPFD_CLOEXEC, HIGH)
    except OSError:  # the limit is lower, or none is free from there on
        return made
    family, kind = made.family, made.type
    made.close()
    moved = socket.socket(family, kind, fileno=high)
    moved.setblocking(False)
    return moved


def _identity_of(descriptor: int) -> tuple[int, int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return os.getpid(), status.st_dev, status.st_ino


def has_room(sock: socket.socket, seconds: float) -> bool:
    poller = select.poll()
    poller.register(sock, select.POLLOUT)
    return bool(poller.poll(seconds * 1000))
