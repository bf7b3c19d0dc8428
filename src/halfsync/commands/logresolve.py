"""`halfsync logresolve`: puts host names in the place of addresses, in access logs that are there already.

Lines are read, looked up and written at the same time, and written in the order in which they were read, each
as soon as the names of all before it are known. Each address is looked up once. What a line begins with
counts, if it is an address; of a line of JSON, `client_name` is set. What gzip has compressed, as logrotate's
`compress` does, is read as what it was before.
"""

from __future__ import annotations

import errno
import gzip
import io
import os
import queue
import re
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO, cast

import click

from halfsync.logs.names import Lookup, is_address, name_of, name_of_checked

WAITING = 50_000
"""Lines that are held while a name before them is looked up."""
BAR = 30
REDRAW = 0.1
"""Seconds."""

GZIP = b"\x1f\x8b"
"""What a compressed file begins with (RFC 1952 2.3.1), and no line of a log does."""

_CLIENT = re.compile(rb'"client":"([0-9A-Fa-f.:]+)"')
_NO_NAME = b'"client_name":null'


class Statistics:
    def __init__(self) -> None:
        self.lines = 0
        self.with_address = 0
        self.addresses = 0
        self.found = 0
        self.not_found = 0
        self.late = 0

    def in_words(self, seconds: float) -> str:
        rows = (
            ("lines", self.lines),
            ("lines with an address", self.with_address),
            ("different addresses", self.addresses),
            ("with a name", self.found),
            ("without one", self.not_found),
            ("not found in time", self.late),
        )
        text = "".join(f"{name:24}{count:>12,}\n" for name, count in rows)
        return f"{text}{'seconds':24}{seconds:>12.1f}\n"


class Progress:
    """A bar on standard error, if there is a terminal and it is known how much there is."""

    def __init__(self, total: int, statistics: Statistics) -> None:
        self._total = total
        self._statistics = statistics
        self._drawn_at = 0.0
        self.read = 0  # bytes

    def draw(self, *, is_last: bool = False) -> None:
        now = time.monotonic()
        if not self._total or (now - self._drawn_at < REDRAW and not is_last):
            return
        self._drawn_at = now
        share = min(1.0, self.read / self._total)
        bar = "#" * int(share * BAR)
        lines, names = self._statistics.lines, self._statistics.found
        shown = f"{lines:,} {_plural('line', lines)}, {names:,} {_plural('name', names)}"
        sys.stderr.write(f"\r[{bar:{BAR}}] {share:4.0%} {shown}" + ("\n" if is_last else ""))
        sys.stderr.flush()


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


class Resolving:
    def __init__(self, lookup: Lookup, jobs: int, timeout: float, output: BinaryIO) -> None:
        """`timeout`: seconds for which a name is waited for, from the moment when its line is the next."""
        self.statistics = Statistics()
        self.progress = Progress(0, self.statistics)
        self._lookup = lookup
        self._timeout = timeout
        self._output = output
        self._pool = ThreadPoolExecutor(jobs, "names")
        self._asked: dict[bytes, Future[str]] = {}
        self._lines: queue.Queue[tuple[bytes, bytes, Future[str] | None] | None] = queue.Queue(WAITING)
        self._late: set[bytes] = set()
        self._failed: BaseException | None = None

    def run(self, lines: Iterator[bytes]) -> None:
        """All of them. Raises what reading or writing has raised."""
        writer = threading.Thread(target=self._write_all)
        writer.start()
        try:
            for line in lines:
                if self._failed is not None:
                    break
                self._take(line)
        finally:
            self._lines.put(None)
            writer.join()
            self._pool.shutdown(wait=False, cancel_futures=True)
        if self._failed is not None:
            raise self._failed

    def _take(self, line: bytes) -> None:
        address = address_in(line)
        future = None
        if address:
            future = self._asked.get(address)
            if future is None:
                future = self._asked[address] = self._pool.submit(self._lookup, address.decode())
        self._lines.put((line, address, future))

    def _write_all(self) -> None:
        while (taken := self._lines.get()) is not None:
            if self._failed is not None:
                continue  # whoever reads must not wait for room
            try:
                self._output.write(self._resolved(*taken))
                if self._lines.empty():
                    self._output.flush()
            except Exception as error:  # noqa: BLE001 - it is raised in the other thread
                self._failed = error
        with suppress(OSError, ValueError):
            self._output.flush()

    def _resolved(self, line: bytes, address: bytes, future: Future[str] | None) -> bytes:
        statistics = self.statistics
        statistics.lines += 1
        self.progress.read += len(line)
        self.progress.draw()
        if future is None:
            return line
        statistics.with_address += 1
        name = "" if address in self._late else self._name(address, future)
        return with_name(line, address, name.encode()) if name else line

    def _name(self, address: bytes, future: Future[str]) -> str:
        try:
            return future.result(self._timeout)
        except TimeoutError:  # it keeps no other line waiting
            self._late.add(address)
            return ""

    def count(self) -> None:
        """Complete the statistics."""
        names = [one.result() for one in self._asked.values() if one.done() and not one.cancelled()]
        self.statistics.addresses = len(self._asked)
        self.statistics.late = len(self._late)
        self.statistics.found = sum(map(bool, names))
        self.statistics.not_found = len(names) - self.statistics.found


def address_in(line: bytes) -> bytes:
    """b"" if there is none."""
    if line.startswith(b"{"):
        found = _CLIENT.search(line)
        address = found[1] if found is not None and _NO_NAME in line else b""
    else:
        address = line.partition(b" ")[0].strip()
    return address if len(address) <= 45 and is_address(str(address, "latin-1")) else b""


def with_name(line: bytes, address: bytes, name: bytes) -> bytes:
    if line.startswith(b"{"):
        return line.replace(_NO_NAME, b'"client_name":"%b"' % name, 1)
    return name + line[len(address) :]


@click.command(
    "halfsync logresolve",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("-c", "double", is_flag=True, help="A name counts only if it leads back to the address.")
@click.option("-s", "statistics", metavar="FILE", help="Write statistics to this file; - is standard error.")
@click.option(
    "-j", "--jobs", type=click.IntRange(1, 1000), default=64, show_default=True, help="Lookups at once."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.001),
    default=10.0,
    show_default=True,
    help="Seconds for which a line waits for its name; then it has the address.",
)
def command(files: Sequence[str], double: bool, statistics: str | None, jobs: int, timeout: float) -> int:
    """Put host names in the place of addresses in access logs.

    Reads FILES, or standard input, and writes to standard output. On a terminal a bar shows the progress.

    \b
      halfsync logresolve access.log > named.log
      halfsync logresolve access.log.*.gz > named.log
      tail -f access.log | halfsync logresolve
    """
    started = time.monotonic()
    work = Resolving(name_of_checked if double else name_of, jobs, timeout, sys.stdout.buffer)
    is_shown = sys.stderr.isatty() and not sys.stdout.isatty()
    if files and "-" not in files and is_shown:
        work.progress = Progress(sum(map(_size, files)), work.statistics)
    try:
        work.run(_lines(files))
    except BrokenPipeError:  # as in | head
        os._exit(1)
    except OSError as error:
        raise click.UsageError(f"{error.filename or 'standard output'}: {error.strerror}") from None
    work.count()
    work.progress.draw(is_last=True)
    if statistics is not None:
        _write_statistics(statistics, work.statistics.in_words(time.monotonic() - started))
    sys.stdout.flush()
    os._exit(0)  # without waiting for lookups that nobody waits for


def _lines(files: Sequence[str]) -> Iterator[bytes]:
    with ExitStack() as opened:
        for name in files or ("-",):
            if name == "-":
                yield from _lines_of(cast(io.BufferedReader, sys.stdin.buffer), "standard input")
            else:
                yield from _lines_of(opened.enter_context(open(name, "rb")), name)


def _lines_of(file: io.BufferedReader, name: str) -> Iterator[bytes]:
    if not file.peek(len(GZIP)).startswith(GZIP):
        yield from file
        return
    try:
        yield from gzip.GzipFile(fileobj=file)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise OSError(errno.EIO, "it is compressed, and damaged or not complete", name) from None


def _size(name: str) -> int:
    """Bytes of the lines. Of a compressed file, what its end says: less than there is, from 4 GiB on."""
    with open(name, "rb") as file:
        if file.peek(len(GZIP)).startswith(GZIP):
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4))
            return int.from_bytes(file.read(), "little")
        return file.seek(0, os.SEEK_END)


def _write_statistics(file: str, text: str) -> None:
    if file == "-":
        sys.stderr.write(text)
        sys.stderr.flush()
        return
    try:
        Path(file).write_text(text)
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}") from None
