"""Which settings a reload does not change, and why. All others take effect at a reload."""

from __future__ import annotations

import msgspec

from halfsync.settings.table import Settings

NEEDS_RESTART = {
    "user": "the pump has given up its privileges",
    "group": "the pump has given up its privileges",
    "chdir": "paths on the command line start there",
    "env": "all processes inherit it",
    "name": "processes are named when they start",
    "pid": "the file is written at the start",
    "error_logfile": "all processes have it open",
    "spool_dir": "temporary files that are in use lie there",
    "preload": "templates are made or not at the start",
    "backlog": "it applies when a socket is made",
    "unix_mode": "it applies when a socket is made",
    "reuse_port": "it applies when a socket is made",
    "control_socket": "it is made at the start",
    "control_socket_mode": "it is made at the start",
    "reload": "the watcher starts with the server",
    "reload_dir": "the watcher starts with the server",
    "reload_include": "the watcher starts with the server",
    "reload_exclude": "the watcher starts with the server",
}
"""Setting -> why it can't change while the server runs."""


def kept(running: Settings, read: Settings) -> tuple[Settings, list[str]]:
    """`read`, but with what can't change as it is in `running`; a sentence for each of those that differ."""
    differ = [name for name in NEEDS_RESTART if getattr(read, name) != getattr(running, name)]
    notes = [f"{name} has changed, which needs a restart: {NEEDS_RESTART[name]}." for name in differ]
    return msgspec.structs.replace(read, **{name: getattr(running, name) for name in differ}), notes
