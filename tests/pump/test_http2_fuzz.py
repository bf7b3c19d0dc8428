"""Random HTTP/2 clients on one pump: some keep all rules, with another maker's engine that complains if the
pump does not; others send whatever they like.

The invariants: as many responses as requests, and none mixed up; a client that breaks the rules loses what it
asked for and nobody else notices; nothing is left of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import h2.exceptions
import h2.settings
import h2.windows
import pytest

from halfsync.wire.messages import Task
from tests.pump.harness import Hand, Stage, get, no_descriptor_left
from tests.pump.http2_client import Http2Client, RawHttp2
from tests.wire.http2_frames import settings, window
from tests.wire.test_http2_fuzz import Script

SIZES = (0, 1, 100, 3000, 16_384, 16_385, 40_000)
WINDOWS = (0, 1000, 65_535, 2**20)


@pytest.fixture(scope="module", params=[False, True], ids=["collected", "streamed"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Two workers: the response to `/SIZE/WORD` is so many bytes of that word, and to another path the path.
    Bodies are collected, or streamed."""
    with Stage(stream_body=request.param, http2_max_resets=10_000, http2_max_idle_frames=100_000) as stage:
        stage.handler = respond
        stage.hand(answers=True, threads=50)
        stage.hand(answers=True, threads=50)
        yield stage


def respond(hand: Hand, task: Task) -> None:
    if task.body is None and task.body_size:
        hand.ask(task)  # and respond before it has come
    path = task.head.split(b" ")[1]
    _, size, number = path.split(b"/", 2) if path.count(b"/") == 2 else (b"", str(len(path)).encode(), path)
    hand.reply(task, content(int(size), number))


def content(size: int, number: bytes) -> bytes:
    return (number * (size // len(number) + 1))[:size]


# --- clients that keep the rules --------------------------------------------------------------------


class Honest:
    """Asks, uploads, gives up, and changes its windows, at random."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.random = random.Random(seed)
        self.client = Http2Client(stage, window=self.random.choice(WINDOWS))
        self.expected: dict[int, bytes] = {}
        self.bodies: dict[int, int] = {}  # bytes that have yet to be sent

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.random.choice(
                (self.ask, self.ask, self.ask, self.send, self.send, self.give_up, self.change)
            )()
            if self.random.random() < 0.4:
                self.client.flush()
            if self.random.random() < 0.2:
                self.client.settle()

    def ask(self) -> None:
        if len(self.expected) - sum(one.over for one in self.client.responses.values()) > 90:
            return
        rand = self.random
        size, method = rand.choice(SIZES), rand.choice(("GET", "GET", "POST"))
        number = self.client.engine.get_next_available_stream_id()
        word = f"{number}x{rand.randrange(10)}"
        started = self.client.start(f"/{size}/{word}", method, end=method == "GET", flush=False)
        assert started == number
        self.expected[number] = content(size, word.encode())
        if method == "POST":
            self.bodies[number] = rand.choice(SIZES)

    def send(self) -> None:
        for number, left in list(self.bodies.items()):
            try:
                room = min(self.client.engine.local_flow_control_window(number), 16_384, left)
                self.client.engine.send_data(number, bytes(room), end_stream=room == left)
            except h2.exceptions.StreamClosedError:  # it has its response
                room = left
            self.bodies[number] = left - room
            if room == left:
                del self.bodies[number]

    def give_up(self) -> None:
        going = [number for number, one in self.client.responses.items() if not one.over]
        if going and self.random.random() < 0.3:
            number = self.random.choice(going)
            self.client.engine.reset_stream(number, 8)
            self.bodies.pop(number, None)
            del self.expected[number]
            self.client.responses[number].reset = 8

    def change(self) -> None:
        """Of a window that is used already, too: it may be negative then (RFC 9113 6.9.2)."""
        size = self.random.choice(WINDOWS)
        self.client.engine.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: size})
        self.client.engine.ping(b"12345678")

    def finish(self) -> None:
        """Open all windows, send what is left, and look at what has come."""
        self.client.engine.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**24})
        self.client.flush()
        for _ in range(1000):
            self.client.settle()
            self.send()
            self.client.flush()
            if not self.bodies:
                break
        for number, body in self.expected.items():
            response = self.client.response(number)
            assert (response.status, response.ended) == (200, True), number
            assert response.body == body, number


def test_clients_that_keep_the_rules(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    """Each gets its responses, whatever it does with its windows."""
    consumed = h2.windows.WindowManager.window_consumed

    def consumed_unless_empty(self: h2.windows.WindowManager, size: int) -> None:
        if size:  # the engine complains of empty frames, too, which need no window (RFC 9113 6.9)
            consumed(self, size)

    monkeypatch.setattr(h2.windows.WindowManager, "window_consumed", consumed_unless_empty)
    for seed in range(6):
        with no_descriptor_left(stage):
            one = Honest(stage, seed)
            one.run(60)
            one.finish()
            assert not one.client.goaways
            one.client.client.leave()
        assert not stage.pump.endings.streams
    assert not any(hand.tasks for hand in stage.hands)


# --- clients that do not ----------------------------------------------------------------------------


def test_clients_that_break_the_rules(stage: Stage):
    """Whole, or byte by byte, with something behind: what they get belongs to what they have asked, at most
    one response a request; and the next client is served."""
    broken = 0
    with no_descriptor_left(stage):
        for seed in range(30):
            script = Script(seed, 0.05)
            client = RawHttp2(stage, window(0, 2**30), settings((4, 2**20)))
            wire = script.frames(30)
            if seed % 3 == 0:
                wire = wire[:400]
                for at in range(0, len(wire), 1 if seed % 2 else 9):
                    client.client.send(wire[at : at + (1 if seed % 2 else 9)])
            else:
                client.send(wire, get())
            broken += check_frames(client.frames())
            client.client.leave()
            assert not stage.pump.endings.streams
    assert 5 < broken < 30
    other = stage.client()
    assert other.ask("/5/abc").body == b"abcab"
    other.leave()


def check_frames(frames: list[tuple[int, int, int, bytes]]) -> bool:
    """Of a server: on each stream one response, in order, and nothing behind its end; nothing behind the last
    GOAWAY. Whether there was one."""
    bodies: dict[int, bytes] = {}
    ours: set[int] = set()
    over: set[int] = set()
    failed = False
    for kind, flags, stream, payload in frames:
        if kind == 7:
            failed = int.from_bytes(payload[4:8], "big") != 0
            continue
        if kind in (0, 1):
            assert stream not in over
            assert (stream in bodies) == (kind == 0)
            bodies[stream] = bodies.get(stream, b"") + (payload if kind == 0 else b"")
            if kind == 1 and payload[:1] != b"\x88":  # :status 200
                ours.add(stream)
            elif flags & 1 and stream not in ours:
                assert bodies[stream] in (b"/", b"/%d" % stream)
        if (kind in (0, 1) and flags & 1) or kind == 3:
            over.add(stream)
    return failed
