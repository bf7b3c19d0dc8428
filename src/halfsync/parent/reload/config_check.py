"""`--check-config`: whether each application can be imported, tried in a child of its own."""

from __future__ import annotations

import dataclasses
import os
import select
import signal
import socket
import time

import msgspec

from halfsync import channel
from halfsync.parent.limits import LAST_WORD
from halfsync.parent.privileges import Identity
from halfsync.parent.workers import processes
from halfsync.parent.workers.children import Child, ProtocolError, Role
from halfsync.parent.workers.spawn import EntryPoints
from halfsync.plan.plan import Plan
from halfsync.settings.values import octal
from halfsync.system.folders import here
from halfsync.wire.orders import Failed


def check_applications(plan: Plan, identity: Identity | None, entry_points: EntryPoints) -> dict[int, Failed]:
    """Start one worker of each pool, as the user that it will run as, and let it go again. Gives the
    failures, one of each application, by the indices of their pools.

    No lifespan is begun: what it does (locks, connections, a place in a register) is done for a server, and
    perhaps beside one that runs."""
    found: dict[int, Failed] = {}
    failed: set[str] = set()
    plan = dataclasses.replace(
        plan, pools=tuple(msgspec.structs.replace(pool, lifespan="off") for pool in plan.pools)
    )
    for index, pool in enumerate(plan.pools):
        if pool.target is None or pool.target in failed:
            continue
        failure = _check_one(plan, identity, entry_points, index)
        if failure is not None:
            found[index] = failure
            failed.add(pool.target)
    return found


def _check_one(plan: Plan, identity: Identity | None, entry_points: EntryPoints, index: int) -> Failed | None:
    ours, theirs = channel.pair()
    name = f"worker({plan.pools[index].name})"

    def child_main() -> int:
        ours.detach()
        processes.make_importable(here(), plan.settings.pythonpath)
        return entry_points.worker(plan, index, theirs, None)

    settings = plan.settings
    start = processes.Start(
        name,
        "halfsync worker",
        child_main,
        [theirs.fileno()],
        identity,
        settings.log_level,
        settings.log_format,
        settings.no_new_privs and identity is not None,
        None if settings.umask is None else octal("umask", settings.umask),
    )
    child = Child(0, Role.WORKER, name, index, 0, ours, 0.0, processes.fork(start))
    theirs.close()
    try:
        report = (
            child.receive()
            if _says_something(ours, plan.settings.startup_timeout)
            else _too_late(plan, index)
        )
    except ProtocolError as error:
        report = Failed(
            f"Target {plan.pools[index].name!r}: its worker sent a malformed report ({error}).", ""
        )
    ending = _how_it_ended_by_itself(child.pid) if report is None else ""
    child.close_channel()
    if not ending:
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
    if report is None:
        why = ending or "closed its channel to the parent and did not exit"
        return Failed(f"Target {plan.pools[index].name!r}: its worker {why} while starting.", "")
    return report if isinstance(report, Failed) else None


def _how_it_ended_by_itself(pid: int) -> str:
    """In words; "" if it lives LAST_WORD after its channel has ended, as one whose application closes all
    descriptors."""
    until = time.monotonic() + LAST_WORD
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return processes.how_it_ended(status)
        if time.monotonic() >= until:
            return ""
        time.sleep(0.01)


def _says_something(channel: socket.socket, seconds: float) -> bool:
    return bool(select.select([channel], [], [], seconds or None)[0])


def _too_late(plan: Plan, index: int) -> Failed:
    seconds = plan.settings.startup_timeout
    return Failed(
        f"Target {plan.pools[index].name!r}: it was not ready within {seconds:g} s (startup_timeout).", ""
    )
