"""What applications write to: `wsgi.errors`. Its lines go where the error log goes, as they are."""

from __future__ import annotations

from collections.abc import Iterable

from halfsync.logs.error import write_through
from halfsync.system.primitives import threading

MAX_LINE = 64 * 1024
"""Characters. A longer line is cut into several."""


class _Partial(threading.local):
    text = ""


class ErrorStream:
    """A text stream that writes whole lines, so that those of several threads do not mix. What is written
    in one call stays together: a traceback does. Neither date nor level is added: an application's own
    logging, which usually writes here, has both."""

    def __init__(self) -> None:
        self._partial = _Partial()

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"wsgi.errors takes str, not {type(text).__name__}")
        whole, newline, rest = (self._partial.text + text).rpartition("\n")
        whole += newline
        if len(rest) > MAX_LINE:
            whole, rest = whole + rest + "\n", ""
        self._partial.text = rest
        if whole:
            write_through(whole)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        """Also writes a line that is not whole yet, and ends it."""
        rest, self._partial.text = self._partial.text, ""
        if rest:
            write_through(rest + "\n")
