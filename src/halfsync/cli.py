"""The command line. Its options are the settings; their help is the settings' own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from halfsync import __version__
from halfsync.plan import Mount, Plan, Pool, target_of, work_out
from halfsync.settings import BY_NAME, GIB, KIB, MIB, ROWS, SECTIONS, Loaded, Row, SettingError, Target, load

WRONG = 2
"""Exit status when a setting or a target is wrong."""

USAGE = "[OPTIONS] [TARGETS]..."

INTRODUCTION = """\
Serve applications and folders over HTTP.

A target is a WSGI application (module:name or module:factory()) or a folder. PATH=TARGET mounts it
under a path; the longest path wins.

\b
  halfsync app:app
  halfsync ./public
  halfsync app:app /static=./static /media=./up
  halfsync -c halfsync.toml
"""

CLOSING = (
    "Each setting can also be a key of the TOML file (workers = 4) or an environment variable "
    "(HALFSYNC_WORKERS=4). The command line wins over the environment, the environment over the file."
)


class GroupedHelp(click.Command):
    """Options are listed in the settings' sections."""

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
        click.Option(["-c", "--config"], metavar="FILE", help="Read settings from this TOML file."),
        click.Option(
            ["--check-config"], is_flag=True, help="Check everything, import the applications, and exit."
        ),
        click.Option(
            ["--print-config"], is_flag=True, help="Print each setting and where it came from, and exit."
        ),
    ]
    made = GroupedHelp(
        "halfsync",
        params=[*(option_of(row) for row in ROWS), *others],
        callback=run,
        help=INTRODUCTION,
        epilog=CLOSING,
        options_metavar="[OPTIONS]",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    return click.version_option(__version__, prog_name="halfsync", message="%(prog)s %(version)s")(made)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit. What is wrong is one sentence on standard error, and status 2."""
    open_standard_streams()
    try:
        status = command().main(arguments, prog_name="halfsync", standalone_mode=False)
    except click.UsageError as wrong:
        fail(wrong.format_message())
    except SettingError as wrong:
        fail(str(wrong))
    except (click.Abort, KeyboardInterrupt):
        status = 130
    except BrokenPipeError:  # of --help | head
        os._exit(1)
    sys.exit(status)


def open_standard_streams() -> None:
    """A standard stream that is closed becomes /dev/null. Else the next socket would get its number,
    and what is written to standard error would be sent there."""
    try:
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(fd, True)
    except OSError as error:
        fail(f"/dev/null can't be opened: {error.strerror}.")
    os.close(fd)


def fail(sentence: str) -> NoReturn:
    from halfsync.logs.error import tell

    tell(f"halfsync: {' '.join(sentence.split())}")
    sys.exit(WRONG)


def run(
    targets: tuple[str, ...], config: str | None, check_config: bool, print_config: bool, **options: Any
) -> int:
    """What the command does; gives the exit status."""
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    loaded = load(given, os.environ, config)
    enter(loaded)
    named = [*loaded.targets, *map(target_of, targets)]
    if print_config:
        click.echo(printed(loaded, named), nl=False)
        return 0
    mounts, pools = work_out(loaded.settings, named)
    check_formats(loaded)
    if check_config:
        return check(loaded, mounts, pools)
    from halfsync.parent.main import serve

    return serve(loaded.settings, mounts, pools)


def enter(loaded: Loaded) -> None:
    """Go to the folder and set the environment that the settings ask for."""
    settings = loaded.settings
    if settings.chdir is not None:
        try:
            os.chdir(settings.chdir)
        except OSError as error:
            raise SettingError(
                f"chdir: can't go to the folder {settings.chdir!r}: {error.strerror}."
            ) from None
        # By name, not by where it leads: see Supervisor's `folder`.
        os.environ["PWD"] = os.path.join(os.environ.get("PWD", ""), settings.chdir)
    for pair in settings.env:
        name, _, value = pair.partition("=")
        os.environ[name] = value


def check_formats(loaded: Loaded) -> None:
    """Settings whose meaning others know."""
    from halfsync.logs.formats import compile_format
    from halfsync.watcher.main import check as check_reload

    check_reload(loaded.settings)
    try:
        compile_format(loaded.settings.access_logformat)
    except ValueError as error:
        raise SettingError(f"access_logformat: {error}") from None


def check(loaded: Loaded, mounts: tuple[Mount, ...], pools: tuple[Pool, ...]) -> int:
    """`--check-config`: all but binding, since the server may be running."""
    from halfsync.logs.error import keep_descriptor, tell
    from halfsync.parent import listeners, machine, privileges
    from halfsync.parent.main import entries
    from halfsync.parent.rehearsal import rehearse

    settings = loaded.settings
    keep_descriptor()
    for address in settings.bind:
        listeners.parse(address)
    settings = machine.prepared(settings, mounts, privileges.identity(settings))
    for name, path in (("access_logfile", settings.access_logfile), ("pid", settings.pid)):
        check_writable(name, path)
    failure = rehearse(Plan(settings, mounts, pools, ()), entries())
    if failure is not None:
        tell(failure.traceback + f"halfsync: {failure.sentence}")
        return WRONG
    click.echo("The configuration is fine.")
    return 0


def check_writable(name: str, path: str | None) -> None:
    if path is None or path == "-":
        return
    place = path if os.path.lexists(path) else os.path.dirname(os.path.abspath(path))
    if not os.access(place, os.W_OK):
        raise SettingError(f"{name}: the file {path} can't be written.")


def printed(loaded: Loaded, targets: Sequence[Target]) -> str:
    """`--print-config`: each setting in the TOML file's own words, and where it came from."""
    texts = {name: f"{name} = {in_toml(getattr(loaded.settings, name))}" for name in BY_NAME}
    width = max(len(text) for text in texts.values() if len(text) < 60)
    lines = [f"{text:{width}}  # {loaded.origins[name]}" for name, text in texts.items()]
    lines += ["", "[mounts]", *(f"{in_toml(one.path)} = {target_in_toml(one)}" for one in targets)]
    return "\n".join(lines) + "\n"


def in_toml(value: Any) -> str:
    """A value as the TOML file would have it; "" for none, which the file understands."""
    if value is None:
        return '""'
    if isinstance(value, list):
        return "[" + ", ".join(map(in_toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {in_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return json.dumps(value, ensure_ascii=False)


def target_in_toml(target: Target) -> str:
    own = {name: getattr(target, name) for name in ("workers", "threads", "lease")}
    own = {name: value for name, value in own.items() if value is not None}
    return in_toml({"target": target.target, **own} if own else target.target)
