"""`make transports`: the tests of the pump and the end-to-end tests again, over each transport of
pump/transports.py; and those of the pump over TLS. One transport after the other, and at the end one line for
each, and what has failed; the exit status is 0 if nothing has.

    python -m tests.over_transports [TRANSPORT ...] [--] [ARGUMENTS OF PYTEST]
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tests.pump.transports import TRANSPORTS

ROOT = Path(__file__).resolve().parent.parent
TLS = "tls"
"""The real one, which the tests of the pump alone can have: end-to-end tests have clients of many kinds, and
to most of them a server with a certificate is another server."""
NAMES = [*(name for name in TRANSPORTS if name != "plain"), TLS]
FOLDERS = ("tests/pump", "tests/e2e")

NOT_REPEATED = {
    "no client connects to a pump": (
        "pump/test_access.py",
        "pump/test_client_rates.py",
    ),
    "each runs over these transports by itself": (
        "pump/test_transports.py",
        "e2e/test_transports.py",
    ),
    "all connections have TLS, which is a transport of its own, over a plain socket": (
        "pump/test_tls.py",
        "pump/test_tls_leaving.py",
        "e2e/test_asgi_tls.py",
        "e2e/test_client_certificates.py",
        "e2e/test_http2_tls.py",
        "e2e/test_https.py",
    ),
}
"""Files of tests, by why a transport makes no difference to them."""


def left_out() -> list[Path]:
    return [ROOT / "tests" / file for files in NOT_REPEATED.values() for file in files]


def run(name: str, arguments: list[str], report: Path) -> int:
    """pytest's exit status."""
    folders = FOLDERS[:1] if name == TLS else FOLDERS
    command = [sys.executable, "-m", "pytest", *folders, *(f"--ignore={path}" for path in left_out())]
    command += [f"--junit-xml={report}", "-o", f"cache_dir=.pytest_cache/{name}", *arguments]
    environment = {**os.environ, "HALFSYNC_TEST_TRANSPORT": name}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def summary(report: Path) -> tuple[str, list[str]]:
    """How many tests there were, in words, and the names of those that failed."""
    try:
        suite = ElementTree.parse(report).getroot().find("testsuite")
    except (OSError, ElementTree.ParseError):
        suite = None
    if suite is None:
        return "no report", []
    count = {what: int(suite.get(what, "0")) for what in ("tests", "failures", "errors", "skipped")}
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    wrong = count["failures"] + count["errors"]
    return f"{count['tests']} tests, {count['skipped']} skipped, {wrong} failed", failed


def main(arguments: list[str]) -> int:
    names = []
    while arguments and arguments[0] in NAMES:
        names.append(arguments.pop(0))
    if arguments[:1] == ["--"]:
        del arguments[0]
    lines, status = [], 0
    for name in names or NAMES:
        report = ROOT / f".pytest_cache/{name}.xml"
        report.unlink(missing_ok=True)
        start = time.monotonic()
        ended = run(name, arguments, report)
        status = status or ended
        text, failed = summary(report)
        lines.append(f"{name}: {text}, in {time.monotonic() - start:.0f} s; pytest's status {ended}")
        lines += [f"    {one}" for one in failed]
    print("\n".join(["", *lines]))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
