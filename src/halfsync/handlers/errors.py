"""What applications write to: `wsgi.errors`, as lines in the error log."""

from __future__ import annotations

from collections.abc import Iterable

from halfsync.logs.error import log
from halfsync.primitives import threading

MAX_LINE = 64 * 1024
"""Characters. A longer line is cut into several."""


class _Partial(threading.local):
    text = ""


class ErrorStream:
    """A text stream of which whole lines become records, so that those of several threads do not
    mix. What is written in one call stays one record: a traceback is."""

    def __init__(self) -> None:
        self._partial = _Partial()

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"wsgi.errors takes str, not {type(text).__name__}")
        whole, newline, rest = (self._partial.text + text).rpartition("\n")
        if len(rest) > MAX_LINE:
            whole, newline, rest = whole + newline + rest, "", ""
        self._partial.text = rest
        if whole:
            log("error", whole)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        """Also writes a line that is not whole yet."""
        rest, self._partial.text = self._partial.text, ""
        if rest:
            log("error", rest)
