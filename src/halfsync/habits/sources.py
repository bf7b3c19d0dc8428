"""All that a command says, with what is said by the habits of other servers: foreign options, UVICORN_...
and GUNICORN_CMD_ARGS, a gunicorn.conf.py; and the settings file that is taken when nothing is named.

As gunicorn has it, its own file and variable are stronger than PORT and WEB_CONCURRENCY; ours
(HALFSYNC_...) are stronger than both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import click
import msgspec

from halfsync.habits import gunicorn
from halfsync.habits.options import called, merged, own_value, understood
from halfsync.habits.parsing import Parsed, own_settings
from halfsync.habits.variables import APP, of_uvicorn
from halfsync.settings.errors import SettingError
from halfsync.settings.rows import BY_NAME
from halfsync.settings.sources import Layer

VARIABLE = "GUNICORN_CMD_ARGS"
USUAL_FILE = "halfsync.toml"
GUNICORNS_FILE = "gunicorn.conf.py"


class Sources(msgspec.Struct, frozen=True):
    """What `settings.load` wants to know, and what is left."""

    command_line: Layer
    file: str | None  # TOML
    layers: tuple[Layer, ...]  # weaker than our variables
    targets: tuple[str, ...]
    notes: tuple[str, ...]  # sentences for the log
    python_file: str | None = None  # a gunicorn.conf.py, as it was named
    gather: Callable[[], Sources] | None = None  # the same once more

    def read_again(self) -> Sources:
        """With the gunicorn.conf.py as it is now. (The TOML file is read by `settings`.) Raises
        SettingError."""
        return self.gather() if self.gather is not None and self.python_file is not None else self

    @property
    def files(self) -> tuple[str, ...]:
        """The files whose changes change the configuration, as they were named."""
        python = (self.python_file or "").removeprefix("file:")
        return tuple(one for one in (self.file, python) if one and not one.startswith("python:"))


def gathered(parsed: Parsed, environment: Mapping[str, str], parse: Callable[[list[str]], Parsed]) -> Sources:
    """`parse` is the command line's own parser. Raises SettingError."""
    start = dict(environment)  # `env` of the settings will change it
    return _gathered(parsed, start, parse, lambda: gathered(parsed, start, parse))


def _gathered(
    parsed: Parsed,
    environment: Mapping[str, str],
    parse: Callable[[list[str]], Parsed],
    gather: Callable[[], Sources],
) -> Sources:
    layers: list[Layer] = []
    notes: list[str] = []
    variable = _in_variable(environment, parse)
    file = parsed["config"] or variable.get("config")
    targets = list(parsed["targets"] or variable.get("targets", ()))
    if not targets and not file and environment.get(APP):
        targets = [environment[APP]]
    python_file = None
    if file and gunicorn.is_gunicorn_file(file):
        of_file = _read_gunicorn_file(file, environment, layers, notes)
        targets = targets or of_file
        file, python_file = None, file
    elif not file and not targets and os.path.isfile(USUAL_FILE):
        file = USUAL_FILE
        notes.append(f"No target and no file is named, so the settings are those of ./{USUAL_FILE}.")
    elif not file and os.path.isfile(GUNICORNS_FILE):
        notes.append(f"./{GUNICORNS_FILE} is not read unless it is named: -c {GUNICORNS_FILE}")
    uvicorns = of_uvicorn(environment, parse)
    layers = [*(one.implied for one in uvicorns), *layers, *(one.layer for one in uvicorns)]
    notes += [note for one in uvicorns for note in one.foreign.notes]
    is_factory = any(one.foreign.is_factory for one in uvicorns)
    for origin, options in ((f"environment variable {VARIABLE}", variable), ("command line", parsed)):
        foreign = understood(options, environment)
        notes += foreign.notes
        is_factory = is_factory or foreign.is_factory
        own = {name: own_value(name, options[name]) for name in own_settings(options)}
        for name in own.keys() & foreign.given.keys():
            if BY_NAME[name].is_list:
                own[name] = list(dict.fromkeys((*foreign.given[name], *own[name])))
            elif name == "error_logfile":
                own[name] = merged(foreign.given[name], own[name])
        layers.insert(0, Layer(origin, foreign.implied))
        layers.append(Layer(origin, {**foreign.given, **own}, foreign.spelled))
    command_line = layers.pop()
    targets = called(targets) if is_factory else targets
    return Sources(command_line, file, tuple(layers), tuple(targets), tuple(notes), python_file, gather)


def _in_variable(environment: Mapping[str, str], parse: Callable[[list[str]], Parsed]) -> Parsed:
    text = environment.get(VARIABLE, "")
    if not text.strip():
        return {}
    import shlex

    try:
        return parse(shlex.split(text))
    except click.UsageError as wrong:
        raise SettingError(f"Environment variable {VARIABLE}: {wrong.format_message()}") from None
    except ValueError as error:
        raise SettingError(f"Environment variable {VARIABLE} can't be split into words: {error}.") from None


def _read_gunicorn_file(
    file: str, environment: Mapping[str, str], layers: list[Layer], notes: list[str]
) -> list[str]:
    """Adds what the file says; gives its target, if it names one."""
    found = gunicorn.read(file, environment)
    if found.refused:
        raise SettingError(found.refused[0])
    layers += [
        Layer(file, found.understood.implied),
        Layer(file, found.understood.given, found.understood.spelled),
    ]
    notes += found.understood.notes
    return [found.target] if found.target else []
