"""How fast the number of workers follows the load: a hundred requests at once, each of which keeps a thread.

A server with one worker of one thread, which may grow to a hundred, gets a hundred requests that do not end.
Ten times a second its status page is asked how many threads are busy. Once with `preload`, where a worker
more is a fork, and once without, where it imports its application. Apache 1.3 began with one process a second
as well; the line beside them is that, calculated.

`python -m bench.ramp --plot FILE` writes the plot.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.request import urlopen

from bench import apps, compare, report, servers
from halfsync.pump.status.plots import Line, plot, standalone

BUSY = 100
TARGET = 20.0
"""Seconds. Growth by 1, 2, 4, ... 32 a second takes eight on an idle machine; Apache 1.3 took 95."""
GIVE_UP = 60.0
SETTINGS = """
min_workers = 1
max_workers = {busy}
min_spare = 1
threads = 1
preload = {preload}
graceful_timeout = 1
[routes]
"/" = "bench.apps:hold"
"/status" = {{ status_page = true }}
"""

Curve = list[tuple[float, float]]
"""Seconds, and busy threads."""


def ramp(folder: Path, *, preload: bool, busy: int = BUSY) -> Curve:
    """Until all are busy, or for GIVE_UP seconds."""
    (folder / "settings.toml").write_text(SETTINGS.format(busy=busy, preload=str(preload).lower()))
    server = servers.halfsync(folder, log=False, options=("-c", str(folder / "settings.toml")))
    server.command = [word for word in server.command if word not in ("--workers", "1", "--threads", "8")]
    with compare.running([server], "/", apps.HELLO) as up, contextlib.ExitStack() as clients:
        if not up:
            return []
        began = time.monotonic()
        for number in range(busy):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            client.sendall(b"GET /hold/%d HTTP/1.1\r\nHost: ramp\r\n\r\n" % number)
        curve: Curve = [(0.0, 0.0)]
        while curve[-1][1] < busy and curve[-1][0] < GIVE_UP:
            time.sleep(0.1)
            curve.append((time.monotonic() - began, _busy(server)))
        return curve


def _busy(server: servers.Server) -> float:
    with urlopen(server.url("/status?json"), timeout=10) as answer:
        pools = json.load(answer)["pools"]
    return float(next(pool["busy"] for pool in pools if pool["pool"] == "bench.apps:hold"))


def apache(busy: int = BUSY) -> Curve:
    """One a second, after Apache had 5 at its start (StartServers); it took 95 seconds to a hundred."""
    return [(float(second), float(min(busy, 5 + second))) for second in range(busy - 4)]


def curves(place: Path) -> dict[str, Curve]:
    return {
        name: ramp(compare.own_folder(place, folder), preload=folder == "preload")
        for name, folder in (("with preload", "preload"), ("without", "imports"))
    }


def seconds_to(curve: Curve, busy: float) -> float:
    """inf: it never was."""
    return next((second for second, there in curve if there >= busy), float("inf"))


def drawn(found: dict[str, Curve]) -> str:
    """As an SVG file."""
    lines: list[Line] = [*found.items(), ("Apache 1.3: one process a second", apache())]
    x_axis = [(0.0, "0 s"), *((float(second), str(second)) for second in range(20, 100, 20)), (95.0, "95 s")]
    return standalone(plot("busy threads", lines, lambda value: f"{value:.0f}", x_axis, has_legend=True))


def case(pace: compare.Pace) -> None:
    """from 1 to 100 busy threads, one in each process, with min_workers = 1 and max_workers = 100"""
    del pace  # it takes as long as it takes
    with compare.workplace() as place:
        show(curves(place))


def show(found: dict[str, Curve]) -> None:
    at = (2, 10, 50, 100)
    rows = [
        [name, *(f"{seconds_to(curve, busy):.1f} s" for busy in at)]
        for name, curve in {**found, "Apache 1.3 (calculated)": apache()}.items()
    ]
    print()
    print(report.table(["busy threads", *map(str, at)], rows))
    print()
    seconds = seconds_to(found["with preload"], BUSY)
    print(report.verdict("to 100 busy threads", seconds, TARGET, " s", at_least=False))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.ramp", description=__doc__)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the plot there (SVG)")
    chosen = parser.parse_args(arguments)
    with compare.workplace() as place:
        found = curves(place)
    show(found)
    if chosen.plot is not None:
        chosen.plot.write_text(drawn(found), "utf-8")


if __name__ == "__main__":
    main()
