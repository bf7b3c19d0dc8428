"""The status page in its four forms: HTML, JSON, mod_status's text (?auto), and Prometheus's (/metrics).

All of it is put together when somebody asks (1 ms), from what the pump counts anyway and what stands in the
workers' scoreboards.
"""

from __future__ import annotations

import math
import os
import time
from typing import Any

import msgspec

from halfsync import __version__
from halfsync.pump.connection import Exchange
from halfsync.pump.loop import Pump
from halfsync.pump.pools.workers import Worker
from halfsync.pump.routes import below_prefix, target_parts
from halfsync.pump.status import overview
from halfsync.pump.status.auto import auto
from halfsync.pump.status.html import QUARTER, page
from halfsync.pump.status.look import POLICY
from halfsync.pump.status.metrics import metrics
from halfsync.scoreboard.counts import (
    BYTES_SENT,
    CONNECTIONS_ACCEPTED,
    LEASE_HITS,
    LEASE_MISSES,
    LEASE_SLOW_HITS,
    History,
)
from halfsync.scoreboard.scoreboard import PROCESSES
from halfsync.system.memory import resident
from halfsync.wire.closes import name_of
from halfsync.wire.refusals import Refusal

HTML = b"Content-Type: text/html; charset=utf-8\r\nContent-Security-Policy: " + POLICY.encode() + b"\r\n"
TEXT = b"Content-Type: text/plain; charset=utf-8\r\n"
JSON = b"Content-Type: application/json\r\n"
METRICS = b"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"

MOST_LETTERS = 128
"""Of a worker; more threads than that there are not."""

JOINING = 2.0
"""Seconds after a reload's switch, within which the new workers join. It takes milliseconds."""


class StatusPages:
    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._history = History(pump.scoreboard.history, pump.scoreboard.history_before)
        self._created = pump.clock.now
        pump.at_sweep.append(self._sweep)

    def _sweep(self) -> None:
        pump = self._pump
        if not pump.acceptor.has_started:
            return  # at an upgrade: what the version before has counted is not known yet
        self._history.sweep(pump.endings.counts, [pool.counts for pool in pump.pools.pools], pump.clock.now)

    def respond(self, kind: str, exchange: Exchange) -> tuple[int, bytes, bytes]:
        """See Pages."""
        if exchange.head.method not in (b"GET", b"HEAD"):
            has_body = exchange.head.body_size != 0
            raise Refusal(405, "This is only to be read.", close=has_body, allow="GET, HEAD")
        if kind != "status" and _below(exchange) != b"":
            raise Refusal(404, "Nothing is served under this path.", close=False)
        if kind == "healthy":
            return 200, TEXT, b"healthy\n"
        if kind == "ready":
            why_not = self._why_not_ready()
            return (503, TEXT, why_not.encode()) if why_not else (200, TEXT, b"ready\n")
        return self._status(exchange)

    @property
    def _started(self) -> float:
        """When the counters began, monotonic."""
        return self._pump.scoreboard.header[0] / 1e9 or self._created

    def _status(self, exchange: Exchange) -> tuple[int, bytes, bytes]:
        form = _below(exchange) or target_parts(exchange.head.target)[1][1:].partition(b"&")[0]
        if form == b"metrics":
            return 200, METRICS, metrics(self.found()).encode()
        if form == b"json":
            return 200, JSON, msgspec.json.encode(self.found())
        if form == b"auto":
            return 200, TEXT, auto(self.found()).encode()
        if form and not form.startswith(b"refresh"):
            raise Refusal(404, "The status page has the forms ?auto, ?json and ?metrics.", close=False)
        seconds = form.partition(b"=")[2]
        refresh = int(seconds) if seconds.isdigit() and len(seconds) < 6 else 0
        return 200, HTML, self._page(refresh).encode()

    def _page(self, refresh: int) -> str:
        now = self._pump.clock.now
        points = [one for one in self._history.points() if one.at >= now - QUARTER]
        return page(self.found(), points, now, refresh)

    def _why_not_ready(self) -> str:
        """A sentence; "" if it is."""
        if self._pump.draining.is_on:
            return "The server is stopping.\n"
        if self._pump.clock.now - self._pump.switched_at < JOINING:
            return ""  # the new workers are ready, or there would have been no switch
        for planned, pool in zip(self._pump.plan.pools, self._pump.pools.pools, strict=False):
            if planned.processes and not any(not (w.retiring or w.stalled) for w in pool.workers):
                return f"{pool.name} has no worker.\n"
        return ""

    def found(self) -> dict[str, Any]:
        """All that is shown, as JSON shows it."""
        pump = self._pump
        counts = pump.endings.counts
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime": round(pump.clock.now - self._started, 3),
            "generation": pump.plan.number,
            "requests": counts.requests,
            "lease_hits": counts.total(LEASE_HITS),
            "lease_slow_hits": counts.total(LEASE_SLOW_HITS),
            "lease_misses": counts.total(LEASE_MISSES),
            "responses": {str(status): count for status, count in counts.statuses.items()},
            "refused": counts.refusals,
            "bytes_sent": counts.total(BYTES_SENT),
            "connections_accepted": counts.total(CONNECTIONS_ACCEPTED),
            "connections_closed": {name_of(reason): count for reason, count in counts.closes.items()},
            "memory": resident(os.getpid()),
            **overview.status(pump),
            "workers": [self._worker(worker) for worker in pump.pools.workers.values()],
            "processes": self._processes(),
            "certificates": self._certificates(),
            "handlers": [
                {"pool": pool.name, "times": pool.counts.all_times, "seconds": pool.counts.total_ns / 1e9}
                for pool in pump.pools.pools
            ],
        }

    def _worker(self, worker: Worker) -> dict[str, Any]:
        slots = [] if worker.is_loop else overview.slots_of(self._pump, worker)
        letters = "".join(one["letter"] for one in slots)
        busy = _busy(worker) if worker.is_loop else sum(letter in "WG" for letter in letters)
        return {
            "pid": worker.pid,
            "pool": worker.pool.name,
            "threads": worker.threads,
            "busy": busy,
            "letters": _loop_letters(worker, busy) if worker.is_loop else letters,
            "memory": self._memory(worker),
            "tasks": overview.tasks_of(self._pump, worker),
            "slots": slots,
        }

    def _memory(self, worker: Worker) -> int:
        row = self._pump.scoreboard.process(worker.row) if worker.row >= 0 else None
        return resident(worker.pid) if row is None else row.memory

    def _processes(self) -> list[dict[str, Any]]:
        """The scoreboard's rows of those that live."""
        scoreboard, now = self._pump.scoreboard, self._pump.clock.now
        return [
            row.described(now, scoreboard.served(index))
            for index in range(PROCESSES)
            if (row := scoreboard.process(index)) is not None and not row.ending
        ]

    def _certificates(self) -> list[dict[str, Any]]:
        """One for each file."""
        certificates, wall = self._pump.plan.certificates, self._pump.clock.wall
        return [
            {
                "site": site.name,
                "hosts": site.hosts,
                "expires": time.strftime("%Y-%m-%d", time.gmtime(expires)),
                "seconds": math.floor(expires - wall),
            }
            for site in (certificates.sites if certificates is not None else ())
            for expires in site.expire
        ]


def _below(exchange: Exchange) -> bytes:
    """The path behind that of the route, without slashes at its ends."""
    assert exchange.route is not None
    return below_prefix(target_parts(exchange.head.target)[0], exchange.route.prefix).strip(b"/")


def _busy(worker: Worker) -> int:
    """The tasks that an event loop runs."""
    return min(worker.threads, sum(worker.begun(number) > 0 for number in worker.owners))


def _loop_letters(worker: Worker, busy: int) -> str:
    """Of a worker with an event loop, which takes thousands of tasks: one letter for each that it runs, up to
    MOST_LETTERS, and one for the places left. The letters are those of threads (see overview.slots_of)."""
    idle = "." if worker.retiring else "!" if worker.stalled else "_"
    left = min(worker.threads - busy, 1)
    return ("G" if worker.retiring else "W") * min(busy, MOST_LETTERS) + idle * left
