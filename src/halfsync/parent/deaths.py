"""Children that end, by themselves or because they are past a limit, and what follows from it.

A child can end at any line of its life: then it is reaped and its channel closed, and the next turn finds
it missing. What is decided here is only what is said of it, and how soon another may start.
"""

from __future__ import annotations

import os
import signal
import time

from halfsync.logs.error import log
from halfsync.parent.limits import REAPING, STUCK, TRIES_AT_FIRST, Phase
from halfsync.parent.reload.reloads import Reloads
from halfsync.parent.states import ChildEvent, ChildState
from halfsync.parent.status.reports import Reports
from halfsync.parent.tree import Tree
from halfsync.parent.workers import processes
from halfsync.parent.workers.backoff import in_seconds
from halfsync.parent.workers.children import UNKNOWN, Child, ProtocolError, Role
from halfsync.parent.workers.oom import OOMKills
from halfsync.parent.workers.pools import COUNTED, WorkerPool
from halfsync.parent.workers.reaping import UnknownChildren, ended_processes
from halfsync.wire import orders

STACKS_TAKE = 2.0
"""Seconds that a worker has to write where its threads are. It takes a millisecond; but on a machine that is
short of processors it has to wait for one, and nobody waits for its end."""


class Deaths:
    def __init__(self, tree: Tree, reports: Reports, reloads: Reloads, unknown: UnknownChildren) -> None:
        self._tree = tree
        self._reports = reports
        self._reloads = reloads
        self._unknown = unknown
        self._oom_kills = OOMKills()

    # --- reaping

    def reap(self, now: float) -> None:
        by_pid = {child.pid: child for child in self._tree.children() if child.pid != UNKNOWN}
        self._unknown.drop_oldest()
        for pid, status in ended_processes():
            if pid in by_pid:
                child = by_pid[pid]
                self._receive_last(child, now)
                self._ended(child, status, now)
            else:
                self._unknown.add(pid, status)
        self._match_unknown(now)

    def reap_the_killed(self) -> None:
        deadline = time.monotonic() + REAPING
        while self._tree.children() and time.monotonic() < deadline:
            self.reap(time.monotonic())
            self.forget_unknown(time.monotonic(), only_closed=False)
            time.sleep(0.002)

    def forget_unknown(self, now: float, *, only_closed: bool = True) -> None:
        """Children of a template that ended (`only_closed`: whose channel ended) before their number came."""
        for child in self._tree.children():
            if child.pid == UNKNOWN and (child.channel is None or not only_closed):
                self._ended(child, None, now)

    def _receive_last(self, child: Child, now: float) -> None:
        """What it said before it ended is still in the channel."""
        try:
            self._reports.receive_from(child, now)
        except ProtocolError:
            pass

    def _match_unknown(self, now: float) -> None:
        """Children of ours whose number came after their end; the others were some descendant's."""
        for child in self._tree.children():
            if (status := self._unknown.take(child.pid)) is not None:
                self._ended(child, status, now)

    # --- what follows

    def _ended(self, child: Child, status: int | None, now: float) -> None:
        tree = self._tree
        before = child.state
        child.on(ChildEvent.ENDED)
        child.close_channel()
        tree.pool_of(child).children.remove(child)
        ending = "ended" if status is None else processes.how_it_ended(status)
        if status is not None and _was_sigkill(status):  # by us too: the pump may have missed it before
            ending += self._oom_kills.in_words()
        child.ending = ending
        if child.role is Role.PUMP:
            self._pump_ended(child, before, ending, now)
            return
        if child.role is Role.WATCHER:
            self._watcher_ended(child, before, ending, now)
            return
        if child.role is Role.ISSUER:
            self._issuer_ended(child, before, ending, now)
            return
        if tree.pump is not None and child.pump == tree.pump.id:
            tree.pump.order(orders.Ended(child.id, -1 if status is None else status))
        has_left = child.may_leave and status == 0
        if (before in COUNTED or child.at_fault) and tree.phase is not Phase.EXITING and not has_left:
            self._worker_ended(tree.pools[child.pool], child, ending, now)
        else:
            log("debug", f"{child.who} {ending}.")
        self._reloads.child_ended(tree.pools[child.pool], child)

    def _pump_ended(self, child: Child, before: ChildState, ending: str, now: float) -> None:
        tree = self._tree
        if tree.phase in (Phase.DRAINING, Phase.EXITING) and (child.drained or before is ChildState.KILLED):
            log("debug", f"{child.who} {ending}.")
            return
        backoff = tree.pumps.backoff
        delay = backoff.ended(now, now - child.started, was_ready=tree.phase is Phase.SERVING)
        if tree.phase is Phase.SERVING:
            log(
                "error",
                f"{child.who} {ending}; its connections are lost. Another starts {in_seconds(delay)}.",
            )
        else:
            log("error", f"{child.who} {ending} while {tree.phase.value}.")
        if tree.phase is Phase.STARTING and backoff.early_ends >= TRIES_AT_FIRST:
            self._tree.give_up(f"The pump {ending} while starting, {TRIES_AT_FIRST} times.", "", now)

    def _watcher_ended(self, child: Child, before: ChildState, ending: str, now: float) -> None:
        tree = self._tree
        if tree.phase not in (Phase.STARTING, Phase.SERVING) or before is ChildState.EXITING:
            log("debug", f"{child.who} {ending}.")
            return
        told = f"{child.who} {ending}." if child.failure is None else child.failure.sentence
        if tree.phase is Phase.STARTING and not child.was_ready:
            self._tree.give_up(told, "", now)
            return
        delay = tree.watchers.backoff.ended(now, now - child.started, child.was_ready)
        log("error", f"{told} Changes are not noticed; the next try is {in_seconds(delay)}.")

    def _issuer_ended(self, child: Child, before: ChildState, ending: str, now: float) -> None:
        tree = self._tree
        if tree.phase is not Phase.SERVING or before is ChildState.EXITING:
            log("debug", f"{child.who} {ending}.")
            return
        delay = tree.issuers.backoff.ended(now, now - child.started, child.was_ready)
        log("error", f"{child.who} {ending}. Another starts {in_seconds(delay)}.")

    def _worker_ended(self, pool: WorkerPool, child: Child, ending: str, now: float) -> None:
        """One that should still be there."""
        if pool.is_of_next(child) and not child.was_ready:
            self._reloads.failed(pool, child, ending)
            return
        if child.failure is not None:
            self._failed_to_import(pool, child, child.failure, now)
            return
        delay = pool.backoff.ended(now, now - child.started, child.was_ready)
        log("error", f"{child.who} {ending}. Another starts {in_seconds(delay)}.")
        is_starting = self._tree.phase is Phase.STARTING
        if is_starting and pool.backoff.early_ends >= TRIES_AT_FIRST and not pool.works:
            sentence = f"Target {pool.name!r}: its worker {ending} while starting, {TRIES_AT_FIRST} times."
            self._failed_to_import(pool, child, orders.Failed(sentence, ""), now)

    def _failed_to_import(self, pool: WorkerPool, child: Child, failure: orders.Failed, now: float) -> None:
        if self._tree.settings.reload and not self._tree.is_successor:
            self._wait_for_change(pool, failure)
            return
        if self._tree.phase is Phase.STARTING:
            self._tree.give_up(failure.sentence, failure.traceback, now)
            return
        delay = pool.backoff.ended(now, now - child.started, was_ready=failure.is_shortage)
        log("error", f"{child.who}: {pool.told_once(failure)} Another starts {in_seconds(delay)}.")

    def _wait_for_change(self, pool: WorkerPool, failure: orders.Failed) -> None:
        """With `reload`: no other try until something changes (or a SIGHUP comes)."""
        for child in pool.of(pool.current):
            if child.state is ChildState.STARTING:
                self._tree.kill(child)  # it has read the same code
        pool.backoff.stop()
        log("error", f"{pool.told_once(failure)} Waiting for a change.")

    # --- limits

    def enforce_limits(self, now: float) -> None:
        for child in self._tree.children():
            if child.state is ChildState.KILLED:
                continue
            if now >= child.limit:
                self._past_limit(child, now)
            elif now >= child.ready_by:
                self._not_ready_in_time(child)
            elif now - child.stuck_since >= STUCK:
                log("error", f"{child.who} has not read its orders for {STUCK:g} s; it is killed.")
                self._tree.kill_at_fault(child)

    def _past_limit(self, child: Child, now: float) -> None:
        """A worker that was to be replaced says first where its threads are: then all else has been waited
        for. (At a stop, nobody is kept waiting for it.)"""
        if child.has_shown_stacks:
            self._tree.kill_at_fault(child)
            return
        said = f"{child.who} {child.why_overdue(self._tree.settings)}; it is killed."
        if child.state is ChildState.RETIRING and child.role is Role.WORKER and child.pid != UNKNOWN:
            log("warning", f"{said} Its threads, if it can still say so:")
            child.show_stacks()
            child.limit = now + STACKS_TAKE
            return
        log("warning", said)
        self._tree.kill_at_fault(child)

    def _not_ready_in_time(self, child: Child) -> None:
        """What follows is what follows a failed import: `_worker_ended`."""
        seconds = child.ready_by - child.started  # what is in effect may be another, at a reload
        target = self._tree.pools[child.pool].name
        sentence = (
            f"Target {target!r}: it was not ready within {seconds:g} s (startup_timeout) and is killed."
        )
        child.failure = orders.Failed(sentence, "")
        self._tree.kill_at_fault(child)


def _was_sigkill(status: int) -> bool:
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
