"""Making each kind of child: the pump, a worker, a template, a worker through a template, the watcher.

What a child needs to be itself, beyond what every process of ours does first (`processes`), is
done here, in the child, before its entry point is called.
"""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable, Collection

import msgspec

from halfsync import channel
from halfsync.logs.error import log
from halfsync.parent import trust
from halfsync.parent.logfiles import AccessLogFile
from halfsync.parent.privileges import Identity
from halfsync.parent.workers import oom, processes
from halfsync.parent.workers.children import NEVER, UNKNOWN, Child, Role
from halfsync.parent.workers.pools import Generation, WorkerPool
from halfsync.plan.plan import BUILT_IN, Plan
from halfsync.settings.values import octal
from halfsync.system.folders import here, here_in_words
from halfsync.wire import orders

NO_POOL = -1
"""The pump's and the watcher's."""


class EntryPoints(msgspec.Struct, frozen=True):
    """What the forked children run; each gives an exit status."""

    pump: Callable[[Plan, socket.socket], int]
    worker: Callable[[Plan, int, socket.socket, int | None], int]
    template: Callable[[Plan, int, socket.socket], int]
    watcher: Callable[[Plan, float | None, socket.socket], int]
    issuer: Callable[[Plan, socket.socket], int]


IMPORTS = {
    Role.PUMP: ("ssl",),  # a reload may be the first to need it
    Role.ISSUER: ("halfsync.issuing.authority", "halfsync.issuing.files"),
}
"""What is imported before a process gives up its rights: Python's modules need not be readable afterwards."""


class Spawner:
    """Makes children. Each method raises OSError if the machine has no room for one now."""

    def __init__(
        self,
        entry_points: EntryPoints,
        access_log: Callable[[Plan], AccessLogFile | None],
        identity: Identity | None,
        folder: str,
        forget: Callable[[], None],
    ) -> None:
        """`folder` is where workers go when they start: by name, so that after a reload they are
        in the folder that a symbolic link in it names *then*, as deployments of many kinds expect.

        `access_log` is that of a configuration. `forget` is called in each child: the parent's own
        descriptors are closed there.
        """
        self._entry_points = entry_points
        self._access_log = access_log
        self._identity = identity
        self._folder = folder
        self._forget = forget
        self._newest = 0
        self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        # The pump needs one for each connection; the parent, one for each worker, and for sending
        # them: the kernel bounds those that are on their way by the same limit.
        processes.raise_descriptor_limit()

    def pump(self, plan: Plan) -> Child:
        keep = [one.socket.fileno() for one in plan.listeners if not one.is_removed]
        if plan.certificates is not None:
            keep.append(plan.certificates.fd)
        return self._fork(
            plan, Role.PUMP, "pump", NO_POOL, 0, keep, lambda orders: self._entry_points.pump(plan, orders)
        )

    def worker(self, pool: WorkerPool, generation: Generation, template: Child | None) -> Child:
        """Forked here, or by the template if there is one."""
        plan = generation.plan
        name = f"worker({pool.name})"
        if template is not None:
            return self._spawned(pool, name, generation, template)
        access_log = self._access_log(plan) if pool.index == BUILT_IN else None
        log_fd = None if access_log is None else access_log.fd

        def entry(orders: socket.socket) -> int:
            self._settle(plan, runs_application=pool.has_application)
            return self._entry_points.worker(plan, pool.index, orders, log_fd)

        keep = [] if log_fd is None else [log_fd]
        child = self._fork(plan, Role.WORKER, name, pool.index, generation.number, keep, entry)
        child.access_log = access_log
        return child

    def template(self, pool: WorkerPool, generation: Generation) -> Child:
        plan = generation.plan

        def entry(orders: socket.socket) -> int:
            self._settle(plan, runs_application=pool.has_application)
            return self._entry_points.template(plan, pool.index, orders)

        name = f"template({pool.name})"
        return self._fork(plan, Role.TEMPLATE, name, pool.index, generation.number, [], entry)

    def _spawned(self, pool: WorkerPool, name: str, generation: Generation, template: Child) -> Child:
        ours, theirs = channel.pair()
        plan = generation.plan
        child = self._child(plan, Role.WORKER, name, pool.index, generation.number, ours, UNKNOWN)
        template.order(orders.Spawn(child.id), (theirs.detach(),))
        return child

    def watcher(self, plan: Plan, imported_since: float | None) -> Child:
        def entry(orders: socket.socket) -> int:
            self._settle(plan, runs_application=True)  # it finds the modules where a worker does
            return self._entry_points.watcher(plan, imported_since, orders)

        child = self._fork(plan, Role.WATCHER, "watcher", NO_POOL, 0, [], entry)
        child.ready_by = NEVER  # it imports nothing
        child.has_plan = plan.number
        return child

    def issuer(self, plan: Plan) -> Child:
        """With the parent's rights: it writes keys that the service's user may not read. With that user's, if
        he can change names in the folder or on the way to it (see trust.py)."""
        assert plan.acme is not None
        is_users = trust.is_users(plan.acme.account_path, self._identity)

        def entry(orders: socket.socket) -> int:
            self._settle(plan, runs_application=False)
            return self._entry_points.issuer(plan, orders)

        child = self._fork(plan, Role.ISSUER, "acme", NO_POOL, 0, [], entry, gives_up_rights=is_users)
        child.ready_by = NEVER
        child.has_plan = plan.number
        return child

    def _settle(self, plan: Plan, *, runs_application: bool) -> None:
        """In a child that has no listening socket, and where applications find the folder and the limits
        that they expect."""
        for listener in plan.listeners:
            listener.socket.detach()
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)
        try:
            os.chdir(self._folder)
        except OSError as error:
            # Where it is, if that was deleted, no relative path leads anywhere: better than to another file.
            log("warning", f"can't go to {self._folder}: {error.strerror}; staying in {here_in_words()}.")
        if runs_application:
            processes.make_importable(here(), plan.settings.pythonpath)

    def _fork(
        self,
        plan: Plan,
        role: Role,
        name: str,
        pool: int,
        generation: int,
        keep: Collection[int],
        entry: Callable[[socket.socket], int],
        *,
        gives_up_rights: bool = True,
    ) -> Child:
        ours, theirs = channel.pair()

        def child_main() -> int:
            ours.detach()
            self._forget()
            return entry(theirs)

        settings = plan.settings
        score = oom.score_of(oom.LARGER)
        start = processes.Start(
            name,
            processes.title(settings.name, role.value),
            child_main,
            [theirs.fileno(), *keep],
            self._identity if gives_up_rights else None,
            settings.log_level,
            settings.log_format,
            # The pump starts no programs. An application may, and only root's service promises not to.
            role is Role.PUMP or (settings.no_new_privs and self._identity is not None),
            None if settings.umask is None else octal("umask", settings.umask),
            score if role is not Role.PUMP else -(-score // 2),
            IMPORTS.get(role, ()),
        )
        try:
            pid = processes.fork(start)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        log("debug", f"{name} [{pid}] is started.")
        return self._child(plan, role, name, pool, generation, ours, pid)

    def _child(
        self, plan: Plan, role: Role, name: str, pool: int, generation: int, ours: socket.socket, pid: int
    ) -> Child:
        ours.setblocking(False)
        self._newest += 1
        child = Child(self._newest, role, name, pool, generation, ours, time.monotonic(), pid)
        if role is not Role.PUMP and (seconds := plan.settings.startup_timeout):
            child.ready_by = child.started + seconds
        if pool != NO_POOL:
            child.threads = plan.pools[pool].threads
        return child
