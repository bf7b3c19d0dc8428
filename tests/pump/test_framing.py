"""The framing cases, fed to a pump by a client: whole, byte by byte, with more behind, split anywhere.

One pump serves them all: what one client sent must mean nothing to the next.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from halfsync.wire.messages import Task
from tests.pump.harness import Client, Hand, Stage, echo, get
from tests.wire.case_files import CASES, Case

DRIP_UP_TO = 4096
"""Bytes. A longer case comes in pieces of 97 bytes, not of one: 64 KiB byte by byte are 64 K turns."""

BEHIND = get("/behind")

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


class Town(Stage):
    """A stage whose one worker remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Task, bytes]] = []
        self.handler = self._handle
        self.hand(answers=True)

    def _handle(self, hand: Hand, task: Task) -> None:
        self.asked.append((task, hand.bodies[task.number]))
        echo(hand, task)


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    with Town() as town:
        yield town


def check(town: Town, case: Case, pieces: list[bytes], *, behind: bool = False) -> None:
    """Send the pieces; compare what comes of them with what the case says."""
    town.asked.clear()
    client = town.client()
    try:
        for piece in pieces:
            client.send(piece)
        if case.verdict == "refused":
            check_refused(town, case, client)
        else:
            check_answered(town, case, client, behind)
    finally:
        client.leave()
    town.until(lambda: not town.pump.connections)


def check_refused(town: Town, case: Case, client: Client) -> None:
    answer = client.answer()
    assert answer.status in case.statuses
    assert answer.closes
    assert client.rest() == b"", "something behind a refused request was acted on"
    assert client.ended, "the answer may be lost: a reset follows it"
    assert not town.asked


def check_answered(town: Town, case: Case, client: Client, behind: bool) -> None:
    answer = client.answer(case.method.decode())
    assert answer.status in (case.statuses or {200})
    assert answer.closes is not case.keep_alive
    if case.verdict == "accepted":
        task, body = town.asked[0]
        start = case.raw.lstrip(b"\r\n").partition(b"\r\n\r\n")[0]
        assert task.head == start + b"\r\n\r\n"
        assert task.head.startswith(b"%s %s HTTP/1." % (case.method, case.target))
        assert body == case.body
        assert task.body_size == len(case.body)
    before = 1 if case.verdict == "accepted" else 0
    if case.keep_alive:
        if not behind:
            client.send(BEHIND)
        assert client.answer().body == b"GET /behind HTTP/1.1\n"
        assert len(town.asked) == before + 1
        assert client.quiet()
    else:
        assert client.rest() == b""
        assert len(town.asked) == before


@each_case
def test_whole(town: Town, case: Case):
    """A request that comes in one piece is answered, or refused, as the case says."""
    check(town, case, [case.raw])


@each_case
def test_byte_by_byte(town: Town, case: Case):
    """Where the packets' borders are makes no difference."""
    step = 1 if len(case.raw) <= DRIP_UP_TO else 97
    check(town, case, [case.raw[at : at + step] for at in range(0, len(case.raw), step)])


@each_case
def test_bytes_behind(town: Town, case: Case):
    """The next request in the same packet is answered next; behind a refused one nothing is."""
    check(town, case, [case.raw + BEHIND], behind=True)


@each_case
@settings(
    max_examples=5,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_split_anywhere(town: Town, case: Case, data: st.DataObject):
    """Any split, with a request behind."""
    raw = case.raw + BEHIND
    points = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=6)))
    check(town, case, [raw[a:b] for a, b in zip([0, *points], [*points, len(raw)], strict=True)], behind=True)
