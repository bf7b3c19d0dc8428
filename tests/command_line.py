"""The command `halfsync`, run many times without the imports that each start begins with.

`command(folder, "app:app", "--check-config")` gives what subprocess.run gives of `python -m halfsync` with
these arguments; but the process is forked from one that has imported the server already (see launcher.py).
For commands that check, print or refuse something; servers are started by tests/e2e/harness.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.launcher import launch

TIMEOUT = 120.0


def command(
    folder: Path, *arguments: str, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Its whole environment is `environment`. Raises TimeoutExpired if it does not end."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = ["-m", "halfsync", *arguments]
        process = launch(
            started,
            folder=folder,
            environment=environment,
            output=output.fileno(),
            errors=errors.fileno(),
            own_group=True,
        )
        try:
            status = process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(["halfsync", *arguments], status, output.read(), errors.read())


def ended(
    folder: Path, *arguments: str, environment: Mapping[str, str], through: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """The same; `through` is a command that does something first and then becomes this one (exec)."""
    if not through:
        return command(folder, *arguments, environment=environment)
    return subprocess.run(
        [*through, sys.executable, "-m", "halfsync", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
