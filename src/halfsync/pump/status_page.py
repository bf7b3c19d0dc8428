"""The status page in its four forms: HTML, JSON, mod_status's text (?auto), and Prometheus's (/metrics).

All of it is put together when somebody asks (1 ms), from what the pump counts anyway and what stands in the
workers' scoreboards.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec

from halfsync import __version__
from halfsync.memory import resident
from halfsync.pump import overview
from halfsync.pump.connection import Exchange
from halfsync.pump.counts import BYTES_SENT, CONNECTIONS_ACCEPTED, LEASE_HITS, TOTAL_NS, History
from halfsync.pump.loop import Pump
from halfsync.pump.routes import below_prefix, target_parts
from halfsync.pump.status_html import page
from halfsync.pump.status_metrics import metrics
from halfsync.pump.workers import Worker
from halfsync.wire.refusals import Refusal

HTML = (
    b"Content-Type: text/html; charset=utf-8\r\n"
    b"Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n"
)
TEXT = b"Content-Type: text/plain; charset=utf-8\r\n"
JSON = b"Content-Type: application/json\r\n"
METRICS = b"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"

MOST_LETTERS = 128
"""Of a worker; more threads than that there are not."""


class StatusPages:
    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._history = History(pump.scoreboard.history)
        self._started = pump.scoreboard.header[0] / 1e9 or pump.clock.now
        pump.at_sweep.append(self._sweep)

    def _sweep(self) -> None:
        pump = self._pump
        self._history.sweep(pump.endings.counts, [pool.counts for pool in pump.pools.pools], pump.clock.now)

    def respond(self, kind: str, exchange: Exchange) -> tuple[int, bytes, bytes]:
        """See Pages."""
        if exchange.head.method not in (b"GET", b"HEAD"):
            raise Refusal(405, "This is only to be read.", close=exchange.head.body_size != 0)
        if kind != "status" and _below(exchange) != b"":
            raise Refusal(404, "Nothing is served under this path.", close=False)
        if kind == "healthy":
            return 200, TEXT, b"healthy\n"
        if kind == "ready":
            why_not = self._why_not_ready()
            return (503, TEXT, why_not.encode()) if why_not else (200, TEXT, b"ready\n")
        return self._status(exchange)

    def _status(self, exchange: Exchange) -> tuple[int, bytes, bytes]:
        form = _below(exchange) or target_parts(exchange.head.target)[1][1:].partition(b"&")[0]
        if form == b"metrics":
            return 200, METRICS, metrics(self.found()).encode()
        if form == b"json":
            return 200, JSON, msgspec.json.encode(self.found())
        if form == b"auto":
            return 200, TEXT, _auto(self.found()).encode()
        if form and not form.startswith(b"refresh"):
            raise Refusal(404, "The status page has the forms ?auto, ?json and ?metrics.", close=False)
        seconds = form.partition(b"=")[2]
        refresh = int(seconds) if seconds.isdigit() and len(seconds) < 6 else 0
        return 200, HTML, page(self.found(), self._history.points(), refresh).encode()

    def _why_not_ready(self) -> str:
        """A sentence; "" if it is."""
        if self._pump.draining:
            return "The server is stopping.\n"
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
            "requests": counts.requests,
            "lease_hits": counts.words[LEASE_HITS],
            "responses": {str(status): count for status, count in counts.statuses.items()},
            "refused": counts.refusals,
            "bytes_sent": counts.words[BYTES_SENT],
            "connections_accepted": counts.words[CONNECTIONS_ACCEPTED],
            "memory": resident(os.getpid()),
            **overview.status(pump),
            "workers": [self._worker(worker) for worker in pump.pools.workers.values()],
            "handlers": [
                {"pool": pool.name, "times": pool.counts.times, "seconds": pool.counts.words[TOTAL_NS] / 1e9}
                for pool in pump.pools.pools
            ],
        }

    def _worker(self, worker: Worker) -> dict[str, Any]:
        return {
            "pid": worker.pid,
            "pool": worker.pool.name,
            "threads": worker.threads,
            "letters": _letters(worker),
            "memory": resident(worker.pid),
            "tasks": overview.tasks_of(self._pump, worker),
        }


def _below(exchange: Exchange) -> bytes:
    """The path behind that of the route, without slashes at its ends."""
    assert exchange.route is not None
    return below_prefix(target_parts(exchange.head.target)[0], exchange.route.prefix).strip(b"/")


def _letters(worker: Worker) -> str:
    """One for each thread, nearly as mod_status has them: W works; _ waits for a request; G works, and its
    worker is to be replaced; "." is idle there; ! is idle in a worker that begins nothing. A worker with an
    event loop takes a thousand tasks: one letter for each that it has, and one for the places left."""
    busy = min(worker.threads, sum(worker.begun(number) > 0 for number in worker.owners))
    idle = "." if worker.retiring else "!" if worker.stalled else "_"
    left = min(worker.threads - busy, 1) if worker.is_loop else worker.threads - busy
    busy = min(busy, MOST_LETTERS)
    return ("G" if worker.retiring else "W") * busy + idle * left


def _auto(found: dict[str, Any]) -> str:
    """As mod_status's ?auto: for programs that read that."""
    uptime, requests, sent = found["uptime"], found["requests"], found["bytes_sent"]
    letters = "".join(worker["letters"] for worker in found["workers"])
    busy = letters.count("W") + letters.count("G")
    lines = {
        "ServerVersion": f"halfsync/{found['version']}",
        "ServerUptimeSeconds": int(uptime),
        "Uptime": int(uptime),
        "Total Accesses": requests,
        "Total kBytes": sent // 1024,
        "ReqPerSec": f"{requests / uptime:.6g}" if uptime else 0,
        "BytesPerSec": f"{sent / uptime:.6g}" if uptime else 0,
        "BytesPerReq": f"{sent / requests:.6g}" if requests else 0,
        "BusyWorkers": busy,
        "IdleWorkers": letters.count("_"),
        "Processes": len(found["workers"]),
        "ConnsTotal": sum(found["connections"].values()),
        "Scoreboard": letters,
    }
    return "".join(f"{name}: {value}\n" for name, value in lines.items())
