"""An error that is a response: whose fault it is, and the response to send.

A refusal takes the road of a good reply: status line, fields, body, log record. Only the
connection's fate differs: where the framing has become doubtful it closes, and nothing behind
the refused request is acted on.
"""

from __future__ import annotations

from halfsync.wire.phrases import PHRASES

ALLOWED = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
"""What the server allows, which is asked by `OPTIONS *` and no resource of it (RFC 9110 9.3.7)."""


class Refusal(Exception):
    """The pump responds with `status` by itself, without a worker.

    `sentence` tells the client (and the log) what was wrong. `close` says that the connection
    can't be kept: where the next request would begin is no longer certain, or not worth finding.
    """

    is_of_site = True
    """Whether a site's error pages and rules for headers count for it."""

    is_counted = True

    def __init__(
        self,
        status: int,
        sentence: str,
        *,
        close: bool = True,
        retry_after: int | None = None,
        allow: str | None = None,
        reason: str = "",
    ) -> None:
        """`allow`: the methods that there are, of a 405. `reason`: as what it is counted (see counts.py); "":
        as its status says."""
        super().__init__(f"{status} {PHRASES[status]}: {sentence}")
        self.status = status
        self.sentence = sentence
        self.close = close
        self.retry_after = retry_after
        self.allow = allow
        self.reason = reason

    def fields(self) -> bytes:
        """Field lines, each ended by CRLF, without those that framing adds."""
        lines = b"Content-Type: text/plain; charset=utf-8\r\n"
        if self.retry_after is not None:
            lines += b"Retry-After: %d\r\n" % self.retry_after
        if self.allow is not None:
            lines += f"Allow: {self.allow}\r\n".encode("latin-1")
        return lines

    def body(self) -> bytes:
        return f"{self.status} {PHRASES[self.status]}\n{self.sentence}\n".encode()


class OfServer(Refusal):
    """One that has nothing to do with any site."""

    is_of_site = False


class ServerOptions(OfServer):
    """The response to `OPTIONS *` with a body, which means nothing and is not read."""

    is_counted = False

    def __init__(self) -> None:
        super().__init__(200, "", allow=ALLOWED)

    def fields(self) -> bytes:
        return f"Allow: {self.allow}\r\n".encode("latin-1")

    def body(self) -> bytes:
        return b""


class Redirection(OfServer):
    """What was asked for is at `location`."""

    is_counted = False

    def __init__(self, status: int, location: str, *, close: bool) -> None:
        super().__init__(status, f"This is at {location}", close=close)
        self._location = location

    def fields(self) -> bytes:
        return super().fields() + f"Location: {self._location}\r\n".encode("latin-1")
