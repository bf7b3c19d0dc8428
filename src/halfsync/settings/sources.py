"""Where values come from: the default, the TOML file, the environment, the command line.

The later ones win. `load` puts them together and remembers for each value where it came from. It reads
the file and nothing else: no import, no socket.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from halfsync.http.header_rules import HeaderRule
from halfsync.settings.error_pages import PageEntry, page_entries
from halfsync.settings.errors import Mistakes, SettingError
from halfsync.settings.headers import header_rules
from halfsync.settings.keys import ONLY_OF_ROUTES, did_you_mean, for_a_route
from halfsync.settings.places import Place
from halfsync.settings.rows import BY_NAME, PREFIX, ROWS, Row
from halfsync.settings.sites import SiteEntry, toml_sites
from halfsync.settings.table import Settings
from halfsync.settings.targets import Target, toml_targets
from halfsync.settings.toml_lines import key_lines
from halfsync.settings.value_checks import wrong_values
from halfsync.settings.values import checked, from_text, from_toml, octal


class Loaded(msgspec.Struct, frozen=True):
    """Settings, where each came from, and the routes and sites that the TOML file lists."""

    settings: Settings
    origins: Mapping[str, str]  # name -> "default", the file, "environment variable PORT", "command line"
    targets: tuple[Target, ...]  # routes of the default site
    sites: tuple[SiteEntry, ...] = ()
    headers: tuple[HeaderRule, ...] = ()
    error_pages: tuple[PageEntry, ...] = ()
    places: Mapping[str, str] = msgspec.field(
        default_factory=dict
    )  # of settings in the file: "halfsync.toml:7: "
    was_read: bool = True  # the file could be read, if there is one


class Layer(msgspec.Struct, frozen=True):
    """What one place says: texts (lists of texts, booleans) by setting name, and how a setting is spelled
    there, if not as our own option."""

    origin: str
    values: Mapping[str, Any]
    spelled: Mapping[str, str] = msgspec.field(default_factory=dict)

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
    mistakes: Mistakes | None = None,
) -> Loaded:
    """Settings from all four places.

    `command_line` holds the texts (lists of texts, booleans) of the options that were given, by
    setting name. `file` is the TOML file's path. `layers` are further places: stronger than PORT and its
    like, weaker than our own variables. `other_names`: what other servers call a setting, for the sentence
    about a name in the file that is none. What is wrong is noted in `mistakes`, and the defaults stand in for
    it; without them, it raises SettingError.
    """
    if not isinstance(command_line, Layer):
        command_line = Layer("command line", command_line)
    found = Mistakes() if mistakes is None else mistakes
    values: dict[str, Any] = {}
    origins = dict.fromkeys(BY_NAME, "default")
    tables = _read_file(file, found, other_names or {}, values) if file else _Tables()
    origins |= dict.fromkeys(values, file or "")
    variables = _variables_set(environment, found)
    ours = [one for one in variables if one[1].startswith(PREFIX)]
    common = [one for one in variables if one not in ours]
    for place in (
        _variables(common, environment, found), layers, _variables(ours, environment, found), [command_line],
    ):  # fmt: skip
        for layer in place:
            for name in layer.values:
                with found.noted():
                    values[name] = layer.value(name)
                    origins[name] = layer.origin
    settings = Settings(**values)
    places = {name: place for name, place in tables.places.items() if origins.get(name) == file}
    found.places = places
    _check_together(settings, found)
    if mistakes is None:
        found.raise_all()
    return Loaded(
        settings,
        origins,
        tables.targets,
        tables.sites,
        tables.headers,
        tables.error_pages,
        places,
        tables.were_read,
    )


class _Tables(msgspec.Struct):
    """Of the TOML file."""

    targets: tuple[Target, ...] = ()
    sites: tuple[SiteEntry, ...] = ()
    headers: tuple[HeaderRule, ...] = ()
    error_pages: tuple[PageEntry, ...] = ()
    places: dict[str, str] = msgspec.field(default_factory=dict)
    were_read: bool = True  # the file could be read


def _read_file(
    file: str, mistakes: Mistakes, other_names: Mapping[str, str], values: dict[str, Any]
) -> _Tables:
    """Puts its settings into `values`."""
    tables = _Tables(were_read=False)
    table: dict[str, Any] = {}
    lines: dict[tuple[str, ...], int] = {}
    with mistakes.noted():
        text = _text_of(file)
        table, lines = _parsed(text, file), key_lines(text)
        tables.were_read = True
    top = Place(file, lines, mistakes)
    with top.noted():
        tables.targets = toml_targets(table.pop("routes", {}), top.table("routes", "routes"))
    with top.noted():
        tables.headers = header_rules(table.pop("headers", {}), top.table("headers", "headers"))
    with top.noted():
        pages = table.pop("error_pages", {})
        tables.error_pages = page_entries(pages, top.table("error_pages", "error_pages"))
    with top.noted():
        tables.sites = toml_sites(table.pop("sites", {}), top.table("sites", ""))
    for name, value in table.items():
        with top.noted():
            at = str(top.at(name))
            tables.places[name] = f"{at}: "
            values[name] = from_toml(_known(name, at, other_names), value, f"{at}: {name}")
    return tables


def _variables_set(environment: Mapping[str, str], mistakes: Mistakes) -> Sequence[tuple[Row, str]]:
    """An empty variable is one that is not set, but where "" means none."""
    known = {variable for row in ROWS for variable in row.environment}
    for variable in environment:
        if variable.startswith(PREFIX) and variable not in known:
            with mistakes.noted():
                _check_misspelt(variable)
    return [
        (row, variable)
        for row in ROWS
        for variable in row.environment
        if variable in environment and (environment[variable].strip() or row.optional)
    ]


def _variables(
    found: Iterable[tuple[Row, str]], environment: Mapping[str, str], mistakes: Mistakes
) -> Iterable[Layer]:
    for row, variable in found:
        with mistakes.noted():
            value = _from_environment(row, variable, environment[variable])
            yield Layer(f"environment variable {variable}", {row.name: value}, {row.name: variable})


def _check_misspelt(variable: str) -> None:
    """A name that is nearly a setting's is refused. Others pass: Kubernetes sets HALFSYNC_PORT and
    HALFSYNC_SERVICE_HOST where a service has our name."""
    import difflib

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


def _text_of(file: str) -> str:
    try:
        return Path(file).read_text("utf-8")
    except OSError as error:
        raise SettingError(f"The settings file {file} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise SettingError(f"The settings file {file} is not TOML: {error}.") from None


def _parsed(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"The settings file {file} is not TOML: {str(error).rstrip('.')}.") from None
    except RecursionError:
        raise SettingError(f"The settings file {file} is not TOML: it is nested too deeply.") from None


TABLES = ("routes", "sites", "headers", "error_pages")
"""Keys of the file that are no settings."""


def _known(name: str, file: str, other_names: Mapping[str, str]) -> Row:
    if name in BY_NAME:
        return BY_NAME[name]
    if name == "mounts":
        raise SettingError(f"{file}: [mounts] is now called [routes].")
    if name in other_names:
        raise SettingError(f"{file}: there is no setting {name}; did you mean {other_names[name]}?")
    if name in ONLY_OF_ROUTES:
        raise SettingError(f"{file}: {name}{for_a_route(name)}")
    raise SettingError(f"{file}: there is no setting {name}{did_you_mean(name, [*BY_NAME, *TABLES])}")


def _check_together(settings: Settings, mistakes: Mistakes) -> None:
    """Settings that are wrong by more than their type, or not right with each other."""
    for _, sentence in wrong_values(msgspec.structs.asdict(settings)):
        mistakes.note(sentence)
    for check in (
        _check_bind,
        _check_octals,
        _check_env,
        _check_heads,
    ):
        with mistakes.noted():
            check(settings)


def _check_bind(settings: Settings) -> None:
    if not settings.bind:
        raise SettingError("bind is empty: there is nowhere to listen.")


def _check_octals(settings: Settings) -> None:
    octal("unix_mode", settings.unix_mode)
    octal("control_socket_mode", settings.control_socket_mode)
    if settings.umask is not None:
        octal("umask", settings.umask)


def _check_env(settings: Settings) -> None:
    for pair in settings.env:
        if not pair.partition("=")[0] or "=" not in pair:
            raise SettingError(f"env {pair!r} must have the form NAME=VALUE.")


def _check_heads(settings: Settings) -> None:
    if settings.limit_request_line > settings.limit_request_head:
        raise SettingError(
            f"limit_request_line ({settings.limit_request_line}) must not be larger than "
            f"limit_request_head ({settings.limit_request_head})."
        )
