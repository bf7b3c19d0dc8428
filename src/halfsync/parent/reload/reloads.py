"""Reloads: a next generation of workers beside the current one, and the switch to it."""

from __future__ import annotations

import time

from halfsync.logs.error import log
from halfsync.parent.limits import JOIN_AGAIN, LAST_WORD, LONGEST_WAIT, START_AGAIN, Phase
from halfsync.parent.reload.progress import ReloadReport
from halfsync.parent.reload.reconfigure import Reconfiguration
from halfsync.parent.service.systemd import Notifier
from halfsync.parent.shortages import in_words, shortage_behind
from halfsync.parent.states import ChildState
from halfsync.parent.tree import Tree
from halfsync.parent.workers.children import NEVER, Child, Role
from halfsync.parent.workers.pools import COUNTED, WorkerPool
from halfsync.parent.workers.staffing import Staffing
from halfsync.plan.plan import Plan, PoolPlan
from halfsync.settings.errors import SettingError
from halfsync.wire import orders


class Reloads:
    def __init__(
        self, tree: Tree, staffing: Staffing, reconfiguration: Reconfiguration, notifier: Notifier
    ) -> None:
        self._tree = tree
        self._staffing = staffing
        self._reconfiguration = reconfiguration
        self._notifier = notifier
        self._report = ReloadReport()
        self._next_plan: Plan | None = None  # if the next generations have another one
        self._is_due = False  # one was requested during the start, and something has old code
        self._may_differ = False  # one was requested during the start: the configuration may be another
        self._try_again_at = NEVER  # when one is that found no room to begin
        self._short_of: int | None = None  # errno for which it could not begin, and that was logged
        self.failures: list[str] = []
        self._switched: list[WorkerPool] = []  # and not yet logged
        self._new_plan: Plan | None = None  # and not yet logged
        self._pings = 0  # that were sent behind the orders of a switch
        self._pinged = -1  # the pump that was sent the last one, by its id
        self._deferred = ""  # the cause of one that waits for the outcome of an upgrade

    def on_change(self, files: str, is_configuration: bool) -> None:
        """With `reload`: these files have changed."""
        is_first_start = is_configuration and self._tree.phase is Phase.STARTING
        if is_first_start and any(pool.backoff.is_stopped for pool in self._tree.pools):
            if self._starts_again(files):
                return
            is_first_start = False
        self.request(f"{files} changed")
        if is_first_start:
            log(
                "warning",
                "What is being started is what the configuration named at first; the change takes effect "
                "when that is done. If it can't start, stop with Ctrl-C and start again.",
            )

    def _starts_again(self, files: str) -> bool:
        """Nothing is served yet, and what was to be served can't be: end, to be started again with the new
        configuration. False: it is the same one. One that is wrong is told, and waited out."""
        try:
            plan = self._reconfiguration.next_plan(self._tree.plan)
        except (SettingError, OSError) as wrong:
            log("error", f"{files} changed: {wrong} Waiting for another change.")
            return True
        if plan is self._tree.plan:
            return False
        self._reconfiguration.dropped(self._tree.plan, plan)
        log("info", f"{files} changed: starting again with it.")
        self._tree.exit_status = START_AGAIN
        now = time.monotonic()
        self._tree.begin_exit(now)
        self._tree.end_soon(self._tree.children(), now)
        return True

    @property
    def is_over(self) -> bool:
        """Nothing that was requested is under way any more. `failures` says what went wrong, in sentences."""
        return (
            self._tree.phase is Phase.SERVING
            and self._next_plan is None
            and self._try_again_at == NEVER
            and not (self._is_due or self._may_differ)
            and self._pump_has_switched
            and all(pool.next is None for pool in self._tree.pools)
        )

    def request(self, cause: str) -> None:
        """`cause` is SIGHUP, or, with `reload`, what has changed."""
        if self._tree.is_upgrading and self._tree.phase is Phase.SERVING:
            log("info", f"{cause}: an upgrade is under way, which reads settings and code again anyway.")
            self._deferred = cause
            return
        self.failures = []
        if self._tree.phase is Phase.SERVING:
            log("info", f"{cause}: reloading.")
            for issuer in self._tree.issuers.children:
                issuer.order(orders.TryAgain())
            self._start()
        elif self._tree.phase is Phase.STARTING:
            self._restart_imports(cause)
        else:
            log("warning", f"{cause}: not reloading while {self._tree.phase.value}.")

    def go_on(self) -> None:
        """An upgrade has failed: what was requested meanwhile is done."""
        cause, self._deferred = self._deferred, ""
        if cause:
            self.request(cause)

    def _restart_imports(self, cause: str) -> None:
        """During the start: what has not finished its import may have read old code, or hang."""
        self._may_differ = True
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

    def _start(self, *, if_changed: bool = False) -> None:
        """`if_changed`: only if the configuration is another."""
        self._is_due = self._may_differ = False
        self._try_again_at = NEVER
        began = time.time()
        if not if_changed:
            self._notifier.reloading()
        self.drop()
        tree = self._tree
        try:
            plan = self._reconfiguration.next_plan(tree.plan)
        except (SettingError, OSError) as wrong:
            self._not_begun(wrong)
            return
        self._short_of = None
        if if_changed and plan is tree.plan:
            return
        if plan is not tree.plan:
            self._next_plan = plan
            for index in range(len(tree.pools), len(plan.pools)):
                tree.pools.append(WorkerPool(index, plan, 0))
        tree.imported_since = began
        for pool, planned in zip(tree.pools, plan.pools, strict=False):
            pool.backoff.reset()
            if pool.current.size or planned.processes:  # else it was removed before
                pool.start_generation(plan, self._size(pool, planned))

    def _not_begun(self, wrong: SettingError | OSError) -> None:
        """A shortage may be over in a moment: then the reload is not lost."""
        if shortage := shortage_behind(wrong):
            self._try_again_at = time.monotonic() + LONGEST_WAIT
            if self._short_of != shortage.errno:  # not at each try
                self._short_of = shortage.errno
                log(
                    "error",
                    f"The reload can't begin now: {in_words(shortage)}. It is tried again every second; the "
                    "old configuration stays in effect until then.",
                )
            return
        log("error", f"Reload failed, and the old configuration stays in effect: {wrong}")
        self.failures += wrong.sentences if isinstance(wrong, SettingError) else [f"{wrong}."]
        self._notifier.reload_failed()

    def _size(self, pool: WorkerPool, planned: PoolPlan) -> int:
        """As many workers as the plan says, if it says something new: else TTIN and TTOU last."""
        running = self._tree.plan.pools
        if pool.index < len(running) and running[pool.index].processes == planned.processes:
            size = pool.current.size
        else:
            size = planned.processes
        scale = planned.scale
        if scale is None or (pool.scaling is not None and pool.scaling.planned == scale):
            return size
        return min(max(size, scale.least), scale.most)

    def drop(self) -> None:
        """Whatever is under way."""
        for pool in self._tree.pools:
            self._tree.drop_next(pool, time.monotonic())
        plan, self._next_plan = self._next_plan, None
        if plan is None:
            return
        pump = self._tree.pump
        if pump is not None and pump.sent_plan == plan.number:
            pump.order(orders.SwitchOver(self._tree.plan.number))
        self._reconfiguration.dropped(self._tree.plan, plan)

    def failed(self, pool: WorkerPool, child: Child, ending: str) -> None:
        """A worker of the next generation ended before it was ready."""
        self.failures.append(
            f"{child.who} {ending} while starting." if child.failure is None else child.failure.sentence
        )
        told = f"it {ending} while starting." if child.failure is None else pool.told_once(child.failure)
        self._notifier.reload_failed()
        if self._next_plan is None:
            log("error", f"{child.who}: {told} {pool.name}: reload failed; the old workers keep serving.")
            self._tree.drop_next(pool, time.monotonic())
            return
        log("error", f"{child.who}: {told} Reload failed, and the old configuration stays in effect.")
        self.drop()

    def serving(self) -> None:
        """The start is over."""
        if self._is_due:
            log("info", "SIGHUP came while starting: reloading.")
            self._start()
        elif self._may_differ:
            self._start(if_changed=True)

    def advance(self, now: float) -> None:
        """Switch over to what is ready."""
        if self._try_again_at != NEVER:
            if now >= self._try_again_at:
                self._start()
            return
        pump = self._tree.pump
        if self._next_plan is not None:
            if pump is not None and self._all_are_ready:
                self._switch_plan(self._next_plan, pump, now)
            return
        if pump is not None:
            ready = [pool for pool in self._tree.pools if pool.next_is_ready]
            for pool in ready:
                self._switch_over(pool, now)
            if ready:
                self._ping(pump)
        is_over = all(pool.next is None for pool in self._tree.pools) and self._pump_has_switched
        if is_over and not self._tree.is_upgrading:
            self._notifier.reload_is_over()

    def _ping(self, pump: Child) -> None:
        """Behind the orders of a switch."""
        self._pings += 1
        self._pinged = pump.id
        pump.order(orders.Ping(self._pings))

    @property
    def _pump_has_switched(self) -> bool:
        """What it was ordered; another pump, made since, knows nothing else."""
        pump = self._tree.pump
        return pump is None or pump.id != self._pinged or pump.has_done >= self._pings

    @property
    def _all_are_ready(self) -> bool:
        return all(pool.next_is_ready for pool in self._tree.pools if pool.next is not None)

    def _switch_plan(self, plan: Plan, pump: Child, now: float) -> None:
        """All pools at once, when the pump has the plan."""
        tree = self._tree
        if pump.has_plan != plan.number:
            if pump.sent_plan != plan.number and now >= pump.join_after:
                self._send(plan, pump, now)
            return
        try:
            self._reconfiguration.listen(tree.plan, plan)
        except SettingError as wrong:
            self._not_begun(wrong)
            self.drop()
            return
        self._next_plan = None
        before, tree.plan = tree.plan, plan
        pump.order(orders.SwitchOver(plan.number))
        for pool in tree.pools:
            if pool.next is not None:
                self._switch_over(pool, now)
        self._ping(pump)
        self._reconfiguration.switched(before, plan)
        self._notifier.serving_at(plan.addresses)
        self._new_plan = plan

    def _send(self, plan: Plan, pump: Child, now: float) -> None:
        """If the machine has no room for it now: later."""
        try:
            self._reconfiguration.send(pump, self._tree.plan, plan)
            pump.shortage = None
        except OSError as error:
            pump.join_after = now + JOIN_AGAIN
            if pump.shortage != error.errno:  # not at each of five tries a second
                pump.shortage = error.errno
                log("error", f"the pump can't be told of the new configuration now: {in_words(error)}.")

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
        """When the pump has done as ordered, and not before: a request that comes after these words gets a
        response of the new code. (That it has the orders would not do: in a turn that had begun before they
        came, it still accepts clients.)"""
        if not self._pump_has_switched:
            return
        if self._new_plan is not None:
            log("info", f"The new configuration is in effect: {self._new_plan.in_words}")
            self._new_plan = None
        for pool in self._switched:
            if not pool.current.size:
                log("info", f"{pool.name} is removed; its workers finish what they have.")
                continue
            level = "info" if pool.has_application else "debug"
            log(level, f"{pool.name} is reloaded; the old workers finish what they have.")
        self._switched.clear()
