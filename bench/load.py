"""The load generator: runs wrk and reads what it prints."""

from __future__ import annotations

import dataclasses
import re
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

BROWSER = Path(__file__).with_name("browser.lua")

_SIZES = {"B": 1.0, "KB": 1024.0, "MB": 1024.0**2, "GB": 1024.0**3, "TB": 1024.0**4}
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Outcome:
    """One run of wrk."""

    requests: int
    per_second: float
    p99: float  # seconds
    failed: int  # socket errors, timeouts, and answers that are not 2xx or 3xx
    seconds: float = 0.0  # that it took
    load_busy: float = 0.0  # the part of one core that wrk itself used
    taken: float = 0.0  # bytes, those of responses among them that were under way at the end

    def in_parts(self, size: int) -> Outcome:
        """The same for responses of `size` bytes that are so large that few are complete at the end: all that
        came of them counts. (Of 100 MiB a server that is fair to 8 clients completes 8 at a time, or none.)
        """
        return dataclasses.replace(self, per_second=self.taken / size / self.seconds)


class CannotLoad(Exception):
    """wrk did not run; the text is what it said."""


def wrk(
    url: str,
    seconds: int,
    *,
    connections: int = 64,
    cores: set[int] | None = None,
    script: Path | None = None,
    headers: tuple[str, ...] = (),
) -> Outcome:
    """Load `url` for `seconds` from one thread, held to `cores` if any are given."""
    argv = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
    argv += ["--latency", "--timeout", "10s"]
    for header in headers:
        argv += ["--header", header]
    if script is not None:
        argv += ["--script", str(script)]
    if cores:
        argv = ["taskset", "--cpu-list", ",".join(map(str, sorted(cores))), *argv]
    used = _used_by_ended_children()
    done = subprocess.run([*argv, url], capture_output=True, text=True, timeout=seconds + 30, check=False)
    if done.returncode != 0:
        raise CannotLoad((done.stderr or done.stdout).strip())
    used = _used_by_ended_children() - used
    return dataclasses.replace(read(done.stdout), load_busy=used / seconds)


def _used_by_ended_children() -> float:
    """Seconds of processor time. Servers that still run are not in it."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def installed() -> bool:
    return shutil.which("wrk") is not None


def read(text: str) -> Outcome:
    """The figures in what wrk printed.

    CannotLoad if they are not there.
    """
    requests = re.search(
        r"^\s*(\d+) requests in ([\d.]+)(us|ms|s|m|h), ([\d.]+)(B|KB|MB|GB|TB) read", text, re.MULTILINE
    )
    rate = re.search(r"^Requests/sec:\s*([\d.]+)", text, re.MULTILINE)
    p99 = re.search(r"^\s*99%\s+([\d.]+)(us|ms|s|m|h)\s*$", text, re.MULTILINE)
    if not (requests and rate and p99):
        raise CannotLoad(f"wrk printed no figures:\n{text}")
    failed = 0
    if errors := re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text):
        failed += sum(map(int, errors.groups()))
    if refused := re.search(r"Non-2xx or 3xx responses: (\d+)", text):
        failed += int(refused[1])
    return Outcome(
        int(requests[1]),
        float(rate[1]),
        float(p99[1]) * _UNITS[p99[2]],
        failed,
        seconds=float(requests[2]) * _UNITS[requests[3]],
        taken=float(requests[4]) * _SIZES[requests[5]],
    )
