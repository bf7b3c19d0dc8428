"""One fault run, from the server's start to the verdict."""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from faults.judge import Judge, is_right
from faults.load import Load
from faults.requests import NORMAL
from faults.server import TARGET, CannotStart, Server

NORMAL_WITHIN = 10.0
"""Seconds after a fault within which everything must be right again."""
PROBE = 2.0
"""Seconds that a request may take to count as normal service."""
CALM = 0.3
"""Seconds of undisturbed load before a fault, so that leases and connections are there."""


@dataclass(frozen=True)
class Fault:
    """One line of the table. `happen` is called while the load runs, and returns when the fault is over."""

    name: str
    happen: Callable[[Scene], None]
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    limits: dict[int, int] = field(default_factory=dict)  # setrlimit(2)
    target: str = TARGET
    honest: frozenset[int] = frozenset()  # statuses beside 5xx that are explained by the fault
    loses_log: bool = False  # records may be lost: who held them was killed, or they had nowhere to go
    ends: bool = False  # the server is stopped by it
    harmless: bool = False  # every response must be right: here an error is WRONG, too
    quick: bool = False  # in the short form, too
    unless: Callable[[], str] = str  # why it cannot be run here; empty: it can

    @property
    def sentence(self) -> str:
        return " ".join((self.happen.__doc__ or "").split())


class Scene:
    """What a fault has to work with."""

    def __init__(self, server: Server, seconds: float, seed: int, judge: Judge, load: Load) -> None:
        self.server = server
        self.judge = judge
        self.load = load
        self.chance = random.Random(seed)
        self.seconds = seconds
        self.until = time.monotonic() + seconds

    def lasts(self, pause: float) -> bool:
        """Wait for `pause` seconds, or until the fault's time is over; whether there is more of it."""
        left = self.until - time.monotonic()
        time.sleep(max(0.0, min(pause, left)))
        return left > pause

    def pick(self, pids: list[int]) -> int | None:
        return self.chance.choice(pids) if pids else None


@dataclass
class Verdict:
    fault: Fault
    judge: Judge
    normal_after: float = 0.0  # seconds from the fault's end to normal service
    skipped: str = ""
    log: str = ""  # the end of the error log, where something is wrong

    @property
    def is_good(self) -> bool:
        return not (self.judge.wrong or self.judge.hung)


def run(fault: Fault, seconds: float, clients: int, seed: int) -> Verdict:
    """Raises CannotStart."""
    judge = Judge(fault.honest)
    verdict = Verdict(fault, judge, skipped=fault.unless())
    if verdict.skipped:
        return verdict
    server = Server(fault.options, fault.environment, fault.limits, fault.target)
    try:
        _run(fault, server, verdict, seconds, clients, seed)
        if not verdict.is_good:
            verdict.log = server.log()[-6000:]
    finally:
        server.remove()
    return verdict


def _run(fault: Fault, server: Server, verdict: Verdict, seconds: float, clients: int, seed: int) -> None:
    judge = verdict.judge
    load = Load(server.port, judge, clients, seed)
    load.start()
    try:
        time.sleep(CALM)
        fault.happen(Scene(server, seconds, seed, judge, load))
        if not fault.ends:
            _await_normal(server, load, verdict)
    except CannotStart as trouble:
        judge.is_wrong(f"the fault: {str(trouble).splitlines()[0]}")
    except Exception:  # noqa: BLE001 (the verdict tells)
        judge.is_wrong(f"the harness: {traceback.format_exc()}")
    finally:
        load.stop()
    if not fault.ends and server.process.poll() is not None:
        judge.is_wrong("the server is gone")
    if ending := server.stop():
        judge.is_hung(ending)
    if fault.harmless and judge.right != judge.requests:
        judge.is_wrong(f"{judge.requests - judge.right} requests failed, though this fault harms none")
    judge.check_effects(server.effects)
    if not fault.loses_log:
        judge.check_log(server.folder)
    if "a bug, survived" in server.log():
        judge.is_wrong("the parent met a bug")


def _await_normal(server: Server, load: Load, verdict: Verdict) -> None:
    """Under load still: every kind of request is right, the one after the other."""
    maker = load.maker()
    over = time.monotonic()
    while not all(is_right(server.port, make(maker), PROBE) for make in NORMAL):
        if time.monotonic() - over > NORMAL_WITHIN:
            verdict.judge.is_hung(f"no normal service within {NORMAL_WITHIN:g} s after the fault")
            break
        time.sleep(0.02)
    verdict.normal_after = time.monotonic() - over


class Aside:
    """Something that goes on beside a fault, in threads of its own, until the fault is over."""

    def __init__(self, works: list[Callable[[Callable[[], bool]], None]]) -> None:
        """Each of `works` is called again and again, with a function that says whether it is to go on."""
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._live, args=(work,), daemon=True) for work in works]

    def __enter__(self) -> Aside:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(5.0)

    def _live(self, work: Callable[[Callable[[], bool]], None]) -> None:
        while not self._over.is_set():
            try:
                work(lambda: not self._over.is_set())
            except OSError:
                self._over.wait(0.05)
