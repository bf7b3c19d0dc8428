"""What is to be served: the settings worked out into routes, pools and listeners.

Made once, in the parent, before the first fork; every process inherits it and none changes it.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import unquote

from halfsync import __version__
from halfsync.folders import here_in_words
from halfsync.seen_files import SeenFile
from halfsync.settings.errors import SettingError
from halfsync.settings.table import Settings
from halfsync.settings.targets import FOR_FILES, Target

BUILT_IN = 0
"""Index of the built-in pool."""


class Kind(Enum):
    WSGI = "wsgi"
    FILES = "files"


@dataclass(frozen=True, slots=True)
class FileRules:
    """How the files of a route are served."""

    lease: float = 0.0  # seconds
    cache_control: str = ""
    immutable: bool = False  # hashed names get a Cache-Control for ever
    precompressed: bool = False  # .br, .zst and .gz beside a file are sent in its place
    fallback: str = ""  # sent in place of what is not there; within the folder
    is_file: bool = False  # the target is one file


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """One row of the route table: a path prefix and what answers under it."""

    prefix: str  # "/static", or "" for the root; never a trailing slash; percent-decoded
    target: str  # as the user wrote it: "app:app", "app:create_app()", "./static"
    kind: Kind
    pool: int  # index into Plan.pools
    files: FileRules = FileRules()


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """A pool as planned: worker processes of one kind. The first is the built-in one: files and the log."""

    name: str  # "built-in", or the application's target
    target: str | None  # None: no application code is imported
    processes: int  # 0: a reload has removed it
    threads: int


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket and what is said of it.

    A reload leaves each where it is in Plan.listeners: connections that were accepted there know it by its
    index."""

    address: str  # "127.0.0.1:8000" or "unix:/run/app.sock", as bound
    host: str  # SERVER_NAME when the request has no Host; "" on a unix socket
    port: int  # 0 on a unix socket
    socket: socket.socket
    is_removed: bool = False  # a reload took it out of `bind`
    bound_as: str = ""  # in `bind`; "" if a service manager made it


@dataclass(frozen=True, slots=True)
class Plan:
    """A reload that changes something makes another one, with the next number."""

    settings: Settings
    routes: tuple[RoutePlan, ...]  # longest prefix first
    pools: tuple[PoolPlan, ...]
    listeners: tuple[Listener, ...]
    number: int = 0
    configuration: tuple[SeenFile, ...] = field(default=(), compare=False)
    """The files that it was read from, by whole paths; the pump is sent none."""

    @property
    def addresses(self) -> list[str]:
        """Where it is served: "http://127.0.0.1:8000", "unix:/run/app.sock"."""
        found = [one.address for one in self.listeners if not one.is_removed]
        return [one if one.startswith("unix:") else f"http://{one}" for one in found]

    @property
    def in_words(self) -> str:
        what = ", ".join(f"{route.prefix or '/'} = {route.target}" for route in self.routes)
        return f"halfsync {__version__} serves {what} at {', '.join(self.addresses)}"


# --- from what the user wrote ---------------------------------------------------------------------


def target_of(argument: str) -> Target:
    """The route that a positional argument `[PATH=]TARGET` means. Raises SettingError."""
    where = f"Target {argument!r}"
    path, equals, target = argument.partition("=")
    if argument.startswith("/") and equals:
        return Target(path, target, where)
    if equals and not _APPLICATION.match(argument) and not argument.startswith("."):
        raise SettingError(f"{where}: the path of a route starts with '/', such as '/{path}={target}'.")
    return Target("/", argument, where)


def work_out(
    settings: Settings, targets: Sequence[Target]
) -> tuple[tuple[RoutePlan, ...], tuple[PoolPlan, ...]]:
    """Routes (longest prefix first) and pools. Looks at folders, imports nothing. Raises
    SettingError if a target is not to be found, or is mounted where another is."""
    if not targets:
        raise SettingError(
            "There is nothing to serve: name an application such as app:app, or a folder such as ./public."
        )
    pools = [PoolPlan("built-in", None, 1, settings.builtin_threads)]
    routes: dict[str, RoutePlan] = {}
    for target in targets:
        prefix = _prefix(target)
        if prefix in routes:
            there = routes[prefix].target
            raise SettingError(
                f"{target.where}: {there!r} is mounted at '{prefix or '/'}' already; to have both, "
                f"write a path before one of them, such as /path={target.target}."
            )
        routes[prefix] = _route(prefix, target, settings, pools)
    ordered = sorted(routes.values(), key=lambda route: (-len(route.prefix), route.prefix))
    return tuple(ordered), tuple(pools)


_APPLICATION = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d][\w.]*(?:\(.*\))?$", re.DOTALL)
"""`package.module:name`, `module:name.attribute` or `module:factory(...)`. Whether it can be
imported, a worker finds out."""

_MODULE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*$")
"""A module alone, if there is no folder or file of that name: its `application` or `app` is meant."""


def _is_application(target: Target) -> bool:
    name = target.target
    if _APPLICATION.match(name):
        return True
    if not _MODULE.match(name) or name.endswith(".py"):
        return False
    if not os.path.exists(name):
        return True
    if os.path.exists(os.path.join(name, "__init__.py")):
        raise SettingError(
            f"{target.where}: {name!r} is a Python package. For an application in it, name that, such as "
            f"{name}:app; to serve the folder's files, say ./{name}."
        )
    return False


def _route(prefix: str, target: Target, settings: Settings, pools: list[PoolPlan]) -> RoutePlan:
    if _is_application(target):
        for name in FOR_FILES:
            if getattr(target, name) is not None:
                raise SettingError(f"{target.where}: {name} is for files; an application says its own.")
        return RoutePlan(prefix, target.target, Kind.WSGI, _pool(target, settings, pools))
    _check_files(target)
    if target.workers is not None or target.threads is not None:
        raise SettingError(f"{target.where}: workers and threads are for applications, not for files.")
    return RoutePlan(prefix, target.target, Kind.FILES, BUILT_IN, _file_rules(target, settings))


def _file_rules(target: Target, settings: Settings) -> FileRules:
    """The target's own, and for the rest those of the settings."""
    own = {name: getattr(target, name) for name in FOR_FILES}
    rules = {name: getattr(settings, name) if value is None else value for name, value in own.items()}
    is_file = not os.path.isdir(target.target)
    if is_file and target.fallback:
        raise SettingError(f"{target.where}: fallback is for folders, and {target.target!r} is one file.")
    rules["fallback"] = "" if is_file else rules["fallback"].strip("/")
    if target.fallback and not os.path.isfile(os.path.join(target.target, rules["fallback"])):
        raise SettingError(f"{target.where}: fallback: there is no file {target.fallback!r} in that folder.")
    return FileRules(**rules, is_file=is_file)


def _pool(target: Target, settings: Settings, pools: list[PoolPlan]) -> int:
    """The application's pool. Routes of one application share it, unless they ask for sizes of
    their own that differ."""
    pool = PoolPlan(
        target.target, target.target, target.workers or settings.workers, target.threads or settings.threads
    )
    if pool not in pools:
        pools.append(pool)
    return pools.index(pool)


def _prefix(target: Target) -> str:
    """The route's path without the trailing slash, percent-decoded."""
    if not target.path.startswith("/"):
        raise SettingError(f"{target.where}: the path of a route starts with '/', not {target.path!r}.")
    prefix = unquote(target.path).removesuffix("/")
    begin = target.path.partition("?")[0].partition("#")[0]
    segments = prefix.split("/")[1:]
    if begin != target.path or any(one in ("", ".", "..") for one in segments) or _UNFIT.search(prefix):
        raise SettingError(f"{target.where}: no request has a path that begins with {target.path!r}.")
    return prefix


_UNFIT = re.compile(r"[\x00-\x1f\x7f\ufffd]")


def _check_files(target: Target) -> None:
    where, name = target.where, target.target
    if not name:
        raise SettingError(
            f"{where} is empty: name an application such as app:app, or a folder such as ./public."
        )
    if os.path.isdir(name):
        if not os.access(name, os.R_OK | os.X_OK):
            raise SettingError(f"{where}: the folder {name!r} may not be read by this user.")
        return
    if os.path.isfile(name) and not name.endswith(".py"):
        if not os.access(name, os.R_OK):
            raise SettingError(f"{where}: the file {name!r} may not be read by this user.")
        return
    if name.endswith(".py"):
        raise SettingError(
            f"{where}: an application is named with its module and without .py, such as {_guess(name)}:app."
        )
    if os.path.exists(name):
        raise SettingError(f"{where}: {name!r} is neither a folder nor a regular file.")
    module, colon, attribute = name.partition(":")
    if colon and "/" in module and _APPLICATION.match(f"{_guess(module)}:{attribute}"):
        meant = f"{_guess(module)}:{attribute}"
        raise SettingError(f"{where}: an application is named with its module, with dots, such as {meant}.")
    if "/" in name or name.startswith("."):
        raise SettingError(f"{where}: there is no folder or file {name!r} in {here_in_words()}.")
    raise SettingError(
        f"{where}: {name!r} is neither a folder or file in {here_in_words()} nor of the form module:name or "
        "module:factory()."
    )


def _guess(name: str) -> str:
    """The module that a file is."""
    parts = os.path.relpath(name).removesuffix(".py").split("/")
    return ".".join(parts) if all(part.isidentifier() for part in parts) else "module"
