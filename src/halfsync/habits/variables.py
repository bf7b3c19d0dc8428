"""Environment variables of other servers: uvicorn's, which has one for each of its options, and SCRIPT_NAME,
which gunicorn reads."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence

import msgspec

from halfsync.habits.options import Understood, own_value, understood
from halfsync.habits.parsing import Parsed, own_settings
from halfsync.habits.rows import UVICORN
from halfsync.habits.table import TABLE
from halfsync.settings.sources import Layer

PREFIX = "UVICORN_"
APP = "UVICORN_APP"

_SHARED = (
    *("--reload", "--reload-dir", "--reload-include", "--reload-exclude", "--workers", "--log-config"),
    *("--log-level", "--forwarded-allow-ips", "--root-path", "--backlog", "--ssl-version", "--ssl-ciphers"),
    *("--interface", "--loop", "--lifespan", "--limit-concurrency", "--ws-max-size", "--ws-ping-interval"),
    *("--ws-ping-timeout", "--ws-per-message-deflate"),
)
"""Options of uvicorn that are ours or gunicorn's, too."""

_PLURAL = {
    "reload_dirs": "reload_dir",
    "reload_includes": "reload_include",
    "reload_excludes": "reload_exclude",
    "headers": "header",
}
"""Of options that may be given several times; the variables hold several values."""

_OWN_SWITCHES = {"--reload", "--ws-per-message-deflate"}
_SWITCHES = {*_OWN_SWITCHES, *(flag for row in TABLE if row.is_switch for flag in row.flags)}
_FLAGS = {*_SHARED, *(flag for row in TABLE if row.server == UVICORN for flag in row.flags)}
_ON = ("1", "true", "t", "yes", "y", "on")


class Said(msgspec.Struct, frozen=True):
    """What one variable says; host and port together."""

    layer: Layer
    implied: Layer
    foreign: Understood


def of_uvicorn(environment: Mapping[str, str], parse: Callable[[list[str]], Parsed]) -> list[Said]:
    """Raises SettingError."""
    variables = [name for name, text in environment.items() if _means_something(name, text)]
    address = [name for name in variables if name in ("UVICORN_HOST", "UVICORN_PORT")]
    groups = [address] if address else []
    groups += [[name] for name in variables if name not in address]
    return [_said(names, environment, parse) for names in groups]


def _means_something(variable: str, text: str) -> bool:
    """(Kubernetes sets UVICORN_PORT=tcp://... where a service is called so; that is none of uvicorn's.)"""
    return _flag(variable) in _FLAGS and bool(text.strip()) and not text.startswith("tcp://")


def _flag(variable: str) -> str:
    """ "--log-level" of UVICORN_LOG_LEVEL; "" if it is none of those variables."""
    if not variable.startswith(PREFIX):
        return ""
    name = variable.removeprefix(PREFIX).lower()
    return "--" + _PLURAL.get(name, name).replace("_", "-")


def _said(
    variables: Sequence[str], environment: Mapping[str, str], parse: Callable[[list[str]], Parsed]
) -> Said:
    arguments = [word for name in variables for word in _words(name, environment[name])]
    where = "Environment variable " if len(variables) == 1 else "Environment variables "
    where += " and ".join(variables)
    options = parse(arguments)
    foreign = understood(options, environment, where)
    own = {name: own_value(name, options[name]) for name in own_settings(options)}
    spelled = {**dict.fromkeys(own, where), **foreign.spelled}
    origin = where[0].lower() + where[1:]
    return Said(Layer(origin, {**foreign.given, **own}, spelled), Layer(origin, foreign.implied), foreign)


def _words(variable: str, text: str) -> list[str]:
    """As words of a command line."""
    flag = _flag(variable)
    if flag in _SWITCHES:
        off = "--no-" + flag[2:]
        if text.strip().lower() in _ON:
            return [flag]
        return [off] if off in _FLAGS or flag in _OWN_SWITCHES else []
    if variable.removeprefix(PREFIX).lower() not in _PLURAL:
        return [f"{flag}={text}"]
    values = text.split(os.pathsep) if flag == "--reload-dir" else text.split()
    return [f"{flag}={value}" for value in values]


def about_script_name(environment: Mapping[str, str], env: Sequence[str]) -> list[str]:
    """A sentence, if gunicorn would serve the application under a path. `env`: the setting."""
    values = [pair.partition("=")[2] for pair in env if pair.startswith("SCRIPT_NAME=")]
    path = (values or [environment.get("SCRIPT_NAME", "")])[-1]
    if not re.fullmatch(r"(?:/[\w.~-]+)+/?", path):
        return []
    instead = f"{path.rstrip('/')}=module:app"
    return [
        f"SCRIPT_NAME={path} in the environment has no effect: mount the application under it: {instead}."
    ]
