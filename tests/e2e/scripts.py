"""Random scripts for an ASGI application (apps/scripted.py), what a client must see of each, and clients.

The invariant: whatever an application sends, receives and leaves undone, and whatever other requests and
clients do, its client gets exactly the response that ASGI's rules make of it; or, if it is not complete, a
500 before it has begun, and afterwards a beginning of it that no client can take for the whole.
"""

from __future__ import annotations

import json
import random
import zlib
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.apps.scripted import BLOCK

Step = list[Any]
SIZES = (0, 1, 10, 1000, 16_384, 65_536, 65_537, 100_000, 131_073, 300_000)
STATUSES = (200, 200, 200, 200, 201, 404, 500, 204, 304)
BODILESS = (204, 304)


@dataclass
class Script:
    method: str
    steps: list[Step]
    body: bytes = b""
    takes_trailers: bool = False

    @property
    def fields(self) -> list[tuple[str, str]]:
        te = [("te", "trailers")] if self.takes_trailers else []
        return [("x-script", json.dumps(self.steps, separators=(",", ":"))), *te]

    def expected(self) -> Expected:
        return Expected(self)


@dataclass
class Seen:
    """What a client has got. `whole` as far as it can tell."""

    status: int = 0
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False
    trailers: dict[str, str] = field(default_factory=dict)
    chunked: bool = False


class _Broken(Exception):
    """A rule is, or the application raises."""


START, HELD, BODY, TRAILERS, OVER = range(5)


class Expected:
    """What the rules of ASGI make of a script: `whole`, or cut within or behind `body`; 500 if it sends
    nothing."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._phase = START
        self._is_bodiless = script.method == "HEAD"
        self._has_trailers = False
        self._at = 0
        self._read = b""
        self._size = 0  # of the body of the same GET
        self.status = 0
        self.length: int | None = None
        self.body = b""
        self.trailers: dict[str, str] = {}
        try:
            self._run(script.steps)
        except _Broken:
            pass
        self.whole = self._phase == OVER
        if self._phase <= HELD:
            self.status, self.whole, self.body, self.length = 500, True, b"", None
            self.trailers = {}
            self.is_ours = True
        else:
            self.is_ours = False
        self._size = len(self.body)
        if self._is_bodiless and not self.is_ours:
            self.whole, self.body, self.trailers = True, b"", {}

    def _run(self, steps: list[Step]) -> None:
        for name, *arguments in steps:
            if name in ("child", "try"):
                try:
                    self._run(arguments[0])
                except _Broken:
                    if name == "child":
                        raise
            elif name in ("raise", "cancel"):
                raise _Broken
            elif hasattr(self, f"_{name}"):
                getattr(self, f"_{name}")(*arguments)

    def _start(self, status: int, length: int | None, trailers: bool) -> None:
        if self._phase != START:
            raise _Broken
        self._phase, self.status, self.length, self._has_trailers = HELD, status, length, trailers
        self._is_bodiless = self._is_bodiless or status in BODILESS

    def _send(self, data: bytes, more: bool) -> None:
        if not HELD <= self._phase <= BODY:
            raise _Broken
        if self.length is not None and not self._is_bodiless:
            left = self.length - len(self.body) - len(data)
            if left < 0 or (left > 0 and not more):
                raise _Broken
        self._phase = BODY
        self.body += data
        if not more:
            self._phase = TRAILERS if self._has_trailers else OVER

    def _body(self, size: int, more: bool) -> None:
        at, self._at = self._at, self._at + size
        self._send(BLOCK[at : at + size], more)

    def _drain(self) -> None:
        self._read = self._script.body

    def _echo(self) -> None:
        self._send(b"%d %d" % (len(self._read), zlib.crc32(self._read)), True)

    def _path(self) -> None:
        if self._phase != HELD:
            raise _Broken
        self._send(BLOCK, False)

    def _file(self, offset: int, size: int, more: bool) -> None:
        self._send(BLOCK[offset : offset + size], more)

    def _trailers(self, more: bool) -> None:
        if self._phase != TRAILERS:
            raise _Broken
        self.trailers["x-more" if more else "x-last"] = "1"
        if not more:
            self._phase = OVER

    def _hint(self) -> None:
        if self._phase > BODY:
            raise _Broken

    # --- what a client has seen

    def check(self, seen: Seen) -> None:
        said = f"{self._script.method} {self._script.steps}: expected {self.status} {len(self.body)} bytes "
        said += f"whole={self.whole}, seen {seen.status} {len(seen.body)} bytes whole={seen.whole}"
        assert seen.status == self.status, said
        if self.is_ours:
            assert seen.whole, said
            return
        if self.whole:
            assert seen.whole, said
            assert seen.body == self.body, said
            if seen.chunked and self._script.takes_trailers:
                assert self.trailers.items() <= seen.trailers.items(), said
        elif seen.whole:  # only if all of its length is there: what is missing is the application's word
            assert self.length is not None, said
            assert seen.body == self.body, said
            assert len(self.body) == self.length, said
        else:
            assert self.body.startswith(seen.body), said
        length = seen.fields.get("content-length")
        if length is not None and self.status not in BODILESS:
            assert int(length) == (self._size if self.length is None else self.length), said


# --- making them -----------------------------------------------------------------------------------


def made(chance: random.Random) -> Script:
    method = chance.choice(("GET", "GET", "GET", "HEAD", "POST", "POST"))
    body = chance.randbytes(chance.choice(SIZES)) if method == "POST" else b""
    steps: list[Step] = []
    reads = chance.random() < 0.7
    if body and reads:
        steps.append(["drain"])
    elif not body and chance.random() < 0.3:
        steps.append(["listen"])
    _between(chance, steps, hints=True)
    response = _response(chance, echoes=bool(body) and reads)
    for step in response:
        steps.append(["child", [step]] if chance.random() < 0.1 else step)
        _between(chance, steps, hints=step[0] == "start")
    if chance.random() < 0.35:
        _spoil(chance, steps)
    return Script(method, steps, body, chance.random() < 0.5)


def _between(chance: random.Random, steps: list[Step], *, hints: bool) -> None:
    while chance.random() < 0.3:
        wrong = chance.choice((["start", 200, None, False], ["trailers", False]))
        choices: list[Step] = [["sleep", chance.randrange(10)], ["sleep", 0]]
        choices.append(["hint"] if hints else ["try", [wrong]])
        if steps[:1] != [["listen"]]:
            choices.append(["look"])
        steps.append(chance.choice(choices))


def _response(chance: random.Random, *, echoes: bool) -> list[Step]:
    status = chance.choice(STATUSES)
    trailers = chance.random() < 0.25
    if chance.random() < 0.1:
        end: list[Step] = [["trailers", True], ["trailers", False]] if trailers else []
        return [["start", status, None, trailers], ["path"], *end]
    pieces: list[Step] = [["echo"]] if echoes else []
    for _ in range(chance.choice((0, 0, 1, 2, 5, 20))):
        size = chance.choice(SIZES)
        if chance.random() < 0.2:
            pieces.append(["file", chance.randrange(1000), size, True])
        elif sum(step[1] for step in pieces if step[0] == "body") + size < 1_500_000:
            pieces.append(["body", size, True])
    pieces.append(["body", chance.choice(SIZES), False])
    length = None
    if not echoes and chance.random() < 0.3:
        length = sum(step[1] if step[0] == "body" else step[2] for step in pieces)
        if chance.random() < 0.1:
            length = max(0, length + chance.choice((-1, 1)))
    end = [["trailers", False]] if trailers else []
    return [["start", status, length, trailers], *pieces, *end]


def _spoil(chance: random.Random, steps: list[Step]) -> None:
    at = chance.randrange(len(steps) + 1)
    how = chance.random()
    if how < 0.4:
        steps.insert(at, [chance.choice(("raise", "cancel"))])
    elif how < 0.7:
        del steps[at:]
    elif how < 0.85 and at < len(steps):
        del steps[at]
    elif at < len(steps):
        steps.insert(at, steps[at])
