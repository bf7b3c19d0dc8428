"""What the children report, and what the parent does about it."""

from __future__ import annotations

from collections.abc import Callable

from halfsync.logs.error import log
from halfsync.parent.limits import JOIN_AGAIN, LAST_WORD, MOST_REPORTS, MOST_RETIRING
from halfsync.parent.states import ChildEvent, ChildState
from halfsync.parent.tree import Tree
from halfsync.parent.workers.children import NEVER, UNKNOWN, Child, ProtocolError, Role
from halfsync.parent.workers.pools import WorkerPool
from halfsync.parent.workers.reaping import UnknownChildren
from halfsync.wire import orders


class Reports:
    def __init__(
        self,
        tree: Tree,
        unknown: UnknownChildren,
        changed: Callable[[str, bool], None],
        described: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`changed`: the watcher tells that these files (in words) have changed, and whether the
        configuration is among them. `described`: the pump has written what it was asked, by the number of the
        question."""
        self._described = described
        self._tree = tree
        self._unknown = unknown
        self._changed = changed

    def receive_all(self, now: float) -> None:
        for child in self._tree.children():
            try:
                self.receive_from(child, now)
            except ProtocolError as error:
                log("error", f"{child.who} sent a malformed report ({error}); it is killed.")
                self._tree.kill_at_fault(child)
            if child.channel is None and child.limit == NEVER and child.state is not ChildState.KILLED:
                child.limit = now + LAST_WORD  # it can't be told anything any more

    def receive_from(self, child: Child, now: float) -> None:
        """A bounded number of reports: no child may keep the loop to itself."""
        for _ in range(MOST_REPORTS):
            report = child.receive()
            if report is None:
                return
            self._handle(child, report, now)

    def _handle(self, child: Child, report: orders.Report, now: float) -> None:
        if isinstance(report, orders.Ready):
            child.concurrency = report.concurrency
            self._is_ready(child, report.pid)
        elif isinstance(report, orders.Failed):
            child.failure = report
        elif isinstance(report, orders.Drained | orders.Pong):
            _has_confirmed(child, report)
        elif isinstance(report, orders.Lost):
            self._kill_lost(child, report.worker)
        elif isinstance(report, orders.Cut):
            self._join_again(child, report.worker, now)
        elif isinstance(report, orders.Configured):
            child.has_plan = report.number
        elif isinstance(report, orders.Changed):
            self._on_change(child, report)
        elif isinstance(report, orders.Spare):
            self._note_spare(report)
        elif isinstance(report, orders.Described):
            self._described(report.number)
        elif isinstance(report, orders.Challenges | orders.ChallengesShown):
            self._pass_on(child, report)
        elif isinstance(report, orders.MaxRequests):
            child.worn = f"has served {report.request_count} requests (max_requests)"
        else:
            self._replace_hung(child, report, now)

    def _is_ready(self, child: Child, claimed: int) -> None:
        if child.pid == UNKNOWN:
            if not self._unknown.is_our_child(claimed):
                raise ProtocolError(f"process {claimed} is not ours")
            child.pid = claimed
        if child.role is Role.PUMP:  # it was told of workers before: its orders wait for it
            child.was_ready = True
        elif child.state is ChildState.STARTING:
            child.on(ChildEvent.READIED)
            child.was_ready = True
            child.ready_by = NEVER
            log("debug", f"{child.who} is ready.")

    def _on_change(self, watcher: Child, report: orders.Changed) -> None:
        if watcher.role not in (Role.WATCHER, Role.ISSUER):
            raise ProtocolError("it is not the watcher")
        for pool in self._tree.pools:
            pool.last_failure = ""  # show a traceback again, though it be the same: someone works on it
        self._changed(report.files, report.is_configuration)

    def _pass_on(self, child: Child, report: orders.Challenges | orders.ChallengesShown) -> None:
        """Between the process that gets certificates and the pump."""
        if isinstance(report, orders.ChallengesShown):
            for issuer in self._tree.issuers.children:
                issuer.order(report)
            return
        if child.role is not Role.ISSUER:
            raise ProtocolError("it gets no certificates")
        self._tree.challenges = report
        if self._tree.pump is not None and self._tree.pump.opened:
            self._tree.pump.order(report)

    def _note_spare(self, report: orders.Spare) -> None:
        pools = self._tree.pools
        for index, idle, waiting, threads in report.pools:
            if 0 <= index < len(pools) and (scaling := pools[index].scaling) is not None:
                scaling.note(idle, waiting, threads)

    def _replace_hung(self, pump: Child, report: orders.Hung, now: float) -> None:
        if pump.role is not Role.PUMP:
            return
        for child in self._tree.children():
            if child.id != report.worker or child.state is not ChildState.WORKING:
                continue
            if report.has_ended:  # it may go on until another one is there
                child.worn = "had a handler that was interrupted (handler_timeout)"
                continue
            log("error", f"{child.who} has a handler past handler_timeout; it is replaced.")
            self._tree.retire(child, now)
            self._bound_retiring(self._tree.pools[child.pool])

    def _bound_retiring(self, pool: WorkerPool) -> None:
        """When every request hangs, the hung ones must not pile up until graceful_timeout ends them."""
        retiring = [child for child in pool.children if child.state is ChildState.RETIRING]
        for child in retiring[: max(0, len(retiring) - MOST_RETIRING * max(1, pool.current.size))]:
            log("warning", f"{child.who} is killed: too many workers with hung handlers (handler_timeout).")
            self._tree.kill(child)

    def _kill_lost(self, pump: Child, worker: int) -> None:
        """The pump has given it up: if it lives, it is good for nothing."""
        for child in self._tree.children():
            if child.id == worker and child.pump == pump.id and child.state is not ChildState.KILLED:
                log("debug", f"{child.who} is no use to the pump any more; it is killed.")
                self._tree.kill_at_fault(child)

    def _join_again(self, sender: Child, worker: int, now: float) -> None:
        """A worker's descriptors found no room, in the pump or in the worker; or a plan's in the pump."""
        if sender.role is Role.PUMP and worker == orders.NO_WORKER:
            sender.sent_plan = orders.NO_PLAN
        for child in self._tree.children():
            if child is sender or (child.id == worker and sender.role is Role.PUMP):
                child.pump = -1
                child.join_after = now + JOIN_AGAIN


def _has_confirmed(pump: Child, report: orders.Drained | orders.Pong) -> None:
    pump.has_responded = True
    if isinstance(report, orders.Drained):
        pump.drained = True
    else:
        pump.has_done = max(pump.has_done, report.number)
