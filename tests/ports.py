"""Ports for tests that have to name one before anything listens there."""

from __future__ import annotations

import os
import random
import re
import socket
from pathlib import Path

LOWEST = 10_000
MOST_WORKERS = 64
"""Of pytest's. No two of them are given the same port."""


def free_port() -> int:
    """Not from the range that the kernel uses for sockets that don't name a port: another socket could be
    given this one before it is used. And a client that connects to such a port while nobody listens there may
    be given the same one for its own side, and be connected with itself."""
    ours = range(LOWEST + _worker(), _lowest_of_the_kernels(), MOST_WORKERS)
    for port in random.sample(ours, len(ours)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def free_ports(count: int) -> list[int]:
    """So many different ones."""
    found: dict[int, None] = {}
    while len(found) < count:
        found[free_port()] = None
    return list(found)


def _worker() -> int:
    """The number of this process of pytest's."""
    found = re.search(r"\d+", os.environ.get("PYTEST_XDIST_WORKER", ""))
    return int(found[0]) % MOST_WORKERS if found else MOST_WORKERS - 1


def _lowest_of_the_kernels() -> int:
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
