"""A random walk: clients and workers that come, ask, answer, stall and die in any order.

The invariant: every whole response is the response to the request whose turn it is on that connection,
no request of a living client waits for ever, and the pump logs no internal error.
"""

from __future__ import annotations

import random

import pytest

from halfsync.objects import Memory
from halfsync.wire.messages import Ending, Lease, Task
from tests.pump.harness import Client, Hand, Stage, get, parse_answer

STEPS = 150


class Walker:
    """One client, with the paths of what it has asked and has no response to."""

    def __init__(self, client: Client, *, may_be_shed: bool) -> None:
        self.client = client
        self.may_be_shed = may_be_shed  # the server is overloaded now and then, and says so
        self.asked: list[bytes] = []
        self.half = b""  # of a request that is begun

    def look(self) -> None:
        """Check all whole responses that came."""
        client = self.client
        client.receive()
        while (answer := parse_answer(client.inbox)) is not None:
            client.inbox = client.inbox[answer.size :]
            path = self.asked.pop(0)
            if answer.status == 200:
                assert answer.body == path * 50, "another request's answer"
            else:
                assert answer.status == 502 or (answer.status == 503 and self.may_be_shed)

    def is_done(self) -> bool:
        self.look()
        return self.client.over or not self.asked


class Walk:
    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage = stage
        self.random = random.Random(seed)
        self.walkers: list[Walker] = []
        self.hands: list[Hand] = []
        self.streaming: list[tuple[Hand, Task]] = []
        self.count = 0
        self.actions = (
            [self.connect, self.join, self.die, self.leave]
            + [self.ask] * 8
            + [self.answer] * 8
            + [self.go_on] * 4
        )

    def run(self) -> None:
        for _ in range(STEPS):
            self.random.choice(self.actions)()
            for walker in self.walkers:
                walker.look()
            self.walkers = [walker for walker in self.walkers if not walker.client.over]
        self.finish()

    def finish(self) -> None:
        """In the end all who still wait are answered."""
        for hand in self.hands:
            hand.die()
        self.stage.handler = lambda hand, task: hand.reply(task, task.head.split(b" ")[1] * 50)
        self.stage.hand(answers=True)
        for walker in self.walkers:
            walker.client.send(walker.half)
            self.stage.until(walker.is_done, "an answer")

    def connect(self) -> None:
        may_be_shed = self.stage.plan.settings.queue_target != 0
        self.walkers.append(Walker(self.stage.client(), may_be_shed=may_be_shed))

    def leave(self) -> None:
        if len(self.walkers) > 3:
            self.walkers.pop(self.random.randrange(len(self.walkers))).client.leave()

    def join(self) -> None:
        if len(self.hands) < 4:
            self.hands.append(self.stage.hand(threads=self.random.choice([1, 2, 8])))

    def die(self) -> None:
        if len(self.hands) > 1:
            self.hands.pop(self.random.randrange(len(self.hands))).die()

    def ask(self) -> None:
        if not self.walkers:
            return
        walker = self.random.choice(self.walkers)
        if walker.half:
            walker.client.send(walker.half)
            walker.half = b""
            return
        data = b"".join(self.request(walker) for _ in range(self.random.choice([1, 1, 1, 3])))
        cut = self.random.choice([len(data), len(data), self.random.randrange(1, len(data))])
        walker.half = data[cut:]
        walker.client.send(data[:cut])

    def request(self, walker: Walker) -> bytes:
        self.count += 1
        path = self.random.choice([f"/{self.count}", f"/shared/{self.count % 3}"])
        walker.asked.append(path.encode())
        kind = self.random.randrange(4)
        if kind == 0:
            return f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello".encode()
        if kind == 1:
            head = f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            return head.encode() + b"5\r\nhello\r\n0\r\n\r\n"
        if kind == 2:
            return get(path, f"Cookie: {self.count}")
        return get(path)

    def answer(self) -> None:
        """A worker takes a task; and answers, mostly."""
        busy = [hand for hand in self.hands if hand.tasks]
        if not busy:
            return
        hand = self.random.choice(busy)
        task = hand.tasks.pop(0)
        hand.begin(task)
        path = task.head.split(b" ")[1]
        fate = self.random.randrange(10)
        quick = self.random.choice([10_000, 10_000, 5_000_000])
        if fate < 6:
            lease = Lease(10, ()) if path.startswith(b"/shared") and task.head.startswith(b"GET") else None
            hand.reply(task, path * 50, lease=lease, handler_ns=quick)
        elif fate < 9:
            hand.reply(
                task, path * 20, length=self.random.choice([-1, 50 * len(path)]), ending=Ending.UNFINISHED
            )
            self.streaming.append((hand, task))
        else:
            hand.part(task, ending=Ending.ABORTED)

    def go_on(self) -> None:
        """A streamed response ends, well or not; or time passes."""
        self.stage.time.advance(self.random.choice([0.001, 0.01, 0.3]))
        self.stage.settle()
        if not self.streaming:
            return
        hand, task = self.streaming.pop(self.random.randrange(len(self.streaming)))
        if not hand.open:
            return
        path = task.head.split(b" ")[1]
        ending = self.random.choice([Ending.DONE, Ending.DONE, Ending.DONE, Ending.ABORTED])
        hand.part(task, Memory(path * (30 if ending is Ending.DONE else 7)), ending=ending)


@pytest.mark.parametrize("seed", range(60))
def test_walk(seed: int, capfd: pytest.CaptureFixture[str]):
    """In whatever order things happen, nobody gets another's answer, or waits for ever."""
    with Stage(queue_target=0.05 if seed % 2 else 0) as stage:
        Walk(stage, seed).run()
    assert "Traceback" not in capfd.readouterr().err
