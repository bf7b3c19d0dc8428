"""What the pump knows of its connections, workers and leases, for those who ask through the parent.

It is put together when somebody asks, so it costs nothing until then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import chain, islice
from typing import Any

import msgspec

from halfsync.pump.connection import Connection, Exchange
from halfsync.pump.loop import Pump
from halfsync.pump.pools.task_rows import describe_tasks
from halfsync.pump.pools.workers import LOG_BATCH, Pool, Worker
from halfsync.scoreboard.counts import TOTAL_NS
from halfsync.scoreboard.scoreboard import TaskRow
from halfsync.wire.thread_rows import paired

MOST = 2000
"""Connections or leases that are listed, and tasks of a worker, of which one with an event loop may have
10,000: to list one takes some 3 µs, in which nobody is served."""


def describe(pump: Pump, what: str) -> bytes:
    """JSON."""
    return msgspec.json.encode(_WHAT[what](pump))


def status(pump: Pump) -> dict[str, Any]:
    everybody = pump.connections.values()
    return {
        "connections": Counter(conn.state.name.lower() for conn in everybody),
        "requests_in_flight": Counter(
            one.exchange.state.name.lower() for one in _exchanging(pump) if one.exchange is not None
        ),
        "leases": len(pump.leases.table),
        "lease_bytes": pump.leases.held,
        "log_records": len(pump.access.records) + len(pump.access.under_way),
        "pools": [_pool(pool) for pool in pump.pools.pools],
    }


def workers(pump: Pump) -> dict[str, Any]:
    return {
        "workers": [
            {"id": worker.id, "pid": worker.pid, "pool": worker.pool.name, "tasks": tasks_of(pump, worker)}
            for worker in pump.pools.workers.values()
        ]
    }


def rows(pump: Pump) -> dict[str, Any]:
    """Nothing: what runs now is written on the scoreboard, which else is done twice a second."""
    for worker in pump.pools.workers.values():
        describe_tasks(pump.scoreboard, worker)
    return {}


def connections(pump: Pump) -> dict[str, Any]:
    found = list(_exchanging(pump))
    return {
        "total": len(found),
        "connections": [_connection(pump, conn) for conn in found[:MOST]],
    }


def leases(pump: Pump) -> dict[str, Any]:
    now = pump.clock.now
    living = [
        (key, leased)
        for key, variants in pump.leases.table.items()
        for leased in variants.by_values.values()
        if leased.expires > now
    ]
    found = [
        {
            "address": pump.plan.listeners[key[0]].address,
            "method": _text(key[1]),
            "host": _text(key[2]),
            "target": _text(key[3]),
            "status": leased.status,
            "length": leased.length,
            "seconds": round(leased.expires - now, 3),
            "is_file": leased.file is not None,
        }
        for key, leased in living[:MOST]
    ]
    return {"total": len(living), "bytes": pump.leases.held, "leases": found}


def _exchanging(pump: Pump) -> chain[Connection]:
    """Connections, and the streams of those that carry several."""
    return chain(pump.connections.values(), pump.endings.streams)


def _connection(pump: Pump, conn: Connection) -> dict[str, Any]:
    said: dict[str, Any] = {
        "client": conn.origin.client or "unix",
        "port": conn.origin.client_port,
        "address": pump.plan.listeners[conn.origin.listener].address,
        "state": conn.state.name.lower(),
        "requests": conn.request_count,
    }
    exchange = conn.exchange
    if exchange is not None:
        said |= {
            "exchange": exchange.state.name.lower(),
            "request": exchange.request_line,
            "seconds": round(pump.clock.now - conn.first_byte, 3),
        }
    return said


def _pool(pool: Pool) -> dict[str, Any]:
    living = [worker for worker in pool.workers if not worker.retiring]
    return {
        "pool": pool.name,
        "waiting": pool.waiting,
        "overloaded": pool.is_overloaded,
        "concurrency_limit": pool.concurrency_limit,
        "threads": sum(worker.threads for worker in living),
        "busy": sum(min(worker.threads, worker.outstanding) for worker in living),
        "mean_handler_seconds": round(pool.mean_ns / 1e9, 6) if pool.counts.words[TOTAL_NS] else 0.0,
        "refused": pool.counts.refused,
    }


def tasks_of(pump: Pump, worker: Worker) -> list[dict[str, Any]]:
    """What it has, the oldest first: what was handed over before the others."""
    return [_task(pump, worker, number) for number in islice(worker.owners, MOST)]


def _task(pump: Pump, worker: Worker, number: int) -> dict[str, Any]:
    begun, owner = worker.begun(number), worker.owners[number]
    task: dict[str, Any] = {"seconds": round((pump.clock.now_ns - begun) / 1e9, 3) if begun else None}
    if isinstance(owner, Exchange):
        task |= {"request": owner.request_line, "host": _text(owner.head.host)}
        if owner.conn is not None:
            task["client"] = owner.conn.origin.client or "unix"
    elif owner is LOG_BATCH:
        task["request"] = "access log"
    elif (row := _row(pump, worker, number)) is not None:
        task |= {"request": f"{row.request} (given up)", "host": row.host, "client": row.client}
    else:
        task["request"] = "given up"
    return task


def _row(pump: Pump, worker: Worker, number: int) -> TaskRow | None:
    """What the scoreboard says of a task whose request has its response, or has gone elsewhere."""
    row = worker.described.get(number)
    return None if row is None else pump.scoreboard.task(row)


def slots_of(pump: Pump, worker: Worker) -> list[dict[str, Any]]:
    """What each of its threads does: a letter, nearly as mod_status has them, and for how long. W works; _
    waits for a request; G works, and its worker is to be replaced; "." is idle there; ! is idle in a worker
    that begins nothing. (A worker with an event loop has no rows of threads.)"""
    working, waiting = ("G", ".") if worker.retiring else ("W", "!" if worker.stalled else "_")
    numbers = [number for number in islice(worker.owners, MOST) if worker.begun(number)]
    found = []
    rows = worker.thread_rows
    for row, task in zip(rows, paired(rows, list(map(worker.begun, numbers))), strict=True):
        seconds = round(max(0.0, (pump.clock.now_ns - row.since_ns) / 1e9), 3) if row.since_ns else None
        slot: dict[str, Any] = {
            "letter": waiting if task is None else working,
            "seconds": seconds,
            "requests": row.request_count,
            "bytes": row.response_bytes,
        }
        found.append(slot if task is None else slot | _task(pump, worker, numbers[task]))
    return found


_WHAT: dict[str, Callable[[Pump], dict[str, Any]]] = {
    "status": status,
    "workers": workers,
    "rows": rows,
    "connections": connections,
    "leases": leases,
}


def _text(data: bytes) -> str:
    return data.decode("latin-1")[:200]
