"""The parent's loop.

**Dull on purpose.** One thread, one loop, no callbacks. A turn waits (for a signal, a report, or
the next limit), takes note of what happened, and then compares what there is with what there
should be: is there a pump; has every pool its workers; does the pump know them; is anything past
its limit. So nothing has to be remembered from one event to the next, an event that gets lost
costs at most a second, and it does not matter in which order things die.

**It survives every child.** Sockets here never block; reports are decoded strictly, and who sends
anything else is killed; orders that find no room wait in the child's own list. A child can end
at any line of its life: then it is reaped, its channel closed, and the comparison finds it missing.
A bug in a turn is logged, and the next turn begins.

**It owns no request.** It never reads a client's byte and never imports an application's code, so
neither can make it fail.

What the comparison aims at depends on the phase:

    STARTING   fork the pump and all workers; when each pool has one that works, tell the pump to
               accept. An application that fails now ends everything (exit status 2).
    SERVING    replace what dies; start generations and switch over to them (HUP).
    DRAINING   as before, but the pump was told to finish. When it has, or its limit is past:
    EXITING    every orders channel is closed; one that has not exited by the limit is killed.
    OVER
"""

from __future__ import annotations

import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from functools import partial

from halfsync import prctl
from halfsync.logs.error import log, tell
from halfsync.parent import joins, processes
from halfsync.parent.backoff import Backoff, in_seconds
from halfsync.parent.children import NEVER, UNKNOWN, Child, ProtocolError, Role
from halfsync.parent.limits import (
    EXIT_WRONG,
    JOIN_AGAIN,
    LAST_WORD,
    LONGEST_WAIT,
    MOST_REPORTS,
    MOST_RETIRING,
    MOST_STARTS,
    REAPING,
    SHORTEST_WAIT,
    STUCK,
    TRIES_AT_FIRST,
    Phase,
)
from halfsync.parent.logfiles import AccessLogFile, ErrorLog
from halfsync.parent.pools import COUNTED, WorkerPool
from halfsync.parent.privileges import Identity
from halfsync.parent.reaping import UnknownChildren, ended_processes
from halfsync.parent.signals import Signals, name_of
from halfsync.parent.spawn import EntryPoints, Spawner
from halfsync.parent.states import ChildEvent, ChildState
from halfsync.parent.systemd import Notifier
from halfsync.plan import BUILT_IN, Plan
from halfsync.wire import messages


class Supervisor:
    """Made once, run once."""

    def __init__(
        self,
        plan: Plan,
        entry_points: EntryPoints,
        *,
        access_log: AccessLogFile | None = None,
        error_log: ErrorLog | None = None,
        identity: Identity | None = None,
        folder: str = ".",
        announce: Callable[[], None] = lambda: None,
        stop_listening: Callable[[], None] = lambda: None,
        signals: Signals | None = None,
        notifier: Notifier | None = None,
    ) -> None:
        """`announce` is called when the pump is told to accept for the first time.

        `signals`: noted since before there was something to undo; closed by `run`.

        `folder`: see Spawner.

        `stop_listening` is called when a stop begins, so that the sockets are gone as soon as the
        pump has closed its own: who comes later is refused, and not left in a queue that nobody
        takes him from.
        """
        self.plan = plan
        self.settings = plan.settings
        self.phase = Phase.STARTING
        self.exit_status = 0
        self.pools = [
            WorkerPool(index, pool, self.settings.preload and pool.target is not None, pool.processes)
            for index, pool in enumerate(plan.pools)
        ]
        self.pump: Child | None = None
        self._access_log = access_log
        self._error_log = error_log
        self._announce = announce
        self._stop_listening = stop_listening
        self._spawner = Spawner(plan, entry_points, access_log, identity, folder, self._forget_in_child)
        self._pump_backoff = Backoff()
        self._watcher: Child | None = None  # with `reload`
        self._watcher_backoff = Backoff()
        self._unknown = UnknownChildren()
        self._reload_due = False  # a SIGHUP came during the start
        self._reloaded: list[WorkerPool] = []  # and not yet said
        self._is_behind = False  # there are more workers to start, in the next turn
        self._limit = NEVER  # of the phase
        self._at_once = False  # a stop that does not wait for requests
        self._signals = signals or Signals()
        self._notifier = notifier or Notifier()

    def run(self) -> int:
        """Serve until told to stop. Gives the exit status; no child is left then."""
        if self.settings.preload:
            prctl.adopt_orphans()  # a template's workers
        try:
            while self.phase is not Phase.OVER:
                self._turn()
        finally:
            self._kill_all()
            self._reap_the_killed()
            self._signals.close()
        return self.exit_status

    def _turn(self) -> None:
        try:
            self._wait()
            now = time.monotonic()
            self._handle_signals(now)
            self._receive_reports(now)
            self._reap(now)
            self._enforce_limits(now)
            self._staff(now)
            self._advance(now)
            self._flush(now)
            self._tell_of_reloads()
        except Exception:  # noqa: BLE001 - a bug here must not end the server
            log("error", "a bug, survived: " + traceback.format_exc())
            time.sleep(SHORTEST_WAIT)

    # --- waiting

    def _children(self) -> list[Child]:
        found = [child for pool in self.pools for child in pool.children]
        return [one for one in (self.pump, *found, self._watcher) if one is not None]

    def _wait(self) -> None:
        poller = select.poll()
        poller.register(self._signals.wake, select.POLLIN)
        for child in self._children():
            if child.channel is not None:
                poller.register(child.channel, select.POLLIN)
        poller.poll(1000 * self._wait_seconds(time.monotonic()))

    def _wait_seconds(self, now: float) -> float:
        if self._is_behind:
            return 0.0
        children = self._children()
        due = [min(child.limit, child.ready_by) for child in children]
        backoffs = [self._pump_backoff, self._watcher_backoff, *(pool.backoff for pool in self.pools)]
        due += [backoff.until for backoff in backoffs if backoff.until > now]
        due += [child.join_after for child in children if child.join_after > now]
        if any(child.has_unsent for child in children) or self._lacks(now):
            due.append(now + SHORTEST_WAIT)
        return max(0.0, min([LONGEST_WAIT, self._limit - now, *(moment - now for moment in due)]))

    def _lacks(self, now: float) -> bool:
        """Something should be there, may be tried now, and is not."""
        if self.phase in (Phase.EXITING, Phase.OVER):
            return False
        if self.pump is None:
            return self.phase is not Phase.DRAINING and self._pump_backoff.until <= now
        return any(self._is_to_join(child) for child in self._children())

    # --- signals

    def _handle_signals(self, now: float) -> None:
        for number in self._signals.take():
            if number == signal.SIGQUIT or (number == signal.SIGINT and self.settings.reload):
                self._stop_at_once(now, name_of(number))  # who develops does not want to wait
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stop(now, name_of(number))
            elif number == signal.SIGHUP:
                self._reload_because("SIGHUP")
            elif number == signal.SIGUSR1:
                self._reopen_error_log()
                self._reopen_log()
            elif number == signal.SIGTTIN:
                self._resize(+1)
            elif number == signal.SIGTTOU:
                self._resize(-1)
            elif number != signal.SIGCHLD:
                log("warning", f"{name_of(number)}: this signal means nothing to halfsync; it is ignored.")

    def _stop(self, now: float, name: str) -> None:
        if self.phase in (Phase.DRAINING, Phase.EXITING):
            self._stop_at_once(now, f"a second {name}")
            return
        self._notifier.stopping()
        log("info", f"{name}: stopping; requests in flight may take {self.settings.graceful_timeout:g} s.")
        self._stop_listening()
        was_serving = self.phase is Phase.SERVING
        self.phase = Phase.DRAINING
        self._limit = now + self.settings.graceful_timeout + LAST_WORD
        for pool in self.pools:
            self._drop_next(pool)
        if self.pump is not None and was_serving:
            self.pump.order(messages.Drain(self.settings.graceful_timeout))
        elif self.pump is not None:
            self._kill(self.pump)

    def _stop_at_once(self, now: float, name: str) -> None:
        """Requests in flight are cut off. But first the pump has a short moment to hand over, and the
        built-in worker to write, the log records of those that were answered. A further signal takes
        that too."""
        self._notifier.stopping()
        log("info", f"{name}: stopping at once.")
        pump = self.pump
        if pump is None or not pump.opened or self._at_once or self.phase is Phase.EXITING:
            self._begin_exit(now)
            self._kill_all()
            return
        self._at_once = True
        self._stop_listening()
        for pool in self.pools:
            self._drop_next(pool)
        self.phase = Phase.DRAINING
        self._limit = now + LAST_WORD
        pump.order(messages.Drain(0.0))

    def _reload_because(self, cause: str) -> None:
        """`cause` is SIGHUP, or, with `reload`, what has changed."""
        if self.phase is Phase.SERVING:
            log("info", f"{cause}: reloading.")
            self._reload()
        elif self.phase is Phase.STARTING:
            self._restart_imports(cause)
        else:
            log("warning", f"{cause}: not reloading while {self.phase.value}.")

    def _restart_imports(self, cause: str) -> None:
        """During the start: what has not finished its import may have read old code, or hang."""
        if any(pool.backoff.until == NEVER for pool in self.pools):
            log("info", f"{cause}: trying again.")
        else:
            log("info", f"{cause} while starting: workers that are still being imported start again.")
        for pool in self.pools:
            for child in pool.of(pool.current):
                if child.state is ChildState.STARTING:
                    self._kill(child)
                elif pool.has_application:
                    self._reload_due = True  # that one has read the old code: done when the start is
            pool.backoff.reset()

    def _reload(self) -> None:
        self._reload_due = False
        self._notifier.reloading()
        for pool in self.pools:
            self._drop_next(pool)
            pool.backoff.reset()
            pool.start_generation()

    def _reopen_error_log(self) -> None:
        if self._error_log is None:
            return
        try:
            self._error_log.reopen_in(self._children())
        except OSError as error:
            log("error", f"SIGUSR1: the error log can't be reopened: {error}; the old one stays.")
        else:
            log("info", "SIGUSR1: the error log is reopened.")

    def _reopen_log(self) -> None:
        if self._access_log is None:
            return
        try:
            self._access_log.reopen()
            for child in self.pools[BUILT_IN].children:
                if child.state is not ChildState.KILLED:
                    child.order(messages.LogFile(), (os.dup(self._access_log.fd),))
        except OSError as error:
            log("error", f"SIGUSR1: the access log can't be reopened: {error}; the old one stays.")
        else:
            log("info", "SIGUSR1: the access log is reopened.")

    def _resize(self, by: int) -> None:
        for pool in self.pools:
            if pool.has_application:
                pool.size = max(1, pool.size + by)
                log("info", f"{pool.name}: {pool.size} worker processes from now on.")

    # --- reports

    def _receive_reports(self, now: float) -> None:
        for child in self._children():
            try:
                self._receive_from(child, now)
            except ProtocolError as error:
                log("error", f"{child.who} sent a malformed report ({error}); it is killed.")
                self._kill_at_fault(child)
            if child.channel is None and child.limit == NEVER and child.state is not ChildState.KILLED:
                child.limit = now + LAST_WORD  # it can't be told anything any more
            if child.channel is None and child.pid == UNKNOWN:
                self._ended(child, None, now)

    def _receive_from(self, child: Child, now: float) -> None:
        """A bounded number of reports: no child may keep the loop to itself."""
        for _ in range(MOST_REPORTS):
            report = child.receive()
            if report is None:
                return
            self._handle_report(child, report, now)

    def _handle_report(self, child: Child, report: messages.Report, now: float) -> None:
        if isinstance(report, messages.Ready):
            self._is_ready(child, report.pid)
        elif isinstance(report, messages.Failed):
            child.failure = report
        elif isinstance(report, messages.Drained):
            child.drained = True
        elif isinstance(report, messages.Lost):
            self._kill_lost(child, report.worker)
        elif isinstance(report, messages.Cut):
            self._join_again(child, report.worker, now)
        elif isinstance(report, messages.Changed):
            self._on_change(child, report)
        elif isinstance(report, messages.MaxRequests):
            child.served = report.served
        else:
            self._replace_hung(child, report.worker, now)

    def _is_ready(self, child: Child, claimed: int) -> None:
        if child.pid == UNKNOWN:
            if not self._unknown.is_our_child(claimed):
                raise ProtocolError(f"process {claimed} is not ours")
            child.pid = claimed
        if child.state is ChildState.STARTING:
            child.on(ChildEvent.READIED)
            child.was_ready = True
            child.ready_by = NEVER
            log("debug", f"{child.who} is ready.")

    def _on_change(self, watcher: Child, report: messages.Changed) -> None:
        if watcher.role is not Role.WATCHER:
            raise ProtocolError("it is not the watcher")
        for pool in self.pools:
            pool.last_failure = ""  # show a traceback again, though it be the same: someone works on it
        self._reload_because(f"{report.files} changed")

    def _replace_hung(self, pump: Child, worker: int, now: float) -> None:
        for child in self._children():
            if child.id == worker and child.state is ChildState.WORKING and pump.role is Role.PUMP:
                log("error", f"{child.who} has a handler past handler_timeout; it is replaced.")
                self._retire(child, now)
                self._bound_retiring(self.pools[child.pool])

    def _kill_lost(self, pump: Child, worker: int) -> None:
        """The pump has given it up: if it lives, it is good for nothing."""
        for child in self._children():
            if child.id == worker and child.pump == pump.id and child.state is not ChildState.KILLED:
                log("debug", f"{child.who} is no use to the pump any more; it is killed.")
                self._kill_at_fault(child)

    def _join_again(self, sender: Child, worker: int, now: float) -> None:
        """A worker's descriptors found no room, in the pump or in the worker."""
        for child in self._children():
            if child is sender or (child.id == worker and sender.role is Role.PUMP):
                child.pump = -1
                child.join_after = now + JOIN_AGAIN

    def _bound_retiring(self, pool: WorkerPool) -> None:
        """When every request hangs, the hung ones must not pile up until graceful_timeout ends them."""
        retiring = [child for child in pool.children if child.state is ChildState.RETIRING]
        for child in retiring[: max(0, len(retiring) - MOST_RETIRING * pool.size)]:
            log("warning", f"{child.who} is killed: too many workers with hung handlers (handler_timeout).")
            self._kill(child)

    # --- ends

    def _reap(self, now: float) -> None:
        by_pid = {child.pid: child for child in self._children() if child.pid != UNKNOWN}
        for pid, status in ended_processes():
            if pid in by_pid:
                child = by_pid[pid]
                self._receive_last(child, now)
                self._ended(child, status, now)
            else:
                self._unknown.add(pid, status)
        self._match_unknown(now)

    def _receive_last(self, child: Child, now: float) -> None:
        """What it said before it ended is still in the channel."""
        try:
            self._receive_from(child, now)
        except ProtocolError:
            pass

    def _match_unknown(self, now: float) -> None:
        """Children of ours whose number came after their end; the others were some descendant's."""
        for child in self._children():
            if (status := self._unknown.take(child.pid)) is not None:
                self._ended(child, status, now)

    def _ended(self, child: Child, status: int | None, now: float) -> None:
        before = child.state
        child.on(ChildEvent.ENDED)
        child.close_channel()
        ending = "ended" if status is None else processes.how_it_ended(status)
        if child is self.pump:
            self.pump = None
            self._pump_ended(child, before, ending, now)
            return
        if child is self._watcher:
            self._watcher = None
            self._watcher_ended(child, ending, now)
            return
        pool = self.pools[child.pool]
        pool.children.remove(child)
        if self.pump is not None and child.pump == self.pump.id:
            self.pump.order(messages.Ended(child.id, -1 if status is None else status))
        if (before in COUNTED or child.at_fault) and self.phase is not Phase.EXITING:
            self._worker_ended(pool, child, ending, now)
        else:
            log("debug", f"{child.who} {ending}.")

    def _pump_ended(self, child: Child, before: ChildState, ending: str, now: float) -> None:
        if self.phase in (Phase.DRAINING, Phase.EXITING) and (child.drained or before is ChildState.KILLED):
            log("debug", f"{child.who} {ending}.")
            return
        delay = self._pump_backoff.ended(now, now - child.started, was_ready=self.phase is Phase.SERVING)
        if self.phase is Phase.SERVING:
            log(
                "error",
                f"{child.who} {ending}; its connections are lost. Another starts {in_seconds(delay)}.",
            )
        else:
            log("error", f"{child.who} {ending} while {self.phase.value}.")
        if self.phase is Phase.STARTING and self._pump_backoff.early_ends >= TRIES_AT_FIRST:
            self._give_up(f"The pump {ending} while starting, {TRIES_AT_FIRST} times.", "", now)

    def _watcher_ended(self, child: Child, ending: str, now: float) -> None:
        if self.phase not in (Phase.STARTING, Phase.SERVING):
            log("debug", f"{child.who} {ending}.")
            return
        told = f"{child.who} {ending}." if child.failure is None else child.failure.sentence
        if self.phase is Phase.STARTING and not child.was_ready:
            self._give_up(told, "", now)
            return
        delay = self._watcher_backoff.ended(now, now - child.started, child.was_ready)
        log("error", f"{told} Changes are not noticed; the next try is {in_seconds(delay)}.")

    def _worker_ended(self, pool: WorkerPool, child: Child, ending: str, now: float) -> None:
        """One that should still be there."""
        if child.generation == pool.next and not child.was_ready:
            self._fail_reload(pool, child, ending)
            return
        if child.failure is not None:
            self._failed_to_import(pool, child, child.failure, now)
            return
        delay = pool.backoff.ended(now, now - child.started, child.was_ready)
        log("error", f"{child.who} {ending}. Another starts {in_seconds(delay)}.")
        if self.phase is Phase.STARTING and pool.backoff.early_ends >= TRIES_AT_FIRST and not pool.works:
            sentence = f"Target {pool.name!r}: its worker {ending} while starting, {TRIES_AT_FIRST} times."
            self._failed_to_import(pool, child, messages.Failed(sentence, ""), now)

    def _failed_to_import(self, pool: WorkerPool, child: Child, failure: messages.Failed, now: float) -> None:
        if self.settings.reload:
            self._wait_for_change(pool, failure)
            return
        if self.phase is Phase.STARTING:
            self._give_up(failure.sentence, failure.traceback, now)
            return
        delay = pool.backoff.ended(now, now - child.started, was_ready=False)
        log("error", f"{child.who}: {pool.told_once(failure)} Another starts {in_seconds(delay)}.")

    def _wait_for_change(self, pool: WorkerPool, failure: messages.Failed) -> None:
        """With `reload`: no other try until something changes (or a SIGHUP comes)."""
        for child in pool.of(pool.current):
            if child.state is ChildState.STARTING:
                self._kill(child)  # it has read the same code
        pool.backoff.until = NEVER
        log("error", f"{pool.told_once(failure)} Waiting for a change.")

    def _fail_reload(self, pool: WorkerPool, child: Child, ending: str) -> None:
        told = f"it {ending} while starting." if child.failure is None else pool.told_once(child.failure)
        log("error", f"{child.who}: {told} {pool.name} is NOT reloaded; the old workers go on.")
        self._notifier.reload_failed()
        self._drop_next(pool)

    def _give_up(self, sentence: str, trace: str, now: float) -> None:
        """At the first start: say why, and end."""
        if self.exit_status == 0:
            self.exit_status = EXIT_WRONG
            tell(trace + ("\n" if trace and not trace.endswith("\n") else "") + f"halfsync: {sentence}")
        self._begin_exit(now)
        self._kill_all()

    # --- limits

    def _enforce_limits(self, now: float) -> None:
        for child in self._children():
            if child.state is ChildState.KILLED:
                continue
            if now >= child.limit:
                log("warning", f"{child.who} {child.why_overdue(self.settings)}; it is killed.")
                self._kill_at_fault(child)
            elif now >= child.ready_by:
                self._not_ready_in_time(child)
            elif now - child.stuck_since >= STUCK:
                log("error", f"{child.who} has not read its orders for {STUCK:g} s; it is killed.")
                self._kill_at_fault(child)

    def _not_ready_in_time(self, child: Child) -> None:
        """What follows is what follows a failed import: `_worker_ended`."""
        seconds = self.settings.startup_timeout
        target = self.plan.pools[child.pool].name
        sentence = (
            f"Target {target!r}: it was not ready within {seconds:g} s (startup_timeout) and is killed."
        )
        child.failure = messages.Failed(sentence, "")
        self._kill_at_fault(child)

    def _kill_at_fault(self, child: Child) -> None:
        """One that should go on, but not like this: its end counts as if it had died by itself."""
        child.at_fault = child.state in COUNTED
        self._kill(child)

    def _kill(self, child: Child) -> None:
        child.kill()
        child.limit = child.ready_by = NEVER

    def _kill_all(self) -> None:
        for child in self._children():
            self._kill(child)

    def _reap_the_killed(self) -> None:
        deadline = time.monotonic() + REAPING
        while self._children() and time.monotonic() < deadline:
            self._reap(time.monotonic())
            for child in self._children():
                if child.pid == UNKNOWN:
                    self._ended(child, None, time.monotonic())
            time.sleep(0.002)

    # --- what there should be

    def _staff(self, now: float) -> None:
        self._is_behind = False
        if self.phase in (Phase.EXITING, Phase.OVER):
            return
        if self.pump is None and self.phase is not Phase.DRAINING and now >= self._pump_backoff.until:
            self._start_pump(now)
        if self.settings.reload and self._watcher is None and now >= self._watcher_backoff.until:
            self._watcher = self._start("watcher", self._spawner.watcher, self._watcher_backoff, now)
        if self._may_import:
            for pool in self.pools:
                for generation in pool.generations:
                    self._staff_generation(pool, generation, now)
        for child in self._children():
            if self._is_to_join(child):
                self._join(child)
        if self.pump is not None and self.phase is Phase.SERVING and not self.pump.opened:
            self._open()

    @property
    def _may_import(self) -> bool:
        """With `reload`, the first import waits until changes are noticed: none may be missed."""
        watches = self._watcher is not None and self._watcher.was_ready
        return watches or not self.settings.reload or self.phase is not Phase.STARTING

    def _staff_generation(self, pool: WorkerPool, generation: int, now: float) -> None:
        if (old := pool.recyclable()) is not None:
            log("info", f"{old.who} has served {old.served} requests (max_requests) and is replaced.")
            self._retire(old, now)
        workers, wanted = pool.workers(generation), pool.wanted(generation)
        for surplus in workers[wanted:]:
            if surplus.state is ChildState.WORKING:
                self._retire(surplus, now)
        if len(workers) >= wanted or now < pool.backoff.until:
            return
        missing = wanted - len(workers)
        template = pool.template(generation) if pool.preload else None
        if pool.preload and template is None:
            self._start_for(pool, partial(self._spawner.template, pool, generation), now)
            return
        if template is not None and template.state is ChildState.STARTING:
            return
        for _ in range(min(missing, MOST_STARTS)):
            self._start_for(pool, partial(self._spawner.worker, pool, generation, template), now)
        self._is_behind = self._is_behind or missing > MOST_STARTS

    def _start_pump(self, now: float) -> None:
        pump = self._start("pump", self._spawner.pump, self._pump_backoff, now)
        if pump is not None:
            self.pump = pump
            pump.on(ChildEvent.READIED)
            pump.on(ChildEvent.JOINED)

    def _start_for(self, pool: WorkerPool, make: Callable[[], Child], now: float) -> None:
        child = self._start(f"worker({pool.name})", make, pool.backoff, now)
        if child is not None:
            pool.children.append(child)

    def _start(self, name: str, make: Callable[[], Child], backoff: Backoff, now: float) -> Child | None:
        """A new child; None if the machine has no room for one now."""
        try:
            child = make()
        except OSError as error:
            seconds = backoff.ended(now, 0.0, was_ready=False)
            log(
                "error", f"no {name} can be started: {error.strerror}. The next try is {in_seconds(seconds)}."
            )
            return None
        self._unknown.take(child.pid)  # an older process of the same number
        return child

    def _forget_in_child(self) -> None:
        for child in self._children():
            child.forget_in_child()
        self._signals.forget_in_child()

    # --- the pump knows its workers

    def _is_to_join(self, child: Child) -> bool:
        if child.role is not Role.WORKER or self.pump is None or child.channel is None:
            return False
        if self.pump.state is not ChildState.WORKING or child.pump == self.pump.id:
            return False
        if time.monotonic() < child.join_after:
            return False
        is_current = child.generation == self.pools[child.pool].current
        return child.state is ChildState.WORKING or (child.state is ChildState.READY and is_current)

    def _join(self, child: Child) -> None:
        assert self.pump is not None
        joins.join(self.pump, child, self.plan.pools[child.pool].threads)

    def _open(self) -> None:
        assert self.pump is not None
        self.pump.order(messages.Open())
        self.pump.opened = True

    def _retire(self, child: Child, now: float) -> None:
        """No more tasks. The pump closes its channels when the last has ended, and as the worker
        was told too, it then exits instead of waiting for a new pump."""
        child.on(ChildEvent.RETIRED)
        child.limit = now + self.settings.graceful_timeout + LAST_WORD
        child.order(messages.Retire(child.id))
        if self.pump is not None:
            self.pump.order(messages.Retire(child.id))

    def _drop_next(self, pool: WorkerPool) -> None:
        for child in pool.of(pool.next):
            self._kill(child)
        pool.next = None

    # --- from phase to phase

    def _advance(self, now: float) -> None:
        if self.phase is Phase.STARTING and self.pump is not None and all(pool.works for pool in self.pools):
            self.phase = Phase.SERVING
            self._open()
            self._announce()
            if self._reload_due:
                log("info", "SIGHUP came while starting: reloading.")
                self._reload()
        elif self.phase is Phase.SERVING:
            for pool in self.pools:
                if pool.next_is_ready and self.pump is not None:
                    self._switch_over(pool, now)
            if all(pool.next is None for pool in self.pools):
                self._notifier.reload_is_over()
        elif self.phase is Phase.DRAINING:
            self._advance_draining(now)
        elif self.phase is Phase.EXITING:
            self._advance_exiting(now)

    def _switch_over(self, pool: WorkerPool, now: float) -> None:
        old = pool.of(pool.current)
        pool.switch_over()
        for child in pool.workers(pool.current):
            if self._is_to_join(child):
                self._join(child)
        for child in old:
            if child.role is Role.TEMPLATE:
                self._close_orders(child, now + self.settings.graceful_timeout + LAST_WORD)
            elif child.state is ChildState.WORKING:
                self._retire(child, now)
            elif child.state in COUNTED:
                self._kill(child)
        pool.last_failure = ""
        self._reloaded.append(pool)

    def _tell_of_reloads(self) -> None:
        """When the pump has its orders, and not before: a request that comes after these words gets a
        response of the new code."""
        for pool in self._reloaded:
            level = "info" if pool.has_application else "debug"
            log(level, f"{pool.name} is reloaded; the old workers finish what they have.")
        self._reloaded.clear()

    def _advance_draining(self, now: float) -> None:
        if self.pump is not None and not self.pump.drained and now >= self._limit:
            log("warning", self._why_not_drained())
            self._kill(self.pump)
        if self.pump is None or self.pump.drained or self.pump.state is ChildState.KILLED:
            self._begin_exit(now)
            if self._at_once:
                self._kill_all()

    def _why_not_drained(self) -> str:
        if self._at_once:
            return f"the access log was not written within {LAST_WORD:g} s; its last records may be lost."
        return f"requests were still in flight after {self.settings.graceful_timeout:g} s (graceful_timeout)."

    def _begin_exit(self, now: float) -> None:
        """Everybody is to go, those that are still importing at once."""
        self.phase = Phase.EXITING
        limit = max(self._limit if self._limit < NEVER else now, now + LAST_WORD)
        self._limit = limit + REAPING
        for child in self._children():
            if child.state is ChildState.STARTING:
                self._kill(child)
            else:
                self._close_orders(child, limit)

    def _close_orders(self, child: Child, limit: float) -> None:
        if child.state is ChildState.KILLED:
            return
        child.on(ChildEvent.ORDERS_CLOSED)
        child.close_channel()
        child.limit = limit

    def _advance_exiting(self, now: float) -> None:
        if not self._children():
            self.phase = Phase.OVER
        elif now >= self._limit:
            left = ", ".join(child.who for child in self._children())
            log("error", f"these do not end, though they were killed: {left}.")
            self.phase = Phase.OVER

    def _flush(self, now: float) -> None:
        """The pump last: a worker that is retired knows it before the pump lets go of it."""
        for child in reversed(self._children()):
            child.flush(now)
