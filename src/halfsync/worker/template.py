"""With `preload`: a process that imports the application once and forks workers from itself.

So the workers share the application's memory, and the parent still never imports it. The template
runs nothing else: no thread of ours is alive when it forks.
"""

from __future__ import annotations

import gc

from halfsync import channel
from halfsync.logs import error as error_log
from halfsync.logs.error import failure, log
from halfsync.plan.plan import Plan
from halfsync.system import prctl
from halfsync.system.primitives import os, socket, time
from halfsync.wire.orders import ErrorLogFile, Failed, Ready, Spawn, decode_order, encode
from halfsync.worker import forks
from halfsync.worker.bodies import ResponseLimits
from halfsync.worker.importing import CannotImport
from halfsync.worker.leaving import leave_finalizers_to_the_parent
from halfsync.worker.main import Application, Failures, import_application, work


def run(plan: Plan, pool: int, orders: socket.socket) -> int:
    """A template's whole life; the process's exit status. A forked worker's also."""
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
    gc.collect()
    gc.freeze()  # what is here now stays: the collector need not touch, and so copy, its pages
    channel.send(orders, encode(Ready(os.getpid())))
    failures = Failures("In the template's main thread")
    while True:
        try:
            packet = channel.receive(orders)
            if packet is None:
                return 0
            data, descriptors = packet
            order = decode_order(data)
            if isinstance(order, ErrorLogFile) and descriptors:
                error_log.reopen(descriptors[0])
            elif isinstance(order, Spawn) and descriptors:
                _spawn(plan, pool, orders, descriptors[0], application, limits)
            channel.close_all(descriptors)
        except BaseException:  # noqa: BLE001 - such as what a signal handler of the application raises
            forks.end_if_child()
            failures.outlive()


def _spawn(
    plan: Plan,
    pool: int,
    orders: socket.socket,
    descriptor: int,
    application: Application | None,
    limits: ResponseLimits,
) -> None:
    """Fork a worker that is not our child: the one between exits at once, and the parent, which is
    the subreaper, reaps the worker as its own."""
    parent = os.getppid()
    between = forks.fork()
    if between:
        try:
            os.waitpid(between, 0)
        except ChildProcessError:
            pass  # the application ignores SIGCHLD, and then the kernel has reaped it
        return
    between, status = os.getpid(), 1
    try:
        if forks.fork():
            os._exit(0)
        _become_child_of(parent, between)
        orders.close()
        error_log.be(f"worker({plan.pools[pool].name})", plan.settings.log_level, plan.settings.log_format)
        status = work(plan, pool, channel.adopt(descriptor), None, application, limits)
    except BaseException:  # noqa: BLE001
        forks.end_if_child()
        log("error", f"A worker failed:\n{failure()}")
    finally:
        os._exit(status)


def _become_child_of(parent: int, between: int) -> None:
    """Only when the process between is gone can this one be tied to the parent's life."""
    while os.getppid() == between:
        time.sleep(0.001)
    prctl.die_with(parent)
