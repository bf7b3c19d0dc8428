"""Echoes over 64 WebSockets, beside uvicorn (httptools, uvloop, websockets) and granian. One worker each.

uvicorn has two implementations of WebSockets with the `websockets` library: its own default, and the one that
was its default up to 0.49 (`--ws websockets`)."""

from __future__ import annotations

import json
import subprocess
import sys

from bench import asgi_apps, asgi_cases, compare, processes, report, servers
from bench.compare import Pace, Rates
from bench.load import CannotLoad, Outcome

CONNECTIONS = 64
WARM_UP = 1
FORMER = "uvicorn-0.49"
"""uvicorn with what was its default for WebSockets."""
TARGETS = {"uvicorn": 1.5, FORMER: 1.5, "granian": 1.5}


def small(pace: Pace) -> None:
    """WebSocket echoes of 32 bytes, 64 connections"""
    _compare(pace, 32)


def medium(pace: Pace) -> None:
    """WebSocket echoes of 4 KiB, 64 connections"""
    _compare(pace, 4096)


def _compare(pace: Pace, size: int) -> None:
    app = "bench.asgi_apps:echo"
    with compare.workplace() as place:
        chosen = asgi_cases.chosen_servers(place, pace, app)
        if any(server.name == "uvicorn" for server in chosen):
            former = servers.uvicorn(compare.own_folder(place, FORMER), app, "--ws", "websockets")
            former.name, former.cores = FORMER, pace.servers_core
            chosen.append(former)
        with compare.running(chosen, "/", asgi_apps.HELLO) as up:
            rates, used = _measure(up, pace, size)
        compare.show(rates, TARGETS)
        _show_used(rates, used)


def _measure(
    up: list[servers.Server], pace: Pace, size: int
) -> tuple[dict[str, Rates], dict[str, dict[str, float]]]:
    """The rates; and the processor seconds of each server, by the names of its processes."""
    rates = {server.name: Rates() for server in up}
    used: dict[str, dict[str, float]] = {server.name: {} for server in up}
    for server in up:
        _load(server, pace, size, WARM_UP)
    for turn in range(pace.rounds):
        first = turn % len(up) if up else 0
        for server in up[first:] + up[:first]:
            before = _processor_seconds(server)
            rates[server.name].outcomes.append(_load(server, pace, size, pace.seconds))
            for process, seconds in _processor_seconds(server).items():
                more = seconds - before.get(process, 0.0)
                used[server.name][process] = used[server.name].get(process, 0.0) + more
            server.empty_logs()
    return rates, used


def _processor_seconds(server: servers.Server) -> dict[str, float]:
    used: dict[str, float] = {}
    for pid in (server.pid, *processes.children(server.pid)):
        name = processes.command_name(pid)
        used[name] = used.get(name, 0.0) + processes.processor_seconds(pid)
    return used


def _show_used(rates: dict[str, Rates], used: dict[str, dict[str, float]]) -> None:
    """What an echo costs, all processes of a server together: steadier than the rates, which depend on the
    load's core too."""
    costs: dict[str, dict[str, float]] = {}
    for name, seconds in used.items():
        count = sum(outcome.requests for outcome in rates[name].outcomes)
        costs[name] = {process: 1e6 * spent / count for process, spent in seconds.items() if count}
    ours = sum(costs.get("halfsync", {}).values())
    rows = []
    for name, parts in costs.items():
        total = sum(parts.values())
        ratio = f"{total / ours:.2f}" if ours and name != "halfsync" else ""
        largest = ", ".join(f"{process} {cost:.1f}" for process, cost in parts.items() if cost >= 0.1)
        rows.append([name, f"{total:.1f}", ratio, largest])
    print()
    print(report.table(["", "µs an echo", "it / halfsync", "of which"], rows))
    print()


def _load(server: servers.Server, pace: Pace, size: int, seconds: int) -> Outcome:
    argv = [sys.executable, "-m", "bench.websocket_load"]
    argv += [str(server.port), str(size), str(seconds), str(CONNECTIONS)]
    if pace.load_core:
        argv = ["taskset", "--cpu-list", ",".join(map(str, sorted(pace.load_core))), *argv]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode != 0:
        raise CannotLoad(done.stderr.strip())
    found = json.loads(done.stdout)
    rate = found["count"] / found["seconds"]
    return Outcome(found["count"], rate, found["p99"], 0, found["seconds"], found["busy"])
