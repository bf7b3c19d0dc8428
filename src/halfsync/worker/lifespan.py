"""An ASGI application's lifespan: it is told of the worker's start, and of its end."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

from halfsync.handlers.asgi_response import Application
from halfsync.logs.error import failure, log
from halfsync.worker.forks import end_if_child
from halfsync.worker.importing import MAX_TRACEBACK

MOST_OF_MESSAGE = 300
"""Characters of what the application says that stand in a sentence."""
RETURNS_WITHIN = 1.0
"""Seconds that an application has to return when it has said that its shutdown is complete."""


class CannotStart(Exception):
    """`sentence` says what is wrong; `traceback` is the application's, or ""."""

    def __init__(self, sentence: str, trace: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.traceback = trace[-MAX_TRACEBACK:]


class Lifespan:
    """Of one application in one worker. `state` is what the application keeps there for its requests."""

    def __init__(self, application: Application, target: str, mode: str) -> None:
        """`mode`: auto, on or off, as the setting `lifespan` says."""
        self._application = application
        self._target = target
        self._mode = mode
        self._running: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._asked = False
        self._told_to_stop = False
        self._failed = ""  # a traceback
        self._raised: BaseException | None = None
        self.state: dict[str, Any] = {}

    async def start(self) -> None:
        """Raises CannotStart."""
        if self._mode == "off":
            return
        self._running = asyncio.ensure_future(self._run())
        answer = await self._answer()
        if answer is None:
            self._does_not_answer()
        elif answer["type"] != "lifespan.startup.complete":
            raise self._startup_failed(str(answer.get("message") or ""))

    def _does_not_answer(self) -> None:
        """It raised, or returned, without a word."""
        raised = self._raised
        how = f"raised {type(raised).__name__}: {raised}" if raised is not None else "returned at once"
        self._running = None
        if self._mode == "on":
            sentence = (
                f"Target {self._target!r}: lifespan is on, and the application {how:.{MOST_OF_MESSAGE}}"
            )
            raise CannotStart(sentence, self._failed)
        log("info", f"{self._target} has no lifespan: asked for it, the application {how:.{MOST_OF_MESSAGE}}")

    def _startup_failed(self, message: str) -> CannotStart:
        lines = [line for line in message.splitlines() if line.strip()]
        last = f": {lines[-1].strip():.{MOST_OF_MESSAGE}}" if lines else "."
        trace = message if len(lines) > 1 else self._failed
        return CannotStart(f"Target {self._target!r}: its lifespan startup failed{last}", trace)

    async def stop(self, seconds: float) -> None:
        """Tell it of the end, and wait until it is done, or so long. Never raises."""
        running = self._running
        if running is None:
            return
        self._stopping.set()
        try:
            async with asyncio.timeout(seconds):
                answer = await self._answer()
            if answer is not None and answer["type"] == "lifespan.shutdown.failed":
                log("error", f"{self._target}: its lifespan shutdown failed: {answer.get('message') or ''}")
            await asyncio.wait([running], timeout=RETURNS_WITHIN)
            running.cancel()
        except TimeoutError:
            log("warning", f"{self._target}: its lifespan shutdown took longer than {seconds:g} s.")
            running.cancel()

    async def _answer(self) -> dict[str, Any] | None:
        """What it says next; None if it has ended."""
        assert self._running is not None
        said = asyncio.ensure_future(self._answers.get())
        await asyncio.wait([said, self._running], return_when=asyncio.FIRST_COMPLETED)
        if not said.done() and not self._answers.empty():
            await asyncio.wait([said])
        if said.done():
            return said.result()
        said.cancel()
        return None

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._application(scope, self._receive, self._send)
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001
            end_if_child()
            self._raised = error
            self._failed = "".join(traceback.format_exception(error))
            if self._told_complete:
                log("error", f"{self._target}: its lifespan ended with an exception:\n{failure(skip=1)}")

    _told_complete = False

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        await self._stopping.wait()
        if self._told_to_stop:  # nothing follows: one that receives in a loop is not to go round for ever
            await asyncio.Event().wait()
        self._told_to_stop = True
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: dict[str, Any]) -> None:
        expected = "lifespan.shutdown" if self._told_complete else "lifespan.startup"
        kind = message.get("type") if isinstance(message, dict) else message
        if kind not in (f"{expected}.complete", f"{expected}.failed"):
            end_if_child()
            log(
                "error",
                f"{self._target}: the application broke a rule of ASGI: in its lifespan it sent "
                f"{kind!r:.60}, but {expected}.complete or {expected}.failed is to follow.",
            )
            raise RuntimeError(f"{expected}.complete or {expected}.failed is expected")
        self._told_complete = self._told_complete or kind == "lifespan.startup.complete"
        self._answers.put_nowait(message)
