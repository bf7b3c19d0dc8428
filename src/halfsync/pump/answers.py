"""Heads of answers: what a reply or a refusal becomes on the wire (RFC 9112 4, 6, 9.3)."""

from __future__ import annotations

from http import HTTPStatus

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

_status_lines = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


def status_line(status: int, reason: str) -> bytes:
    line = _status_lines.get(status)
    if line is None or (reason and line[13:-2] != reason.encode("latin-1")):
        return f"HTTP/1.1 {status} {reason}\r\n".encode("latin-1")
    return line


def has_no_body(status: int) -> bool:
    """RFC 9112 6.3: whatever its fields say, such an answer ends with its head."""
    return status < 200 or status == 204 or status == 304


def connection_line(keep: bool, minor: int) -> bytes:
    """1.1 keeps unless told otherwise, 1.0 closes unless told otherwise (RFC 9112 9.3)."""
    if keep:
        return b"" if minor else b"Connection: keep-alive\r\n"
    return b"Connection: close\r\n"
