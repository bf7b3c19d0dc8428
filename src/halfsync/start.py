"""The command `halfsync`: see cli.py, which takes some time to import."""

from __future__ import annotations

import os
from typing import NoReturn

from halfsync.early_signals import hold

hold()  # before anything else

INTERRUPTED = 130
"""As a shell has it: 128 and the number of SIGINT."""


def main() -> NoReturn:
    try:
        from halfsync.cli import main as run
    except KeyboardInterrupt:  # Ctrl-C, which comes too early for a sentence
        os._exit(INTERRUPTED)
    run()
