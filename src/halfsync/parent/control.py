"""What halfsyncctl asks for over the control socket: looked up, done, or passed on to the pump.

What takes a while (a reload, a question to the pump) is not waited for: its response is given in a later
turn, when a look says that it is over.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from halfsync.logs.error import log
from halfsync.parent.limits import Phase
from halfsync.parent.reload.reloads import Reloads
from halfsync.parent.service.control_socket import ControlClient, ControlSocket
from halfsync.parent.shortages import in_words
from halfsync.parent.status.overview import rows_of, status_of, workers_of
from halfsync.parent.tree import Tree
from halfsync.parent.upgrade.upgrades import Upgrades
from halfsync.parent.workers.children import NEVER, Child
from halfsync.scoreboard.scoreboard import Scoreboard
from halfsync.wire import orders
from halfsync.wire.control import ControlRequest, decode_request, done, failed

PUMP_TIMEOUT = 5.0
"""Seconds for the pump to say what it was asked."""
ROWS_TIMEOUT = 1.0
"""The same for what runs at this moment: then the scoreboard is shown as it is."""
MOST_WORKERS = 1000
"""As `workers` has it."""

Said = dict[str, Any]
Look = Callable[[float], Said | None]
"""Gives the response once it is known. Called with monotonic seconds."""


class Operations(Protocol):
    """What the supervisor can be told to do."""

    def stop(self, now: float, cause: str, *, at_once: bool) -> None: ...

    def reopen_logs(self, cause: str) -> list[str]:
        """Gives a sentence for each that can't be."""


class Control:
    def __init__(
        self,
        sock: ControlSocket,
        tree: Tree,
        reloads: Reloads,
        scoreboard: Scoreboard,
        upgrades: Upgrades,
        operations: Operations,
    ) -> None:
        self.socket = sock
        self._tree = tree
        self._scoreboard = scoreboard
        self._reloads = reloads
        self._upgrades = upgrades
        self._operations = operations
        self._waiting: list[tuple[ControlClient, Look]] = []
        self._questions = 0
        self._told: dict[int, Said] = {}  # what the pump said, by the question's number
        self._files: dict[int, int] = {}  # where it writes that
        self._until: dict[int, float] = {}
        self._commands: dict[str, Callable[[ControlRequest, float], Said | Look]] = {
            "status": lambda _, now: self._asked("status", now, status_of(self._tree, now)),
            "workers": lambda _, now: self._asked("workers", now, workers_of(self._tree, scoreboard, now)),
            "scoreboard": lambda _, now: self._rows(now),
            "connections": lambda _, now: self._asked("connections", now, {}),
            "leases": lambda _, now: self._asked("leases", now, {}),
            "reload": self._reload,
            "upgrade": self._upgrade,
            "reopen": self._reopen,
            "stop": self._stop,
            "scale": self._scale,
        }

    def receive(self, now: float) -> None:
        """What clients ask for, is begun."""
        self.socket.receive(now)
        for client, line in self.socket.requests():
            try:
                request = decode_request(line)
            except ValueError as error:
                client.say(failed(str(error)))
                continue
            said = self._commands[request.command](request, now)
            if isinstance(said, dict):
                client.say(said)
            else:
                client.is_waiting = True
                self._waiting.append((client, said))

    def respond(self, now: float) -> None:
        """Say what is known by now."""
        for client, look in list(self._waiting):
            if (said := look(now)) is not None:
                client.is_waiting = False
                client.say(said)
                self._waiting.remove((client, look))
        self.socket.flush(now)

    # --- commands

    def _reload(self, _: ControlRequest, _now: float) -> Said | Look:
        if self._tree.phase not in (Phase.STARTING, Phase.SERVING):
            return failed(f"The server is {self._tree.phase.value}; nothing is reloaded.")
        if self._upgrades.is_under_way:
            return failed("An upgrade is under way, which reads settings and code again anyway.")
        self._reloads.request("halfsyncctl reload")
        return self._reload_ended

    def _reload_ended(self, _now: float) -> Said | None:
        if self._tree.phase not in (Phase.STARTING, Phase.SERVING):
            return failed(f"The server is {self._tree.phase.value}; the reload is given up.")
        if not self._reloads.is_over:
            return None
        return failed(" ".join(self._reloads.failures)) if self._reloads.failures else done()

    def _upgrade(self, _: ControlRequest, now: float) -> Said | Look:
        sentence = self._upgrades.request("halfsyncctl upgrade", now)
        return failed(sentence) if sentence else self._upgrade_ended

    def _upgrade_ended(self, _now: float) -> Said | None:
        if self._upgrades.is_under_way:
            return None
        if self._upgrades.failure:
            return failed(self._upgrades.failure)
        return done(process=self._upgrades.process, version=self._upgrades.version)

    def _reopen(self, _: ControlRequest, _now: float) -> Said:
        wrong = self._operations.reopen_logs("halfsyncctl reopen")
        return failed(" ".join(wrong)) if wrong else done()

    def _stop(self, request: ControlRequest, now: float) -> Said:
        self._operations.stop(now, "halfsyncctl stop", at_once=request.at_once)
        return done(graceful_timeout=0.0 if request.at_once else self._tree.settings.graceful_timeout)

    def _scale(self, request: ControlRequest, _now: float) -> Said:
        number = request.number
        if number is None or not 1 <= number <= MOST_WORKERS:
            return failed(f"scale needs a number from 1 to {MOST_WORKERS}.")
        there = [pool for pool in self._tree.pools if pool.has_application and pool.current.size]
        found = [pool for pool in there if request.pool in (None, pool.name, pool.planned.target)]
        if not found:
            names = ", ".join(dict.fromkeys(pool.name for pool in there)) or "none"
            return failed(f"There is no application {request.pool!r}; there is {names}.")
        for pool in found:
            pool.scale_to(number)
            log("info", f"halfsyncctl scale: {pool.name}: {number} worker processes from now on.")
        return done(pools=[{"pool": pool.name, "size": pool.current.size} for pool in found])

    # --- what the pump knows

    def _asked(self, what: str, now: float, ours: Said) -> Said | Look:
        """Have the pump say what it knows of this, and put it beside what we know."""
        if self._serving_pump() is None:
            return done(**ours, pump=None) if ours else failed("The pump does not serve now.")

        def respond(_now: float, told: Said | None) -> Said:
            if told is None:
                told = {"error": "The pump did not respond."}
            if ours:
                return done(**ours, pump=told)
            return failed(told["error"]) if "error" in told else done(**told)

        try:
            return self._question(what, now + PUMP_TIMEOUT, respond)
        except OSError as error:
            return failed(f"The pump can't be asked now: {in_words(error)}.")

    def _rows(self, now: float) -> Said | Look:
        """The scoreboard, on which the pump writes first what runs at this moment, if it can."""

        def respond(now: float, _told: Said | None) -> Said:
            return done(processes=rows_of(self._tree, self._scoreboard, now))

        try:
            if self._serving_pump() is not None:
                return self._question("rows", now + ROWS_TIMEOUT, respond)
        except OSError:
            pass
        return respond(now, None)

    def _serving_pump(self) -> Child | None:
        pump = self._tree.pump
        return pump if pump is not None and pump.opened else None

    def _question(self, what: str, until: float, respond: Callable[[float, Said | None], Said]) -> Look:
        """To the pump, which serves. `respond` is given what it says; None if it does not by then. Raises
        OSError."""
        pump = self._tree.pump
        assert pump is not None
        file = os.memfd_create("described", os.MFD_CLOEXEC)
        try:
            copy = os.dup(file)
        except OSError:
            os.close(file)
            raise
        self._questions += 1
        number, asked = self._questions, pump.id
        self._files[number] = file
        self._until[number] = until
        pump.order(orders.Describe(number, what), (copy,))

        def look(now: float) -> Said | None:
            there = self._tree.pump
            if number not in self._told and now < until and there is not None and there.id == asked:
                return None
            os.close(self._files.pop(number))
            del self._until[number]
            return respond(now, self._told.pop(number, None))

        return look

    @property
    def due(self) -> float:
        """When the next question is given up (monotonic seconds)."""
        return min(self._until.values(), default=NEVER)

    def described(self, number: int) -> None:
        """The pump has written what it was asked."""
        file = self._files.get(number)
        if file is None:
            return
        try:
            told = msgspec.json.decode(os.pread(file, os.fstat(file).st_size, 0))
            self._told[number] = told if isinstance(told, dict) else {}
        except (OSError, msgspec.MsgspecError):
            self._told[number] = {"error": "The pump is short of file descriptors."}
