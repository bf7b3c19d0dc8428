"""Where values come from: the default, the TOML file, the environment, the command line.

The later ones win. `load` puts them together and remembers for each value where it came from. It reads
the file and nothing else: no import, no socket.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halfsync.settings.errors import SettingError
from halfsync.settings.rows import BY_NAME, PREFIX, ROWS, Row
from halfsync.settings.sites import SiteEntry, toml_sites
from halfsync.settings.table import Settings
from halfsync.settings.targets import Target, check_files_texts, did_you_mean, toml_targets
from halfsync.settings.values import checked, from_text, from_toml, octal


@dataclass(frozen=True)
class Loaded:
    """Settings, where each came from, and the routes and sites that the TOML file lists."""

    settings: Settings
    origins: Mapping[str, str]  # name -> "default", the file, "environment variable PORT", "command line"
    targets: tuple[Target, ...]  # routes of the default site
    sites: tuple[SiteEntry, ...] = ()


@dataclass(frozen=True)
class Layer:
    """What one place says: texts (lists of texts, booleans) by setting name, and how a setting is spelled
    there, if not as our own option."""

    origin: str
    values: Mapping[str, Any]
    spelled: Mapping[str, str] = field(default_factory=dict)

    def value(self, name: str) -> Any:
        """Checked. Raises SettingError."""
        row = BY_NAME[name]
        return _from_command_line(row, self.values[name], self.spelled.get(name, row.flags[-1]))


def load(
    command_line: Mapping[str, Any] | Layer,
    environment: Mapping[str, str],
    file: str | None,
    layers: Sequence[Layer] = (),
    other_names: Mapping[str, str] | None = None,
) -> Loaded:
    """Settings from all four places.

    `command_line` holds the texts (lists of texts, booleans) of the options that were given, by
    setting name. `file` is the TOML file's path. `layers` are further places: stronger than PORT and its
    like, weaker than our own variables. `other_names`: what other servers call a setting, for the sentence
    about a name in the file that is none. Raises SettingError.
    """
    if not isinstance(command_line, Layer):
        command_line = Layer("command line", command_line)
    values: dict[str, Any] = {}
    origins = dict.fromkeys(BY_NAME, "default")
    table = _read_toml(file) if file else {}
    targets = toml_targets(table.pop("routes", {}), f"{file}: routes")
    sites = toml_sites(table.pop("sites", {}), file or "")
    for name, value in table.items():
        values[name] = from_toml(_known(name, file or "", other_names or {}), value, f"{file}: {name}")
        origins[name] = str(file)
    variables = _variables_set(environment)
    ours = [one for one in variables if one[1].startswith(PREFIX)]
    common = [one for one in variables if one not in ours]
    for place in (_variables(common, environment), layers, _variables(ours, environment), [command_line]):
        for layer in place:
            for name in layer.values:
                values[name] = layer.value(name)
                origins[name] = layer.origin
    settings = Settings(**values)
    _check_together(settings)
    return Loaded(settings, origins, targets, sites)


def _variables_set(environment: Mapping[str, str]) -> Sequence[tuple[Row, str]]:
    """An empty variable is one that is not set, but where "" means none."""
    known = {variable for row in ROWS for variable in row.environment}
    for variable in environment:
        if variable.startswith(PREFIX) and variable not in known:
            _check_misspelt(variable)
    return [
        (row, variable)
        for row in ROWS
        for variable in row.environment
        if variable in environment and (environment[variable].strip() or row.optional)
    ]


def _variables(found: Iterable[tuple[Row, str]], environment: Mapping[str, str]) -> Iterable[Layer]:
    for row, variable in found:
        value = _from_environment(row, variable, environment[variable])
        yield Layer(f"environment variable {variable}", {row.name: value}, {row.name: variable})


def _check_misspelt(variable: str) -> None:
    """A name that is nearly a setting's is refused. Others pass: Kubernetes sets HALFSYNC_PORT and
    HALFSYNC_SERVICE_HOST where a service has our name."""
    name = variable.removeprefix(PREFIX).lower()
    if close := difflib.get_close_matches(name, list(BY_NAME), n=1, cutoff=0.75):
        raise SettingError(
            f"Environment variable {variable} names no setting; did you mean {PREFIX}{close[0].upper()}?"
        )


def _from_environment(row: Row, variable: str, text: str) -> Any:
    where = f"Environment variable {variable}"
    if variable == "PORT":
        if not (text.isascii() and text.isdigit() and int(text) <= 65535):
            raise SettingError(f"{where} must be a port number, not {text!r}.")
        return [f"0.0.0.0:{text}"]
    return from_text(row, text, where)


def _from_command_line(row: Row, given: Any, where: str) -> Any:
    if isinstance(given, str):
        return from_text(row, given, where)
    if row.is_list and row.metavar != "NAME=VALUE":  # the value of a variable may have commas
        given = [part.strip() for text in given for part in text.split(",") if part.strip()]
    return checked(row, list(given) if row.is_list else given, where)


def _read_toml(file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(file).read_text("utf-8"))
    except OSError as error:
        raise SettingError(f"The settings file {file} can't be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"The settings file {file} is not TOML: {str(error).rstrip('.')}.") from None


def _known(name: str, file: str, other_names: Mapping[str, str]) -> Row:
    if name in BY_NAME:
        return BY_NAME[name]
    if name == "mounts":
        raise SettingError(f"{file}: [mounts] is now called [routes].")
    if name in other_names:
        raise SettingError(f"{file}: there is no setting {name}; did you mean {other_names[name]}?")
    raise SettingError(
        f"{file}: there is no setting {name}{did_you_mean(name, [*BY_NAME, 'routes', 'sites'])}"
    )


def _check_together(settings: Settings) -> None:
    """Settings that are wrong by more than their type, or not right with each other."""
    check_files_texts("", settings.cache_control, settings.fallback)
    if not settings.bind:
        raise SettingError("bind is empty: there is nowhere to listen.")
    octal("unix_mode", settings.unix_mode)
    if settings.umask is not None:
        octal("umask", settings.umask)
    for pair in settings.env:
        if not pair.partition("=")[0] or "=" not in pair:
            raise SettingError(f"env {pair!r} must have the form NAME=VALUE.")
    if settings.limit_request_line > settings.limit_request_head:
        raise SettingError(
            f"limit_request_line ({settings.limit_request_line}) must not be larger than "
            f"limit_request_head ({settings.limit_request_head})."
        )
