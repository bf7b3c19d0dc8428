"""Tasks that are resumed at once: as if the loop did it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from halfsync.worker.resuming import resume

NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME", default="nobody")


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest):
    if request.param == "uvloop":
        made = pytest.importorskip("uvloop").new_event_loop()
    else:
        made = asyncio.new_event_loop()
    yield made
    made.close()


class Waiting:
    """Tasks of which each waits for a future."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.futures: list[asyncio.Future[None]] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.said: list[Any] = []

    def add(self, then: Callable[[], Any] = lambda: None) -> None:
        number = len(self.futures)
        self.futures.append(self.loop.create_future())

        async def one() -> None:
            NAME.set(str(number))
            try:
                await self.futures[number]
            except asyncio.CancelledError:
                self.said.append((number, "cancelled"))
                raise
            self.said.append((number, NAME.get(), asyncio.current_task() is self.tasks[number]))
            then()

        self.tasks.append(self.loop.create_task(one()))

    def run(self, callback: Callable[[], None]) -> None:
        """All wait; then the loop calls this; then all have ended."""

        async def settled() -> None:
            await asyncio.sleep(0)
            self.loop.call_soon(callback)
            await asyncio.wait(self.tasks, timeout=60)

        self.loop.run_until_complete(settled())


def test_they_are_resumed_in_order_each_in_its_own_context(loop: asyncio.AbstractEventLoop):
    waiting = Waiting(loop)
    for _ in range(3):
        waiting.add()

    def callback() -> None:
        resume(waiting.futures, loop)
        assert waiting.said == [(number, str(number), True) for number in range(3)]
        assert asyncio.current_task(loop) is None
        assert NAME.get() == "nobody"

    waiting.run(callback)
    assert all(task.done() and task.exception() is None for task in waiting.tasks)
    assert len(waiting.said) == 3


def test_one_that_another_cancels_is_cancelled_and_no_more(loop: asyncio.AbstractEventLoop):
    waiting = Waiting(loop)
    waiting.add(lambda: waiting.tasks[1].cancel())  # noqa: PLW0108 (it is made later)
    waiting.add()
    waiting.add()
    waiting.run(lambda: resume(waiting.futures, loop))
    assert sorted(waiting.said) == [(0, "0", True), (1, "cancelled"), (2, "2", True)]
    assert waiting.tasks[1].cancelled()


def test_futures_that_nobody_or_several_await(loop: asyncio.AbstractEventLoop):
    waiting = Waiting(loop)
    waiting.add()
    alone = loop.create_future()
    called: list[str] = []
    waiting.futures[0].add_done_callback(lambda _future: called.append("called"))
    waiting.run(lambda: resume([alone, *waiting.futures], loop))
    assert alone.done()
    assert called == ["called"]
    assert waiting.said == [(0, "0", True)]


def test_an_exception_stays_in_its_task(loop: asyncio.AbstractEventLoop):
    waiting = Waiting(loop)
    waiting.add(lambda: 1 / 0)
    waiting.add()
    waiting.run(lambda: resume(waiting.futures, loop))
    assert isinstance(waiting.tasks[0].exception(), ZeroDivisionError)
    assert waiting.said[1] == (1, "1", True)


def test_an_exit_ends_the_loop_and_keeps_no_other_from_its_turn(loop: asyncio.AbstractEventLoop):
    def leave() -> None:
        raise SystemExit(7)

    waiting = Waiting(loop)
    waiting.add(leave)
    waiting.add()
    with pytest.raises(SystemExit):
        waiting.run(lambda: resume(waiting.futures, loop))
    assert isinstance(waiting.tasks[0].exception(), SystemExit)
    loop.run_until_complete(asyncio.wait_for(waiting.tasks[1], 60))
    assert waiting.said[1] == (1, "1", True)
    _drop_the_rest(loop)


def _drop_the_rest(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left, timeout=60))


def test_within_a_task_the_loop_does_it(loop: asyncio.AbstractEventLoop):
    waiting = Waiting(loop)
    waiting.add()

    async def resuming() -> None:
        await asyncio.sleep(0)
        resume(waiting.futures, loop)
        assert waiting.said == []
        await asyncio.wait(waiting.tasks, timeout=60)

    loop.run_until_complete(resuming())
    assert waiting.said == [(0, "0", True)]


def test_a_context_in_use(loop: asyncio.AbstractEventLoop):
    """The loop resumes that task when it is free."""
    waiting = Waiting(loop)
    waiting.add()
    waiting.add()

    def callback() -> None:
        [(_, context)] = waiting.futures[0]._callbacks
        context.run(resume, waiting.futures, loop)
        assert waiting.said == [(1, "1", True)]

    waiting.run(callback)
    assert waiting.said == [(1, "1", True), (0, "0", True)]


def test_with_time_limits(loop: asyncio.AbstractEventLoop):
    """As applications wait for messages."""
    future = loop.create_future()

    async def limited(what: Coroutine[Any, Any, Any]) -> Any:
        async with asyncio.timeout(60):
            return await asyncio.wait_for(what, 60)

    async def one() -> str:
        await future
        return "in time"

    async def both() -> Any:
        task = asyncio.ensure_future(limited(one()))
        for _ in range(5):
            await asyncio.sleep(0)
        loop.call_soon(resume, [future], loop)
        return await task

    assert loop.run_until_complete(both()) == "in time"
