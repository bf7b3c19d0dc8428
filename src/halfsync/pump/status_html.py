"""The status page as HTML: one file without scripts or other resources, for telephones and dark rooms too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from halfsync.pump.counts import Point

STYLE = """
:root { color-scheme: light dark; --line: #8884; --busy: #c60; --gone: #888; --bad: #c22; --idle: #282; }
@media (prefers-color-scheme: dark) { :root { --busy: #fa4; --bad: #f66; --idle: #6c6; } }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 70rem; margin: 1rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin: 1.5rem 0 .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top; }
th { font-weight: 600; } tr { border-bottom: 1px solid var(--line); } .n { text-align: right; }
.board { font: 16px/1.2 ui-monospace, monospace; word-break: break-all; letter-spacing: .1em; }
.W { color: var(--busy); font-weight: 700; } .G, .\\. { color: var(--gone); }
.\\! { color: var(--bad); } ._ { color: var(--idle); }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; } figcaption { font-size: .85rem; }
svg { width: 20rem; max-width: 100%; height: 5rem; border-bottom: 1px solid var(--line); }
polyline { fill: none; stroke: currentColor; stroke-width: 1.5; vector-effect: non-scaling-stroke; }
"""

LEGEND = "W handles a request, _ is idle, G finishes its last request, . is to be replaced, ! begins nothing"

OTHER_FORMS = (
    '<p>Other forms: <a href="?refresh=5">again every 5 seconds</a>, <a href="?json">JSON</a>, '
    '<a href="?auto">mod_status</a>, <a href="?metrics">Prometheus</a>.</p>'
)


def page(found: dict[str, Any], points: Sequence[Point], refresh: int) -> str:
    """`found` is what StatusPages.found gives; `refresh` in seconds, 0: never."""
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>halfsync status</title>',
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{again}',
        f"<style>{STYLE}</style></head><body>",
        f"<h1>halfsync {escape(found['version'])}</h1>",
        _summary(found),
        "<h2>Threads</h2>",
        *(_board(pool, found["workers"]) for pool in found["pools"]),
        f"<p>{escape(LEGEND)}.</p>",
        "<h2>The last 15 minutes</h2>",
        _plots(points),
        "<h2>Pools</h2>",
        _table(
            ("Pool", "Threads", "Busy", "Waiting", "Mean handler time", "Refused (503)"),
            (
                (p["pool"], p["threads"], p["busy"], p["waiting"], milliseconds(p["mean_handler_seconds"]),
                 sum(p["refused"].values()))
                for p in found["pools"]
            ),
        ),
        "<h2>Requests that run now</h2>",
        _running(found["workers"]),
        "<h2>Processes</h2>",
        _table(
            ("Process", "Id", "Memory"),
            [
                ("pump", found["pid"], size(found["memory"])),
                *((f"worker of {w['pool']}", w["pid"], size(w["memory"])) for w in found["workers"]),
            ],
        ),
        "<h2>Connections</h2>",
        _table(("State", "Number"), sorted(found["connections"].items())),
        "<h2>Responses</h2>",
        _table(
            ("Status", "Number"),
            [("from a lease", found["lease_hits"]), *_statuses(found["responses"])],
        ),
        f"<p>{found['leases']:,} leases, {size(found['lease_bytes'])}.</p>",
        OTHER_FORMS,
        "</body></html>",
    ]  # fmt: skip
    return "\n".join((*parts, ""))


def _summary(found: dict[str, Any]) -> str:
    return (
        f"<p>Running for {duration(found['uptime'])}. {found['requests']:,} responses, "
        f"{found['lease_hits']:,} of them repeated at once from a lease; {size(found['bytes_sent'])} sent; "
        f"{found['connections_accepted']:,} connections accepted.</p>"
    )


def _statuses(responses: dict[str, int]) -> list[tuple[str, int]]:
    return [("ended before one" if status == "0" else status, count) for status, count in responses.items()]


def _board(pool: dict[str, Any], workers: Iterable[dict[str, Any]]) -> str:
    rows = [
        "".join(f'<span class="{letter}">{letter}</span>' for letter in worker["letters"])
        for worker in workers
        if worker["pool"] == pool["pool"]
    ]
    return f"<p>{escape(pool['pool'])}</p><p class=board>{'<br>'.join(rows) or 'no workers'}</p>"


def _running(workers: Iterable[dict[str, Any]]) -> str:
    """The slowest first."""
    tasks = [
        (task["seconds"], task.get("client", ""), task["request"], worker["pool"], worker["pid"])
        for worker in workers
        for task in worker["tasks"]
        if task["seconds"] is not None
    ]
    tasks.sort(key=lambda task: -task[0])
    if not tasks:
        return "<p>None.</p>"
    rows = [(f"{seconds:.1f} s", *more) for seconds, *more in tasks[:50]]
    return _table(("For", "Client", "Request", "Pool", "Worker"), rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>"]
    lines += [f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows]
    return f"<div class=wide><table>{''.join(lines)}</table></div>"


def _cell(value: object) -> str:
    return f"<td class=n>{value:,}</td>" if isinstance(value, int) else f"<td>{escape(str(value))}</td>"


# --- plots


def _plots(points: Sequence[Point]) -> str:
    if len(points) < 2:
        return "<p>There is too little yet to be plotted: a point is added every 5 seconds.</p>"
    shown: list[tuple[str, list[float], Callable[[float], str]]] = [
        ("Responses a second", [one.requests for one in points], lambda value: f"{value:,.0f}"),
        ("Sent a second", [one.bytes_sent for one in points], lambda value: size(int(value))),
        ("Handler time, median", [one.median for one in points], milliseconds),
        ("Handler time, 99 %", [one.p99 for one in points], milliseconds),
    ]
    return f"<div class=plots>{''.join(_plot(*one) for one in shown)}</div>"


def _plot(title: str, values: Sequence[float], text: Callable[[float], str]) -> str:
    most = max(values)
    steps = len(values) - 1
    heights = (39 - 38 * value / (most or 1) for value in values)
    line = " ".join(f"{100 * index / steps:.1f},{height:.1f}" for index, height in enumerate(heights))
    said = f"{title}: {text(values[-1])}; at most {text(most)}"
    return (
        f'<figure><svg viewBox="0 0 100 40" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(said)}"><polyline points="{line}"/></svg>'
        f"<figcaption>{escape(said)}</figcaption></figure>"
    )


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms"


def size(count: int) -> str:
    """ "512 B", "1.5 MiB"."""
    amount, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{amount:.0f} {units[0]}" if units[0] == "B" else f"{amount:.1f} {units[0]}"


def duration(seconds: float) -> str:
    """ "3 d 2 h", "4 h 10 min", "3 min 5 s"."""
    minutes, whole = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole} s"
