"""What a WSGI application returns: a list, any iterable, or a file in `wsgi.file_wrapper`."""

from __future__ import annotations

import io
import stat
from collections.abc import Iterable, Iterator
from typing import IO, Any

from halfsync.handlers.wsgi_response import BadApplication, Invocation
from halfsync.handlers.wsgi_tunnel import TunnelResponse
from halfsync.system.primitives import os
from halfsync.system.stamps import size_is_unknown
from halfsync.system.temporary_files import out_of_reach


class FileWrapper:
    """`wsgi.file_wrapper`: an iterable over a file. With a true file, it is never iterated."""

    def __init__(self, filelike: IO[bytes], block_size: int = 64 * 1024) -> None:
        self.filelike = filelike
        self.block_size = block_size
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if data := self.filelike.read(self.block_size):
            return data
        raise StopIteration


def send(invocation: Invocation, result: Iterable[bytes]) -> None:
    """Send what the application returned, and close it whatever happens."""
    try:
        if invocation.socket is not None and invocation.socket.has_client:
            pass  # it has talked to its client by that
        elif type(result) is list or type(result) is tuple:
            invocation.send_all(result)
        elif type(result) is TunnelResponse:
            _send_tunnel(invocation, result)
        elif not (type(result) is FileWrapper and _send_file(invocation, result)):
            _iterate(invocation, result)
    finally:
        if hasattr(result, "close"):
            invocation.soon()  # close() may take its time: work for after the response is done there
            result.close()
        if invocation.socket is not None:
            invocation.socket.end()


def _send_tunnel(invocation: Invocation, result: TunnelResponse) -> None:
    if invocation.head is not None:
        raise BadApplication("The application called start_response, and returned a tunnel.")
    result.hand_over(invocation.replier)


def _iterate(invocation: Invocation, result: Iterable[bytes]) -> None:
    alone = _length_hint(result) == 1
    for piece in result:
        if alone and not invocation.begun:
            invocation.send_all([piece])
        else:
            invocation.send(piece)
        if invocation.is_disconnected:
            break
    invocation.finish()


def _length_hint(result: Iterable[bytes]) -> int:
    """`len(result)`, if it has one (PEP 3333, "Handling the Content-Length Header")."""
    try:
        return len(result)  # type: ignore[arg-type]
    except (TypeError, AttributeError, NotImplementedError):
        return -1


def _send_file(invocation: Invocation, wrapper: FileWrapper) -> bool:
    """Send a true file's rest by its descriptor. False if it is none: then it must be iterated."""
    if invocation.begun:
        return False
    file = _true_file(wrapper.filelike)
    if file is None:
        return False
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or size_is_unknown(file.fileno(), status):
        return False
    offset = file.tell()
    descriptor = out_of_reach(os.dup(file.fileno()))
    invocation.send_file(descriptor, offset, max(0, status.st_size - offset), status)
    return True


def _true_file(filelike: Any) -> IO[bytes] | None:
    """The file whose descriptor holds the very bytes that `filelike.read` would give.

    A `fileno` method alone says nothing of it: gzip.GzipFile has one, and gives other bytes.
    """
    if type(filelike).__name__ == "_TemporaryFileWrapper":  # tempfile.NamedTemporaryFile
        filelike = filelike.file
    raw = filelike.raw if type(filelike) in (io.BufferedReader, io.BufferedRandom) else filelike
    return filelike if type(raw) is io.FileIO and raw.readable() and not raw.closed else None
