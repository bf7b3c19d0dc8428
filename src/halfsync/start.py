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
        import httptools  # noqa: F401 - imported late otherwise, when nobody makes a sentence of it

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
    """One that was installed without what it needs (pip install --no-deps), or with what is for another
    Python or machine (a folder that was copied), or in a zip file, from which nothing compiled is loaded."""
    package, _, part = (missing.name or "").partition(".")
    if package not in NEEDED:
        raise missing
    if part:
        here = f"Python {sys.version_info.major}.{sys.version_info.minor}"
        sys.exit(
            f"{command}: the package {package} has no {missing.name} for this {here}: it was installed for "
            "another Python or machine, or is in a zip file that is not unpacked (as shiv and pex are)."
        )
    why = f"the package {package}, which it needs, is not in {sys.prefix}"
    sys.exit(f"{command}: {why}: pip install halfsync.")
