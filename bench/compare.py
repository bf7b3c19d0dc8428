"""Interleaved rounds: the heart of every case that compares request rates."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench import load, report
from bench.servers import HOW_TO_INSTALL, CannotStart, Server, printable, version

WARM_UP = 1  # seconds, before the first round
LARGE = 1024 * 1024
"""Bytes of a response from which on its parts are counted."""


@dataclass(frozen=True)
class Pace:
    """How long to measure, and on which cores."""

    rounds: int
    seconds: int
    servers_core: set[int]
    load_core: set[int]


@dataclass
class Rates:
    """What the rounds gave for one server."""

    outcomes: list[load.Outcome] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return median(outcome.per_second for outcome in self.outcomes)

    @property
    def p99(self) -> float:
        return median(outcome.p99 for outcome in self.outcomes)

    @property
    def load_busy(self) -> float:
        """Near 1, wrk was the limit, and the server could have given more."""
        return median(outcome.load_busy for outcome in self.outcomes)

    @property
    def failed(self) -> int:
        return sum(outcome.failed for outcome in self.outcomes)


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder that nginx's workers, which drop root's rights, can read too."""
    with tempfile.TemporaryDirectory(prefix="halfsync-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def own_folder(place: Path, name: str) -> Path:
    folder = place / name
    folder.mkdir()
    return folder


def say_missing(names: list[str]) -> list[str]:
    """Name those of `names` that are not installed; the others are given back."""
    here = []
    for name in names:
        if version(name) is None:
            print(f"  {name} is missing ({HOW_TO_INSTALL[name]})")
        else:
            here.append(name)
    return here


@contextlib.contextmanager
def running(servers: list[Server], path: str, expect: bytes) -> Iterator[list[Server]]:
    """Start them all, show how, and stop them at the end. One that does not start is named, and
    left out."""
    up: list[Server] = []
    with contextlib.ExitStack() as stack:
        for server in servers:
            print(f"  $ {printable(server.argv)}")
            _show_notes(server)
            try:
                server.start(path, expect)
            except CannotStart as trouble:
                print(f"  {trouble}")
                continue
            stack.callback(server.stop)
            up.append(server)
        yield up


_noted: set[str] = set()


def _show_notes(server: Server) -> None:
    """Once in a run for each server: only ports and folders differ."""
    if server.name in _noted:
        return
    _noted.add(server.name)
    for note in server.notes:
        print(f"      {note}")


def measure(
    servers: list[Server],
    pace: Pace,
    path: str,
    script: Path | None = None,
    connections: int = 64,
    size: int = 0,
) -> dict[str, Rates]:
    """Load each in turn, `pace.rounds` times. `size`: bytes of a response."""
    rates = {server.name: Rates() for server in servers}
    for server in servers:
        load.wrk(server.url(path), WARM_UP, cores=pace.load_core, script=script)
    for turn in range(pace.rounds):
        first = turn % len(servers) if servers else 0
        for server in servers[first:] + servers[:first]:
            outcome = load.wrk(
                server.url(path), pace.seconds, connections=connections, cores=pace.load_core, script=script
            )
            rates[server.name].outcomes.append(outcome if size < LARGE else outcome.in_parts(size))
            server.empty_logs()
    return rates


def show(rates: dict[str, Rates], targets: dict[str, float]) -> None:
    """The table, then a verdict for each target whose peer was there."""
    ours = rates.get("halfsync")
    rows = []
    for name, rate in rates.items():
        least = min(outcome.per_second for outcome in rate.outcomes)
        most = max(outcome.per_second for outcome in rate.outcomes)
        ratio = f"{ours.per_second / rate.per_second:.2f}" if ours and name != "halfsync" else ""
        digits = 0 if rate.per_second >= 100 else 1
        row = [name, f"{rate.per_second:,.{digits}f}", f"{least:,.{digits}f} .. {most:,.{digits}f}"]
        row += [report.milliseconds(rate.p99), str(rate.failed), f"{rate.load_busy:.0%}", ratio]
        rows.append(row)
    print()
    print(report.table(["", "req/s", "least .. most", "p99", "failed", "wrk busy", "halfsync / it"], rows))
    print()
    if ours is None:
        print("  NOT MET  halfsync did not start")
        return
    if ours.failed:
        print(f"  NOT MET  halfsync failed {ours.failed} requests")
    for name, target in targets.items():
        if name in rates:
            ratio_now = ours.per_second / rates[name].per_second
            print(report.verdict(f"halfsync / {name}", ratio_now, target, at_least=True))
        else:
            print(f"  -        halfsync / {name}: not measured, target at least {target:g}")
