"""What is to be served: the settings worked out into mounts, pools and listeners.

Made once, in the parent, before the first fork; every process inherits it and none changes it.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from enum import Enum

from halfsync.settings import Settings


class Kind(Enum):
    WSGI = "wsgi"
    FILES = "files"


@dataclass(frozen=True, slots=True)
class Mount:
    """One row of the route table: a path prefix and what answers under it."""

    prefix: str  # "/static", or "" for the root; never a trailing slash; percent-decoded
    target: str  # as the user wrote it: "app:app", "app:create_app()", "./static"
    kind: Kind
    pool: int  # index into Plan.pools
    lease: float  # seconds; for files


@dataclass(frozen=True, slots=True)
class Pool:
    """Worker processes of one kind. Pool 0 is the built-in one: files and the log."""

    name: str  # "built-in", or the application's target
    target: str | None  # None: no application code is imported
    processes: int
    threads: int


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket and what is said of it."""

    address: str  # "127.0.0.1:8000" or "unix:/run/app.sock", as bound
    host: str  # SERVER_NAME when the request has no Host; "" on a unix socket
    port: int  # 0 on a unix socket
    socket: socket.socket


@dataclass(frozen=True, slots=True)
class Plan:
    settings: Settings
    mounts: tuple[Mount, ...]  # longest prefix first
    pools: tuple[Pool, ...]
    listeners: tuple[Listener, ...]
