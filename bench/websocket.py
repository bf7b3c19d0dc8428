"""Echoes over 64 WebSockets, beside uvicorn (httptools, uvloop, websockets) and granian. One worker each."""

from __future__ import annotations

import json
import subprocess
import sys

from bench import asgi_apps, asgi_cases, compare, servers
from bench.compare import Pace, Rates
from bench.load import CannotLoad, Outcome

CONNECTIONS = 64
WARM_UP = 1


def small(pace: Pace) -> None:
    """WebSocket echoes of 32 bytes, 64 connections"""
    _compare(pace, 32, {"uvicorn": 1.5, "granian": 1.5})


def medium(pace: Pace) -> None:
    """WebSocket echoes of 4 KiB, 64 connections"""
    _compare(pace, 4096, {"uvicorn": 1.5, "granian": 1.5})


def _compare(pace: Pace, size: int, targets: dict[str, float]) -> None:
    app = "bench.asgi_apps:echo"
    with compare.workplace() as place:
        with compare.running(asgi_cases.chosen_servers(place, pace, app), "/", asgi_apps.HELLO) as up:
            rates = _measure(up, pace, size)
        compare.show(rates, targets)


def _measure(up: list[servers.Server], pace: Pace, size: int) -> dict[str, Rates]:
    rates = {server.name: Rates() for server in up}
    for server in up:
        _load(server, pace, size, WARM_UP)
    for turn in range(pace.rounds):
        first = turn % len(up) if up else 0
        for server in up[first:] + up[:first]:
            rates[server.name].outcomes.append(_load(server, pace, size, pace.seconds))
            server.empty_logs()
    return rates


def _load(server: servers.Server, pace: Pace, size: int, seconds: int) -> Outcome:
    argv = [sys.executable, "-m", "bench.websocket_load"]
    argv += [str(server.port), str(size), str(seconds), str(CONNECTIONS)]
    if pace.load_core:
        argv = ["taskset", "--cpu-list", ",".join(map(str, sorted(pace.load_core))), *argv]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode != 0:
        raise CannotLoad(done.stderr.strip())
    found = json.loads(done.stdout)
    return Outcome(found["count"], found["count"] / found["seconds"], found["p99"], 0, found["busy"])
