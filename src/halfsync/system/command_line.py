"""The command by which this process was started, and how to start it once more.

A deployment may have put another release in its place since: in another virtual environment, with another
interpreter. So what is started is what the user named, looked up again from the folder where he was: through
every symbolic link, and through the first line of a script.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping

import msgspec

from halfsync.system.folders import current_folder

FOR_ONE_PROCESS = (
    *("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID"),
    "WATCHDOG_PID",  # without it, WATCHDOG_USEC is for whoever is the main process
)
"""Variables that mean the process that got them, and no other."""

_FIRST_LINES = 1024
"""Bytes of a script in which its interpreter is named."""


class CommandLine(msgspec.Struct, frozen=True):
    program: str
    arguments: tuple[str, ...]  # with the program's name as the first
    folder: str  # by its name
    environment: Mapping[str, str]
    descriptor_limits: tuple[int, int]  # RLIMIT_NOFILE, soft and hard

    @classmethod
    def of_this_process(cls) -> CommandLine:
        """To be called before anything changes the folder, the environment or the limits."""
        folder, limits = current_folder(), resource.getrlimit(resource.RLIMIT_NOFILE)
        environment = {name: value for name, value in os.environ.items() if name not in FOR_ONE_PROCESS}
        if "PWD" in environment:
            environment["PWD"] = folder
        arguments = sys.orig_argv[1:]
        if (place := _place_of_script(arguments)) is not None:
            script = arguments[place]
            return cls(script, (script, *arguments[place + 1 :]), folder, environment, limits)
        return cls(sys.executable, (sys.executable, *arguments), folder, environment, limits)


def _place_of_script(arguments: list[str]) -> int | None:
    """Where the script stands that names the interpreter which runs it; None if we were not started so."""
    script = sys.argv[0]
    if script not in arguments or not os.access(script, os.X_OK):
        return None
    try:
        with open(script, "rb") as file:
            start = file.read(_FIRST_LINES)
    except OSError:
        return None
    first, _, second = start.partition(b"\n")
    words = first.removeprefix(b"#!").split()
    interpreter = os.fsencode(sys.orig_argv[0])
    # Where its path is long or relative, a shell starts it: '''exec' /long/python "$0" "$@"
    by_shell = first.endswith(b"/sh") and second.startswith(b"'''exec'")
    if first.startswith(b"#!") and (interpreter in words or by_shell):
        return arguments.index(script)
    return None
