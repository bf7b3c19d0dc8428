"""halfsyncctl: asks a running server, through its control socket, how it is, and tells it what to do."""

from __future__ import annotations

import math
import os
import socket
import sys
import time
import tomllib
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import click
import msgspec

from halfsync import __version__
from halfsync.commands.ctl_text import TEXTS
from halfsync.wire.control import ControlRequest, encode_request

FAILED = 1
"""Exit status when the server says that it can't be done."""
WRONG = 2
"""When it was not asked: wrong usage, or there is no server."""

VARIABLE = "HALFSYNC_CONTROL_SOCKET"
DEFAULT_FILE = "halfsync.toml"
TIMEOUT = 30.0
"""Seconds for a response that is not waited for by nature. (The parent gives the pump 5.)"""
PATIENT = ("reload", "upgrade")
"""Commands that take as long as the application needs for its start: no limit, unless --timeout says one."""

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


QUEUE_FULL = 0.05
"""Seconds until the next try to connect."""


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
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    help=f"Wait no longer for the response. ({TIMEOUT:g}; reload and upgrade: as long as it takes.)",
)
@click.pass_context
def command(
    context: click.Context, path: str | None, config: str | None, as_json: bool, timeout: float | None
) -> None:
    context.obj = (path, config, as_json, timeout)


def _say(context: click.Context, request: ControlRequest) -> int:
    path, config, as_json, timeout = context.obj
    path = socket_path(path, config)
    if timeout is None:
        timeout = math.inf if request.command in PATIENT else TIMEOUT
    line = ask(path, request, timeout)
    said = _object(path, line)
    if as_json:
        click.echo(line.decode().rstrip("\n"))
    if not said["ok"]:
        raise Problem(said["error"], FAILED)
    if not as_json:
        try:
            text = "\n".join(TEXTS[request.command](said))
        except (LookupError, TypeError, ValueError, AttributeError):  # another version's, perhaps
            raise Problem(f"{_not_halfsync(path)} (--json shows it.)") from None
        click.echo(text)
    return 0


def _object(path: str, line: bytes) -> dict[str, Any]:
    """With `ok`, and `error` if that is false. Raises Problem."""
    try:
        said = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Problem(_not_halfsync(path)) from None
    is_right = isinstance(said, dict) and (said.get("ok") is True or isinstance(said.get("error"), str))
    if not is_right or "ok" not in said:
        raise Problem(_not_halfsync(path))
    return dict(said)


def _not_halfsync(path: str) -> str:
    return f"What listens at {path!r} does not respond as this version of halfsync does."


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


def ask(path: str, request: ControlRequest, seconds: float = TIMEOUT) -> bytes:
    """The line that the server says within so many seconds. Raises Problem."""
    until = time.monotonic() + seconds
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            _connect(sock, path, until)
            sock.sendall(encode_request(request) + b"\n")
            line = _receive_line(sock, until)
        except (FileNotFoundError, ConnectionRefusedError):
            raise Problem(f"No server listens at {path!r}.") from None
        except TimeoutError:
            raise Problem(
                f"The server at {path!r} has not responded within {seconds:g} s (--timeout).", FAILED
            ) from None
        except OSError as error:
            raise Problem(f"The server at {path!r} can't be asked: {error.strerror or error}.") from None
    if not line.endswith(b"\n"):
        raise Problem("The server has ended before it said anything.", FAILED)
    return line


def _connect(sock: socket.socket, path: str, until: float) -> None:
    """Also if others wait there already. Raises OSError."""
    while True:
        _limit(sock, until)
        try:
            sock.connect(path)
        except BlockingIOError:  # a unix socket whose queue is full does not wait, if there is a timeout
            time.sleep(QUEUE_FULL)
        else:
            return


def _receive_line(sock: socket.socket, until: float) -> bytes:
    """With its end, unless the connection ends before. Raises OSError."""
    pieces: list[bytes] = []
    while not (pieces and pieces[-1].endswith(b"\n")):
        _limit(sock, until)
        pieces.append(sock.recv(256 * 1024))
        if not pieces[-1]:
            break
    return b"".join(pieces)


def _limit(sock: socket.socket, until: float) -> None:
    """Raises TimeoutError if it has passed."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    sock.settimeout(left if left < math.inf else None)


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
