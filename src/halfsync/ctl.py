"""halfsyncctl: asks a running server, through its control socket, how it is, and tells it what to do."""

from __future__ import annotations

import os
import socket
import sys
import tomllib
from collections.abc import Iterable, Sequence
from typing import NoReturn

import click
import msgspec

from halfsync import __version__
from halfsync.ctl_text import TEXTS
from halfsync.wire.control import ControlRequest, encode_request

FAILED = 1
"""Exit status when the server says that it can't be done."""
WRONG = 2
"""When it was not asked: wrong usage, or there is no server."""

VARIABLE = "HALFSYNC_CONTROL_SOCKET"
DEFAULT_FILE = "halfsync.toml"

INTRODUCTION = """\
Ask a running server how it is, and tell it what to do.

It listens at the unix socket that its setting control_socket names. That is found by --socket, the variable
HALFSYNC_CONTROL_SOCKET, or the settings file (-c, or ./halfsync.toml).

\b
  halfsyncctl status
  halfsyncctl workers
  halfsyncctl reload
  halfsyncctl scale 8 shop:app
"""


class Problem(Exception):
    """One sentence for the user, and the exit status."""

    def __init__(self, sentence: str, status: int = WRONG) -> None:
        super().__init__(sentence)
        self.status = status


@click.group(
    "halfsyncctl",
    help=INTRODUCTION,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="halfsyncctl", message="%(prog)s %(version)s")
@click.option("-s", "--socket", "path", metavar="PATH", help="The control socket.")
@click.option("-c", "--config", metavar="FILE", help="Take control_socket from this settings file (TOML).")
@click.option("--json", "as_json", is_flag=True, help="Print what the server says as it is: JSON in a line.")
@click.pass_context
def command(context: click.Context, path: str | None, config: str | None, as_json: bool) -> None:
    context.obj = (path, config, as_json)


def _say(context: click.Context, request: ControlRequest) -> int:
    path, config, as_json = context.obj
    line = ask(socket_path(path, config), request)
    if as_json:
        click.echo(line.decode())
    try:
        said = msgspec.json.decode(line)
    except msgspec.MsgspecError:
        raise Problem("What is there does not answer as halfsync does.") from None
    if not said["ok"]:
        raise Problem(said["error"], FAILED)
    if not as_json:
        click.echo("\n".join(TEXTS[request.command](said)))
    return 0


@command.command(help="How the server is: processes, threads, connections, requests.")
@click.pass_context
def status(context: click.Context) -> int:
    return _say(context, ControlRequest("status"))


@command.command(help="All processes, and what the workers are doing.")
@click.pass_context
def workers(context: click.Context) -> int:
    return _say(context, ControlRequest("workers"))


@command.command(
    help="The rows of the scoreboard in shared memory: all processes, also those that ended lately, and what "
    "workers have been running for a while. No process is asked, so it works whatever they do."
)
@click.pass_context
def scoreboard(context: click.Context) -> int:
    return _say(context, ControlRequest("scoreboard"))


@command.command(help="Connections, and the requests on them.")
@click.pass_context
def connections(context: click.Context) -> int:
    return _say(context, ControlRequest("connections"))


@command.command(help="Responses that are repeated without a worker.")
@click.pass_context
def leases(context: click.Context) -> int:
    return _say(context, ControlRequest("leases"))


@command.command(
    help="Read settings and code again, and wait until that is over. If it fails, the old ones stay, the "
    "reason is printed, and the exit status is 1."
)
@click.pass_context
def reload(context: click.Context) -> int:
    return _say(context, ControlRequest("reload"))


@command.command(
    help="Have a new version of halfsync, started by the same command, take the place of the running one, "
    "and wait until it serves. If it does not come up, the running one goes on, the reason is printed, and "
    "the exit status is 1."
)
@click.pass_context
def upgrade(context: click.Context) -> int:
    return _say(context, ControlRequest("upgrade"))


@command.command(help="Open the access log and the error log again.")
@click.pass_context
def reopen(context: click.Context) -> int:
    return _say(context, ControlRequest("reopen"))


@command.command(help="Stop: requests in flight finish.")
@click.option("--now", "at_once", is_flag=True, help="Cut them off.")
@click.pass_context
def stop(context: click.Context, at_once: bool) -> int:
    return _say(context, ControlRequest("stop", at_once=at_once))


@command.command(help="NUMBER worker processes from now on: of APPLICATION, or of each.")
@click.argument("number", type=click.IntRange(1, 1000))
@click.argument("application", required=False)
@click.pass_context
def scale(context: click.Context, number: int, application: str | None) -> int:
    return _say(context, ControlRequest("scale", number, application))


# --- the server


def socket_path(path: str | None, config: str | None) -> str:
    """Where the server listens. Raises Problem."""
    if path is None and config is None:
        path = os.environ.get(VARIABLE) or None
    if path is not None:
        return path
    file = config or DEFAULT_FILE
    if config is None and not os.path.exists(file):
        raise Problem(f"Where is the control socket? Name it with --socket, {VARIABLE}, or -c FILE.")
    try:
        with open(file, "rb") as opened:
            found = tomllib.load(opened)
    except OSError as error:
        raise Problem(f"The settings file {file} can't be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Problem(f"The settings file {file} is not TOML: {error}.") from None
    named = found.get("control_socket")
    if not isinstance(named, str) or not named:
        raise Problem(f"The settings file {file} has no control_socket.")
    return os.path.join(str(found.get("chdir", "")), named)


def ask(path: str, request: ControlRequest) -> bytes:
    """The line that the server says. Raises Problem."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(path)
            sock.sendall(encode_request(request) + b"\n")
            with sock.makefile("rb") as said:
                line = said.readline()
        except (FileNotFoundError, ConnectionRefusedError):
            raise Problem(f"No server listens at {path!r}.") from None
        except OSError as error:
            raise Problem(f"The server at {path!r} can't be asked: {error.strerror or error}.") from None
    if not line.endswith(b"\n"):
        raise Problem("The server has ended before it said anything.", FAILED)
    return line


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    try:
        status = command.main(
            None if arguments is None else list(arguments), prog_name="halfsyncctl", standalone_mode=False
        )
    except click.UsageError as wrong:
        _fail([wrong.format_message()])
    except Problem as problem:
        _fail([str(problem)], problem.status)
    except (click.Abort, KeyboardInterrupt):
        status = 130
    except BrokenPipeError:  # of | head
        os._exit(1)
    sys.exit(status)


def _fail(sentences: Iterable[str], status: int = WRONG) -> NoReturn:
    for sentence in sentences:
        click.echo(f"halfsyncctl: {sentence}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
