"""What the server says, as text for people: lines, and tables of columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

Said = dict[str, Any]


def _status(said: Said) -> Iterator[str]:
    yield f"halfsync {said['version']}, process {said['pid']}, {said['phase']} for {duration(said['uptime'])}"
    yield f"at {', '.join(said['addresses'])}"
    pump = said["pump"] or {}
    if "error" in pump or not pump:
        yield pump.get("error", "There is no pump that serves.")
    loads = {one["pool"]: one for one in pump.get("pools", ())}
    yield ""
    yield from table(
        ("POOL", "WORKERS", "THREADS", "BUSY", "WAITING", "HANDLER"),
        [_pool(pool, loads.get(pool["pool"], {})) for pool in said["pools"]],
    )
    for title, name in (("connections", "connections"), ("requests in flight", "requests_in_flight")):
        if name in pump:
            yield ""
            counted = ", ".join(f"{count} {state}" for state, count in sorted(pump[name].items()))
            yield f"{title}: {counted or 'none'}"
    if "leases" in pump:
        yield f"leases: {pump['leases']}, {size(pump['lease_bytes'])}"


def _pool(pool: Said, load: Said) -> Sequence[object]:
    workers = f"{pool['working']} of {pool['size']}"
    if "least" in pool:
        workers += f" ({pool['least']} to {pool['most']})"
    for state in ("starting", "retiring"):
        if pool[state]:
            workers += f", {pool[state]} {state}"
    mean = load.get("mean_handler_seconds")
    waiting = f"{load.get('waiting', '-')}{', overloaded' if load.get('overloaded') else ''}"
    if load.get("concurrency_limit") is not None:
        waiting += f", {load['concurrency_limit']} at once"
    return (
        pool["pool"], workers, load.get("threads", "-"), load.get("busy", "-"), waiting,
        "-" if mean is None else f"{1000 * mean:.1f} ms",
    )  # fmt: skip


def _workers(said: Said) -> Iterator[str]:
    tasks = {one["id"]: one["tasks"] for one in (said["pump"] or {}).get("workers", ())}
    rows: list[Sequence[object]] = []
    for one in said["processes"]:
        age = duration(one["age"]) if "age" in one else ""
        row = (one["pid"] or "-", one["role"], one.get("pool", ""), one.get("generation", ""), one["state"])
        rows.append((*row, age, size(one["memory"]), *_served(one), ""))
        for task in tasks.get(one.get("id"), ()):
            since = "not begun" if task["seconds"] is None else f"for {task['seconds']:.1f} s"
            rows.append(("",) * 9 + (f"{task['request']} {since}",))
    heads = ("PID", "ROLE", "POOL", "GENERATION", "STATE", "AGE", "MEMORY", "REQUESTS", "BODIES", "RUNS")
    yield from table(heads, rows)


def _served(one: Said) -> Sequence[object]:
    return (one["requests"], size(one["bytes"])) if "requests" in one else ("", "")


def _scoreboard(said: Said) -> Iterator[str]:
    rows: list[Sequence[object]] = []
    for one in said["processes"]:
        state = one.get("ending", one["state"])
        row = (one["pid"] or "-", one["role"], one.get("pool", ""), one.get("generation", ""), state)
        letters = "".join(slot["letter"] for slot in one.get("slots", ()))
        rows.append((*row, duration(one["seconds"]), size(one["memory"]), *_served(one), letters))
        if "slots" in one:
            rows += map(_thread, one["slots"])
        else:
            rows += [("",) * 9 + (_runs(task),) for task in one.get("tasks", ())]
    heads = ("PID", "ROLE", "POOL", "GENERATION", "STATE", "FOR", "MEMORY", "REQUESTS", "BODIES", "RUNS")
    yield from table(heads, rows)


def _thread(slot: Said) -> Sequence[object]:
    since = "" if slot["seconds"] is None else duration(slot["seconds"])
    runs = f"{slot['letter']} {_runs(slot) if 'request' in slot else ''}"
    return ("",) * 5 + (since, "", *_served(slot), runs.rstrip())


def _runs(task: Said) -> str:
    return f"{task['request']} at {task['host']} of {task['client']} for {task['seconds']:.1f} s"


def _connections(said: Said) -> Iterator[str]:
    found = said["connections"]
    rows = [
        (
            f"{one['client']}:{one['port']}", one["address"], one["state"], one["requests"],
            f"{one['exchange']} {one['request']} for {one['seconds']:.1f} s" if "exchange" in one else "",
        )
        for one in found
    ]  # fmt: skip
    yield from table(("CLIENT", "ADDRESS", "STATE", "REQUESTS", "NOW"), rows)
    yield from _left_out(len(found), said["total"])


def _leases(said: Said) -> Iterator[str]:
    found = said["leases"]
    rows = [
        (one["method"], one["host"] + one["target"], one["status"], size(one["length"]),
         "file" if one["is_file"] else "memory", f"{one['seconds']:.1f} s")
        for one in found
    ]  # fmt: skip
    yield from table(("METHOD", "TARGET", "STATUS", "SIZE", "FROM", "LEFT"), rows)
    yield from _left_out(len(found), said["total"])


def _left_out(shown: int, total: int) -> Iterator[str]:
    if shown < total:
        yield f"... and {total - shown} more"


def _scaled(said: Said) -> Iterator[str]:
    for one in said["pools"]:
        yield f"{one['pool']}: {one['size']} worker processes from now on."


def _stopping(said: Said) -> Iterator[str]:
    seconds = said["graceful_timeout"]
    yield f"Stopping; requests in flight may take {seconds:g} s." if seconds else "Stopping at once."


TEXTS: dict[str, Callable[[Said], Iterable[str]]] = {
    "status": _status,
    "workers": _workers,
    "scoreboard": _scoreboard,
    "connections": _connections,
    "leases": _leases,
    "reload": lambda _: ["Reloaded."],
    "upgrade": lambda said: [f"Upgraded: halfsync {said['version']} serves, as process {said['process']}."],
    "reopen": lambda _: ["The logs are reopened."],
    "scale": _scaled,
    "stop": _stopping,
}
"""By command: the response in lines."""


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Columns as wide as they must be."""
    texts = [[*heads], *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(heads))]
    return [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in texts
    ]


def size(count: int) -> str:
    """ "0", "512 B", "1.5 MiB"."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if amount >= 100 or unit == "B" else f"{amount:.1f} {unit}"


def duration(seconds: float) -> str:
    """ "12 s", "3 min 5 s", "4 h 10 min", "3 d 2 h"."""
    whole = int(seconds)
    for unit, size, less, smaller in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {less}"
    return f"{whole} s"
