"""A halfsync under fire: its folders, its processes, its logs."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from faults.requests import write_files
from faults.tree import Mark, is_alive

ROOT = Path(__file__).resolve().parent.parent
START_LIMIT = 20.0
STOP_LIMIT = 20.0
TARGET = "faults.app:app"
ASGI_TARGET = "faults.asgi_app:app"
"""The same in ASGI."""
T = TypeVar("T")


class CannotStart(Exception):
    """The server did not come up. The text shows the end of its log."""


class Server:
    """Starts at once. `start_folder` is where it runs, `temporary` its folder of temporary files; both, and
    no others, may be removed."""

    def __init__(
        self,
        options: tuple[str, ...],
        environment: dict[str, str],
        limits: dict[int, int],
        target: str = TARGET,
    ) -> None:
        self._target = target
        self.folder = Path(tempfile.mkdtemp(prefix="halfsync-faults-"))
        self.start_folder, self.temporary = self.folder / "start", self.folder / "temporary"
        files = self.folder / "files"
        for folder in (self.start_folder, self.temporary, files):
            folder.mkdir()
        write_files(files)
        self.effects = self.folder / "effects"
        self.access_log = self.folder / "access.log"
        self.error_log = self.folder / "error.log"
        self._mark = Mark("HALFSYNC_FAULTS_RUN")
        log = () if "--access-logfile" in options else ("--access-logfile", str(self.access_log))
        command = [sys.executable, "-m", "halfsync", "--bind", "127.0.0.1:0", "--log-level", "debug"]
        command += ["--workers", "2", "--threads", "4", "--graceful-timeout", "5", *log]
        command += ["--access-logformat", "%s %r", *options, target, f"/files={files}"]
        with self.error_log.open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                cwd=self.start_folder,
                env={**self._environment(), **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                preexec_fn=lambda: _limit(limits),  # noqa: PLW1509 (no thread runs while a server starts)
            )
        try:
            self.until(lambda: " serves " in self.log() or self.process.poll() is not None, START_LIMIT)
            served = re.search(r" serves .* at http://127\.0\.0\.1:(\d+)", self.log())
            if served is None:
                raise CannotStart(f"halfsync does not start:\n{self.log()[-2000:]}")
        except BaseException:
            self.remove()
            raise
        self.port = int(served[1])

    def _environment(self) -> dict[str, str]:
        inherited = {key: one for key, one in os.environ.items() if not key.startswith("HALFSYNC_")}
        for common in ("PORT", "WEB_CONCURRENCY"):
            inherited.pop(common, None)
        return {
            **inherited,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(self.temporary),
            "FAULTS_EFFECTS": str(self.effects),
            self._mark.variable: self._mark.value,
        }

    # --- what it says and is

    def log(self) -> str:
        return self.error_log.read_text("utf-8", "replace")

    def until(self, holds: Callable[[], T], seconds: float) -> T:
        """What `holds` gives, when that is true at last. Raises CannotStart."""
        deadline = time.monotonic() + seconds
        while not (found := holds()):
            if time.monotonic() > deadline:
                raise CannotStart(f"this did not happen within {seconds:g} s; its log:\n{self.log()[-2000:]}")
            time.sleep(0.01)
        return found

    @property
    def pump(self) -> int | None:
        return next(iter(self._living(r"pump \[(\d+)\] is started")[-1:]), None)

    @property
    def workers(self) -> list[int]:
        """Process ids of the application's workers that are ready, the oldest first."""
        return self._living(rf"worker\({re.escape(self._target)}\) \[(\d+)\] is ready")

    @property
    def built_in(self) -> list[int]:
        return self._living(r"worker\(built-in\) \[(\d+)\] is ready")

    def _living(self, words: str) -> list[int]:
        return [pid for found in re.findall(words, self.log()) if is_alive(pid := int(found))]

    def processes(self) -> list[int]:
        """All living ones of its tree; orphans, too."""
        return self._mark.processes()

    # --- what is done to it

    def signal(self, number: signal.Signals, pid: int | None = None) -> None:
        """To the parent, or to a process of the tree that may just have ended."""
        try:
            os.kill(pid or self.process.pid, number)
        except ProcessLookupError:
            pass

    def stop(self) -> str:
        """Ask it to; what is wrong with how it stopped, or nothing."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.ended()

    def ended(self) -> str:
        """Wait for its end; what is wrong with it, or nothing."""
        try:
            status = self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            return f"the server did not stop within {STOP_LIMIT:g} s"
        if status:
            return f"the server ended with status {status}"
        try:
            self.until(lambda: not self.processes(), STOP_LIMIT)
        except CannotStart:
            return f"processes are left: {self.processes()}"
        return ""

    def remove(self) -> None:
        """With all that is left of it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pid in self.processes():
            self.signal(signal.SIGKILL, pid)
        shutil.rmtree(self.folder, ignore_errors=True)


def _limit(limits: dict[int, int]) -> None:
    for which, value in limits.items():
        resource.setrlimit(which, (value, value))
