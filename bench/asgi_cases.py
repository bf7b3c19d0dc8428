"""ASGI applications, beside uvicorn (httptools, uvloop) and granian. One worker process each, one core."""

from __future__ import annotations

from pathlib import Path

from bench import asgi_apps, compare, servers
from bench.compare import Pace, own_folder


def hello(pace: Pace) -> None:
    """trivial ASGI application, one worker process, 64 kept connections"""
    targets = {"uvicorn": 1.3, "granian": 1.2}
    _compare(pace, "bench.asgi_apps:hello", asgi_apps.HELLO, targets)


def fastapi(pace: Pace) -> None:
    """a JSON endpoint of FastAPI, one worker process, 64 kept connections"""
    _compare(pace, "bench.asgi_apps:api", asgi_apps.JSON, {"uvicorn": 1.1})


def chunks(pace: Pace) -> None:
    """1 MiB in 64 pieces, 8 kept connections"""
    body = asgi_apps.CHUNK * asgi_apps.CHUNKS
    _compare(pace, "bench.asgi_apps:chunks", body, {}, connections=8)


def chosen_servers(place: Path, pace: Pace, app: str) -> list[servers.Server]:
    """halfsync with asyncio, and with uvloop if it is installed; then the peers that are."""
    chosen = [servers.halfsync(own_folder(place, "halfsync"), app, options=("--loop", "asyncio"))]
    if servers.version("uvloop") is not None:
        fast = servers.halfsync(own_folder(place, "uvloop"), app, options=("--loop", "uvloop"))
        fast.name = "halfsync-uvloop"
        chosen.append(fast)
    for name in compare.say_missing(["uvicorn", "granian"]):
        if name == "uvicorn":
            chosen.append(servers.uvicorn(own_folder(place, name), app))
        else:
            chosen.append(servers.granian(own_folder(place, name), app, None, interface="asgi"))
    for server in chosen:
        server.cores = pace.servers_core
    return chosen


def _compare(pace: Pace, app: str, body: bytes, targets: dict[str, float], connections: int = 64) -> None:
    with compare.workplace() as place:
        with compare.running(chosen_servers(place, pace, app), "/", body) as up:
            rates = compare.measure(up, pace, "/", None, connections)
        compare.show(rates, targets)
