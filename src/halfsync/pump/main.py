"""The pump process: from its start to its exit status."""

from __future__ import annotations

import errno
import gc
import os
import socket
import tempfile

from halfsync import channel
from halfsync.logs.error import log, reopen
from halfsync.logs.formats import needs_cookie, needs_times
from halfsync.plan.plan import Plan
from halfsync.pump.descriptors import Descriptor, Reserve
from halfsync.pump.handing_over import HandingOver
from halfsync.pump.loop import Pump
from halfsync.pump.pools.spare import spare_of
from halfsync.pump.reconfigure import PlanChange
from halfsync.pump.status import overview
from halfsync.pump.status.page import StatusPages
from halfsync.pump.taking_over import TakingOver
from halfsync.scoreboard.scoreboard import Scoreboard
from halfsync.wire.orders import (
    NO_WORKER,
    Challenges,
    ChallengesShown,
    Configure,
    Configured,
    Cut,
    Describe,
    Described,
    Drain,
    Drained,
    Ended,
    ErrorLogFile,
    HandOver,
    Hung,
    Join,
    Lost,
    Open,
    Ping,
    Pong,
    Ready,
    Report,
    Retire,
    SwitchOver,
    TakeOver,
    decode_order,
    encode,
)

JOINED = 3
"""Descriptors that come with Join."""


QUIET = 10.0
"""Seconds without one after which a shortage is another one, which is told again."""


class Orders:
    """The pump's end of its channel with the parent."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.setblocking(False)
        self.reserve = Reserve()
        self.quiet_until = 0.0  # no word until then of workers that can't join

    def report(self, message: Report) -> None:
        channel.send(self.sock, encode(message))


def run(plan: Plan, orders_socket: socket.socket, scoreboard: Scoreboard) -> int:
    """The pump's whole life; returns its exit status."""
    orders = Orders(orders_socket)
    settings = plan.settings
    pump = Pump(
        plan,
        spool_folder=settings.spool_dir or tempfile.gettempdir(),
        log_needs=(
            needs_times(settings.access_logformat) or settings.traces,
            needs_cookie(settings.access_logformat),
        ),
        report_hung=lambda worker: orders.report(Hung(worker.id)),
        report_interrupted=lambda worker: orders.report(Hung(worker.id, has_ended=True)),
        report_lost=lambda worker: orders.report(Lost(worker.id)),
        scoreboard=scoreboard,
    )
    reconfiguration = PlanChange(pump)
    pump.poller.watch(orders.sock.fileno(), lambda _mask: _take_order(pump, orders, reconfiguration))
    pump.pools.shown.pages = StatusPages(pump)
    pump.at_sweep.append(lambda: _report_spare(pump, orders))
    orders.report(Ready(os.getpid()))
    # What lives now lives as long as the process; and what is made per request is freed by its
    # reference count. So the collector need not look at the one, and seldom at the other.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    pump.run()
    if pump.draining.handing_over is not None:
        log("info", f"connections that were handed over: {pump.draining.handing_over.count}")
    orders.report(Drained())
    return 0


def _report_spare(pump: Pump, orders: Orders) -> None:
    spare = spare_of(pump.plan, pump.pools.pools)
    if spare is not None:
        orders.report(spare)


def _take_order(pump: Pump, orders: Orders, reconfiguration: PlanChange) -> None:
    """Whatever else is short of descriptors, a new worker's find room."""
    with orders.reserve.released():
        _receive_order(pump, orders, reconfiguration)


def _receive_order(pump: Pump, orders: Orders, reconfiguration: PlanChange) -> None:
    try:
        received = channel.receive(orders.sock)
    except BlockingIOError:
        return
    if received is None:
        os._exit(1)  # the parent was killed: nothing is to be left running
    packet, fds = received
    owned = [Descriptor(fd) for fd in fds]
    order = decode_order(packet)
    if isinstance(order, Join):
        _join(pump, orders, order, owned)
    elif isinstance(order, Retire):
        pump.pools.retire(order.worker)
    elif isinstance(order, Ended):
        pump.pools.ended(order.worker, order.status)
    elif isinstance(order, Open):
        pump.acceptor.start()
    elif isinstance(order, Configure):
        _configure(orders, reconfiguration, order, owned)
    elif isinstance(order, SwitchOver):
        reconfiguration.switch_over(order.number)
    elif isinstance(order, Drain):
        pump.draining.begin(order.seconds)
    elif isinstance(order, HandOver | TakeOver):
        _change_servers(pump, order, owned)
    else:
        _take_other(pump, orders, order, owned)


def _change_servers(pump: Pump, order: HandOver | TakeOver, fds: list[Descriptor]) -> None:
    """Without its descriptor, a HandOver is a Drain."""
    sock = socket.socket(fileno=os.dup(fds[0].fd)) if fds else None
    if isinstance(order, HandOver):
        to = None
        if sock is not None:
            to = HandingOver(sock, order.places, pump.passable, pump.poller)
        pump.draining.begin(order.seconds, to)
    elif sock is not None:
        pump.draining.taking_over = TakingOver(sock, order.places, pump.acceptor, pump.poller)


def _take_other(pump: Pump, orders: Orders, order: object, owned: list[Descriptor]) -> None:
    """What changes nothing about who serves what."""
    if isinstance(order, Describe):
        _describe(pump, orders, order, owned)
    elif isinstance(order, Ping):
        orders.report(Pong(order.number))
    elif isinstance(order, Challenges):
        pump.challenges.show(order)
        orders.report(ChallengesShown(order.number))
    elif isinstance(order, ErrorLogFile) and owned:
        reopen(owned[0].fd)
    else:
        log("error", f"an order that is not the pump's: {type(order).__name__}")


def _describe(pump: Pump, orders: Orders, order: Describe, fds: list[Descriptor]) -> None:
    """Without its descriptor, the file stays empty."""
    for file in fds:
        with open(file.fd, "wb", closefd=False) as written:
            written.write(overview.describe(pump, order.what))
    orders.report(Described(order.number))


def _join(pump: Pump, orders: Orders, order: Join, fds: list[Descriptor]) -> None:
    """Or say that there was no room for its descriptors, so that it comes again."""
    try:
        if len(fds) == JOINED:
            pump.pools.join(order, fds)
            return
        why = os.strerror(errno.EMFILE)
    except OSError as error:
        why = str(error.strerror)
    if pump.clock.now >= orders.quiet_until:  # not for each worker, five times a second
        log("error", f"worker {order.pid} can't join now: {why} (ulimit -n, LimitNOFILE).")
    orders.quiet_until = pump.clock.now + QUIET
    orders.report(Cut(order.worker))


def _configure(orders: Orders, reconfiguration: PlanChange, order: Configure, fds: list[Descriptor]) -> None:
    """The same."""
    try:
        if len(fds) == 1 + order.has_certificates + len(order.listeners):
            reconfiguration.get_ready(order, fds)
            orders.report(Configured(order.number))
            return
        why = os.strerror(errno.EMFILE)
    except OSError as error:
        why = str(error.strerror)
    log("error", f"the new configuration can't be taken over now: {why} (ulimit -n, LimitNOFILE).")
    orders.report(Cut(NO_WORKER))
