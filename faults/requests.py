"""The requests of the load, each with the one right response to it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

from faults.content import content, events
from faults.wire import Response

FILES = 6
SMALL, LARGE = 3000, 300_000
"""Bytes of the files `small-N` (leased in memory) and `large-N` (leased as an open file)."""
MODIFIED = 1_600_000_000
"""Seconds since the epoch: when each file was last modified."""
SPOOLED = 100_000
"""Bytes of a request body that goes to a temporary file."""


@dataclass(frozen=True)
class Request:
    wire: bytes
    method: str
    target: str
    status: int
    body: bytes
    fields: dict[str, str] = field(default_factory=dict)
    number: int = 0  # of the POSTs, whose effects are counted
    closes: bool = False

    def trouble(self, response: Response) -> str:
        """What is wrong with the response; empty: it is the right one."""
        if response.status != self.status:
            return f"status {response.status}, not {self.status}"
        for name, value in self.fields.items():
            if response.fields.get(name) != value:
                return f"{name} is {response.fields.get(name)!r}, not {value!r}"
        if response.body == self.body:
            return ""
        if self.body.startswith(response.body):
            return f"{len(response.body)} of {len(self.body)} bytes look complete"
        return f"another body: {response.body[:40]!r}, not {self.body[:40]!r}"


def write_files(folder: Path) -> None:
    """The files that the requests ask for."""
    for number in range(FILES):
        for name, size in (("small", SMALL), ("large", LARGE)):
            path = folder / f"{name}-{number}"
            path.write_bytes(_file(name, number))
            os.utime(path, (MODIFIED, MODIFIED))
            assert path.stat().st_size == size


def _file(name: str, number: int) -> bytes:
    return content(number if name == "small" else 100 + number, SMALL if name == "small" else LARGE)


_FILES = {(name, number): _file(name, number) for name in ("small", "large") for number in range(FILES)}


def _wire(method: str, target: str, *lines: str, version: str = "1.1", body: bytes = b"") -> bytes:
    head = "\r\n".join([f"{method} {target} HTTP/{version}", "Host: faults.test", *lines, "", ""])
    return head.encode("ascii") + body


class Maker:
    """Makes requests; `number` gives one that nobody else has."""

    def __init__(self, chance: random.Random, number: Callable[[], int]) -> None:
        self._chance = chance
        self._number = number

    def batch(self) -> list[Request]:
        """One request, or several to be pipelined. Only the last may close the connection."""
        if self._chance.random() < 0.15:
            count = self._chance.randrange(2, 12)
            return [self._chance.choice(PIPELINED)(self) for _ in range(count)]
        return [self.one()]

    def one(self) -> Request:
        return self._chance.choice(ALL)(self)

    def _pick(self) -> int:
        return self._chance.randrange(FILES)

    def leased(self) -> Request:
        number = self._pick()
        target = f"/files/small-{number}"
        return Request(_wire("GET", target), "GET", target, 200, _FILES["small", number])

    def large_file(self) -> Request:
        number = self._pick()
        target = f"/files/large-{number}"
        return Request(_wire("GET", target), "GET", target, 200, _FILES["large", number])

    def file_range(self) -> Request:
        number, start = self._pick(), self._chance.randrange(LARGE - 1000)
        end = start + self._chance.randrange(1, 1000)
        target = f"/files/large-{number}"
        part = _FILES["large", number][start : end + 1]
        wire = _wire("GET", target, f"Range: bytes={start}-{end}")
        return Request(wire, "GET", target, 206, part, {"content-range": f"bytes {start}-{end}/{LARGE}"})

    def not_modified(self) -> Request:
        target = f"/files/small-{self._pick()}"
        date = formatdate(MODIFIED, usegmt=True)
        return Request(_wire("GET", target, f"If-Modified-Since: {date}"), "GET", target, 304, b"")

    def head(self) -> Request:
        target = f"/files/small-{self._pick()}"
        return Request(_wire("HEAD", target), "HEAD", target, 200, b"", {"content-length": str(SMALL)})

    def get(self) -> Request:
        return self._get(self._chance.choice([0, 10, 900, 20_000]))

    def large_get(self) -> Request:
        """Its response goes through a temporary file."""
        return self._get(LARGE)

    def _get(self, size: int) -> Request:
        number = self._number()
        target = f"/get?n={number}&size={size}"
        expected = {"x-number": str(number), "content-length": str(size)}
        return Request(_wire("GET", target), "GET", target, 200, content(number, size), expected)

    def stream(self) -> Request:
        number, size = self._number(), self._chance.choice([5000, 50_000, LARGE])
        target = f"/stream?n={number}&size={size}"
        expected = {"x-number": str(number)}
        return Request(_wire("GET", target), "GET", target, 200, content(number, size), expected)

    def events(self) -> Request:
        """Server-sent events, one after the other."""
        number = self._number()
        target = f"/events?n={number}"
        expected = {"x-number": str(number), "content-type": "text/event-stream"}
        body = b"".join(events(number))
        return Request(_wire("GET", target), "GET", target, 200, body, expected)

    def old_stream(self) -> Request:
        """To a client of HTTP/1.0 the close is the end."""
        number, size = self._number(), 50_000
        target = f"/stream?n={number}&size={size}"
        wire, expected = _wire("GET", target, version="1.0"), {"x-number": str(number)}
        return Request(wire, "GET", target, 200, content(number, size), expected, closes=True)

    def post(self) -> Request:
        return self._post(self._chance.choice([1, 1000, 20_000]), chunked=False)

    def spooled_post(self) -> Request:
        return self._post(SPOOLED, chunked=False)

    def chunked_post(self) -> Request:
        return self._post(self._chance.choice([1000, SPOOLED]), chunked=True)

    def _post(self, size: int, *, chunked: bool) -> Request:
        number = self._number()
        target = f"/post?n={number}"
        body = content(number, size)
        if chunked:
            piece = self._chance.choice([500, 7000])
            parts = [body[at : at + piece] for at in range(0, size, piece)]
            data = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
            wire = _wire("POST", target, "Transfer-Encoding: chunked", body=data)
        else:
            wire = _wire("POST", target, f"Content-Length: {size}", body=body)
        return Request(wire, "POST", target, 200, body, {"x-number": str(number)}, number)


ALL: list[Callable[[Maker], Request]] = [
    Maker.leased,
    Maker.leased,
    Maker.leased,
    Maker.large_file,
    Maker.file_range,
    Maker.not_modified,
    Maker.head,
    Maker.get,
    Maker.get,
    Maker.large_get,
    Maker.stream,
    Maker.events,
    Maker.old_stream,
    Maker.post,
    Maker.post,
    Maker.spooled_post,
    Maker.chunked_post,
]
PIPELINED = [
    Maker.leased,
    Maker.leased,
    Maker.head,
    Maker.not_modified,
    Maker.get,
    Maker.post,
    Maker.file_range,
]
NORMAL = [Maker.leased, Maker.large_file, Maker.get, Maker.stream, Maker.post, Maker.spooled_post]
"""All that must be right again when a fault is over."""
