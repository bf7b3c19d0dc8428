"""A request's id as it stands in its header section: the pump writes it there, as the last field, where
workers and the access log find it.

Only in processes with `enabled`, that is with a setting `request_id` that is not off. In others a field of
this name is the client's own, and is passed on as any other.
"""

from __future__ import annotations

FIELD = "x-request-id"
LINE_START = b"\r\nX-Request-ID: "
"""What stands before it."""
MAX_LENGTH = 128
"""Characters that an id which comes with a request may have."""

_enabled = False


def enable(on: bool) -> None:
    """In this process."""
    global _enabled
    _enabled = on


def are_enabled() -> bool:
    return _enabled


def id_in(head: bytes) -> str:
    """ "" if there is none."""
    if not _enabled:
        return ""
    start = head.rfind(LINE_START)
    if start < 0:
        return ""
    start += len(LINE_START)
    return str(head[start : head.find(b"\r\n", start)], "latin-1")


def said(head: bytes) -> str:
    """For the error log, behind the request's name."""
    found = id_in(head)
    return f" (request {found})" if found else ""


def named_in(body: bytes, head: bytes) -> bytes:
    """The body of a response in the server's own words, with the id: who sees it can say which request it
    was."""
    found = id_in(head)
    return body + f"Request id: {found}\n".encode("latin-1") if found else body


def without_id(head: bytes) -> tuple[bytes, str]:
    """The header section as it is without; and the id, "" if there is none."""
    if not _enabled:
        return head, ""
    start = head.rfind(LINE_START)
    if start < 0:
        return head, ""
    return head[:start] + b"\r\n\r\n", str(head[start + len(LINE_START) : -4], "latin-1")
