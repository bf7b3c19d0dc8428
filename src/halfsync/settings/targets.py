"""What is to be served, as the user wrote it: targets, and the table [routes] of the TOML file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeGuard

from halfsync.settings.errors import SettingError
from halfsync.settings.rows import BY_NAME
from halfsync.settings.values import from_toml


@dataclass(frozen=True)
class Target:
    """What to serve somewhere, as the user wrote it; `plan` finds out what it is."""

    path: str  # "/" or "/static"
    target: str  # "app:app", "./static"
    where: str  # for sentences: "target '/static=./static'", "halfsync.toml: routes.'/static'"
    workers: int | None = None
    threads: int | None = None
    lease: float | None = None
    cache_control: str | None = None
    immutable: bool | None = None
    precompressed: bool | None = None
    fallback: str | None = None


FOR_FILES = ("lease", "cache_control", "immutable", "precompressed", "fallback")
OWN_OF_ROUTES = ("workers", "threads", *FOR_FILES)
"""The settings that a route may have a value of its own for."""

_ROUTE_KEYS = ("target", *OWN_OF_ROUTES)


def toml_targets(table: Any, file: str) -> tuple[Target, ...]:
    """The targets in the table [routes] of a TOML file. Raises SettingError."""
    if not isinstance(table, dict):
        raise SettingError(f'{file}: routes must be a table, such as [routes] with "/" = "app:app" in it.')
    return tuple(_toml_target(path, value, f"{file}: routes.{path!r}") for path, value in table.items())


def _toml_target(path: str, value: Any, where: str) -> Target:
    if isinstance(value, str):
        return Target(path, value, where)
    if not isinstance(value, dict) or not _is_text(value.get("target")):
        raise SettingError(f'{where} must be a target such as "app:app", or a table with target = "app:app".')
    for key in value:
        if key not in _ROUTE_KEYS:
            raise SettingError(f"{where} has no setting {key}{did_you_mean(key, _ROUTE_KEYS)}")
    own = {key: from_toml(BY_NAME[key], value[key], f"{where}: {key}") for key in value if key != "target"}
    check_files_texts(f"{where}: ", own.get("cache_control", ""), own.get("fallback", ""))
    return Target(path, value["target"], where, **own)


def _is_text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str)


def check_files_texts(where: str, cache_control: str, fallback: str) -> None:
    """Raises SettingError. `where` stands before the setting's name."""
    if not re.fullmatch("[ -~]*", cache_control):
        raise SettingError(f"{where}cache_control must be plain ASCII, not {cache_control!r}.")
    parts = fallback.strip("/").split("/")
    if fallback and any(part == "" or part.startswith(".") for part in parts):
        raise SettingError(f"{where}fallback must be a file within the folder, not {fallback!r}.")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that is not known."""
    close = difflib.get_close_matches(name.replace("-", "_"), list(known), n=1)
    return f"; did you mean {close[0]}?" if close else "."
