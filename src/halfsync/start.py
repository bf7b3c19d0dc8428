"""The commands `halfsync` and `halfsyncctl`: see cli.py and ctl.py, which take some time to import."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from halfsync.system.early_signals import hold

hold()  # before anything else

INTERRUPTED = 130
"""As a shell has it: 128 and the number of SIGINT."""


NEEDED = ("click", "httptools", "msgspec")
"""Packages without which nothing works."""


def main() -> NoReturn:
    try:
        from halfsync.commands.cli import main as run
    except KeyboardInterrupt:  # Ctrl-C, which comes too early for a sentence
        os._exit(INTERRUPTED)
    except ModuleNotFoundError as missing:
        fail("halfsync", missing)
    run()


def control() -> NoReturn:
    try:
        from halfsync.commands.ctl import main as run
    except ModuleNotFoundError as missing:
        fail("halfsyncctl", missing)
    run()


def fail(command: str, missing: ModuleNotFoundError) -> NoReturn:
    """One that was installed without what it needs (pip install --no-deps)."""
    if missing.name not in NEEDED:
        raise missing
    why = f"the package {missing.name}, which it needs, is not in {sys.prefix}"
    sys.exit(f"{command}: {why}: pip install halfsync.")
