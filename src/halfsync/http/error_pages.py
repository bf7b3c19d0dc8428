"""Pages of the user's in place of the few words with which the server itself responds to errors. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

_CONTENT_TYPE = b"content-type"

DESCRIBE_BODY = frozenset(
    {
        "accept-ranges",
        "content-digest",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-length",
        "content-location",
        "content-md5",
        "content-range",
        "content-type",
        "digest",
        "etag",
        "last-modified",
        "repr-digest",
        "trailer",
        "transfer-encoding",
    }
)
"""Header fields of a response that are not true of another body."""


@dataclass(frozen=True, slots=True)
class ErrorPage:
    statuses: str  # "404"; or "4xx", "5xx" for all that have none of their own
    content_type: str
    body: bytes = field(repr=False)


def nearest(*levels: Sequence[ErrorPage]) -> tuple[ErrorPage, ...]:
    """Of several levels' pages, the last level's for each of the keys."""
    found = {page.statuses: page for level in levels for page in level}
    return tuple(found.values())


class ErrorPages:
    """Those of one route, or of one site."""

    def __init__(self, pages: Sequence[ErrorPage]) -> None:
        self._pages = {page.statuses: page for page in pages}

    def find(self, status: int) -> ErrorPage | None:
        return self._pages.get(str(status)) or self._pages.get(f"{status // 100}xx")

    def instead(self, status: int, fields: bytes, body: bytes) -> tuple[bytes, bytes]:
        """Field lines and body of a response with this status: the page's, if there is one; else those that
        are given. What other fields say (Retry-After, Allow) is right for both."""
        page = self.find(status)
        if page is None:
            return fields, body
        lines = [
            line for line in fields.split(b"\r\n")[:-1] if line.partition(b":")[0].lower() != _CONTENT_TYPE
        ]
        lines.append(b"Content-Type: " + page.content_type.encode("latin-1"))
        return b"".join(line + b"\r\n" for line in lines), page.body
