"""A worker process: imports the application of its pool, reports, attaches to the pump, leaves.

The main thread is the watch thread. It never runs a handler, so it always reads what the parent (`orders`)
and the pump (`watch`) send, whatever the application's threads do. It wakes for:

    Attach    there is a (new) pump: start threads on its sockets
    Retire    leave when the pump lets go
    LogFile   the access log was reopened; ErrorLogFile: the error log was
    Nudge     from the pump: send the responses that wait to be batched
    Stacks    from the pump: say where a handler hangs, and interrupt it

It leaves when the parent is gone or tells it to (end of file on `orders`), or when the pump has let go of
it (end of file on `watch`) and no new pump comes: after Retire at once, else after PUMP_TIMEOUT.
"""

from __future__ import annotations

import gc
import mmap
from collections.abc import Callable
from typing import Any

import msgspec

from halfsync import channel
from halfsync.handlers.files import FilesHandler
from halfsync.handlers.wsgi import WSGIHandler
from halfsync.handlers.wsgi_socket import hang_up_all
from halfsync.http import request_ids
from halfsync.http.error_pages import ErrorPages
from halfsync.http.forwarded import Trust
from halfsync.http.header_rules import HeaderRules
from halfsync.http.hosts import HostTable
from halfsync.logs.error import failure, log, reopen
from halfsync.logs.names import Names
from halfsync.logs.sites import SiteNames
from halfsync.logs.target import target_of
from halfsync.logs.traces import RequestSpans
from halfsync.logs.writer import AccessLogWriter
from halfsync.plan.plan import BUILT_IN, Kind, Plan, PoolPlan
from halfsync.settings.table import Settings
from halfsync.system.primitives import os, select, socket, time
from halfsync.wire.messages import (
    ClientDisconnected,
    Nudge,
    Piece,
    Recall,
    Stacks,
    WatchMessage,
    decode_watch,
    encode,
)
from halfsync.wire.orders import (
    Attach,
    Cut,
    ErrorLogFile,
    Failed,
    LogFile,
    MaxRequests,
    Ready,
    Retire,
    decode_order,
)
from halfsync.wire.thread_rows import THREAD_ROWS
from halfsync.worker import forks
from halfsync.worker.bodies import ResponseLimits
from halfsync.worker.callables import is_asgi
from halfsync.worker.counting import RequestCount
from halfsync.worker.green import warn_of_patches
from halfsync.worker.importing import CannotImport, load
from halfsync.worker.leaving import PUMP_TIMEOUT, leave, leave_finalizers_to_the_parent, stop_timers
from halfsync.worker.osthreads import check_room_for
from halfsync.worker.stacks import show_when_told
from halfsync.worker.threads import OUT_OF_DESCRIPTORS, Handler, Threads

LEVELS = 4
"""Loops of the main thread, one in the other (see WatchThread._repeat)."""
SAME_FAILURE = 60.0
"""Seconds within which the same traceback of the main thread is logged once."""

ATTACHED = 3
"""Descriptors that come with Attach."""

Application = Callable[..., Any]


def run(plan: Plan, pool: int, orders: socket.socket, log_fd: int | None) -> int:
    """A worker's whole life; the process's exit status."""
    leave_finalizers_to_the_parent()
    orders = channel.adopt(orders.detach())
    forks.install()
    forks.close_in_child(orders)
    limits = ResponseLimits.of(plan.settings)
    try:
        application = import_application(plan, pool)
    except CannotImport as error:
        channel.send(orders, encode(Failed(error.sentence, error.traceback)))
        return 3
    gc.freeze()  # what the import made stays: collections of what requests make need not look at it
    return work(plan, pool, orders, log_fd, application, limits)


def import_application(plan: Plan, pool: int) -> Application | None:
    """The pool's application; None for the built-in pool. Raises CannotImport."""
    planned = plan.pools[pool]
    if planned.target is None:
        return None
    application = load(planned.target, planned.interface)
    warn_of_patches()
    return application


def work(
    plan: Plan,
    pool: int,
    orders: socket.socket,
    log_fd: int | None,
    application: Application | None,
    limits: ResponseLimits,
) -> int:
    """The life of a worker whose application is imported."""
    request_ids.enable(plan.settings.request_id != "off")
    show_when_told()
    forks.close_in_child(orders)
    if application is not None and is_asgi(application, plan.pools[pool].interface):
        from halfsync.worker import event_loop

        return event_loop.work(plan, pool, orders, application)
    spans = (
        RequestSpans(plan.settings, trust_of(plan.settings))
        if pool == BUILT_IN and plan.settings.traces
        else None
    )
    writer = writer_of(plan, log_fd, spans) if pool == BUILT_IN else None
    worker = WatchThread(plan, pool, orders, writer, application, limits)
    if why_not := _why_no_threads(plan.pools[pool]):
        channel.send(orders, encode(Failed(why_not, "", is_shortage=True)))
        return 3
    if channel.send(orders, encode(Ready(os.getpid()))) is not channel.SendResult.YES:
        return 0
    worker.watch()
    if spans is not None:
        spans.end()
    leave()
    return 0


def _why_no_threads(pool: PoolPlan) -> str:
    """Found out before the worker says that it is ready: then it is taken for one that serves."""
    try:
        check_room_for(pool.threads)
    except (RuntimeError, MemoryError) as error:
        return (
            f"Target {pool.name!r}: its {pool.threads} threads can't be started: "
            f"{str(error) or 'out of memory'} (ulimit -u, ulimit -v, TasksMax, or too little memory)."
        )
    return ""


class Failures:
    """What a main thread does about exceptions that come out of an application's signal handlers. Those of
    a timer may come many times a second, and always the same: they are logged once in SAME_FAILURE
    seconds."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._last, self._logged_at = "", 0.0

    def outlive(self) -> None:
        """To be called where the exception is being handled."""
        try:
            self._log(failure())
            time.sleep(0.01)  # not a hot loop if it comes again at once
        except BaseException:  # noqa: BLE001 - the timer's next one
            pass

    def _log(self, trace: str) -> None:
        now = time.monotonic()
        if trace != self._last or now - self._logged_at > SAME_FAILURE:
            self._last, self._logged_at = trace, now
            log("error", f"{self._where}:\n{trace}")


class WatchThread:
    """The watch thread's view of its process."""

    def __init__(
        self,
        plan: Plan,
        pool: int,
        orders: socket.socket,
        writer: AccessLogWriter | None,
        application: Application | None,
        limits: ResponseLimits,
    ) -> None:
        self._count = plan.pools[pool].threads
        self._limits = limits
        self._orders = orders
        self._writer = writer
        self._handlers = handlers_of(plan, pool, application, self._is_client_gone)
        self._rules = header_rules_of(plan)
        self._pages = error_pages_of(plan)
        if application is not None and plan.settings.max_requests:
            self._handlers = self._counted(plan.settings)
        self._threads: Threads | None = None
        self._served = [0] * (2 * THREAD_ROWS)  # by thread: see Threads
        self._watch: socket.socket | None = None
        self._retired = False
        self._alone_since = 0.0  # monotonic; since when there is no pump
        self._failures = Failures("In the worker's main thread")

    def _is_client_gone(self) -> bool:
        return self._threads is not None and self._threads.is_client_gone()

    def _counted(self, settings: Settings) -> list[Handler | None]:
        def tell(request_count: int) -> bool:
            return channel.send(self._orders, encode(MaxRequests(request_count))) is channel.SendResult.YES

        count = RequestCount(settings.max_requests, settings.max_requests_jitter, tell)
        return [None if handler is None else count.counted(handler) for handler in self._handlers]

    def watch(self) -> None:
        """Until it is time to leave.

        This is the main thread, in which Python runs the signal handlers of the application: what
        they raise comes out here.
        """
        self._repeat(self._turn, LEVELS)
        self._repeat(self._stop, LEVELS)
        stop_timers()

    def _repeat(self, step: Callable[[], bool], levels: int) -> None:
        """Call `step` until it returns False, whatever is raised.

        A signal handler is called between any two instructions of a loop, also at its jump back, where no
        `try` is active. So there are several loops, one in the other: what comes out of one is caught
        by the next.
        """
        while True:
            try:
                if levels:
                    self._repeat(step, levels - 1)
                    return
                if not step():
                    return
            except SystemExit as leaving:
                forks.end_if_child()
                log(
                    "warning",
                    f"a signal handler of the application ends this worker: exit({leaving.code!r}).",
                )
                return
            except BaseException:  # noqa: BLE001 - the worker goes on
                forks.end_if_child()
                self._failures.outlive()

    def _stop(self) -> bool:
        if self._threads is not None:
            self._threads.stop()
        return False

    def _turn(self) -> bool:
        """False when it is time to leave."""
        ready = self._wait()
        if self._orders.fileno() in ready and not self._receive_order():
            return False
        if self._watch is not None and self._watch.fileno() in ready:
            self._receive_message(self._watch)
        if self._threads is not None:
            self._threads.interrupts.work()
        return not (self._watch is None and self._alone_since and self._may_leave())

    def _wait(self) -> set[int]:
        poller = select.poll()
        poller.register(self._orders, select.POLLIN)
        if self._watch is not None:
            poller.register(self._watch, select.POLLIN)
        timeout = 100 if self._watch is None and self._alone_since else None
        if self._threads is not None:
            timeout = self._threads.interrupts.timeout or timeout
        return {descriptor for descriptor, _ in poller.poll(timeout)}

    def _may_leave(self) -> bool:
        return self._retired or time.monotonic() - self._alone_since > PUMP_TIMEOUT

    def _receive_order(self) -> bool:
        """The next order. False if the parent is gone or has let go."""
        packet = channel.receive(self._orders)
        if packet is None:
            return False
        data, descriptors = packet
        order = decode_order(data)
        if isinstance(order, Attach):
            self._attach_or_end(descriptors)
        elif isinstance(order, LogFile) and self._writer is not None and descriptors:
            self._writer.reopen(descriptors[0])
        elif isinstance(order, ErrorLogFile) and descriptors:
            reopen(descriptors[0])
            channel.close_all(descriptors)
        elif isinstance(order, Retire):
            self._retired = True
            hang_up_all()
        else:
            channel.close_all(descriptors)
        return True

    def _attach_or_end(self, descriptors: list[int]) -> None:
        """Half attached, with no threads or too few, it would be sent requests that nobody handles. So it
        ends, and the parent starts another. If there was no room for the descriptors alone, it is sent
        them again."""
        if len(descriptors) != ATTACHED:
            channel.close_all(descriptors)
            log("error", f"this worker can't be attached to the pump now: {OUT_OF_DESCRIPTORS}")
            channel.send(self._orders, encode(Cut(-1)))
            return
        try:
            self._attach(*descriptors)
        except BaseException as error:  # noqa: BLE001 - no memory, no thread, no descriptor
            log("error", f"this worker can't start its threads, and ends: {error!r}")
            os._exit(1)

    def _attach(self, tasks: int, watch: int, scoreboard: int) -> None:
        if self._watch is not None:
            self._watch.close()
        shared = mmap.mmap(scoreboard, 0)
        os.close(scoreboard)
        self._watch = channel.adopt(watch)
        forks.close_in_child(self._watch)
        self._threads = Threads(
            channel.adopt(tasks),
            memoryview(shared).cast("Q"),
            self._handlers,
            self._writer,
            self._limits,
            self._rules,
            self._pages,
            self._served,
        )
        self._alone_since = 0.0
        self._threads.start(self._count)

    def _receive_message(self, watch: socket.socket) -> None:
        assert self._threads is not None
        packet = channel.peek(watch)
        if not packet:
            # In this order, as what a signal handler of the application raises may come amid any of it: then
            # the end is found again, or nothing is left to do.
            self._threads.bodies.cut_all()
            self._alone_since = time.monotonic()
            self._watch = None
            watch.close()
            return
        try:
            messages = decode_watch(packet)
        except msgspec.MsgspecError:
            channel.drop(watch)
            raise
        for message in messages:
            self._handle(self._threads, message)
        # Only now: what a signal handler of the application has raised meanwhile leaves the packet to be read
        # again, and each message may be handled twice.
        channel.drop(watch)

    @staticmethod
    def _handle(threads: Threads, message: WatchMessage) -> None:
        if isinstance(message, Piece):
            threads.bodies.deliver(message)
        elif isinstance(message, Nudge):
            threads.outbox.flush()
        elif isinstance(message, Recall):
            threads.give_back()
        elif isinstance(message, ClientDisconnected):
            threads.outbox.client_disconnected(message.number)
            threads.bodies.cut(message.number)
        elif isinstance(message, Stacks):
            threads.log_stack(message.number)
            if message.interrupt:
                threads.interrupts.want(message.number, message.interrupt)


def writer_of(plan: Plan, log_fd: int | None, spans: RequestSpans | None) -> AccessLogWriter:
    settings = plan.settings
    target = target_of(settings.access_logfile)
    return AccessLogWriter(
        settings.access_logformat,
        log_fd,
        trust_of(settings),
        site_names_of(plan),
        target,
        names_of(settings),
        spans,
    )


def names_of(settings: Settings) -> Names | None:
    """None: clients' names are not looked up."""
    return None if settings.hostname_lookups == "off" else Names(double=settings.hostname_lookups == "double")


def trust_of(settings: Settings) -> Trust:
    return Trust(settings.forwarded_allow_ips, settings.forwarded_headers)


def site_names_of(plan: Plan) -> SiteNames:
    tables = [
        HostTable(((site, plan.sites[site].hosts) for site in listener.sites), listener.sites[0])
        for listener in plan.listeners
    ]
    return SiteNames(tables, [site.name for site in plan.sites])


def header_rules_of(plan: Plan) -> list[HeaderRules | None]:
    """By route."""
    return [HeaderRules(route.headers) if route.headers else None for route in plan.routes]


def error_pages_of(plan: Plan) -> list[ErrorPages | None]:
    """By route."""
    return [ErrorPages(route.error_pages) if route.error_pages else None for route in plan.routes]


def handlers_of(
    plan: Plan, pool: int, application: Application | None, is_client_gone: Callable[[], bool]
) -> list[Handler | None]:
    """By route; None where another pool is responsible. `is_client_gone`: of the calling thread's request."""
    handlers: list[Handler | None] = []
    trust = trust_of(plan.settings)
    for route in plan.routes:
        if route.pool != pool:
            handlers.append(None)
        elif route.kind is Kind.FILES:
            handlers.append(FilesHandler(route, plan.settings))
        else:
            assert application is not None
            handlers.append(
                WSGIHandler(application, route, plan.pools[pool], plan.listeners, trust, is_client_gone)
            )
    return handlers
