"""Random conversations over HTTP/2 with a real server, on several connections at once, frame by frame.

The invariant: each stream gets the response to its own request (each carries a number, and its response is
made of that), as many responses as requests, none behind a reset. One that its handler cuts short ends by
RST_STREAM and never by END_STREAM. What the server sends fits the windows that the client has opened. A
mistake that costs a stream costs that stream alone; one that costs the connection is told by GOAWAY with its
code, and nothing comes behind that.

For longer than the tests have time for, in a folder with nothing else in it:

    python -m tests.e2e.http2_talks --seconds 300
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import select
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import hpack

from tests.e2e.apps.numbered import content
from tests.e2e.harness import LONG, Server, resident, serving
from tests.wire.http2_frames import (
    CODES,
    EH,
    ES,
    PAD,
    PREFACE,
    PRIO,
    continuation,
    data,
    frame,
    headers,
    ping,
    priority,
    priority_update,
    rst,
    settings,
    window,
)

FILES = 8
PATIENT = (
    *("--min-rate", "0", "--http2-max-idle-frames", "1000000", "--http2-max-resets", "1000000"),
    *("--send-timeout", "600", "--body-timeout", "600", "--keep-alive", "600", "--queue-timeout", "600"),
)
"""A window stays shut until the client happens to open it, which on a busy machine may take long."""
SIZES = (0, 1, 10, 1000, 4095, 16_384, 16_385, 65_535, 65_536, 200_000)
WINDOWS = (0, 1, 100, 16_384, 65_535, 100_000, 2**20)
MOST = 90
"""Streams that are open at once. The server takes 100."""
STEPS = 200
"""Of a conversation, at most. (With many more, so many streams are reset that the server can't know all of
them any more, and frames that were under way for the first of them are an error.)"""
AT_A_TIME = (1, 9, 100, 5000, 100_000)
"""Bytes that are sent or read in one call."""

Fields = dict[str, str]


@dataclass
class Expected:
    """What a request gets. `body`: None if the stream is to be reset, with `code` if that is not 0."""

    status: int = 200
    body: bytes | None = b""
    fields: Fields = field(default_factory=dict)
    code: int = 0


@dataclass
class Stream:
    number: int
    asked: str
    expected: Expected
    window: int
    upload: bytes = b""  # what has yet to be sent
    upload_ends: str = ""  # how that ends: "", "flag" (END_STREAM on the last DATA), "empty", "trailers"
    upload_window: int = 65_535
    interim: bool = False
    status: int = 0
    fields: Fields = field(default_factory=dict)
    body: bytes = b""
    over: bool = False
    given_up: bool = False
    unopened: int = 0


class Talk:
    """One connection. `step` does something at random, or nothing if the client has to wait."""

    def __init__(self, port: int, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.out = PREFACE + settings()
        self.inbox = b""
        self.streams: dict[int, Stream] = {}
        self.next = 1
        self.window = self.stream_window = self.upload_window = 65_535
        self.upload_stream_window = 65_535
        self.changes: list[int | None] = [None]  # SETTINGS that are not acknowledged: INITIAL_WINDOW_SIZE
        self.pings: list[bytes] = []
        self.unopened = 0
        self.etags: dict[int, str] = {}
        self.block: tuple[int, int, bytes] | None = None
        plan = random.Random(seed)  # of its own: how much is drawn from the other depends on the time
        self.share = plan.random()  # of the steps that it may take
        self.mistake = plan.choice(["", *FATAL]) if plan.random() < 0.5 else ""  # by which it ends
        self.amid = plan.random() < 0.5  # that comes while responses are under way
        self.goaway: int | None = None
        self.why = ""
        self.closed = False

    # --- what the client does ---------------------------------------------------------------------

    @property
    def open(self) -> list[Stream]:
        return [stream for stream in self.streams.values() if not stream.over]

    def act(self) -> None:
        acts: list[Callable[[], None]] = [
            *[self.ask] * 4,
            *[self.upload] * 4,
            *[self.open_windows] * 3,
            self.give_up,
            self.change_windows,
            self.say_something,
        ]
        self.random.choice(acts)()

    def ask(self) -> None:
        if len(self.open) >= MOST:
            return
        rand = self.random
        kinds = (self.page, self.page, self.page, self.file, self.file, self.posted, self.posted, self.wrong)
        rand.choice(kinds)(self.next)
        self.next += rand.choice((2, 2, 2, 2, 6))

    def page(self, number: int) -> None:
        rand = self.random
        how = rand.choice(("whole", "whole", "pieces", "short", "fails", "empty", "unchanged"))
        size = max(rand.choice(SIZES), 10 if how in ("short", "fails") else 0)
        told, wire_number = {"x-number": self.named(number)}, self.named(number)
        method = rand.choice(("GET", "GET", "HEAD")) if how in ("whole", "pieces") else "GET"
        expected = Expected(200, content(wire_number, size), told)
        if how == "whole":
            told["content-length"] = str(size)
        if how == "empty" or how == "unchanged":
            expected.status, expected.body = (204, b"") if how == "empty" else (304, b"")
        elif how in ("short", "fails"):
            expected.body = None
        if method == "HEAD":
            expected.body = b""
        self.begin(number, method, self.target(number, how, size), expected)

    def file(self, number: int) -> None:
        rand = self.random
        which = rand.randrange(FILES)
        body = content(str(which), file_size(which))
        more, expected = [], Expected(200, body, {"content-length": str(len(body))})
        method = "GET"
        what = rand.random()
        if what < 0.2:
            method, expected.body = "HEAD", b""
        elif what < 0.4 and which in self.etags:
            more = [("if-none-match", self.etags[which])]
            expected = Expected(304, b"")
        elif what < 0.6:
            begin = rand.randrange(len(body))
            end = rand.randrange(begin, len(body))
            more = [("range", f"bytes={begin}-{end}")]
            expected = Expected(
                206, body[begin : end + 1], {"content-range": f"bytes {begin}-{end}/{len(body)}"}
            )
        elif what < 0.65:
            more = [("range", f"bytes={len(body)}-")]
            expected = Expected(416, None)
            expected.body = b"*"
        self.begin(number, method, f"/public/f-{which}", expected, more)
        self.streams[number].fields["file"] = str(which)

    def posted(self, number: int) -> None:
        rand = self.random
        size = rand.choice(SIZES)
        body = content(str(number), size)
        how = rand.choice(("received", "received", "early"))
        named = self.named(number)
        if how == "received":
            said = f"{named} {size} {hashlib.sha256(body).hexdigest()}".encode()
        else:
            said = content(named, 10)
        expected = Expected(200, said, {"x-number": named})
        more = []
        lies = 0
        if rand.random() < 0.5:
            lies = rand.choice((0, 0, 0, 0, 1, 100)) if how == "received" else 0
            more.append(("content-length", str(size + lies)))
        if rand.random() < 0.2:
            more.append(("expect", "100-continue"))
        if lies:
            expected = Expected(0, None, code=1)
        ends = rand.choice(("flag", "empty", "trailers")) if size else rand.choice(("empty", "trailers"))
        self.begin(number, "POST", self.target(number, how, 10), expected, more, upload=body, ends=ends)

    def wrong(self, number: int) -> None:
        """A request that is malformed: it costs its stream."""
        more = self.random.choice(
            (
                [("connection", "close")],
                [("x-a", "b\r\nx-c: d")],
                [("X-Upper", "a")],
                [("te", "gzip")],
                [(":path", "/again")],
                [("transfer-encoding", "chunked")],
                [("host", "other.example")],
                [("content-length", "5")],
                [("x a", "b")],
                [("x-nul", "a\0b")],
            )
        )
        self.begin(number, "GET", "/", Expected(0, None, code=1), more)

    def target(self, number: int, how: str, size: int) -> str:
        place = "/a/" if number % 4 == 1 else "/"
        return f"{place}?n={self.named(number)}&how={how}&size={size}"

    def named(self, number: int) -> str:
        """Of all requests of all conversations this one has it alone."""
        return f"{self.seed}.{number}"

    def begin(
        self,
        number: int,
        method: str,
        path: str,
        expected: Expected,
        more: list[tuple[str, str]] | None = None,
        *,
        upload: bytes = b"",
        ends: str = "",
    ) -> None:
        rand = self.random
        fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "one.example")]
        if rand.random() < 0.3:
            fields.append(("priority", f"u={rand.randrange(8)}" + rand.choice(("", ", i"))))
        if rand.random() < 0.3:
            fields += [("cookie", f"a={number}"), ("cookie", "b=1")]
        if rand.random() < 0.1:
            fields.append(("x-long", "y" * rand.choice((100, 3000, 8000))))
        block = self.encoder.encode([*fields, *(more or [])], huffman=rand.random() < 0.5)
        if rand.random() < 0.05:
            self.encoder.header_table_size = rand.choice((0, 100, 4096))
        flags = 0 if ends else ES
        before = b""
        if rand.random() < 0.2:
            flags |= PRIO
            before = struct.pack(">IB", rand.choice((0, 1)) if number > 1 else 0, rand.randrange(256))
        cuts = sorted(rand.randrange(len(block)) for _ in range(rand.choice((0, 0, 0, 1, 4))))
        if len(block) > 16_000 and not cuts:
            cuts = [8000]
        cuts = sorted({cut for cut in cuts if cut})
        pieces = [block[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(block)], strict=True)]
        first = before + pieces[0]
        if rand.random() < 0.2 and len(first) < 16_000:
            padding = rand.randrange(256)
            flags |= PAD
            first = bytes((padding,)) + first + bytes(padding)
        self.out += headers(number, first, flags | (0 if cuts else EH))
        for at, piece in enumerate(pieces[1:], 2):
            self.out += continuation(number, piece, EH if at == len(pieces) else 0)
        self.streams[number] = Stream(
            number, f"{method} {path} {more or []}", expected, self.stream_window, upload, ends
        )
        self.streams[number].upload_window = self.upload_stream_window
        self.streams[number].interim = ("expect", "100-continue") in (more or [])

    def upload(self) -> None:
        """Some of a body that is going; nothing behind the end of its response."""
        going = [stream for stream in self.streams.values() if stream.upload_ends and not stream.over]
        if not going:
            return
        rand = self.random
        stream = rand.choice(going)
        padding = rand.choice((0, 0, 0, 1, 255))
        room = min(self.upload_window, stream.upload_window, 16_384) - (padding + 1 if padding else 0)
        size = min(len(stream.upload), room, rand.choice((1, 100, 16_384, 16_384)))
        last = size == len(stream.upload)
        if room < 0 or (size <= 0 and not last):
            return
        piece, stream.upload = stream.upload[:size], stream.upload[size:]
        flags = ES if last and stream.upload_ends in ("flag", "empty") else 0
        if last and stream.upload_ends == "empty" and size:
            flags = 0
        if padding:
            piece, flags = bytes((padding,)) + piece + bytes(padding), flags | PAD
        self.out += data(stream.number, piece, flags)
        self.upload_window -= len(piece)
        stream.upload_window -= len(piece)
        if flags & ES:
            stream.upload_ends = ""
        elif last and stream.upload_ends == "trailers":
            self.out += headers(stream.number, self.encoder.encode([("x-sum", "1")]))
            stream.upload_ends = ""

    def open_windows(self) -> None:
        rand = self.random
        if self.unopened and rand.random() < 0.5:
            self.window += self.unopened
            self.out += window(0, self.unopened)
            self.unopened = 0
        for stream in self.open:
            if stream.unopened and rand.random() < 0.3:
                more = rand.randrange(1, stream.unopened + 1)
                stream.unopened -= more
                stream.window += more
                self.out += window(stream.number, more)

    def give_up(self) -> None:
        if self.open and self.random.random() < 0.2:
            stream = self.random.choice(self.open)
            stream.given_up = stream.over = True
            self.out += rst(stream.number, self.random.choice((0, 8, 0xFFFF)))

    def change_windows(self) -> None:
        if self.random.random() < 0.3 and len(self.changes) < 5:
            self.set_windows(self.random.choice(WINDOWS))

    def set_windows(self, size: int) -> None:
        self.changes.append(size)
        self.out += settings((4, size), (3, self.random.randrange(100)), (0x4A4A, 1))

    def say_something(self) -> None:
        rand = self.random
        number = rand.randrange(1, self.next + 20, 2)
        if rand.random() < 0.5:
            self.pings.append(rand.randbytes(8))
            self.out += ping(self.pings[-1])
        else:
            value = f"u={rand.randrange(9)}, i".encode()
            self.out += rand.choice(
                (
                    frame(0x42, 0xFF, number, b"unknown"),
                    priority(number, 0),
                    priority_update(number, value),
                )
            )

    def open_all(self) -> None:
        """So that whatever is under way can end."""
        self.set_windows(2**24)
        self.window += 2**28
        self.out += window(0, 2**28)

    # --- what comes -------------------------------------------------------------------------------

    def move(self, wait: float = 0.0) -> None:
        """Send and read a piece, as far as the socket takes and gives any; `wait` so many seconds for it."""
        if wait:
            select.select([self.socket], [self.socket] if self.out else [], [], wait)
        size = self.random.choice(AT_A_TIME)
        try:
            if self.out and not self.closed:
                sent = self.socket.send(self.out[:size])
                self.out = self.out[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self.out = b""
        try:
            got = self.socket.recv(self.random.choice(AT_A_TIME))
        except BlockingIOError:
            return
        except ConnectionResetError:
            got = b""
        self.closed = self.closed or not got
        self.inbox += got
        while len(self.inbox) >= 9:
            end = 9 + int.from_bytes(self.inbox[:3], "big")
            if len(self.inbox) < end:
                break
            one, self.inbox = self.inbox[:end], self.inbox[end:]
            self.take(one[3], one[4], int.from_bytes(one[5:9], "big"), one[9:])

    def take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        assert len(payload) <= 16_384
        assert self.goaway is None, f"a frame of kind {kind} behind GOAWAY"
        assert self.block is None or kind == 9, "something amid a header block"
        if kind == 0:
            self.take_data(flags, number, payload)
        elif kind == 1 or kind == 9:
            begun = self.block[2] if self.block is not None else b""
            flags |= self.block[1] if self.block is not None else 0
            self.block = (number, flags & ES, begun + payload)
            if flags & EH:
                fields = [(str(name), str(value)) for name, value in self.decoder.decode(self.block[2])]
                self.block = None
                self.take_head(flags, self.streams[number], fields)
        elif kind == 3:
            self.take_reset(self.streams[number], int.from_bytes(payload, "big"))
        elif kind == 4:
            self.take_settings(flags, payload)
        elif kind == 6:
            assert payload == self.pings.pop(0)
        elif kind == 7:
            self.goaway, self.why = int.from_bytes(payload[4:8], "big"), payload[8:].decode()
        elif kind == 8:
            more = int.from_bytes(payload, "big")
            assert more
            if number:
                self.streams[number].upload_window += more
            else:
                self.upload_window += more
        else:
            raise AssertionError(f"a frame of kind {kind}")

    def take_settings(self, flags: int, payload: bytes) -> None:
        if not flags & 1:
            self.out += settings(flags=1)
            return
        assert not payload
        size = self.changes.pop(0)
        if size is not None:
            for stream in self.streams.values():
                stream.window += size - self.stream_window
            self.stream_window = size

    def take_data(self, flags: int, number: int, payload: bytes) -> None:
        stream = self.streams[number]
        self.window -= len(payload)
        stream.window -= len(payload)
        self.unopened += len(payload)
        stream.unopened += len(payload)
        if payload:
            assert self.window >= 0
            assert stream.window >= 0
        if stream.given_up:
            return
        assert not stream.over
        assert stream.status >= 200
        stream.body += payload
        if flags & ES:
            self.ended(stream)

    def take_head(self, flags: int, stream: Stream, fields: list[tuple[str, str]]) -> None:
        if stream.given_up:
            return
        assert not stream.over
        status = int(fields[0][1])
        if status == 100:
            assert stream.interim
            assert not stream.status
            stream.interim = False
            return
        assert not stream.status, "a second response"
        stream.status = status
        which = stream.fields.get("file")
        stream.fields = dict(fields)
        if which is not None and "etag" in stream.fields:
            self.etags[int(which)] = stream.fields["etag"]
        if flags & ES:
            self.ended(stream)

    def take_reset(self, stream: Stream, code: int) -> None:
        if stream.given_up:
            return
        if stream.over:
            assert code == 0, f"{CODES[code]} behind the end"
            stream.upload_ends = ""  # or its end has crossed this
            return
        stream.over = True
        assert stream.expected.body is None, f"{stream!r:.999} is reset: {CODES[code]}"
        assert code == stream.expected.code or (code and not stream.expected.code), CODES[code]

    def ended(self, stream: Stream) -> None:
        stream.over = True
        expected = stream.expected
        said = (
            f"{self.named(stream.number)}: {stream.status} {stream.body[:99]!r}, expected {expected!r:.300}"
        )
        if expected.body is None and stream.status == 500:
            return  # it had failed before anything was sent
        assert expected.body is not None, f"a response that was cut short looks complete: {said}"
        assert stream.status == expected.status, said
        for name, value in expected.fields.items():
            assert stream.fields.get(name) == value, said
        if expected.body != b"*":
            assert stream.body == expected.body, said


# --- mistakes that cost the connection --------------------------------------------------------------

FATAL: dict[str, tuple[Callable[[Talk], bytes], str]] = {
    "a frame of 16,385 bytes": (lambda talk: data(1, bytes(16_385)), "FRAME_SIZE_ERROR"),
    "DATA on an idle stream": (lambda talk: data(talk.next + 40, b"x"), "PROTOCOL_ERROR"),
    "HEADERS on stream 2": (lambda talk: headers(2), "PROTOCOL_ERROR"),
    "a SETTINGS of five bytes": (lambda talk: frame(4, 0, 0, bytes(5)), "FRAME_SIZE_ERROR"),
    "a window of 2^31": (lambda talk: settings((4, 2**31)), "FLOW_CONTROL_ERROR"),
    "windows beyond 2^31-1": (lambda talk: window(0, 2**31 - 1) * 2, "FLOW_CONTROL_ERROR"),
    "a window opened by nothing": (lambda talk: window(0, 0), "PROTOCOL_ERROR"),
    "an index that is in no table": (lambda talk: headers(talk.next, b"\xff\x7f"), "COMPRESSION_ERROR"),
    "a push": (lambda talk: frame(5, EH, 1, bytes(4)), "PROTOCOL_ERROR"),
    "CONTINUATION of nothing": (lambda talk: continuation(1, b""), "PROTOCOL_ERROR"),
    "PING amid a header block": (lambda talk: headers(talk.next, b"\x82", ES) + ping(), "PROTOCOL_ERROR"),
    "a PING of 7 bytes": (lambda talk: ping(bytes(7)), "FRAME_SIZE_ERROR"),
    "padding beyond the frame": (lambda talk: data(1, b"\x05abc", PAD), "PROTOCOL_ERROR"),
    "a table of 4,097 bytes": (lambda talk: headers(talk.next, b"\x3f\xe2\x1f"), "COMPRESSION_ERROR"),
    "SETTINGS that acknowledge and set": (lambda talk: settings((4, 1), flags=1), "FRAME_SIZE_ERROR"),
}


class Talks:
    """Several at once, and each is followed by another, until so many have been."""

    def __init__(self, server: Server, seed: int) -> None:
        self.server = server
        self.seed = seed
        self.random = random.Random(seed)
        self.begun = self.mistakes = 0
        self.responses = 0

    def run(self, count: int, *, at_once: int, steps: int) -> None:
        going = [self.another() for _ in range(at_once)]
        left = {talk.seed: int(talk.share * steps) for talk in going}
        while going:
            talk = self.random.choice(going)
            try:
                if left[talk.seed]:
                    left[talk.seed] -= 1
                    for _ in range(self.random.choice((1, 1, 5, 20))):
                        talk.act()
                    talk.move()
                    continue
                self.finish(talk, going)
            except BaseException as error:
                error.add_note(f"conversation {talk.seed}")
                raise
            going.remove(talk)
            if self.begun < count:
                going.append(self.another())
                left[going[-1].seed] = int(going[-1].share * steps)

    def another(self) -> Talk:
        self.begun += 1
        return Talk(self.server.port, self.seed * 1_000_000 + self.begun)

    def finish(self, talk: Talk, going: list[Talk]) -> None:
        """Let it end; others go on. A half of them end by a mistake."""
        deadline = time.monotonic() + 5 * LONG
        mistake = talk.mistake
        if not mistake or not talk.amid:
            talk.open_all()
            while talk.open or talk.changes or talk.pings:
                assert time.monotonic() < deadline, f"no response: {talk.open[:2]!r:.1000}"
                assert not talk.closed, f"closed amid {talk.open[:2]!r:.1000}"
                assert talk.goaway is None, f"{CODES[talk.goaway or 0]}: {talk.why}"
                talk.upload()
                self.random.choice(going).move()
                talk.move(wait=0.01)
        self.responses += sum(stream.over and not stream.given_up for stream in talk.streams.values())
        if mistake:
            self.mistakes += 1
            make, code = FATAL[mistake]
            talk.out += make(talk)
            while not talk.closed:
                assert time.monotonic() < deadline, f"{mistake}: the connection is not closed"
                talk.move(wait=0.01)
            assert talk.goaway is not None, mistake
            assert CODES[talk.goaway] == code, f"{mistake}: {talk.why}"
        talk.socket.close()


def file_size(which: int) -> int:
    return (1, 100, 6000, 16_384, 40_000, 70_000, 300_000, 1_500_000)[which]


def make_files(folder: Path) -> None:
    (folder / "public").mkdir()
    for which in range(FILES):
        (folder / f"public/f-{which}").write_bytes(content(str(which), file_size(which)))


ROUTES = ("numbered:app", "/a=numbered:asgi", "/public=./public", "--threads", "16", *PATIENT)


def main() -> None:
    parser = argparse.ArgumentParser(description="Random conversations over HTTP/2, for a while.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(folder)
        with serving(folder, *ROUTES) as server:
            server.tracebacks = -1
            seed, until = arguments.seed, time.monotonic() + arguments.seconds
            while time.monotonic() < until:
                talks = Talks(server, seed)
                talks.run(40, at_once=8, steps=STEPS)
                used = resident(server.pump) // 1024
                print(f"seed {seed}: {talks.responses} responses; the pump uses {used} KiB", flush=True)
                seed += 1


if __name__ == "__main__":
    os.nice(int(os.environ.get("TALKS_NICE", "19")))
    main()
