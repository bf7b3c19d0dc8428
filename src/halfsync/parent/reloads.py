"""Reloads: a next generation of workers beside the current one, and the switch to it."""

from __future__ import annotations

from halfsync.logs.error import log
from halfsync.parent.children import Child, Role
from halfsync.parent.limits import LAST_WORD, Phase
from halfsync.parent.pools import COUNTED, WorkerPool
from halfsync.parent.progress import ReloadReport
from halfsync.parent.staffing import Staffing
from halfsync.parent.states import ChildState
from halfsync.parent.systemd import Notifier
from halfsync.parent.tree import Tree


class Reloads:
    def __init__(self, tree: Tree, staffing: Staffing, notifier: Notifier) -> None:
        self._tree = tree
        self._staffing = staffing
        self._notifier = notifier
        self._report = ReloadReport()
        self._is_due = False  # one was requested during the start
        self._switched: list[WorkerPool] = []  # and not yet logged

    def request(self, cause: str) -> None:
        """`cause` is SIGHUP, or, with `reload`, what has changed."""
        if self._tree.phase is Phase.SERVING:
            log("info", f"{cause}: reloading.")
            self._start()
        elif self._tree.phase is Phase.STARTING:
            self._restart_imports(cause)
        else:
            log("warning", f"{cause}: not reloading while {self._tree.phase.value}.")

    def _restart_imports(self, cause: str) -> None:
        """During the start: what has not finished its import may have read old code, or hang."""
        if any(pool.backoff.is_stopped for pool in self._tree.pools):
            log("info", f"{cause}: trying again.")
        else:
            log("info", f"{cause} while starting: workers that are still being imported start again.")
        for pool in self._tree.pools:
            for child in pool.of(pool.current):
                if child.state is ChildState.STARTING:
                    self._tree.kill(child)
                elif pool.has_application:
                    self._is_due = True  # that one has read the old code: done when the start is
            pool.backoff.reset()

    def _start(self) -> None:
        self._is_due = False
        self._notifier.reloading()
        for pool in self._tree.pools:
            self._tree.drop_next(pool)
            pool.backoff.reset()
            pool.start_generation()

    def failed(self, pool: WorkerPool, child: Child, ending: str) -> None:
        """A worker of the next generation ended before it was ready."""
        told = f"it {ending} while starting." if child.failure is None else pool.told_once(child.failure)
        log("error", f"{child.who}: {told} {pool.name}: reload failed; the old workers keep serving.")
        self._notifier.reload_failed()
        self._tree.drop_next(pool)

    def serving(self) -> None:
        """The start is over."""
        if self._is_due:
            log("info", "SIGHUP came while starting: reloading.")
            self._start()

    def advance(self, now: float) -> None:
        """Switch over to what is ready."""
        for pool in self._tree.pools:
            if pool.next_is_ready and self._tree.pump is not None:
                self._switch_over(pool, now)
        if all(pool.next is None for pool in self._tree.pools):
            self._notifier.reload_is_over()

    def _switch_over(self, pool: WorkerPool, now: float) -> None:
        old = pool.of(pool.current)
        pool.switch_over()
        for child in pool.workers(pool.current):
            if self._staffing.is_to_join(child):
                self._staffing.join(child)
        for child in old:
            if child.role is Role.TEMPLATE:
                self._tree.close_orders(child, now + self._tree.settings.graceful_timeout + LAST_WORD)
            elif child.state is ChildState.WORKING:
                self._tree.retire(child, now)
            elif child.state in COUNTED:
                self._tree.kill(child)
        pool.last_failure = ""
        self._switched.append(pool)
        self._report.begun(pool, old)

    def child_ended(self, pool: WorkerPool, child: Child) -> None:
        """One of this pool's; perhaps the last that a reload waits for."""
        if self._tree.phase is Phase.SERVING:
            self._report.ended(pool, child)

    def log_switched(self) -> None:
        """When the pump has its orders, and not before: a request that comes after these words gets a
        response of the new code."""
        for pool in self._switched:
            level = "info" if pool.has_application else "debug"
            log(level, f"{pool.name} is reloaded; the old workers finish what they have.")
        self._switched.clear()
