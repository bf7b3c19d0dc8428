"""Chunked request bodies (RFC 9112 7.1): bytes in, pieces of the body out. No I/O.

Why not llhttp, which can do this: through httptools it does not say where in a packet a body
ended, and what is behind the end is the next request. The grammar is small, and it is held to the
letter: a size of at most 16 hex digits, extensions with no white space around them (RFC 9112
allows it, llhttp does not) and of bounded length, CR LF and nothing else at a line's end. Trailers
are checked and dropped: merging them into the head is only safe for fields that are defined so
(RFC 9110 6.5.1), and WSGI has no place for them; one that looks like framing is refused. A test
feeds everything that this accepts to llhttp too.

A client may send chunks of one byte, and each costs us work that it does not cost the client. So one call
decodes MAX_CHUNKS and reads MAX_LINES at most; and small chunks with plain lines are decoded many at once, by
splitting a window of the data at its line ends: 0.1 µs each, where one by one they cost 1.
"""

from __future__ import annotations

import re
from enum import Enum

from halfsync.wire.refusals import Refusal

MAX_LINE = 4096
"""Bytes of one chunk-size line with extensions, or of one trailer line."""
MAX_EXTENSIONS = 16 * 1024
"""Bytes of chunk extensions in a whole body: they cost work and mean nothing here."""
MAX_TRAILERS = 16 * 1024
"""Bytes of all trailer lines together."""

MAX_CHUNKS = 512
"""Chunks that one call decodes: some 0.1 ms of work. What is left is `rest`."""
MAX_LINES = 64
"""Lines that one call reads one by one: as much work again."""
FIRST_WINDOW, LAST_WINDOW = 512, 8192
"""Bytes that are split at once. It doubles as long as all that is in it are chunks with plain lines."""

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = rb'"(?:[\t\x20!\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:;%b(?:=(?:%b|%b))?)*)" % (_TOKEN, _TOKEN, _QUOTED))
_PLAIN_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})\r\n")
_SMALL_SIZES = {form % size: size for size in range(1, 1024) for form in (b"%x", b"%X")}
_TRAILER = re.compile(rb"(?!(?i:content-length|transfer-encoding):)%b:[\t\x20-\x7e\x80-\xff]*" % _TOKEN)


class _Expecting(Enum):
    SIZE = 1
    DATA = 2
    DATA_END = 3
    TRAILER = 4
    NOTHING = 5


class ChunkedBody:
    """Decodes one body. Call `feed` with what came, and with `rest` again, until `done`; then `rest` is what
    follows the body."""

    __slots__ = ("_expecting", "_extensions", "_left", "_line", "_trailers", "rest")

    def __init__(self) -> None:
        self._expecting = _Expecting.SIZE
        self._left = 0  # bytes of the current chunk yet to come
        self._line = b""  # what has come of a line
        self._extensions = 0
        self._trailers = 0
        self.rest = b""

    @property
    def done(self) -> bool:
        return self._expecting is _Expecting.NOTHING

    def feed(self, data: bytes) -> bytes:
        """The bytes of the body that `data` held, or their beginning. Raises Refusal(400)."""
        pieces: list[bytes] = []
        if self._line:
            data = self._line + data
            self._line = b""
        at = lines = 0
        if self._expecting is _Expecting.SIZE:
            at = _take_small_chunks(data, pieces)
        while at < len(data) and len(pieces) < MAX_CHUNKS and lines < MAX_LINES:
            if self._expecting is _Expecting.SIZE and (end := _take_whole_chunk(data, at, pieces)):
                at = end
                lines += 1
                continue
            if self._expecting is _Expecting.DATA:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if self._left == 0:
                    self._expecting = _Expecting.DATA_END
                continue
            if self._expecting is _Expecting.NOTHING:
                break
            end = data.find(b"\r\n", at, at + MAX_LINE)
            if end < 0:
                self._keep_partial_line(data[at:])
                at = len(data)
                break
            self._read_line(data[at:end])
            at = end + 2
            lines += 1
        self.rest = data[at:]
        return b"".join(pieces)

    def _keep_partial_line(self, line: bytes) -> None:
        """Raises Refusal for what can't become a good line, so that nobody waits for its end."""
        if len(line) >= MAX_LINE:
            raise Refusal(400, "A line of the chunked body is too long.")
        whole = line[:-1] if line.endswith(b"\r") else line
        if b"\n" in whole or b"\r" in whole:
            raise Refusal(400, "A line of the chunked body does not end in CR LF.")
        if self._expecting is _Expecting.DATA_END and whole:
            raise Refusal(400, "A chunk is longer than its size.")
        if self._expecting is _Expecting.SIZE and whole and not _SIZE.match(whole):
            raise Refusal(400, "A chunk has no size.")
        self._line = line

    def _read_line(self, line: bytes) -> None:
        if self._expecting is _Expecting.SIZE:
            match = _SIZE.fullmatch(line)
            if match is None:
                raise Refusal(400, "A chunk has no size.")
            self._extensions += len(match[2])
            if self._extensions > MAX_EXTENSIONS:
                raise Refusal(400, "The chunked body has too many extensions.")
            self._left = int(match[1], 16)
            self._expecting = _Expecting.DATA if self._left else _Expecting.TRAILER
        elif self._expecting is _Expecting.DATA_END:
            if line:
                raise Refusal(400, "A chunk is longer than its size.")
            self._expecting = _Expecting.SIZE
        elif not line:
            self._expecting = _Expecting.NOTHING
        else:
            self._trailers += len(line)
            if self._trailers > MAX_TRAILERS or not _TRAILER.fullmatch(line):
                raise Refusal(400, "A trailer field is malformed or too long.")


def _take_small_chunks(data: bytes, pieces: list[bytes]) -> int:
    """Take the chunks at the beginning of `data` that are whole, small, and have no line end in them and
    nothing but a size in their lines; where they end.

    What is between two line ends is a size, then that chunk's data, and so on, if its length is that size."""
    at = 0
    window = FIRST_WINDOW
    while room := MAX_CHUNKS - len(pieces):
        parts = data[at : at + window].split(b"\r\n", 2 * room)
        lines, chunks = parts[0:-1:2], parts[1:-1:2]
        lengths = list(map(len, chunks))
        whole = len(chunks)
        if list(map(_SMALL_SIZES.get, lines[:whole])) != lengths:
            whole = next(n for n in range(whole) if _SMALL_SIZES.get(lines[n]) != lengths[n])
        pieces += chunks[:whole]
        at += sum(lengths[:whole]) + sum(map(len, lines[:whole])) + 4 * whole
        if not whole or whole < len(chunks):
            break
        window = min(2 * window, LAST_WINDOW)
    return at


def _take_whole_chunk(data: bytes, at: int, pieces: list[bytes]) -> int:
    """Take the chunk at `at`, if it is whole, plain and not the last one; where it ends, or 0."""
    match = _PLAIN_SIZE.match(data, at)
    if match is None:
        return 0
    size, start = int(match[1], 16), match.end()
    end = start + size
    if not size or data[end : end + 2] != b"\r\n":
        return 0
    pieces.append(data[start:end])
    return end + 2
