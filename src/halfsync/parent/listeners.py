"""Listening sockets: bound once, by the parent, and open as long as it lives."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Sequence

from halfsync.plan import Listener
from halfsync.settings import SettingError, Settings


def bind(settings: Settings) -> tuple[Listener, ...]:
    """Bind and listen at every address of `bind`. Raises SettingError; then nothing stays bound."""
    bound: list[Listener] = []
    try:
        for address in settings.bind:
            bound.append(_bind_one(address, settings.backlog))  # noqa: PERF401 - what is bound so far counts
    except SettingError:
        close(bound)
        raise
    return tuple(bound)


def close(listeners: Sequence[Listener]) -> None:
    """Close them and remove what they left in the file system."""
    for listener in listeners:
        _remove_if_ours(listener)
        listener.socket.close()


def parse(address: str) -> tuple[str, int] | str:
    """(host, port), or the path of a unix socket. Raises SettingError."""
    if address.startswith("unix:"):
        path = address.removeprefix("unix:").removeprefix("//")
        if not path:
            raise SettingError(f"bind {address!r}: the path is missing, as in unix:/run/app.sock.")
        return path
    host, colon, port = address.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise SettingError(f"bind {address!r} must be host:port, [address]:port, a port, or unix:/path.")
    if not colon:
        return "127.0.0.1", int(port)
    bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not bracketed:
        raise SettingError(f"bind {address!r}: write an IPv6 address in brackets, as in [{host}]:{port}.")
    return host.strip("[]") or "0.0.0.0", int(port)


def _bind_one(address: str, backlog: int) -> Listener:
    where = parse(address)
    try:
        return _bind_unix(where, backlog) if isinstance(where, str) else _bind_tcp(*where, backlog)
    except socket.gaierror:
        raise SettingError(f"bind {address!r}: there is no host of that name.") from None
    except OSError as error:
        raise SettingError(f"bind {address!r}: {_reason(error)}.") from None


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the address is in use by another program"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    if error.errno == errno.EACCES:
        return "permission denied (ports below 1024 are often root's)"
    return error.strerror or str(error)


def _bind_tcp(host: str, port: int, backlog: int) -> Listener:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, where = found[0]
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # accepted sockets inherit it, which saves a system call for each connection
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listening.bind(where)
        _listen(listening, backlog)
    except OSError:
        listening.close()
        raise
    port = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    return Listener(f"{shown}:{port}", host, port, listening)


def _bind_unix(path: str, backlog: int) -> Listener:
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(path)
        # As open as a port of this machine is; who wants it closer puts it in a folder of his own.
        os.chmod(path, 0o666)
        _made[f"unix:{path}"] = _identity(path)
        _listen(listening, backlog)
    except OSError:
        listening.close()
        raise
    return Listener(f"unix:{path}", "", 0, listening)


def _listen(listening: socket.socket, backlog: int) -> None:
    listening.setblocking(False)
    listening.listen(backlog)


def _remove_stale(path: str) -> None:
    """A socket that nobody listens at is left over from a server that was killed."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "there is a file of that name which is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:  # its queue is full: somebody does listen
            pass
    raise OSError(errno.EADDRINUSE, "in use")


def _remove_if_ours(listener: Listener) -> None:
    """Another server may have taken the path since: its socket is not ours to remove."""
    path = listener.address.removeprefix("unix:")
    try:
        if _made.get(listener.address) == _identity(path):
            os.unlink(path)
    except OSError:
        pass


_made: dict[str, tuple[int, int]] = {}
"""Address -> device and inode of the file that we made there."""


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino
