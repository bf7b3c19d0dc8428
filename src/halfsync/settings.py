"""Every setting once: name, type, default, unit, reason, and where it may be set.

`Settings` is the only list. The command line's options and help, the TOML keys, the environment
variables, `--print-config` and docs/settings.md all grow from its fields; nothing repeats a name
or a default.

Values come from four places, the later ones win: the default here, the TOML file, the
environment, the command line. `load` puts them together and remembers for each value where it
came from. It reads the file and nothing else: no import, no socket.

Whatever is wrong raises `SettingError`: one sentence that names the setting, for the user.
"""

from __future__ import annotations

import difflib
import re
import tomllib
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


class SettingError(Exception):
    """A setting or a target is wrong. `str()` is one sentence that names it."""


def about(
    section: str,
    description: str,
    *,
    unit: str = "",
    short: str = "",
    env: str = "",
    metavar: str = "",
    least: float | None = None,
    most: float | None = None,
) -> Meta:
    """What is said of a setting beside its name, type and default."""
    extra = {"section": section, "unit": unit, "short": short, "env": env, "metavar": metavar}
    return Meta(description=description, ge=least, le=most, extra=extra)


_PREFIX = "HALFSYNC_"

SECTIONS = ("Serving", "Processes", "Logging", "Time limits", "Size limits", "Files", "Leases", "Development")

Level = Literal["debug", "info", "warning", "error", "critical"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, checked. Durations are in seconds, sizes in bytes."""

    bind: Annotated[
        list[str],
        about(
            "Serving",
            "Where to listen: host:port, [address]:port, port, or unix:/path. May be given several times. "
            "PORT=8080 in the environment means 0.0.0.0:8080.",
            short="-b",
            env="PORT",
            metavar="ADDRESS",
        ),
    ] = msgspec.field(default_factory=lambda: ["127.0.0.1:8000"])
    backlog: Annotated[
        int,
        about(
            "Serving",
            "Connections that the kernel keeps for a listening socket until they are accepted.",
            least=1,
            most=65535,
        ),
    ] = 2048
    reuse_port: Annotated[
        bool,
        about(
            "Serving",
            "Other servers may listen at the same port (SO_REUSEPORT); the kernel shares connections out "
            "among them.",
        ),
    ] = False
    unix_mode: Annotated[
        str,
        about(
            "Serving",
            "Permissions of unix sockets, as an octal number: 660 for the owner and the group alone. The "
            "default lets every user of the machine connect, as to a port.",
            metavar="MODE",
        ),
    ] = "666"
    forwarded_allow_ips: Annotated[
        list[str],
        about(
            "Serving",
            "Proxies whose `forwarded_headers` are believed: addresses or networks, or * for whoever "
            "connects. So are those of a unix socket's peers, unless the list is empty.",
            env="FORWARDED_ALLOW_IPS",
            metavar="ADDRESS",
        ),
    ] = msgspec.field(default_factory=lambda: ["127.0.0.1", "::1"])
    forwarded_headers: Annotated[
        list[str],
        about(
            "Serving",
            "What is believed from them: x-forwarded-for (who asks), x-forwarded-proto (the scheme), "
            "x-forwarded-host and x-forwarded-port. Name only those that the proxy sets or removes itself: "
            "others come from its clients.",
            metavar="NAME",
        ),
    ] = msgspec.field(default_factory=lambda: ["x-forwarded-for", "x-forwarded-proto"])
    chdir: Annotated[
        str | None,
        about(
            "Serving", "Go to this folder first; targets and other paths start from there.", metavar="FOLDER"
        ),
    ] = None
    env: Annotated[
        list[str],
        about(
            "Serving",
            "Set an environment variable before applications are imported. May be given several times.",
            short="-e",
            metavar="NAME=VALUE",
        ),
    ] = []

    pythonpath: Annotated[
        list[str],
        about(
            "Serving",
            "Folders from which applications can import, before all others. May be given several times.",
            metavar="FOLDER",
        ),
    ] = []

    workers: Annotated[
        int,
        about(
            "Processes",
            "Worker processes of each application.",
            short="-w",
            env="WEB_CONCURRENCY",
            least=1,
            most=1000,
        ),
    ] = 1
    threads: Annotated[
        int,
        about(
            "Processes",
            "Threads of each worker process. 1 for applications that are not thread-safe.",
            least=1,
            most=128,
        ),
    ] = 8
    max_requests: Annotated[
        int,
        about(
            "Processes",
            "Replace a worker process after so many requests, with no request lost: its successor is ready "
            "first. For applications that leak memory. 0: never.",
            unit="requests",
            least=0,
        ),
    ] = 0
    max_requests_jitter: Annotated[
        int,
        about(
            "Processes",
            "Up to so many requests more, at random for each worker, so that not all are replaced at once.",
            unit="requests",
            least=0,
        ),
    ] = 0
    builtin_threads: Annotated[
        int,
        about(
            "Processes",
            "Threads of the built-in worker, which opens files and writes the access log.",
            least=1,
            most=128,
        ),
    ] = 4
    preload: Annotated[
        bool,
        about(
            "Processes",
            "Import each application once, in a process from which its workers are then forked; "
            "they share its memory.",
        ),
    ] = False
    retry: Annotated[
        bool,
        about(
            "Processes",
            "A request whose worker was killed is given to another one, once, if its method says that this "
            "is harmless (GET, HEAD, OPTIONS, TRACE, PUT, DELETE). Not after a crash (SIGSEGV and its like) "
            "or an exit of the worker's own accord, which are likely to be the request's work.",
        ),
    ] = True
    user: Annotated[
        str | None,
        about(
            "Processes",
            "Run the pump and the workers as this user (name or number); needs root.",
            metavar="USER",
        ),
    ] = None
    group: Annotated[
        str | None,
        about(
            "Processes",
            "Run the pump and the workers as this group (name or number). The default is the user's group.",
            metavar="GROUP",
        ),
    ] = None
    no_new_privs: Annotated[
        bool,
        about(
            "Processes",
            "When `user` or `group` gives root's rights up, they can't be had again: programs that "
            "applications start gain nothing from being setuid (PR_SET_NO_NEW_PRIVS). Turn it off for an "
            "application that runs sudo, ping or a setgid sendmail.",
        ),
    ] = True
    umask: Annotated[
        str | None,
        about(
            "Processes",
            "Permissions that files and folders made by applications do not get, as an octal number such as "
            "027. The default is what the server was started with.",
            metavar="MASK",
        ),
    ] = None
    name: Annotated[
        str,
        about("Processes", "What ps and top show before the role of each process.", metavar="NAME"),
    ] = "halfsync"
    pid: Annotated[
        str | None,
        about("Processes", "Write the parent's process id to this file.", short="-p", metavar="FILE"),
    ] = None
    graceful_timeout: Annotated[
        float,
        about(
            "Processes",
            "How long requests in flight may take to finish at a stop, at a reload, or when a worker is "
            "replaced. After that they are cut off.",
            unit="seconds",
            least=0,
            most=86400,
        ),
    ] = 30.0

    startup_timeout: Annotated[
        float,
        about(
            "Processes",
            "A worker must have imported its application within this time, or it is killed. At the first "
            "start that ends the server, at a reload the old workers keep serving. 0: no limit.",
            unit="seconds",
            least=0,
            most=86400,
        ),
    ] = 60.0

    log_level: Annotated[
        Level, about("Logging", "The least severe messages to write to standard error.", metavar="LEVEL")
    ] = "info"
    error_logfile: Annotated[
        str | None,
        about(
            "Logging",
            "Write the error log to this file in place of standard error; what applications write to "
            "standard error goes there too. - is standard error.",
            metavar="FILE",
        ),
    ] = None
    access_logfile: Annotated[
        str | None,
        about("Logging", "Write a line for each request to this file; - is standard output.", metavar="FILE"),
    ] = None
    access_logformat: Annotated[
        str,
        about(
            "Logging",
            "Format of the access log: common, combined, json, or a format string with Apache's letters.",
            metavar="FORMAT",
        ),
    ] = "combined"

    head_timeout: Annotated[
        float,
        about(
            "Time limits", "A request's head must be complete within this time.", unit="seconds", least=0.1
        ),
    ] = 20.0
    body_timeout: Annotated[
        float,
        about("Time limits", "A request's body may pause no longer than this.", unit="seconds", least=0.1),
    ] = 60.0
    send_timeout: Annotated[
        float,
        about(
            "Time limits",
            "Close the connection if the client reads nothing for this long.",
            unit="seconds",
            least=0.1,
        ),
    ] = 60.0
    min_rate: Annotated[
        int,
        about(
            "Time limits",
            "Minimum average upload and download rate. 0 disables it.",
            unit="bytes per second",
            least=0,
        ),
    ] = 500
    rate_grace: Annotated[
        float,
        about("Time limits", "Grace period before `min_rate` applies.", unit="seconds", least=0),
    ] = 30.0
    keep_alive: Annotated[
        float,
        about(
            "Time limits",
            "How long a connection may be idle between two requests. 0: close after each response.",
            unit="seconds",
            least=0,
        ),
    ] = 75.0
    linger_timeout: Annotated[
        float,
        about(
            "Time limits",
            "After a response that closes the connection early, what the client still sends is read and "
            "dropped for this long, so that it can read the response.",
            unit="seconds",
            least=0,
        ),
    ] = 5.0
    queue_timeout: Annotated[
        float,
        about(
            "Time limits",
            "A request may wait for a free thread no longer than this; then it gets a 503.",
            unit="seconds",
            least=0.1,
        ),
    ] = 30.0
    handler_timeout: Annotated[
        float,
        about(
            "Time limits",
            "A handler may take no longer than this to start its response; then the request gets a 504, "
            "the stack is logged, and the worker replaced. A stream that has begun may go on. 0: no limit.",
            unit="seconds",
            least=0,
        ),
    ] = 0.0
    stream_timeout: Annotated[
        float,
        about(
            "Time limits",
            "A handler that has begun its response may pause no longer than this before it gives more; then "
            "the connection is reset. 0: no limit.",
            unit="seconds",
            least=0,
        ),
    ] = 0.0

    limit_request_line: Annotated[
        int,
        about(
            "Size limits",
            "Longest request line; longer ones get a 414.",
            unit="bytes",
            least=64,
            most=65536,
        ),
    ] = 8190
    limit_request_fields: Annotated[
        int,
        about("Size limits", "Most header fields in a request; more get a 431.", least=1, most=10000),
    ] = 100
    limit_request_field_size: Annotated[
        int,
        about(
            "Size limits",
            "Longest header field; longer ones get a 431.",
            unit="bytes",
            least=64,
            most=65536,
        ),
    ] = 8190
    limit_request_head: Annotated[
        int,
        about(
            "Size limits",
            "Largest header section of a request; larger ones get a 431.",
            unit="bytes",
            least=256,
            most=65536,
        ),
    ] = 64 * KIB
    limit_request_body: Annotated[
        int,
        about("Size limits", "Largest request body; larger ones get a 413.", unit="bytes", least=0),
    ] = GIB
    queue_limit: Annotated[
        int,
        about(
            "Size limits",
            "Most requests that may wait for an application's threads; more get a 503.",
            unit="requests",
            least=1,
        ),
    ] = 2000
    body_memory: Annotated[
        int,
        about(
            "Size limits",
            "Request bodies up to this size stay in memory; larger ones go to an anonymous temporary file.",
            unit="bytes",
            least=0,
            most=64 * KIB,
        ),
    ] = 32 * KIB
    spool_limit: Annotated[
        int,
        about(
            "Size limits",
            "Request bodies that are kept aside, all together; a body that would exceed it gets a 503.",
            unit="bytes",
            least=0,
        ),
    ] = 4 * GIB
    reply_memory: Annotated[
        int,
        about(
            "Size limits",
            "Response bytes buffered in memory per request; the rest goes to an anonymous temporary file.",
            unit="bytes",
            least=0,
        ),
    ] = 256 * KIB
    reply_spool: Annotated[
        int,
        about(
            "Size limits",
            "Response bytes buffered in a temporary file per request. Beyond that, the handler's thread "
            "waits for the client.",
            unit="bytes",
            least=0,
        ),
    ] = 64 * MIB
    spool_dir: Annotated[
        str | None,
        about("Size limits", "Folder of the temporary files. The default is the system's.", metavar="FOLDER"),
    ] = None

    cache_control: Annotated[
        str,
        about(
            "Files",
            "Cache-Control of files, such as 'public, max-age=3600'. By default there is none, and caches "
            "decide by the file's age.",
            metavar="TEXT",
        ),
    ] = ""
    immutable: Annotated[
        bool,
        about(
            "Files",
            "Files with a hash of their content in the name, such as app.3f2a9c1b.js, get Cache-Control: "
            "public, max-age=31536000, immutable.",
        ),
    ] = False
    precompressed: Annotated[
        bool,
        about(
            "Files",
            "Send the file with .br, .zst or .gz behind its name in place of a file, if it is there, is not "
            "older, and the client accepts it.",
        ),
    ] = False
    fallback: Annotated[
        str,
        about(
            "Files",
            "Send this file of the folder in place of what does not exist: index.html for single-page "
            "applications.",
            metavar="FILE",
        ),
    ] = ""

    lease: Annotated[
        float,
        about(
            "Leases",
            "For this long the pump may answer again with a file without looking at it again. 0: never.",
            unit="seconds",
            least=0,
        ),
    ] = 1.0
    lease_memory: Annotated[
        int,
        about(
            "Leases",
            "Memory for leased responses, in all. An open file counts as 64 KiB: descriptors are scarce.",
            unit="bytes",
            least=0,
        ),
    ] = 64 * MIB
    lease_file_memory: Annotated[
        int,
        about(
            "Leases",
            "A leased file up to this size is held in memory, a larger one as an open file.",
            unit="bytes",
            least=0,
            most=64 * KIB,
        ),
    ] = 64 * KIB

    reload: Annotated[
        bool,
        about(
            "Development",
            "Reload when the code of an application changes; if it can't be imported, show why and wait for "
            "the next change. Needs the package watchfiles: pip install 'halfsync[reload]'.",
        ),
    ] = False
    reload_dir: Annotated[
        list[str],
        about(
            "Development",
            "Watch this folder, and not the current one and those of the applications' modules. May be given "
            "several times.",
            metavar="FOLDER",
        ),
    ] = []
    reload_include: Annotated[
        list[str],
        about(
            "Development",
            "Files that are code too, beside *.py, such as '*.html'. May be given several times.",
            metavar="PATTERN",
        ),
    ] = []
    reload_exclude: Annotated[
        list[str],
        about(
            "Development",
            "Files or folders that are not watched, such as 'tests' or '*_gen.py'. Hidden folders, virtual "
            "environments, __pycache__ and node_modules never are. May be given several times.",
            metavar="PATTERN",
        ),
    ] = []


# --- the rows: what the fields above say, in a form that help, docs and parsing can use ----------


@dataclass(frozen=True)
class Row:
    """One setting."""

    name: str
    type: Any  # without Annotated
    default: Any
    meta: Meta

    def _extra(self, key: str) -> str:
        return str((self.meta.extra or {})[key])

    @property
    def section(self) -> str:
        return self._extra("section")

    @property
    def unit(self) -> str:
        return self._extra("unit")

    @property
    def description(self) -> str:
        return self.meta.description or ""

    @property
    def metavar(self) -> str:
        """The word for the value in the help; "" for a switch."""
        if self.type is bool:
            return ""
        if self._extra("metavar"):
            return self._extra("metavar")
        return {"seconds": "SECONDS", "bytes": "BYTES"}.get(self.unit, "N")

    @property
    def flags(self) -> tuple[str, ...]:
        """The options of the command line: ("-w", "--workers")."""
        long = "--" + self.name.replace("_", "-")
        return (self._extra("short"), long) if self._extra("short") else (long,)

    @property
    def environment(self) -> tuple[str, ...]:
        """Environment variables, the one that wins last."""
        common = self._extra("env")
        return (common, _PREFIX + self.name.upper()) if common else (_PREFIX + self.name.upper(),)

    @cached_property
    def is_list(self) -> bool:
        return get_origin(self.type) is list

    @property
    def optional(self) -> bool:
        return get_origin(self.type) in (Union, types.UnionType)

    @property
    def choices(self) -> tuple[str, ...]:
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def expected(self) -> str:
        """What a value must be, as a phrase."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.type is bool:
            return "true or false"
        if self.is_list:
            return "a list of texts"
        if self.type not in (int, float):
            return "a text"
        return ("a whole number" if self.type is int else "a number") + self._range()

    def _range(self) -> str:
        of = f" of {self.unit}" if self.unit else ""
        least, most = self.meta.ge, self.meta.le
        if least is not None and most is not None:
            return f"{of} from {least:g} to {most}"
        return f"{of}, {least:g} or more" if least is not None else of


def _rows() -> tuple[Row, ...]:
    hints = get_type_hints(Settings, include_extras=True)
    defaults = Settings()
    found = []
    for name in Settings.__struct_fields__:
        bare, meta = get_args(hints[name])
        found.append(Row(name, bare, getattr(defaults, name), meta))
    return tuple(found)


ROWS: tuple[Row, ...] = _rows()
BY_NAME: dict[str, Row] = {row.name: row for row in ROWS}


# --- from texts and TOML values to checked values ----------------------------------------------

_SUFFIXES = {"": 1, "K": KIB, "M": MIB, "G": GIB}
_SWITCH = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def from_text(row: Row, text: str, where: str) -> Any:
    """The value that `text`, from the environment or the command line, means."""
    if row.type is bool:
        value: Any = _SWITCH.get(text.strip().lower(), text)
    elif row.is_list:
        value = [part.strip() for part in text.split(",") if part.strip()]
    elif row.type in (int, float):
        value = _number(row, text)
    elif row.optional and not text:
        value = None
    elif row.choices:
        value = text.strip().lower()
    else:
        value = text
    return checked(row, value, where)


def from_toml(row: Row, value: Any, where: str) -> Any:
    """The value that a TOML value means: a lone text may stand for a list of one, "64K" for a size,
    and "" for none, which TOML has no word for."""
    if row.optional and value == "":
        value = None
    if row.is_list and isinstance(value, str):
        value = [value]
    if row.unit == "bytes" and isinstance(value, str):
        value = _number(row, value)
    return checked(row, value, where)


def checked(row: Row, value: Any, where: str) -> Any:
    """The value, if it has the setting's type and is within its bounds; else SettingError."""
    if isinstance(value, bool) and row.type is not bool:
        raise SettingError(_refusal(row, value, where))
    try:
        bounded = Annotated[row.type, row.meta] if row.type in (int, float) else row.type
        found = msgspec.convert(value, bounded)
    except msgspec.ValidationError:
        raise SettingError(_refusal(row, value, where)) from None
    if found == float("inf") or found != found or _has_nul(found):
        raise SettingError(_refusal(row, value, where))
    return found


def _has_nul(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return any(isinstance(text, str) and "\0" in text for text in texts)


def _refusal(row: Row, value: Any, where: str) -> str:
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    return f"{where} must be {row.expected}, not {shown}."


def _number(row: Row, text: str) -> Any:
    """The number in `text`, with K, M, G (also KiB, MiB, GiB) for sizes; `text` itself if there is none."""
    found = _NUMBER.fullmatch(text.strip())
    if found is None or (found["suffix"] and row.unit != "bytes"):
        return text
    try:
        number = int(found["digits"]) if row.type is int else float(found["digits"])
    except ValueError:
        return text
    return number * _SUFFIXES[found["suffix"].upper()]


_NUMBER = re.compile(r"(?P<digits>[+-]?(?:inf|nan|[0-9._]+))(?: ?(?P<suffix>[KMG]?)(?:i?B)?)", re.IGNORECASE)


# --- the four places together --------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """What to serve somewhere, as the user wrote it; `plan` finds out what it is."""

    path: str  # "/" or "/static"
    target: str  # "app:app", "./static"
    where: str  # for sentences: "target '/static=./static'", "halfsync.toml: mounts.'/static'"
    workers: int | None = None
    threads: int | None = None
    lease: float | None = None
    cache_control: str | None = None
    immutable: bool | None = None
    precompressed: bool | None = None
    fallback: str | None = None


@dataclass(frozen=True)
class Loaded:
    """Settings, where each came from, and the mounts that the TOML file lists."""

    settings: Settings
    origins: Mapping[str, str]  # name -> "default", the file, "environment variable PORT", "command line"
    targets: tuple[Target, ...]


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
    targets = _toml_targets(table.pop("mounts", {}), file or "")
    for name, value in table.items():
        values[name] = from_toml(_known(name, file or "", other_names or {}), value, f"{file}: {name}")
        origins[name] = str(file)
    variables = _variables_set(environment)
    ours = [one for one in variables if one[1].startswith(_PREFIX)]
    common = [one for one in variables if one not in ours]
    for place in (_variables(common, environment), layers, _variables(ours, environment), [command_line]):
        for layer in place:
            for name in layer.values:
                values[name] = layer.value(name)
                origins[name] = layer.origin
    settings = Settings(**values)
    _check_together(settings)
    return Loaded(settings, origins, targets)


def _variables_set(environment: Mapping[str, str]) -> Sequence[tuple[Row, str]]:
    """An empty variable is one that is not set, but where "" means none."""
    known = {variable for row in ROWS for variable in row.environment}
    for variable in environment:
        if variable.startswith(_PREFIX) and variable not in known:
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


def octal(name: str, text: str) -> int:
    """The permission bits that an octal text such as "660" or "0o027" means. Raises SettingError."""
    digits = text.strip().lower().removeprefix("0o")
    if not re.fullmatch(r"0*[0-7]{1,3}", digits):
        raise SettingError(f"{name} must be an octal number from 0 to 777, such as 027, not {text!r}.")
    return int(digits, 8)


def _check_misspelt(variable: str) -> None:
    """A name that is nearly a setting's is refused. Others pass: Kubernetes sets HALFSYNC_PORT and
    HALFSYNC_SERVICE_HOST where a service has our name."""
    name = variable.removeprefix(_PREFIX).lower()
    if close := difflib.get_close_matches(name, list(BY_NAME), n=1, cutoff=0.75):
        raise SettingError(
            f"Environment variable {variable} names no setting; did you mean {_PREFIX}{close[0].upper()}?"
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
    meant = (
        f"; did you mean {other_names[name]}?" if name in other_names else _meant(name, [*BY_NAME, "mounts"])
    )
    raise SettingError(f"{file}: there is no setting {name}{meant}")


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name.replace("-", "_"), list(known), n=1)
    return f"; did you mean {close[0]}?" if close else "."


FOR_FILES = ("lease", "cache_control", "immutable", "precompressed", "fallback")
OWN_OF_MOUNTS = ("workers", "threads", *FOR_FILES)
"""The settings that a mount may have a value of its own for."""

_MOUNT_KEYS = ("target", *OWN_OF_MOUNTS)


def _toml_targets(table: Any, file: str) -> tuple[Target, ...]:
    if not isinstance(table, dict):
        raise SettingError(f'{file}: mounts must be a table, such as [mounts] with "/" = "app:app" in it.')
    return tuple(_toml_target(path, value, f"{file}: mounts.{path!r}") for path, value in table.items())


def _toml_target(path: str, value: Any, where: str) -> Target:
    if isinstance(value, str):
        return Target(path, value, where)
    if not isinstance(value, dict) or not _is_text(value.get("target")):
        raise SettingError(f'{where} must be a target such as "app:app", or a table with target = "app:app".')
    for key in value:
        if key not in _MOUNT_KEYS:
            raise SettingError(f"{where} has no setting {key}{_meant(key, _MOUNT_KEYS)}")
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
