"""The status page as HTML: one file that loads nothing, for telephones and dark rooms too.

All of it is there without scripts. The one script that there is asks for the page again every few seconds,
and puts what it gets in the place of what is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from halfsync.pump.status.look import PAGE_STYLE, SCRIPT
from halfsync.pump.status.plots import plot
from halfsync.scoreboard.counts import Point

LETTERS = {
    "W": ("W", "handles a request"),
    "_": ("idle", "is idle"),
    "G": ("G", "handles its last request: its worker is to be replaced"),
    ".": ("gone", "is idle, in a worker that is to be replaced"),
    "!": ("bad", "is idle, in a worker that begins nothing"),
}
"""Class, and what it means."""

QUARTER = 900.0
"""Seconds that are plotted."""
SOON = 14 * 86400.0
"""Seconds before a certificate's expiry from which on it is marked."""

OTHER_FORMS = (
    '<p>Other forms: <a href="?refresh=5">again every 5 seconds</a>, <a href="?json">JSON</a>, '
    '<a href="?auto">mod_status</a>, <a href="?metrics">Prometheus</a>.</p>'
)


def page(found: dict[str, Any], points: Sequence[Point], now: float, refresh: int) -> str:
    """`found` is what StatusPages.found gives; `now`: monotonic; `refresh` in seconds, 0: never."""
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    workers = found["workers"]
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>halfsync status</title>',
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{again}',
        f"<style>{PAGE_STYLE}</style></head><body>",
        f'<h1>halfsync {escape(found["version"])}</h1><p id="live"></p><main>',
        _summary(found),
        "<h2>Threads</h2>",
        *(_board(pool, workers) for pool in found["pools"]),
        _legend(),
        _by_thread(workers),
        "<h2>The last 15 minutes</h2>",
        _plots(points, now),
        "<h2>The slowest requests that run now</h2>",
        _running(workers),
        "<h2>Pools and queues</h2>",
        _table(
            ("Pool", "Threads", "Busy", "Waiting", "Mean handler time", "Refused (503)", ""),
            (
                (
                    p["pool"], p["threads"], p["busy"], p["waiting"],
                    milliseconds(p["mean_handler_seconds"]), sum(p["refused"].values()),
                    Alarm(_overload(p)),
                )
                for p in found["pools"]
            ),
        ),
        "<h2>Processes</h2>",
        _processes(found["processes"]),
        "<h2>Connections</h2>",
        _table(("State", "Number"), sorted(found["connections"].items())),
        "<h2>Closed connections</h2>",
        _table(("Reason", "Number"), _by_number(found["connections_closed"])),
        "<h2>Responses</h2>",
        _table(("Status", "Number"), [("from a lease", found["lease_hits"]), *_statuses(found["responses"])]),
        "<h2>Refused requests</h2>",
        _table(("Reason", "Number"), _by_number(found["refused"])) if found["refused"] else "<p>None.</p>",
        "<h2>Leases</h2>",
        _leases(found),
        *_certificates(found["certificates"]),
        OTHER_FORMS,
        f"</main><script>{SCRIPT}</script></body></html>",
    ]  # fmt: skip
    return "\n".join((*parts, ""))


def _summary(found: dict[str, Any]) -> str:
    return (
        f"<p>Running for {duration(found['uptime'])}, generation {found['generation']}. "
        f"{found['requests']:,} responses; {size(found['bytes_sent'])} sent; "
        f"{found['connections_accepted']:,} connections accepted, "
        f"{sum(found['connections'].values()):,} open.</p>"
    )


def _overload(pool: dict[str, Any]) -> str:
    limit = pool["concurrency_limit"]
    if not pool["overloaded"]:
        return ""
    return "overloaded" if limit is None else f"overloaded, {limit} at once"


def _by_number(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda one: -one[1])


def _statuses(responses: dict[str, int]) -> list[tuple[str, int]]:
    return [("ended before one" if status == "0" else status, count) for status, count in responses.items()]


# --- threads


def _board(pool: dict[str, Any], workers: Iterable[dict[str, Any]]) -> str:
    rows = [_letters(worker) for worker in workers if worker["pool"] == pool["pool"]]
    return f"<p>{escape(pool['pool'])}</p><p class=board>{'<br>'.join(rows) or 'no workers'}</p>"


def _letters(worker: dict[str, Any]) -> str:
    """In the order of its threads; of an event loop, what runs the longest comes first."""
    slots = worker["slots"] or _slots_of_loop(worker)
    found = []
    for slot in slots:
        said = f"{slot['request']} for {slot['seconds']:.1f} s" if "request" in slot else ""
        title = f' title="{escape(said)}"' if said else ""
        found.append(f'<b class="{LETTERS[slot["letter"]][0]}"{title}>{slot["letter"]}</b>')
    shown = sum(letter in "WG" for letter in worker["letters"])
    more = f" and {worker['busy'] - shown:,} more" if worker["busy"] > shown else ""
    return "".join(found) + more


def _slots_of_loop(worker: dict[str, Any]) -> list[dict[str, Any]]:
    running = iter([task for task in worker["tasks"] if task["seconds"] is not None])
    return [
        {"letter": letter} | (next(running, {}) if letter in "WG" else {}) for letter in worker["letters"]
    ]


def _by_thread(workers: Iterable[dict[str, Any]]) -> str:
    rows = [
        (
            worker["pool"], str(worker["pid"]), number, slot["letter"],
            "" if slot["seconds"] is None else duration(slot["seconds"]),
            slot["requests"], Size(slot["bytes"]), slot.get("request", ""),
        )
        for worker in workers
        for number, slot in enumerate(worker["slots"], 1)
    ]  # fmt: skip
    if not rows:
        return ""
    heads = ("Pool", "Worker", "Thread", "", "For", "Requests", "Bodies", "Request")
    return f"<details id=threads><summary>As a table</summary>{_table(heads, rows)}</details>"


def _legend() -> str:
    items = (
        f'<li><b class="{name}">{letter}</b> {meaning}</li>' for letter, (name, meaning) in LETTERS.items()
    )
    return f"<ul class=legend>{''.join(items)}</ul>"


def _running(workers: Iterable[dict[str, Any]]) -> str:
    tasks = [
        (
            task["seconds"], task.get("client", ""), task.get("host", ""), task["request"],
            worker["pool"], str(worker["pid"]),
        )
        for worker in workers
        for task in worker["tasks"]
        if task["seconds"] is not None
    ]  # fmt: skip
    tasks.sort(key=lambda task: -task[0])
    if not tasks:
        return "<p>None.</p>"
    rows = [(f"{seconds:.1f} s", *more) for seconds, *more in tasks[:50]]
    return _table(("For", "Client", "Host", "Request", "Pool", "Worker"), rows)


# --- tables


def _processes(processes: Iterable[dict[str, Any]]) -> str:
    rows = [
        (
            one["role"], one.get("pool", ""), str(one["pid"] or ""), one.get("generation", ""), one["state"],
            duration(one["age"]), Size(one["memory"]), one.get("requests", ""), Size(one.get("bytes", -1)),
        )
        for one in processes
    ]  # fmt: skip
    heads = ("Process", "Pool", "Id", "Generation", "State", "Age", "Memory", "Requests", "Bodies")
    return _table(heads, rows)


def _leases(found: dict[str, Any]) -> str:
    hits, misses = found["lease_hits"] + found["lease_slow_hits"], found["lease_misses"]
    part = f" ({100 * hits / (hits + misses):.1f} %)" if hits + misses else ""
    return (
        f"<p>{hits:,} responses came from a lease{part}, {misses:,} from a worker that granted one. "
        f"{found['leases']:,} leases are held, {size(found['lease_bytes'])}.</p>"
    )


def _certificates(certificates: Sequence[dict[str, Any]]) -> list[str]:
    if not certificates:
        return []
    rows = [
        (one["site"] or "default", ", ".join(one["hosts"]) or "all", one["expires"], Left(one["seconds"]))
        for one in certificates
    ]
    return ["<h2>Certificates</h2>", _table(("Site", "Hosts", "Expires", "In"), rows)]


class Size(int):
    """Bytes; -1: nothing is said."""


class Left(float):
    """Seconds until a certificate expires."""


class Alarm(str):
    """Marked."""

    __slots__ = ()


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>"]
    lines += [f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows]
    return f"<div class=wide><table>{''.join(lines)}</table></div>"


def _cell(value: object) -> str:
    if isinstance(value, Size):
        return f"<td class=n>{size(value) if value >= 0 else ''}</td>"
    if isinstance(value, Left):
        said = f"{duration(value)}" if value > 0 else "it has expired"
        return f"<td{' class=alarm' if value < SOON else ''}>{said}</td>"
    if isinstance(value, Alarm):
        return f"<td class=alarm>{escape(value)}</td>"
    return f"<td class=n>{value:,}</td>" if isinstance(value, int) else f"<td>{escape(str(value))}</td>"


# --- plots


def _plots(points: Sequence[Point], now: float) -> str:
    if not points:
        return "<p>There is too little yet to be plotted: a point is added every 5 seconds.</p>"
    shown: list[tuple[str, list[tuple[str, list[float]]], Callable[[float], str]]] = [
        ("Responses a second", [("", [one.requests for one in points])], count),
        ("Sent a second", [("", [one.bytes_sent for one in points])], size),
        (
            "Time in handlers",
            [
                ("median", [one.median for one in points]),
                ("90 %", [one.p90 for one in points]),
                ("99 %", [one.p99 for one in points]),
            ],
            short_time,
        ),
    ]
    ages = [points[0].at - points[0].seconds - now, *(one.at - now for one in points)]
    return f"<div class=plots>{''.join(_plot(*one, ages) for one in shown)}</div>{_by_minute(points, now)}"


def _plot(
    title: str, lines: list[tuple[str, list[float]]], text: Callable[[float], str], ages: list[float]
) -> str:
    x_axis = [(-QUARTER, "15 min ago"), (-600.0, "10"), (-300.0, "5"), (0.0, "now")]
    drawn = plot(
        title,
        [(name, list(zip(ages, [values[0], *values], strict=True))) for name, values in lines],
        text,
        x_axis,
        1024 if text is size else 1000,
    )
    said = [
        (f'<span class="key key{number}"></span> {escape(name)} ' if name else "")
        + f"{escape(text(values[-1]))}, at most {escape(text(max(values)))}"
        for number, (name, values) in enumerate(lines)
    ]
    return f"<figure>{drawn}<figcaption>{escape(title)}: {'; '.join(said)}</figcaption></figure>"


def _by_minute(points: Sequence[Point], now: float) -> str:
    """The same as a table."""
    minutes: dict[int, list[Point]] = {}
    for one in points:
        minutes.setdefault(int((now - one.at) // 60), []).append(one)
    rows = []
    for age, found in sorted(minutes.items()):
        seconds = sum(one.seconds for one in found)
        rows.append(
            (
                f"{age} to {age + 1} min",
                count(sum(one.requests * one.seconds for one in found) / seconds),
                size(sum(one.bytes_sent * one.seconds for one in found) / seconds),
                *(short_time(max(getattr(one, name) for one in found)) for name in ("median", "p90", "p99")),
            )
        )
    heads = (
        "Ago",
        "Responses a second",
        "Sent a second",
        "Median, at most",
        "90 %, at most",
        "99 %, at most",
    )
    return f"<details id=minutes><summary>As a table</summary>{_table(heads, rows)}</details>"


# --- words


def count(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def short_time(seconds: float) -> str:
    """ "20 µs", "1.5 ms", "2 s"."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if (amount := seconds * factor) >= 1 or unit == "µs":
            break
    return f"{amount:.0f} {unit}" if amount >= 10 or amount == int(amount) else f"{amount:.1f} {unit}"


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms"


def size(number: float) -> str:
    """ "512 B", "1.5 MiB"."""
    amount, units = float(number), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{amount:.0f} {units[0]}" if units[0] == "B" or amount >= 100 else f"{amount:.1f} {units[0]}"


def duration(seconds: float) -> str:
    """ "3 d 2 h", "4 h 10 min", "3 min 5 s"."""
    minutes, whole = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole} s"
