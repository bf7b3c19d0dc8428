"""USR2: another halfsync takes this one's place, without a moment in which nobody serves.

Theory of operation
-------------------
The new version is started as the user would start it: the same command, in the same folder, looked up again
(command_line.py). It inherits the listening sockets and one end of a channel (wire/upgrade.py). It reads its
settings, binds what is new, starts its processes; meanwhile this one serves as ever. Only when the new one
could serve at once does it say so, and then this one

 1. lets go of what only one can have: the control socket, the pid file, the names of unix sockets;
 2. has its pump pass on the connections that are between two requests, and go on with the others as at a
    stop (pump/handing_over.py); the listening sockets are open all the time, so nobody is refused;
 3. ends, when all is served.

Until then whatever goes wrong with the new version, from a typing error in its settings to a SIGKILL, ends
it, and nothing else.

Who started this process waits for its end, and knows its number: a container's runtime, supervisord, a shell,
or systemd. systemd can be told of another one (MAINPID=). All others would take our end for the service's; so
there the process stays, without a child, passes signals on, and ends as the server ends (keeper.py).
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import msgspec

from halfsync import channel
from halfsync.logs.error import log
from halfsync.parent import listeners
from halfsync.parent.limits import LAST_WORD, REAPING, Phase
from halfsync.parent.privileges import Identity
from halfsync.parent.reload.reloads import Reloads
from halfsync.parent.service.control_socket import ControlSocket
from halfsync.parent.service.pidfile import PidFile
from halfsync.parent.service.systemd import Notifier
from halfsync.parent.shortages import in_words
from halfsync.parent.status.counted import CountsForNext
from halfsync.parent.tree import Tree
from halfsync.parent.upgrade.predecessor import Predecessor
from halfsync.parent.workers import processes
from halfsync.parent.workers.children import NEVER
from halfsync.parent.workers.reaping import UnknownChildren, exit_status_of
from halfsync.plan.plan import Plan
from halfsync.scoreboard.scoreboard import Scoreboard
from halfsync.system import prctl
from halfsync.system.command_line import CommandLine
from halfsync.wire import upgrade

FIRST_WORD = 60.0
"""Seconds for the new version to have read its settings."""
BESIDE_IMPORTS = 30.0
"""Seconds that it may take beside `startup_timeout`, which is for the applications' imports."""
TO_END = 5.0
"""Seconds for a new version that is given up to end by itself."""


class Stage(Enum):
    NONE = "nothing is requested"
    WAITING = "a reload is finished first, or a version that failed ends"
    STARTING = "the new version is started"
    LEAVING = "it is told that it is the server"
    LEFT = "it is the server"


@dataclass
class Holdings:
    """What only one server can have."""

    pid_file: PidFile | None = None
    control_socket: ControlSocket | None = None
    predecessor: Predecessor | None = None

    def take_over(self, identity: Identity | None) -> None:
        """The predecessor has let go of them."""
        if self.predecessor is not None:
            self.predecessor.own(identity)
        if self.pid_file is not None:
            self.pid_file.take_over()
        if self.control_socket is not None:
            self.control_socket.take_over()

    def let_go(self, plan: Plan, taken: upgrade.Prepared) -> None:
        """Of what the new version takes. The rest is removed when this one ends."""
        if self.pid_file is not None and taken.pid_file:
            self.pid_file.let_go()
        if self.control_socket is not None and taken.control_socket:
            self.control_socket.let_go()
        for place in taken.kept:
            if 0 <= place < len(plan.listeners):
                listeners.disown(plan.listeners[place].address)


class Upgrades:
    """`is_under_way`: the outcome is not known. `failure`: the last one, as a sentence. `process`,
    `version`: the new version's."""

    def __init__(
        self,
        tree: Tree,
        reloads: Reloads,
        unknown: UnknownChildren,
        notifier: Notifier,
        command: CommandLine | None,
        holdings: Holdings,
        scoreboard: Scoreboard,
        hand_over: Callable[[list[int], int], None],
    ) -> None:
        """`hand_over` begins to drain; it is given the places of the listeners whose connections the new
        version takes, and the descriptor on which it does."""
        self._tree = tree
        self._reloads = reloads
        self._unknown = unknown
        self._notifier = notifier
        self._command = command
        self._holdings = holdings
        self._scoreboard = scoreboard
        self._hand_over = hand_over
        self._counts: CountsForNext | None = None
        self._ended_by = 0.0  # monotonic: this server, when it has handed over
        self._stage = Stage.NONE
        self._sock: socket.socket | None = None
        self._limit = NEVER
        self._timeout = 0.0  # what the limit was made of
        self._kill_at = NEVER
        self._cause = ""
        self.version = ""
        self.failure = ""
        self.process = 0  # until it is reaped
        self._servers: list[int] = []  # the processes that have been the server since
        self.stays = False  # this process, for those who know its number
        self.status: int | None = None  # wait status of the process that has taken over

    @property
    def is_under_way(self) -> bool:
        return self._stage in (Stage.WAITING, Stage.STARTING, Stage.LEAVING)

    @property
    def has_left(self) -> bool:
        """Another process is the server."""
        return self._stage in (Stage.LEAVING, Stage.LEFT)

    # --- beginning

    def request(self, cause: str, now: float) -> str:
        """Gives a sentence if there is none."""
        if why := self._why_not():
            log("warning", f"{cause}: {why}")
            return why
        self._cause, self.failure = cause, ""
        if not self._reloads.is_over or self.process:
            what = "the version that failed has ended" if self.process else "the reload is over"
            log("info", f"{cause}: upgrading, as soon as {what}.")
            self._stage = Stage.WAITING
            self._tree.is_upgrading = True
            return ""
        self._start(now)
        return self.failure

    def _why_not(self) -> str:
        if self._command is None:
            return "This server was not started by a command, so there is none to start again."
        if self.process and self.has_left:
            return f"Process {self.process} is the server now; it can be upgraded."
        if self.is_under_way:
            return "An upgrade is under way already."
        if self._tree.phase is not Phase.SERVING:
            return f"The server is {self._tree.phase.value}; it is not upgraded."
        return ""

    def _start(self, now: float) -> None:
        assert self._command is not None
        self._stage = Stage.STARTING
        self._tree.is_upgrading = True
        self._notifier.reloading()
        try:
            self._counts = CountsForNext(self._scoreboard)
            ours, theirs = channel.pair()
        except OSError as error:
            self._failed([f"no process can be started: {in_words(error)}."])
            return
        ours.setblocking(False)
        with theirs:
            inherited = self._inherited()
            keep = [theirs.fileno(), *(one.fd for one in inherited.listeners)]
            keep += [one.fd for one in (inherited.pid_file, inherited.control_socket) if one is not None]
            keep += [one for one in (inherited.certificates, inherited.counted) if one >= 0]
            environment = {**self._command.environment, upgrade.VARIABLE: str(theirs.fileno())}
            channel.send(ours, upgrade.encode(inherited))
            try:
                self.process = processes.execute(self._command, environment, keep, theirs)
            except OSError as error:
                ours.close()
                self._failed([f"no process can be started: {in_words(error)}."])
                return
        self._sock = ours
        self._limit, self._timeout = now + FIRST_WORD, FIRST_WORD
        log("info", f"{self._cause}: upgrading: the new version is process {self.process}.")

    def _inherited(self) -> upgrade.Inherited:
        plan = self._tree.plan
        found = [
            upgrade.InheritedListener(
                place,
                one.socket.fileno(),
                one.address,
                one.host,
                one.port,
                one.bound_as,
                one.scheme,
                one.is_proxied,
                listeners.file_of(one),
            )
            for place, one in enumerate(plan.listeners)
            if not one.is_removed
        ]
        pid_file, control = self._holdings.pid_file, self._holdings.control_socket
        certificates = plan.certificates
        return upgrade.Inherited(
            upgrade.VERSION,
            found,
            None if pid_file is None else upgrade.InheritedFile(pid_file.fd, pid_file.path),
            None
            if control is None
            else upgrade.InheritedFile(
                control.listener.socket.fileno(), control.path, listeners.file_of(control.listener)
            ),
            -1 if certificates is None else certificates.fd,
            None if certificates is None else certificates.tickets,
            -1 if self._counts is None else self._counts.fd,
            [(pool.name, pool.current.size) for pool in self._tree.pools if pool.current.size],
        )

    # --- in each turn

    def register(self, poller: select.poll) -> None:
        if self._sock is not None:
            poller.register(self._sock, select.POLLIN)

    @property
    def due(self) -> float:
        """Monotonic seconds, when `advance` has something to do by itself."""
        return min(self._limit, self._kill_at)

    def advance(self, now: float) -> None:
        """After children were reaped."""
        self._receive(now)
        if self.process and (status := self._unknown.take(self.process)) is not None:
            self._ended(status, now)
        if now >= self._limit:
            self._limit = NEVER
            self._failed([f"the new version was not ready within {self._timeout:g} s and is ended."])
            self._end(now)
        if now >= self._kill_at and self.process:
            self._kill_at = NEVER
            os.kill(self.process, signal.SIGKILL)
        if self._stage is Stage.WAITING and self._reloads.is_over and not self.process:
            self._start(now)
        if self._counts is not None and self.has_left:
            self._counts.write(self._tree.pool_names, now, self._ended_by)

    def _receive(self, now: float) -> None:
        while self._sock is not None:
            try:
                received = channel.receive(self._sock)
            except BlockingIOError:
                return
            if received is None:
                self._sock.close()
                self._sock = None
                if self._stage is Stage.STARTING:
                    self._kill_at = min(self._kill_at, now + TO_END)  # if it has not ended anyhow
                return
            packet, descriptors = received
            try:
                self._take(upgrade.decode_from_new(packet), descriptors, now)
            except msgspec.MsgspecError as error:
                self._failed([f"the new version says what is not understood ({error})."])
                self._end(now)
            finally:
                channel.close_all(descriptors)

    def _take(
        self,
        message: upgrade.Begun | upgrade.CantStart | upgrade.Prepared | upgrade.IsServing | upgrade.Succeeded,
        descriptors: list[int],
        now: float,
    ) -> None:
        if isinstance(message, upgrade.Succeeded):
            log("info", f"process {message.pid} is the server now.")
            self.process = message.pid
            self._servers.append(message.pid)
        elif isinstance(message, upgrade.IsServing):
            self._serves()
        elif self._stage is not Stage.STARTING:
            pass  # it was given up
        elif isinstance(message, upgrade.Begun):
            self.version = message.version
            self._timeout = message.startup_timeout + BESIDE_IMPORTS
            self._limit = now + self._timeout if message.startup_timeout else NEVER
        elif isinstance(message, upgrade.CantStart):
            self._failed(message.sentences, message.traceback)
            self._kill_at = now + TO_END
        elif descriptors:
            self._leave(message, descriptors.pop(0))

    # --- handing over

    def _leave(self, prepared: upgrade.Prepared, descriptor: int) -> None:
        assert self._sock is not None
        predecessor = self._holdings.predecessor
        keeper = None if predecessor is None else predecessor.keeper
        self.stays = keeper is None and not self._notifier.is_told
        if self.stays:
            prctl.adopt_orphans()  # when the new version is upgraded, its successor is our child
        self._notifier.hand_over(self.process)
        self._write_counts()  # so that it can go on with them at once
        message = upgrade.encode(upgrade.HandedOver(self.stays or keeper is not None))
        sent = channel.send(self._sock, message, () if keeper is None else (keeper.fileno(),))
        if sent is not channel.SendResult.YES:  # it has just ended
            os.close(descriptor)
            self._notifier.take_back()
            self._failed([f"the new version, process {self.process}, ended before it was the server."])
            return
        if predecessor is not None:
            predecessor.succeeded(self.process)
        self._limit = NEVER
        self._stage = Stage.LEAVING
        self._servers.append(self.process)
        log(
            "info",
            f"upgraded: process {self.process} (halfsync {self.version}) is the server from now on; this "
            "one finishes what it has.",
        )
        self._holdings.let_go(self._tree.plan, prepared)
        self._hand_over(prepared.places, descriptor)

    def _write_counts(self) -> None:
        now = time.monotonic()
        self._ended_by = now + self._tree.settings.graceful_timeout + LAST_WORD + 2 * REAPING
        if self._counts is not None:
            self._counts.write(self._tree.pool_names, now, self._ended_by)

    def _serves(self) -> None:
        if self._stage is Stage.LEAVING:
            self._stage = Stage.LEFT

    # --- failures

    def _ended(self, status: int, now: float) -> None:
        """The new version's process."""
        ending = processes.how_it_ended(status)
        process, self.process = self.process, 0
        self._receive(now)  # what it said before
        self._kill_at = NEVER
        if self._stage is Stage.STARTING:
            self._failed([f"the new version, process {process}, {ending} before it was ready."])
        elif self.has_left:
            self.status = status
            if not self.stays:
                self._tree.exit_status = exit_status_of(status)  # from ours, the process that stays learns it
            log("info" if status == 0 else "error", f"process {process}, which is the server, {ending}.")
            if self._stage is Stage.LEAVING:
                self.failure = f"The new version took over, and {ending}."
                self._stage = Stage.LEFT

    def _failed(self, sentences: list[str], traceback: str = "") -> None:
        sentence = " ".join(sentences)
        shown = f"\n{traceback.rstrip()}\n" if traceback else ""
        log("error", f"{shown}Upgrade failed, and the running version keeps serving: {sentence}")
        self.failure = sentence[:1].upper() + sentence[1:]
        self._stage = Stage.NONE
        self._limit = NEVER
        self._drop_counts()
        self._notifier.upgrade_failed()
        self._tree.is_upgrading = False
        self._reloads.go_on()

    def _end(self, now: float) -> None:
        """It is given up."""
        if self.process:
            os.kill(self.process, signal.SIGTERM)
            self._kill_at = now + TO_END

    def _drop_counts(self) -> None:
        if self._counts is not None:
            self._counts.close()
            self._counts = None

    def cancel(self, now: float) -> None:
        """The server stops, and so does what was to take its place."""
        if not self.has_left and self._stage is not Stage.NONE:
            self.failure = "The server was told to stop."
            self._stage = Stage.NONE
            self._limit = NEVER
            self._drop_counts()
            self._end(now)

    def close(self) -> None:
        """This server ends, and what was given up with it. To be called when no child serves, and before
        they are reaped for the last time."""
        if self._counts is not None and self.has_left:
            self._counts.end(self._tree.pool_names)
            self._counts = None
        if not self.process or self.has_left or self._unknown.take(self.process) is not None:
            return
        until = time.monotonic() + TO_END
        while os.waitpid(self.process, os.WNOHANG)[0] == 0:
            if time.monotonic() >= until:
                os.kill(self.process, signal.SIGKILL)
                until = NEVER
            time.sleep(0.01)

    # --- afterwards

    def forward(self, number: int) -> None:
        """A signal that came to this process, which others take for the server."""
        if self._sock is not None:
            channel.send(self._sock, upgrade.encode(upgrade.Forwarded(number)))

    def keep(self) -> tuple[socket.socket | None, list[int], int | None]:
        """For keeper.py: the channel, the processes that have been the server, the newest one last, and its
        wait status if it has ended."""
        return self._sock, self._servers, self.status

    def pass_on(self, number: int, name: str) -> None:
        """To whoever is the server: signals that mean something to it."""
        if number in (signal.SIGHUP, signal.SIGUSR1) and self.process:
            log("info", f"{name}: passed on to the new version, process {self.process}.")
            os.kill(self.process, number)

    def forget_in_child(self) -> None:
        """In a forked process: the descriptors are closed already."""
        if self._sock is not None:
            self._sock.detach()
