"""Foreign options on the command line: hidden from the help, and translated into settings of ours."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import click
import msgspec

from halfsync.habits.rows import SYSLOG_TARGET as SYSLOG
from halfsync.habits.rows import Effect, Foreign
from halfsync.habits.table import TABLE
from halfsync.habits.worker_classes import threads_of
from halfsync.settings.errors import SettingError
from halfsync.settings.rows import BY_NAME, ROWS

OURS = {flag for row in ROWS for flag in row.flags} | {"-c", "--config", "--check-config", "--print-config"}


class Understood(msgspec.Struct):
    """What foreign options mean, as if it had been said with our own."""

    given: dict[str, Any] = msgspec.field(default_factory=dict)  # texts (lists of texts) by setting
    implied: dict[str, Any] = msgspec.field(default_factory=dict)  # the same, if nobody says another thing
    spelled: dict[str, str] = msgspec.field(default_factory=dict)  # how that was said, for sentences
    notes: list[str] = msgspec.field(default_factory=list)  # sentences
    is_factory: bool = False

    def take(self, setting: str, text: str, where: str) -> None:
        """A list grows; of others the last one counts."""
        self.spelled[setting] = where
        if not BY_NAME[setting].is_list:
            before = str(self.given.get(setting, ""))
            self.given[setting] = merged(before, text) if setting == "error_logfile" else text
            return
        parts = [text] if setting == "env" else [part.strip() for part in text.split(",") if part.strip()]
        said = self.given.get(setting, [])
        self.given[setting] = [*said, *(part for part in parts if part not in said)]


def merged(before: str, text: str) -> str:
    """gunicorn has an option for each part of what is said of syslog; and one that says that there is none
    (-) says nothing of a file."""
    if before and text == "-":
        return before
    if not (before.startswith(SYSLOG) and text.startswith(SYSLOG)):
        return text
    parts = (before.removeprefix(SYSLOG), text.removeprefix(SYSLOG))
    return SYSLOG + ",".join(filter(None, parts))


def _dest(row: Foreign) -> str:
    return "foreign" + re.sub(r"\W", "_", row.shown)


def _own_flags(row: Foreign) -> tuple[str, ...]:
    """Those that are no option of ours already."""
    return tuple(flag for flag in row.flags if flag not in OURS)


_BY_DEST = {_dest(row): row for row in TABLE if _own_flags(row)}


def click_options() -> list[click.Parameter]:
    """One for each row that has a spelling of its own."""
    return [_click_option(dest, row) for dest, row in _BY_DEST.items()]


def _click_option(dest: str, row: Foreign) -> click.Option:
    flags = _own_flags(row)
    if row.is_switch or (row.setting in BY_NAME and BY_NAME[row.setting].type is bool):
        return click.Option([dest, *flags], is_flag=True, default=None, hidden=True)
    return click.Option([dest, *flags], multiple=True, hidden=True)


def understood(
    options: Mapping[str, Any], environment: Mapping[str, str] = os.environ, where: str = ""
) -> Understood:
    """What the foreign ones among these parsed options mean. `where`: what to say in place of an option's
    name. Raises SettingError for one that can't be done here."""
    found = Understood()
    given = {
        _BY_DEST[dest].shown: (_BY_DEST[dest], value)
        for dest, value in options.items()
        if dest in _BY_DEST and value not in (None, ())
    }
    host, port = given.pop("--host", None), given.pop("--port", None)
    if host or port:
        address = _address(host and host[1][-1], port and port[1][-1], environment)
        found.take("bind", address, where or "--host and --port")
    for flag, (row, value) in given.items():
        for text in [row.means] if value is True else value:
            understand(row, where or flag, text, found)
    return found


_SAME_FLAG = {
    row.setting: row.translated
    for row in TABLE
    if row.translated is not None and row.does is Effect.MEANS and set(row.flags) & OURS
}


def own_value(setting: str, value: Any) -> Any:
    """The value of an option that other servers have too, and where some values are said in another way."""
    translated = _SAME_FLAG.get(setting)
    if translated is None:
        return value
    if isinstance(value, (list, tuple)):
        return [text for one in value if (text := translated(one))]
    return translated(value) if isinstance(value, str) else value


def understand(row: Foreign, where: str, text: str, found: Understood) -> None:
    """Add what this row means with this value. Raises SettingError."""
    if row.name == "worker_class":
        threads = threads_of(text, where)
        if threads:
            found.implied["threads"] = threads
        return
    if row.means == "()":
        found.is_factory = True
        return
    try:
        text = row.translated(text) if row.translated else text
    except ValueError as wrong:
        raise SettingError(f"{where}: {wrong}") from None
    if row.does is Effect.MEANS:
        found.take(row.setting, text, where)
    elif row.does is Effect.NOTHING:
        found.notes.append(f"{where} has no effect: {row.sentence}")
    elif row.translated is None:
        raise SettingError(f"{where}: {row.sentence}")


def _address(host: str | None, port: str | None, environment: Mapping[str, str]) -> str:
    """uvicorn's two halves. The port's default is PORT's, if that is set, as without them."""
    host = host or "127.0.0.1"
    shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{shown}:{port or environment.get('PORT') or '8000'}"


def called(targets: Iterable[str]) -> list[str]:
    """`--factory`: the targets with brackets, if they have none."""
    return [one if one.endswith(")") else f"{one}()" for one in targets]
