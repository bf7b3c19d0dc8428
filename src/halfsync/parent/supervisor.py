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
               (One that is to take another version's place waits until all work, for it gets all the load at
               once; and then until that has handed over.)
    SERVING    replace what dies; start generations and switch over to them (HUP); start another
               version (USR2), which takes this one's place when it is ready.
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
from collections.abc import Callable, Sequence

from halfsync.logs.error import log
from halfsync.parent.control import Control
from halfsync.parent.deaths import Deaths
from halfsync.parent.limits import EXIT_WRONG, LAST_WORD, LONGEST_WAIT, SHORTEST_WAIT, Phase
from halfsync.parent.logfiles import ErrorLog
from halfsync.parent.privileges import Identity
from halfsync.parent.reload.progress import StartReport
from halfsync.parent.reload.reconfigure import Reconfiguration
from halfsync.parent.reload.reloads import Reloads
from halfsync.parent.reopening import Reopening
from halfsync.parent.service.control_socket import ControlSocket
from halfsync.parent.service.systemd import Notifier
from halfsync.parent.service.watchdog import Watchdog
from halfsync.parent.signals import Doubles, Signals, name_of
from halfsync.parent.states import ChildState
from halfsync.parent.status.counted import CountsFromBefore
from halfsync.parent.status.process_rows import ProcessRows
from halfsync.parent.status.reports import Reports
from halfsync.parent.tree import Tree
from halfsync.parent.upgrade.predecessor import Predecessor
from halfsync.parent.upgrade.probes import NotServed
from halfsync.parent.upgrade.upgrades import Holdings, Upgrades
from halfsync.parent.workers.children import Child
from halfsync.parent.workers.reaping import UnknownChildren
from halfsync.parent.workers.spawn import EntryPoints, Spawner
from halfsync.parent.workers.staffing import Staffing
from halfsync.plan.plan import Listener, Plan
from halfsync.scoreboard.scoreboard import Scoreboard
from halfsync.system import prctl
from halfsync.system.command_line import CommandLine
from halfsync.wire import orders


class Supervisor:
    """Made once, run once."""

    def __init__(
        self,
        plan: Plan,
        entry_points: EntryPoints,
        *,
        reconfiguration: Reconfiguration | None = None,
        error_log: ErrorLog | None = None,
        identity: Identity | None = None,
        folder: str = ".",
        announce: Callable[[], None] = lambda: None,
        stop_listening: Callable[[Sequence[Listener]], None] = lambda _: None,
        signals: Signals | None = None,
        control_socket: ControlSocket | None = None,
        notifier: Notifier | None = None,
        watchdog: Watchdog | None = None,
        scoreboard: Scoreboard | None = None,
        command: CommandLine | None = None,
        holdings: Holdings | None = None,
    ) -> None:
        """`announce` is called when the pump is told to accept for the first time.

        `signals`: noted since before there was something to undo; closed by `run`.

        `control_socket`: closed by `run`, too. `folder`: see Spawner.

        `stop_listening` is called when a stop begins, so that the sockets are gone as soon as the
        pump has closed its own: who comes later is refused, and not left in a queue that nobody
        takes him from.

        `command`: what an upgrade starts. `holdings`: what it hands over; with the predecessor, if this
        server takes over from one.
        """
        self._tree = Tree(plan)
        self._reconfiguration = reconfiguration or Reconfiguration(None, identity, None)
        self._reopening = Reopening(self._tree, self._reconfiguration, error_log)
        self._start_report = StartReport(plan)
        self._announce = announce
        self._stop_listening = stop_listening
        self._signals = signals or Signals()
        self._notifier = notifier or Notifier()
        self._watchdog = watchdog or Watchdog({}, self._notifier)
        self._at_once = False  # a stop that does not wait for requests
        scoreboard = scoreboard or Scoreboard()
        self._rows = ProcessRows(scoreboard, time.monotonic())
        self._is_told_twice = False  # the next TERM is the second one, after an upgrade
        unknown = UnknownChildren()
        access_log = self._reconfiguration.access_log
        spawner = Spawner(entry_points, access_log, identity, folder, self._forget_in_child)
        self._staffing = Staffing(self._tree, spawner, unknown)
        self._reloads = Reloads(self._tree, self._staffing, self._reconfiguration, self._notifier)
        holdings = holdings or Holdings(control_socket=control_socket)
        self._predecessor = holdings.predecessor
        counted = -1 if holdings.predecessor is None else holdings.predecessor.take_counted()
        self._counts_before = CountsFromBefore(counted, scoreboard)
        self._tree.is_successor = self._predecessor is not None
        if self._predecessor is not None:
            self._predecessor.keep_sizes(self._tree.pools)
        self._identity = identity
        self._holdings = holdings
        self._doubles = Doubles()
        self.upgrades = Upgrades(
            self._tree, self._reloads, unknown, self._notifier, command, holdings, scoreboard, self._hand_over
        )
        self._control = (
            None
            if control_socket is None
            else Control(
                control_socket, self._tree, self._reloads, self._rows.scoreboard, self.upgrades, self
            )
        )
        described = (lambda _: None) if self._control is None else self._control.described
        self._reports = Reports(self._tree, unknown, self._reloads.on_change, described)
        self._deaths = Deaths(self._tree, self._reports, self._reloads, unknown)

    @property
    def last_word(self) -> str:
        if self.upgrades.stays:
            return f"this process passes signals on to process {self.upgrades.process}, and serves no more."
        return "stopped."

    @property
    def failure(self) -> tuple[str, str] | None:
        """Why another version could not be replaced by this one: a sentence, and a traceback or ""."""
        return self._tree.failure

    def run(self) -> int:
        """Serve until told to stop. Gives the exit status; no child is left then, except for the process that
        has taken this one's place."""
        if self._tree.settings.preload:
            prctl.adopt_orphans()  # a template's workers
        try:
            while self._tree.phase is not Phase.OVER:
                self._turn()
        finally:
            self._tree.kill_all()
            self._counts_before.end(self._tree.pool_names)
            self.upgrades.close()
            self._deaths.reap_the_killed()
            self._stop_listening(self._tree.plan.listeners)
            if not self.upgrades.stays:
                self._signals.close()
            if self._control is not None:
                self._control.socket.close()
        return self._tree.exit_status

    def _turn(self) -> None:
        try:
            self._wait()
            now = time.monotonic()
            self._handle_signals(now)
            if self._predecessor is not None:
                self._listen_to(self._predecessor, now)
            if self._control is not None:
                self._control.receive(now)
            self._reports.receive_all(now)
            self._deaths.forget_unknown(now)
            self._deaths.reap(now)
            self.upgrades.advance(now)
            self._deaths.enforce_limits(now)
            self._rows.look(self._tree, now)  # before a worker joins: the pump is told of its row then
            self._staffing.staff(now)
            self._advance(now)
            self._watchdog.look(self._tree.pump, now)
            self._flush(now)
            self._rows.look(self._tree, now)
            if self._tree.phase is not Phase.STARTING:
                self._counts_before.copy(self._tree.pool_names, now)
            self._reloads.log_switched()
            if self._control is not None:
                self._control.respond(now)
        except Exception:  # noqa: BLE001 - a bug here must not end the server
            log("error", "a bug, survived: " + traceback.format_exc())
            time.sleep(SHORTEST_WAIT)

    def _forget_in_child(self) -> None:
        for child in self._tree.children():
            child.forget_in_child()
        self._signals.forget_in_child()
        self.upgrades.forget_in_child()
        if self._predecessor is not None:
            self._predecessor.forget_in_child()
        if self._control is not None:
            self._control.socket.forget_in_child()

    def _flush(self, now: float) -> None:
        """The pump last: a worker that is retired knows it before the pump lets go of it."""
        for child in reversed(self._tree.children()):
            child.flush(now)

    # --- waiting

    def _wait(self) -> None:
        poller = select.poll()
        poller.register(self._signals.wake, select.POLLIN)
        for child in self._tree.children():
            if child.channel is not None:
                poller.register(child.channel, select.POLLIN)
        if self._control is not None:
            self._control.socket.register(poller, time.monotonic())
        if self._predecessor is not None:
            self._predecessor.register(poller)
        self.upgrades.register(poller)
        poller.poll(1000 * self._wait_seconds(time.monotonic()))

    def _wait_seconds(self, now: float) -> float:
        if self._staffing.is_behind:
            return 0.0
        children = self._tree.children()
        due = [
            self._watchdog.due,
            self.upgrades.due,
            *(min(child.limit, child.ready_by) for child in children),
        ]
        if self._control is not None:
            due.append(self._control.due)
        due += [pool.backoff.until for pool in self._tree.all_pools if pool.backoff.until > now]
        due += [child.join_after for child in children if child.join_after > now]
        if any(child.has_unsent for child in children) or self._staffing.lacks(now):
            due.append(now + SHORTEST_WAIT)
        return max(0.0, min([LONGEST_WAIT, self._tree.phase_limit - now, *(moment - now for moment in due)]))

    # --- signals

    def _handle_signals(self, now: float) -> None:
        for number in self._signals.take():
            if number == signal.SIGCHLD:
                continue
            try:
                if self.upgrades.has_left:
                    self._handle_when_left(number, now)
                elif not self._doubles.is_one(number, now, passed_on=False):
                    self._handle(number, now)
            except Exception:  # noqa: BLE001 - those that came with it are not to be lost: one may be a TERM
                log("error", f"a bug, survived, at {name_of(number)}: {traceback.format_exc()}")

    def _handle(self, number: int, now: float) -> None:
        if number == signal.SIGQUIT or (number == signal.SIGINT and self._tree.settings.reload):
            self.stop(now, name_of(number), at_once=True)  # who develops does not want to wait
        elif number in (signal.SIGTERM, signal.SIGINT):
            self.stop(now, name_of(number))
        elif number == signal.SIGHUP:
            self._reloads.request("SIGHUP")
            self.upgrades.pass_on(number, "SIGHUP")
        elif number == signal.SIGUSR1:
            self.reopen_logs("SIGUSR1")
            self.upgrades.pass_on(number, "SIGUSR1")
        elif number == signal.SIGUSR2:
            self.upgrades.request("SIGUSR2", now)
        elif number == signal.SIGTTIN:
            self._resize(+1)
        elif number == signal.SIGTTOU:
            self._resize(-1)
        else:
            log("warning", f"{name_of(number)}: this signal means nothing to halfsync; it is ignored.")

    def _handle_when_left(self, number: int, now: float) -> None:
        """Another process is the server, and this one finishes what it has. If it stays, it is known as the
        server to those who send signals."""
        if self.upgrades.stays:
            self.upgrades.forward(number)
        if number == signal.SIGUSR1:
            self.reopen_logs("SIGUSR1")
        elif number == signal.SIGQUIT or (number in (signal.SIGTERM, signal.SIGINT) and self._is_told_twice):
            self._stop_at_once(now, name_of(number))
        elif number in (signal.SIGTERM, signal.SIGINT):
            self._is_told_twice = True
        elif not self.upgrades.stays:
            log("warning", f"{name_of(number)}: process {self.upgrades.process} is the server now.")

    def _listen_to(self, predecessor: Predecessor, now: float) -> None:
        for number in predecessor.receive():
            if self.upgrades.has_left or self._doubles.is_one(number, now, passed_on=True):
                continue
            self._handle(number, now)
        if not predecessor.is_gone or self.upgrades.has_left:
            return
        if not predecessor.has_left:
            log("error", "the running version has ended, and with it the upgrade.")
            self._tree.exit_status = self._tree.exit_status or EXIT_WRONG
            self._stop_at_once(now, "the end of the running version")
        elif predecessor.keeper is not None and self._tree.phase in (Phase.STARTING, Phase.SERVING):
            self.stop(now, "the process that the service manager knows has ended")
        self._predecessor = None

    def stop(self, now: float, name: str, *, at_once: bool = False) -> None:
        """`name` is the signal, or who asks for it."""
        self.upgrades.cancel(now)
        if at_once:
            self._stop_at_once(now, name)
            return
        if self._tree.phase in (Phase.DRAINING, Phase.EXITING):
            self._stop_at_once(now, f"a second {name}")
            return
        self._notifier.stopping()
        log(
            "info",
            f"{name}: stopping; requests in flight may take {self._tree.settings.graceful_timeout:g} s.",
        )
        was_serving = self._tree.phase is Phase.SERVING
        self._begin_draining(now)
        if self._tree.pump is not None and was_serving:
            self._tree.pump.order(orders.Drain(self._tree.settings.graceful_timeout))
        elif self._tree.pump is not None:
            self._tree.kill(self._tree.pump)

    def _begin_draining(self, now: float) -> None:
        self._stop_listening(self._tree.plan.listeners)
        self._tree.phase = Phase.DRAINING
        self._tree.phase_limit = now + self._tree.settings.graceful_timeout + LAST_WORD
        self._reloads.drop()
        for child in self._tree.children():
            if child.concurrency:  # event loops have to know how long they may go on
                child.order(orders.Retire(child.id))
                child.may_leave = True

    def _hand_over(self, places: list[int], descriptor: int) -> None:
        """Another process is the server now."""
        now = time.monotonic()
        self._begin_draining(now)
        for issuer in self._tree.issuers.children:
            self._tree.close_orders(issuer, now + LAST_WORD)
        if self._tree.pump is not None:
            order = orders.HandOver(self._tree.settings.graceful_timeout, places)
            self._tree.pump.order(order, (descriptor,))
        else:
            os.close(descriptor)

    def _stop_at_once(self, now: float, name: str) -> None:
        """Requests in flight are cut off. But first the pump has a short moment to hand over, and the
        built-in worker to write, the log records of those that were served. A further signal takes
        that too."""
        self._notifier.stopping()
        log("info", f"{name}: stopping at once.")
        pump = self._tree.pump
        if pump is None or not pump.opened or self._at_once or self._tree.phase is Phase.EXITING:
            self._tree.begin_exit(now)
            self._tree.kill_all()
            return
        self._at_once = True
        self._stop_listening(self._tree.plan.listeners)
        self._reloads.drop()
        self._tree.phase = Phase.DRAINING
        self._tree.phase_limit = now + LAST_WORD
        pump.order(orders.Drain(0.0))

    def reopen_logs(self, cause: str) -> list[str]:
        """Gives a sentence for each that can't be."""
        return self._reopening.reopen_logs(cause)

    def _resize(self, by: int) -> None:
        for pool in self._tree.pools:
            if pool.has_application and pool.current.size:
                pool.resize(by)
                log("info", f"{pool.name}: {pool.current.size} worker processes from now on.")

    # --- from phase to phase

    def _advance(self, now: float) -> None:
        tree = self._tree
        if tree.phase is Phase.STARTING and tree.pump is not None and self._can_serve(tree.pump):
            if self._predecessor is None or self._takes_over(self._predecessor, tree.pump, now):
                self._begin_serving(now)
        elif tree.phase is Phase.STARTING:
            self._start_report.look(tree.pools, now)
        elif tree.phase is Phase.SERVING:
            self._reloads.advance(now)
        elif tree.phase is Phase.DRAINING:
            self._advance_draining(now)
        elif tree.phase is Phase.EXITING:
            self._advance_exiting(now)

    def _can_serve(self, pump: Child) -> bool:
        if not pump.was_ready:  # it may yet end, by a module that is missing
            return False
        if self._predecessor is None:
            return all(pool.works for pool in self._tree.pools)
        return all(pool.is_complete for pool in self._tree.pools)

    def _begin_serving(self, now: float) -> None:
        self._tree.phase = Phase.SERVING
        self._staffing.open()
        self._flush(now)  # first, so that whoever is told that it serves is served
        self._announce()
        if self._predecessor is not None:
            self._predecessor.serving()
        self._reloads.serving()

    def _takes_over(self, predecessor: Predecessor, pump: Child, now: float) -> bool:
        """Whether it is our turn to serve."""
        try:
            prepared = predecessor.prepare(self._tree.plan, pump, now)
        except OSError:
            return False  # there is no room for it now
        except NotServed as wrong:
            self._tree.give_up(str(wrong), "", now)
            return False
        if prepared is not None:
            sock, places = prepared
            pump.order(orders.TakeOver(places), (sock.detach(),))
        if not predecessor.has_left:
            return False
        self._tree.is_successor = False
        self._counts_before.copy(self._tree.pool_names, time.monotonic())  # before the pump adds to them
        self._holdings.take_over(self._identity)
        return True

    def _advance_draining(self, now: float) -> None:
        if self._tree.pump is not None and not self._tree.pump.drained and now >= self._tree.phase_limit:
            log("warning", self._why_not_drained())
            self._tree.kill(self._tree.pump)
        if self.upgrades.is_under_way and now < self._tree.phase_limit:
            return  # who asked for it is to be told
        if self._tree.pump is None or self._tree.pump.drained or self._tree.pump.state is ChildState.KILLED:
            self._tree.begin_exit(now)
            if self._at_once:
                self._tree.end_soon(self._tree.children(), now)

    def _why_not_drained(self) -> str:
        if self._at_once:
            return f"the access log was not written within {LAST_WORD:g} s; its last records may be lost."
        seconds = self._tree.settings.graceful_timeout
        return f"requests were still in flight after {seconds:g} s (graceful_timeout)."

    def _advance_exiting(self, now: float) -> None:
        if not self._tree.children():
            self._tree.phase = Phase.OVER
        elif now >= self._tree.phase_limit:
            left = ", ".join(child.who for child in self._tree.children())
            log("error", f"these do not end, though they were killed: {left}.")
            self._tree.phase = Phase.OVER
