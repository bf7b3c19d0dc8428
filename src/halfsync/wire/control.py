"""What is said over the control socket: JSON, one object a line. No I/O.

A request is a `ControlRequest`; each gets one line in response, in order: an object whose `ok` says whether
it was done. If not, `error` is a sentence; if it was, the other members are what the command has to tell
(see docs/reference/control.md).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Command = Literal[
    "status",
    "workers",
    "scoreboard",
    "reload",
    "upgrade",
    "reopen",
    "stop",
    "scale",
    "connections",
    "leases",
]

MAX_LINE = 64 * 1024
"""Bytes of a request."""


class ControlRequest(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    command: Command
    number: int | None = None  # of `scale`: worker processes
    pool: str | None = None  # of `scale`: the application, as it is named in the configuration; None: all
    at_once: bool = False  # of `stop`: requests in flight are cut off


_decode = msgspec.json.Decoder(ControlRequest).decode
encode_request = msgspec.json.Encoder().encode


def decode_request(line: bytes) -> ControlRequest:
    """Raises ValueError, whose text is a sentence."""
    try:
        return _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"This is no request: {error}.") from None


def encode_response(said: dict[str, Any]) -> bytes:
    """A line, with its end."""
    return msgspec.json.encode(said) + b"\n"


def done(**said: Any) -> dict[str, Any]:
    return {"ok": True, **said}


def failed(sentence: str) -> dict[str, Any]:
    return {"ok": False, "error": sentence}
