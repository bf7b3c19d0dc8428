"""Reads the framing cases; their format is in cases/README.md."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

FOLDER = Path(__file__).parent / "cases"

_ESCAPE = re.compile(rb"\\(?:x([0-9a-f]{2})|([rnt\\])|\{(\d+)\*)", re.DOTALL)
_SIMPLE = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"\\": b"\\"}
_KEYS = {"proves", "expect", "method", "target", "host", "keep-alive", "body"}


class Case(msgspec.Struct, frozen=True):
    name: str
    proves: str
    verdict: str  # "accepted", "answered" or "refused"
    statuses: frozenset[int]  # those that will do; empty if accepted
    method: bytes
    target: bytes
    host: bytes
    keep_alive: bool
    body: bytes
    raw: bytes


def read(path: Path) -> Case:
    data = path.read_bytes()
    header, found, raw = data.partition(b"\n#\n")
    assert found, f"{path.name}: no '#' ends the header"
    keys: dict[str, str] = {}
    for line in header.decode("latin-1").split("\n"):
        assert line.startswith("# "), f"{path.name}: {line!r}"
        key, _, value = line[2:].partition(": ")
        assert key.rstrip(":") in _KEYS, f"{path.name}: {key!r}"
        keys[key.rstrip(":")] = value
    verdict, *statuses = keys["expect"].split()
    assert verdict in ("accepted", "answered", "refused"), path.name
    return Case(
        name=path.stem,
        proves=keys["proves"],
        verdict=verdict,
        statuses=frozenset(map(int, statuses)),
        method=keys.get("method", "GET").encode(),
        target=unescape(keys.get("target", "/").encode("latin-1")),
        host=keys.get("host", "a").encode("latin-1"),
        keep_alive=keys.get("keep-alive", "yes") == "yes",
        body=unescape(keys.get("body", "").encode("latin-1")),
        raw=unescape(raw),
    )


def unescape(text: bytes) -> bytes:
    whole, rest = _unescape(text, nested=False)
    assert not rest
    return whole


def _unescape(text: bytes, nested: bool) -> tuple[bytes, bytes]:
    """What `text` means, up to the brace that ends a repetition if it is in one; and what is behind."""
    out = b""
    while text:
        if nested and text[:1] == b"}":
            return out, text[1:]
        if text[:1] != b"\\":
            plain = re.match(rb"[^\\}]+|}", text)
            assert plain
            out += plain[0]
            text = text[plain.end() :]
            continue
        escape = _ESCAPE.match(text)
        assert escape, f"no escape: {text[:10]!r}"
        text = text[escape.end() :]
        if escape[1]:
            out += bytes.fromhex(escape[1].decode())
        elif escape[2]:
            out += _SIMPLE[escape[2]]
        else:
            piece, text = _unescape(text, nested=True)
            out += piece * int(escape[3])
    assert not nested, "a repetition has no end"
    return out, b""


CASES = [read(path) for path in sorted(FOLDER.glob("*.http"))]
