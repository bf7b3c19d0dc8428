"""What is done once for a run of the tests."""

from __future__ import annotations

import compileall
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = False  # rewritten tests are kept for the next run: to collect all takes 6 s, not 14
# How long an example takes depends on what else the machine does. The examples are the same in each run, so
# that a change is judged by what it changes; --hypothesis-profile=seeking tries others.
settings.register_profile("seeking", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("patient", settings.get_profile("seeking"), derandomize=True)
settings.load_profile("patient")
COMPILED = ("src", "tests/e2e/apps", "faults", "examples/demo")


def pytest_configure(config: pytest.Config) -> None:
    """Compile what servers import. The tests start hundreds of them, with PYTHONDONTWRITEBYTECODE (they edit
    applications more often than once a second, which is how bytecode files tell versions apart), and each
    would compile all that is not compiled yet: 0.7 s of processor time for a start in place of 0.4."""
    if hasattr(config, "workerinput"):
        return  # one of xdist's workers: it was done before they were started
    for folder in COMPILED:
        compileall.compile_dir(ROOT / folder, quiet=2)
