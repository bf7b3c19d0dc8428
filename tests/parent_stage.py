"""A stage for the parent: the real supervisor in a real process, with tiny stand-ins for the pump
and the workers. They tell what they do as lines of JSON on standard output, and do what the file
`script.json` in the current folder says when they start.

    python parent_stage.py '{"workers": 2}'
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

from halfsync import channel
from halfsync.logs import error
from halfsync.parent import listeners
from halfsync.parent import supervisor as supervisor_module
from halfsync.parent.limits import LAST_WORD
from halfsync.parent.logfiles import AccessLogFile
from halfsync.parent.reload.reconfigure import Reconfiguration
from halfsync.parent.supervisor import Supervisor
from halfsync.parent.workers import processes
from halfsync.parent.workers.spawn import EntryPoints
from halfsync.plan.layout import work_out
from halfsync.plan.plan import Plan
from halfsync.settings.table import Settings
from halfsync.settings.targets import Target
from halfsync.system import prctl
from halfsync.wire.orders import (
    Attach,
    Changed,
    Drain,
    Drained,
    Failed,
    Hung,
    Join,
    LogFile,
    Lost,
    Open,
    Ping,
    Pong,
    Ready,
    Retire,
    Spawn,
    decode_order,
    encode,
)


def tell(what: str, **more: Any) -> None:
    os.write(1, json.dumps({"what": what, "pid": os.getpid(), **more}).encode() + b"\n")


def script() -> dict[str, Any]:
    try:
        with open("script.json", encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
            return found
    except FileNotFoundError:
        return {}


def fork_while_there_is_room(start: processes.Start) -> int:
    """`fork_fails` in the script: an errno for each kind of child that finds no room."""
    for kind, number in script().get("fork_fails", {}).items():
        if start.name.startswith(kind):
            raise OSError(number, os.strerror(number))
    return fork(start)


fork = processes.fork


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def pump(plan: Plan, orders: socket.socket) -> int:
    """Keeps the seams, closes a retired worker's at once, drains at once unless told to dawdle."""
    tell("pump", fds=open_descriptors(), listening=[one.socket.getsockname() for one in plan.listeners])
    seams: dict[int, list[int]] = {}
    gave_up = False
    if not becomes_ready(orders):
        return 9
    while (received := channel.receive(orders)) is not None:
        order, descriptors = decode_order(received[0]), received[1]
        if isinstance(order, Join):
            seams[order.worker] = descriptors
            tell("join", worker=order.worker, worker_pid=order.pid, pool=order.pool, count=len(descriptors))
            if order.pool and script().get("handlers") == "hang":
                channel.send(orders, encode(Hung(order.worker)))
            if order.pool and script().get("pump") == "gives up" and not gave_up:
                gave_up = True
                channel.send(orders, encode(Lost(order.worker)))
        elif isinstance(order, Retire):
            tell("retire", worker=order.worker)
            channel.close_all(seams.pop(order.worker, []))
        elif isinstance(order, Open):
            tell("open")
        elif isinstance(order, Ping):
            confirm(order, orders)
        elif isinstance(order, Drain):
            tell("drain", seconds=order.seconds)
            if order.seconds:
                wait_for_another_drain(orders, script().get("drain_takes", 0))
            if script().get("drain_at_once") == "hangs":
                time.sleep(1000)
            channel.send(orders, encode(Drained()))
            return 0
    return 0


def becomes_ready(orders: socket.socket) -> bool:
    """If it "never works", it waits for a worker of the application first."""
    does = script().get("pump")
    if does == "never works":
        while (received := channel.receive(orders)) is not None:
            order = decode_order(received[0])
            if isinstance(order, Join) and order.pool:
                return False
    if does == "dies":
        return False
    channel.send(orders, encode(Ready(os.getpid())))
    return True


def confirm(ping: Ping, orders: socket.socket) -> None:
    tell("ping", number=ping.number)
    if script().get("pump") != "is slow":
        channel.send(orders, encode(Pong(ping.number)))


def wait_for_another_drain(orders: socket.socket, seconds: float) -> None:
    """That long, whatever else comes."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and select.select([orders], [], [], left)[0]:
        received = channel.receive(orders)
        if received is None:
            return
        order = decode_order(received[0])
        if isinstance(order, Drain):
            tell("drain", seconds=order.seconds)
            return


def worker(plan: Plan, pool: int, orders: socket.socket, log_fd: int | None) -> int:
    does = script().get("worker", "works") if pool else "works"
    if does == "fails":
        sentence = f"Target {plan.pools[pool].name!r}: it does not work."
        channel.send(orders, encode(Failed(sentence, "Traceback of the application\n")))
        return 3
    if does == "dies":
        os.kill(os.getpid(), signal.SIGSEGV)
    if does == "hangs":
        time.sleep(1000)
    if does == "garbage":
        channel.send(orders, b"\xc1garbage")
        time.sleep(1000)
    return work(pool, orders, log_fd)


def work(pool: int, orders: socket.socket, log_fd: int | None) -> int:
    channel.send(orders, encode(Ready(os.getpid())))
    tell("ready", pool=pool, fds=open_descriptors(), path=sys.path[0], value=os.environ.get("STAGE"))
    watch: socket.socket | None = None
    retired = False
    while not (retired and watch is None and script().get("retired") != "stays"):
        poller = select.poll()
        poller.register(orders, select.POLLIN)
        if watch is not None:
            poller.register(watch, select.POLLIN)
        ready = dict(poller.poll())
        if watch is not None and watch.fileno() in ready and channel.receive(watch) is None:
            watch.close()
            watch = None
            tell("released", retired=retired)
        if orders.fileno() not in ready:
            continue
        received = channel.receive(orders)
        if received is None:
            time.sleep(script().get("leaving_takes", 0))
            tell("leaves", pool=pool)
            return 0
        order = decode_order(received[0])
        if isinstance(order, Attach):
            tasks, descriptor, scoreboard = received[1]
            watch = socket.socket(fileno=descriptor)
            os.close(scoreboard)
            os.close(tasks)
            tell("attach", pool=pool)
            if pool and script().get("worker") == "babbles":
                while True:
                    channel.send(orders, os.urandom(100))
        elif isinstance(order, Retire):
            retired = True
        elif isinstance(order, LogFile):
            os.write(received[1][0], b"reopened\n")
            tell("logfile")
    return 0


def template(plan: Plan, pool: int, orders: socket.socket) -> int:
    if script().get("worker") == "fails":
        channel.send(orders, encode(Failed("The template does not work.", "")))
        return 3
    if script().get("worker") == "hangs":
        time.sleep(1000)
    channel.send(orders, encode(Ready(os.getpid())))
    tell("template")
    parent = os.getppid()
    while (received := channel.receive(orders)) is not None:
        if isinstance(decode_order(received[0]), Spawn):
            between = os.fork()
            if between == 0:
                if os.fork():
                    os._exit(0)
                while os.getppid() != parent:
                    time.sleep(0.001)
                prctl.die_with(parent)
                orders.close()
                their_orders = socket.socket(fileno=received[1][0])
                os._exit(work(pool, their_orders, None))
            os.waitpid(between, 0)
        channel.close_all(received[1])
    return 0


def watcher(plan: Plan, imported_since: float | None, orders: socket.socket) -> int:
    """Tells of a change for each line of the FIFO `changes`."""
    does = script().get("watcher", "works")
    if does == "fails":
        channel.send(orders, encode(Failed("It can't be watched.", "")))
        return 3
    tell("watcher", fds=open_descriptors(), path=sys.path[0], imported_since=imported_since)
    channel.send(orders, encode(Ready(os.getpid())))
    changes = os.open("changes", os.O_RDWR)
    while True:
        ready = select.select([changes, orders.fileno()], [], [])[0]
        if orders.fileno() in ready:
            tell("watcher leaves")
            return 0
        for name in os.read(changes, 1000).decode().split():
            channel.send(orders, encode(Changed(name)))


def issuer(plan: Plan, orders: socket.socket) -> int:
    raise AssertionError("no certificates are wanted here")


def announce() -> None:
    tell("announced")
    if script().get("announced") == "stands still":
        os.kill(os.getpid(), signal.SIGSTOP)


def read_wrongly() -> NoReturn:
    """In place of the configuration: a bug."""
    raise LookupError("there is a bug")


def main() -> int:
    told = json.loads(sys.argv[1])
    log = AccessLogFile(told.pop("log")) if "log" in told else None
    reads = read_wrongly if told.pop("reads_wrongly", False) else None
    vars(supervisor_module).update(LAST_WORD=told.pop("last_word", LAST_WORD))
    settings = Settings(**{"bind": ["127.0.0.1:0"], **told})
    error.be("parent", "debug")
    layout = work_out(settings, [Target("/", "app:app", "the test")])
    plan = Plan(settings, layout.routes, layout.pools, listeners.bind(settings))
    supervisor = Supervisor(
        plan,
        EntryPoints(pump, worker, template, watcher, issuer),
        reconfiguration=Reconfiguration(reads, None, log),
        folder=os.environ["PWD"],
        announce=announce,
    )
    processes.fork = fork_while_there_is_room
    tell("parent", fds=open_descriptors())
    if "HALFSYNC_STAGE_KEEPS_USR2" not in os.environ:
        signal.signal(signal.SIGUSR2, lambda *_: tell("descriptors", fds=open_descriptors()))
    status = supervisor.run()
    tell("over", fds=open_descriptors())
    return status


if __name__ == "__main__":
    sys.exit(main())
