"""A worker whose application is called in an event loop: ASGI.

The main thread is the loop. What it reads, it reads as any other reader of the loop: tasks, and what the pump
says of them (loop_tasks.py). Only what must be read while the loop is blocked is read by another thread
(loop_orders.py).

Its life: the application's lifespan starts; Ready is reported, with the number of tasks that it takes; it
attaches to the pump. At its end, when the pump has let go: requests that still run, and background tasks of
requests, go on until graceful_timeout, which runs since Retire (if there was none, the server stops at once);
the lifespan ends; then Python's own end. A pump that goes on, as at a reload, lets go only when all requests
have ended; if some are endless streams, the worker comes to its end by itself.
"""

from __future__ import annotations

import asyncio
import contextvars
import mmap
from typing import Any

from halfsync import channel
from halfsync.handlers.asgi import ASGIHandler
from halfsync.handlers.asgi_response import Application, ASGIInvocation
from halfsync.http.error_pages import ErrorPages
from halfsync.http.forwarded import Trust
from halfsync.http.header_rules import HeaderRules
from halfsync.logs.error import failure, log
from halfsync.plan.plan import Limits, Plan
from halfsync.system.primitives import _thread, os, socket, time
from halfsync.wire.orders import Failed, MaxRequests, Ready, encode
from halfsync.worker import forks
from halfsync.worker.counting import RequestCount
from halfsync.worker.leaving import PUMP_TIMEOUT, leave, stop_timers
from halfsync.worker.lifespan import CannotStart, Lifespan
from halfsync.worker.loop_orders import OrdersThread
from halfsync.worker.loop_tasks import LoopTasks
from halfsync.worker.osthreads import start_daemon

MOST_NAMED = 5
"""Requests that are named where several are cancelled."""
CANCELLED_WITHIN = 1.0
"""Seconds for tasks that were cancelled at the end."""
LAST = 1.0
"""Seconds of graceful_timeout's that are kept for what has to be done after the last request."""
CUT_OFF_AFTER = 0.5
"""Seconds beyond graceful_timeout, so that a pump that stops, too, has cut off by then what is in flight.
(The parent kills this process 2 s beyond it.)"""


def work(plan: Plan, pool: int, orders: socket.socket, application: Application) -> int:
    """The life of a worker whose application is imported; the process's exit status."""
    planned = plan.pools[pool]
    try:
        loop = _new_loop(planned.name, planned.loop)
        asyncio.set_event_loop(loop)
        lifespan = Lifespan(application, planned.name, planned.lifespan)
        loop.run_until_complete(lifespan.start())
    except CannotStart as error:
        channel.send(orders, encode(Failed(error.sentence, error.traceback)))
        return 3
    except BaseException as error:  # noqa: BLE001 - a callback of the application's that raises SystemExit
        forks.end_if_child()
        sentence = f"Target {planned.name!r}: its start failed with {type(error).__name__}: {error}"
        channel.send(orders, encode(Failed(sentence, failure())))
        return 3
    worker = EventLoopWorker(loop, plan, pool, orders, application, lifespan)
    ready = Ready(os.getpid(), planned.limit_concurrency)
    if channel.send(orders, encode(ready)) is channel.SendResult.YES:
        worker.run()
    leave()
    return 0


def _new_loop(target: str, name: str) -> asyncio.AbstractEventLoop:
    """Raises CannotStart."""
    if name != "asyncio":
        try:
            import uvloop

            return uvloop.new_event_loop()
        except ImportError:
            if name == "uvloop":
                raise CannotStart(
                    f"Target {target!r}: loop is uvloop, which is not installed: pip install "
                    "'halfsync[uvloop]'."
                ) from None
    return asyncio.new_event_loop()


class EventLoopWorker:
    """What the main thread does, and what the thread beside it has done in the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        plan: Plan,
        pool: int,
        orders: socket.socket,
        application: Application,
        lifespan: Lifespan,
    ) -> None:
        settings = plan.settings
        self._loop = loop
        # What the application has set when it was imported (the precision of `decimal` among it) is there for
        # its requests: their tasks have the context in which the sockets came to the loop.
        self._context = contextvars.copy_context()
        self._lifespan = lifespan
        self._orders = orders
        trust = Trust(settings.forwarded_allow_ips, settings.forwarded_headers)
        certificates = plan.certificates.shown if plan.certificates is not None else {}
        self._handlers = [
            ASGIHandler(
                application,
                route,
                plan.listeners,
                trust,
                HeaderRules(route.headers) if route.headers else None,
                ErrorPages(route.error_pages) if route.error_pages else None,
                lifespan.state,
                certificates,
            )
            if route.pool == pool
            else None
            for route in plan.routes
        ]
        usual = Limits.of(settings).handler_timeout
        limits = [
            usual if one.limits is None else one.limits.handler_timeout
            for one in plan.routes
            if one.pool == pool
        ]
        self._limit = max(limits, default=0.0)
        self._graceful = settings.graceful_timeout
        self._tasks: LoopTasks | None = None
        self._former: list[LoopTasks] = []  # whose invocations still run
        self._retired_at = 0.0
        self._stopping = False
        self._one_more = None
        if settings.max_requests:
            count = RequestCount(settings.max_requests, settings.max_requests_jitter, self._tell_count)
            self._one_more = count.one_more

    def _tell_count(self, request_count: int) -> bool:
        return channel.send(self._orders, encode(MaxRequests(request_count))) is channel.SendResult.YES

    # --- for the thread that reads orders ----------------------------------------------------------

    def attach(self, tasks: int, watch: int, scoreboard: int) -> None:
        self._loop.call_soon_threadsafe(self._attach, tasks, watch, scoreboard, context=self._context)

    def retire(self) -> None:
        self._loop.call_soon_threadsafe(self._retire)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop)

    @property
    def turned(self) -> float:
        return float("inf") if self._tasks is None else self._tasks.turned

    def named_running(self) -> str:
        return "?" if self._tasks is None else self._tasks.named_running()

    # --- in the loop -------------------------------------------------------------------------------

    def _attach(self, tasks: int, watch: int, scoreboard: int) -> None:
        try:
            shared = mmap.mmap(scoreboard, 0)
            os.close(scoreboard)
            if self._tasks is not None:
                self._tasks.close()
            self._tasks = LoopTasks(
                self._loop,
                channel.adopt(tasks),
                channel.adopt(watch),
                memoryview(shared),
                self._handlers,
                self._lost,
                self._one_more,
            )
            self._tasks.open()
        except BaseException as error:  # noqa: BLE001 - no memory, no descriptor
            log("error", f"this worker can't be attached to the pump, and ends: {error!r}")
            os._exit(1)

    def _lost(self, tasks: LoopTasks) -> None:
        """The pump has let go of it, or is gone."""
        self._former = [one for one in self._former if one.invocations]
        self._former.append(tasks)
        if self._tasks is not tasks:
            return
        self._tasks = None
        if self._retired_at:
            self._stop()
        else:
            self._loop.call_later(PUMP_TIMEOUT, self._stop_if_alone)

    def _stop_if_alone(self) -> None:
        if self._tasks is None:
            self._retired_at = self._retired_at or time.monotonic()
            self._stop()

    def _retire(self) -> None:
        if not self._retired_at:
            self._retired_at = time.monotonic()
            self._loop.call_later(self._graceful + CUT_OFF_AFTER, self._stop)
        if self._tasks is None and self._former:
            self._stop()

    def _stop(self) -> None:
        if not self._stopping:  # or it would end what is done at the end
            self._stopping = True
            self._loop.stop()

    # --- the main thread ---------------------------------------------------------------------------

    def run(self) -> None:
        """Until it is time to leave, and all is done."""
        orders = OrdersThread(self._orders, self, _thread.get_ident(), self._limit, self._graceful + 2 * LAST)
        start_daemon(orders.live, "halfsync-orders")
        while not self._stopping:
            try:
                self._loop.run_forever()
            except SystemExit as leaving:
                forks.end_if_child()
                log("warning", f"the application ends this worker: exit({leaving.code!r}).")
                break
            except BaseException:  # noqa: BLE001 - what a signal handler or a callback raises
                forks.end_if_child()
                log("error", f"In the event loop:\n{failure()}")
        stop_timers()
        self._finish()

    def _finish(self) -> None:
        until = self._retired_at + max(0.0, self._graceful - LAST) if self._retired_at else 0.0
        for step in (self._end_tasks(until), self._end_lifespan(until), self._end_loop()):
            try:
                self._loop.run_until_complete(step)
            except BaseException:  # noqa: BLE001 - one that fails must not keep the others from their turn
                forks.end_if_child()
                log("error", f"At the worker's end:\n{failure()}")

    def _running(self) -> dict[asyncio.Task[Any], ASGIInvocation]:
        parts = [*self._former, *([self._tasks] if self._tasks is not None else [])]
        return {one.running: one for tasks in parts for one in tasks.invocations.values()}

    async def _end_tasks(self, until: float) -> None:
        """Requests, and what they do after their responses."""
        running = self._running()
        if running:
            await asyncio.wait(running, timeout=max(0.0, until - time.monotonic()))
        left = {one for one in running if not one.done()}
        if left:
            named = [running[one].named for one in left]
            more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
            log(
                "warning",
                f"{len(left)} requests, or their background tasks, are cancelled at graceful_timeout: "
                f"{', '.join(named[:MOST_NAMED])}{more}.",
            )
            for one in left:
                running[one].end()
            await asyncio.wait(left, timeout=CANCELLED_WITHIN)
        if self._tasks is not None:
            self._tasks.close()

    async def _end_lifespan(self, until: float) -> None:
        await self._lifespan.stop(max(LAST, until - time.monotonic()))

    async def _end_loop(self) -> None:
        await self._loop.shutdown_asyncgens()
