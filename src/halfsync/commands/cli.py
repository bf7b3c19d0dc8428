"""The command line. Its options are the settings; their help is the settings' own."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from halfsync import __version__
from halfsync.commands.checks import (
    check_formats,
    check_served,
    ineffective,
    look_at_applications,
    look_at_certificates,
    look_at_files,
    look_at_machine,
    look_at_sockets,
    with_places,
)
from halfsync.commands.rereading import Rereading
from halfsync.habits import convert
from halfsync.habits.options import OURS, click_options
from halfsync.habits.parsing import Parsed
from halfsync.habits.sources import gathered
from halfsync.habits.switches import without_values
from halfsync.habits.table import OTHER_NAMES
from halfsync.habits.variables import about_script_name
from halfsync.parent.limits import START_AGAIN
from halfsync.plan.layout import target_of, work_out
from halfsync.plan.plan import Plan
from halfsync.plan.routes_table import table_of
from halfsync.settings.errors import Mistakes, SettingError
from halfsync.settings.rows import BY_NAME, ROWS, Row
from halfsync.settings.sources import Loaded, load
from halfsync.settings.table import GIB, KIB, MIB, SECTIONS
from halfsync.settings.targets import Target
from halfsync.settings.toml_text import in_toml, looks_in_toml, routes_in_toml, sites_in_toml
from halfsync.system import early_signals
from halfsync.system.command_line import CommandLine
from halfsync.system.folders import current_folder
from halfsync.system.seen_files import seen
from halfsync.wire.upgrade import VARIABLE

WRONG = 2
"""Exit status when a setting or a target is wrong."""

USAGE = "[OPTIONS] [TARGETS]..."

INTRODUCTION = """\
Serve applications and folders over HTTP.

A target is a WSGI or ASGI application (module:name or module:factory()) or a folder. PATH=TARGET routes it
under a path; the longest path wins.

\b
  halfsync app:app
  halfsync ./public
  halfsync app:app /static=./static /media=./up
  halfsync -c halfsync.toml
"""

CLOSING = (
    "Options of gunicorn, uvicorn, waitress and hypercorn are understood where there is a counterpart; of "
    "others a sentence says what to do. 'halfsync convert gunicorn.conf.py' prints gunicorn's settings file "
    "as TOML. "
    "Each setting can also be a key of the TOML file (workers = 4) or an environment variable "
    "(HALFSYNC_WORKERS=4). The command line wins over the environment, the environment over the file."
)


class GroupedHelp(click.Command):
    """Options are listed in the settings' sections; switches may have a value."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        return super().parse_args(context, without_values(arguments))

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        records = {
            p.name: p.get_help_record(context) for p in self.get_params(context) if p.name != "targets"
        }
        for section in SECTIONS:
            names = [row.name for row in ROWS if row.section == section]
            with formatter.section(section):
                formatter.write_dl([record for name in names if (record := records.pop(name, None))])
        with formatter.section("Others"):
            formatter.write_dl([record for record in records.values() if record])


def option_of(row: Row) -> click.Option:
    """The setting's option. All are read as texts: `settings` alone knows what they mean."""
    if row.type is bool:
        long = row.flags[-1]
        return click.Option([f"{long}/--no-{long[2:]}"], default=None, help=help_of(row))
    return click.Option(
        list(row.flags), multiple=row.is_list, metavar=row.metavar, default=None, help=help_of(row)
    )


def help_of(row: Row) -> str:
    default = in_words(row.default) if row.unit == "bytes" else shown(row.default)
    return f"{row.description} [{default}]" if default else row.description


def shown(value: Any) -> str:
    """A value as a person would write it; "" for none."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)


def in_words(size: int) -> str:
    """A size as it may also be given: 64K, 100M."""
    for suffix, unit in (("G", GIB), ("M", MIB), ("K", KIB)):
        if size and size % unit == 0:
            return f"{size // unit}{suffix}"
    return str(size)


def command() -> click.Command:
    """The whole command line."""
    others: list[click.Parameter] = [
        click.Argument(["targets"], nargs=-1),
        click.Option(
            ["-c", "--config"],
            metavar="FILE",
            help="Read settings from this TOML file (or gunicorn.conf.py).",
        ),
        click.Option(
            ["--check-config"], is_flag=True, help="Check everything, import the applications, and exit."
        ),
        click.Option(
            ["--print-config"], is_flag=True, help="Print each setting and where it came from, and exit."
        ),
        click.Option(
            ["--print-routes"], is_flag=True, help="Print what is served where, and by whom, and exit."
        ),
    ]
    made = GroupedHelp(
        "halfsync",
        params=[*(option_of(row) for row in ROWS), *others, *click_options()],
        callback=run,
        help=INTRODUCTION,
        epilog=CLOSING,
        options_metavar="[OPTIONS]",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    return click.version_option(__version__, prog_name="halfsync", message="%(prog)s %(version)s")(made)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit. What is wrong is told on standard error, each in one sentence,
    and the status is 2."""
    global _command
    open_standard_streams()
    if VARIABLE in os.environ:
        from halfsync.parent.upgrade.predecessor import find

        find(os.environ)
    _command = CommandLine.of_this_process()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        status = subcommand(arguments)
    except click.NoSuchOption as wrong:
        # Not those of other servers, which are hidden.
        meant = [one for one in wrong.possibilities or () if one in OURS]
        fail(click.NoSuchOption(wrong.option_name, possibilities=meant).format_message())
    except click.UsageError as wrong:
        fail(wrong.format_message())
    except SettingError as wrong:
        fail(*wrong.sentences)
    except (click.Abort, KeyboardInterrupt):
        status = 130
    except BrokenPipeError:  # of --help | head
        os._exit(1)
    if status == START_AGAIN:
        start_again(_command)
    sys.exit(status)


def subcommand(arguments: list[str]) -> int:
    """That of the first argument; else all of them are the server's. Gives the exit status."""
    status: int
    if arguments[:1] == ["convert"]:
        return converting(arguments[1:])
    if arguments[:1] == ["logresolve"]:
        early_signals.let_in()
        from halfsync.commands.logresolve import command as resolving

        status = resolving.main(arguments[1:], prog_name="halfsync logresolve", standalone_mode=False)
        return status
    status = command().main(arguments, prog_name="halfsync", standalone_mode=False)
    return status


_command: CommandLine | None = None
"""By which this process was started."""


def start_again(command: CommandLine) -> NoReturn:
    """The same command in the same folder, and in the same process."""
    os.chdir(command.folder)
    os.execve(command.program, command.arguments, command.environment)


def open_standard_streams() -> None:
    """A standard stream that is closed becomes /dev/null. Else the next socket would get its number,
    and what is written to standard error would be sent there."""
    try:
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(fd, True)
    except OSError as error:
        fail(f"/dev/null can't be opened: {error.strerror}.")
    os.close(fd)


def fail(*sentences: str) -> NoReturn:
    from halfsync.logs.error import tell
    from halfsync.parent.upgrade.predecessor import current

    if (predecessor := current()) is not None and predecessor.failed(sentences):
        sys.exit(WRONG)
    for sentence in sentences:
        tell(f"halfsync: {' '.join(sentence.split())}")
    sys.exit(WRONG)


def converting(arguments: Sequence[str]) -> int:
    """`halfsync convert FILE`."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise click.UsageError(convert.USAGE)
    click.echo(convert.converted(arguments[0]), nl=False)
    return 0


def parsed(arguments: list[str]) -> Parsed:
    """Options and targets, read as the command line reads them, and not acted on."""
    return command().make_context("halfsync", arguments).params


def run(check_config: bool, print_config: bool, print_routes: bool, **options: Any) -> int:
    """What the command does; gives the exit status."""
    sources = gathered(options, os.environ, parsed)
    folder = current_folder()
    files = seen(os.path.join(folder, file) for file in sources.files)
    mistakes = Mistakes()
    loaded = load(sources.command_line, os.environ, sources.file, sources.layers, OTHER_NAMES, mistakes)
    read_again = Rereading(sources, os.environ, folder, loaded.settings)
    notes = [*sources.notes, *about_script_name(os.environ, loaded.settings.env)]
    enter(loaded, mistakes)
    named = [*loaded.targets]
    for argument in sources.targets:
        with mistakes.noted():
            named.append(target_of(argument))
    if print_config:
        mistakes.raise_all()
        click.echo(printed(loaded, named), nl=False)
        return 0
    layout = work_out(loaded.settings, named, loaded.sites, loaded.headers, loaded.error_pages, mistakes)
    read_again.started_with(named, loaded, layout)
    check_formats(loaded, mistakes)
    tls = check_served(loaded, layout, mistakes)
    if check_config:
        look_at_files(loaded, tls, mistakes)
        look_at_sockets(loaded, layout, mistakes)
        look_at_machine(loaded, layout, mistakes)
        look_at_certificates(loaded, layout, tls, mistakes)
        look_at_applications(loaded, named, layout, mistakes)
    mistakes.raise_all()
    if print_routes:
        plan = Plan(loaded.settings, layout.routes, layout.pools, (), sites=layout.sites)
        click.echo("\n".join(table_of(plan)))
        return 0
    warnings = ineffective(loaded, loaded.settings, named, layout)
    if check_config:
        for note in (*notes, *warnings, "The configuration is fine."):
            click.echo(note)
        return 0
    say_notes(notes, warnings, loaded)
    from halfsync.parent.main import serve

    try:
        return serve(loaded.settings, layout, read_again, files, tls, _command)
    except SettingError as wrong:
        raise with_places(wrong, loaded, mistakes.places) from None


def say_notes(notes: Sequence[str], warnings: Sequence[str], loaded: Loaded) -> None:
    from halfsync.logs import error

    error.be("parent", loaded.settings.log_level, loaded.settings.log_format)
    for note in notes:
        error.log("info", note)
    for warning in warnings:
        error.log("warning", warning)


def enter(loaded: Loaded, mistakes: Mistakes) -> None:
    """Go to the folder and set the environment that the settings ask for. Raises SettingError if there is no
    such folder: what is in it can't be looked at then."""
    settings = loaded.settings
    if settings.chdir is not None:
        try:
            os.chdir(settings.chdir)
        except OSError as error:
            mistakes.note(f"chdir: can't go to the folder {settings.chdir!r}: {error.strerror}.")
            mistakes.raise_all()
        # By name, not by where it leads: see Supervisor's `folder`.
        os.environ["PWD"] = os.path.join(os.environ.get("PWD", ""), settings.chdir)
    for pair in settings.env:
        name, _, value = pair.partition("=")
        if name:
            os.environ[name] = value


def printed(loaded: Loaded, targets: Sequence[Target]) -> str:
    """`--print-config`: each setting in the TOML file's own words, and where it came from."""
    texts = {name: f"{name} = {in_toml(getattr(loaded.settings, name))}" for name in BY_NAME}
    width = max(len(text) for text in texts.values() if len(text) < 60)
    lines = [f"{text:{width}}  # {loaded.origins[name]}" for name, text in texts.items()]
    lines += [
        "",
        *looks_in_toml(loaded.headers, loaded.error_pages),
        "[routes]",
        *routes_in_toml(targets),
        *sites_in_toml(loaded.sites),
    ]
    return "\n".join(lines) + "\n"
