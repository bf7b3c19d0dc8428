"""The tree of processes as the parent knows it: what is served, how far the server is, which children there
are, and the ways in which they end. (The words for those: see states.py.)"""

from __future__ import annotations

from collections.abc import Iterable

from halfsync.logs.error import tell
from halfsync.parent.limits import EXIT_WRONG, LAST_WORD, REAPING, Phase
from halfsync.parent.states import ChildEvent, ChildState
from halfsync.parent.workers.children import NEVER, Child, Role
from halfsync.parent.workers.pools import COUNTED, ChildPool, WorkerPool
from halfsync.plan.plan import Plan
from halfsync.settings.table import Settings
from halfsync.wire import orders


class Tree:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.phase = Phase.STARTING
        self.phase_limit = NEVER  # when the phase is over, whatever is left to do
        self.exit_status = 0
        self.failure: tuple[str, str] | None = None  # why: a sentence, and an application's traceback or ""
        self.imported_since: float | None = None  # when the newest import began, by the wall clock
        self.is_upgrading = False  # another process may take this one's place
        self.is_successor = False  # this one is to take another one's place, and does not serve yet
        self.pumps = ChildPool()
        self.watchers = ChildPool()  # none without `reload`
        self.issuers = ChildPool()  # none without `acme`
        self.challenges: orders.Challenges | None = None  # that the pump is to show
        self.pools = [WorkerPool(index, plan, pool.processes) for index, pool in enumerate(plan.pools)]

    @property
    def settings(self) -> Settings:
        return self.plan.settings

    @property
    def pump(self) -> Child | None:
        return self.pumps.only

    @property
    def watcher(self) -> Child | None:
        return self.watchers.only

    @property
    def all_pools(self) -> list[ChildPool]:
        return [self.pumps, *self.pools, self.watchers, self.issuers]

    @property
    def pool_names(self) -> list[str]:
        """By index."""
        return [pool.name for pool in self.pools]

    def children(self) -> list[Child]:
        """All that are not reaped: the pump first, the watcher last."""
        return [child for pool in self.all_pools for child in pool.children]

    def pool_of(self, child: Child) -> ChildPool:
        if child.role is Role.PUMP:
            return self.pumps
        if child.role is Role.ISSUER:
            return self.issuers
        return self.watchers if child.role is Role.WATCHER else self.pools[child.pool]

    # --- the ways to end

    def retire(self, child: Child, now: float) -> None:
        """No more tasks. The pump closes its channels when the last has ended, and as the worker
        was told too, it then exits instead of waiting for a new pump."""
        child.on(ChildEvent.RETIRED)
        child.limit = now + self.settings.graceful_timeout + LAST_WORD
        child.order(orders.Retire(child.id))
        if self.pump is not None:
            self.pump.order(orders.Retire(child.id))

    def close_orders(self, child: Child, limit: float) -> None:
        if child.state is ChildState.KILLED:
            return
        child.on(ChildEvent.ORDERS_CLOSED)
        child.close_channel()
        child.limit = limit

    def kill(self, child: Child) -> None:
        child.kill()
        child.limit = child.ready_by = NEVER

    def kill_at_fault(self, child: Child) -> None:
        """One that should go on, but not like this: its end counts as if it had died by itself."""
        child.at_fault = child.state in COUNTED
        self.kill(child)

    def kill_all(self) -> None:
        for child in self.children():
            self.kill(child)

    def end_soon(self, children: Iterable[Child], now: float) -> None:
        """Kill them, except workers with an event loop: the end of a lifespan is awaited, for LAST_WORD."""
        for child in children:
            if child.concurrency:
                child.ends_soon = True
                self.close_orders(child, now + LAST_WORD)
            else:
                self.kill(child)

    def drop_next(self, pool: WorkerPool, now: float) -> None:
        """Its next generation, if there is one."""
        self.end_soon(pool.of(pool.next), now)
        pool.next = None

    def give_up(self, sentence: str, trace: str, now: float) -> None:
        """At the first start: say why, and end."""
        if self.exit_status == 0 and self.is_successor:
            self.exit_status, self.failure = EXIT_WRONG, (sentence, trace)  # told by who serves still
        elif self.exit_status == 0:
            self.exit_status = EXIT_WRONG
            tell(trace + ("\n" if trace and not trace.endswith("\n") else "") + f"halfsync: {sentence}")
        self.begin_exit(now)
        self.end_soon(self.children(), now)

    def begin_exit(self, now: float) -> None:
        """Everybody is to exit, those that are still importing at once."""
        self.phase = Phase.EXITING
        limit = max(self.phase_limit if self.phase_limit < NEVER else now, now + LAST_WORD)
        self.phase_limit = limit + REAPING
        for child in self.children():
            if child.state is ChildState.STARTING:
                self.kill(child)
            else:
                self.close_orders(child, limit)
