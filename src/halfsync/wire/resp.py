"""The protocol of Redis and Valkey (RESP2), as far as it is needed here. No I/O."""

from __future__ import annotations

MAX_LINE = 64 * 1024
"""Bytes. A longer one, or a larger text, is no reply to what we ask."""

Reply = int | bytes | None | list["Reply"]


class StoreError(Exception):
    """An error that the server has replied; or what it sent is no reply."""


def command(*parts: bytes) -> bytes:
    """Its encoding."""
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


class ReplyReader:
    """Feed it what comes; `next` gives the replies."""

    def __init__(self) -> None:
        self._unread = b""

    def feed(self, data: bytes) -> None:
        self._unread += data

    def next(self) -> Reply | StoreError | Incomplete:
        """Raises StoreError if it is no reply; an error that is one is given, as it may be one of several."""
        found = self._read(0)
        if found is None:
            return INCOMPLETE
        reply, end = found
        self._unread = self._unread[end:]
        return reply

    def _read(self, at: int) -> tuple[Reply | StoreError, int] | None:
        end = self._unread.find(b"\r\n", at)
        if end < 0:
            if len(self._unread) - at > MAX_LINE:
                raise StoreError("it sent a line without an end")
            return None
        kind, line = self._unread[at : at + 1], self._unread[at + 1 : end]
        end += 2
        if kind == b"+":
            return line, end
        if kind == b"-":
            return StoreError(line.decode("utf-8", "replace")[:200]), end
        number = _number(line)
        if kind == b":":
            return number, end
        if kind == b"$":
            return self._text(number, end)
        if kind == b"*":
            return self._list(number, end)
        raise StoreError("it does not speak the protocol of Redis")

    def _text(self, size: int, at: int) -> tuple[Reply, int] | None:
        if size < 0:
            return None, at
        if size > MAX_LINE:
            raise StoreError(f"it sent a text of {size} bytes")
        end = at + size
        return (self._unread[at:end], end + 2) if len(self._unread) >= end + 2 else None

    def _list(self, count: int, at: int) -> tuple[Reply, int] | None:
        found: list[Reply] = []
        for _ in range(min(count, MAX_LINE)):
            one = self._read(at)
            if one is None:
                return None
            reply, at = one
            if isinstance(reply, StoreError):
                raise reply
            found.append(reply)
        return found, at


class Incomplete:
    """More has to come."""


INCOMPLETE = Incomplete()


def _number(line: bytes) -> int:
    try:
        return int(line)
    except ValueError:
        raise StoreError("it does not speak the protocol of Redis") from None
