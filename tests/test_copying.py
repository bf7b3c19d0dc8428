"""Parts of files are copied by the kernel, or else by hand."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import pytest

from halfsync.system.copying import READ, copy_part

DATA = os.urandom(3 * READ)


def refuse(*_: Any) -> int:
    raise OSError(errno.EPERM, "")


@pytest.fixture(params=["by the kernel", "by hand"])
def files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    if request.param == "by hand":
        monkeypatch.setattr(os, "sendfile", refuse)
    to, fd = os.memfd_create("to"), os.memfd_create("from")
    os.write(fd, DATA)
    yield to, fd
    os.close(to)
    os.close(fd)


def test_a_part_is_appended_to_what_was_copied_before(files: tuple[int, int]):
    to, fd = files
    assert copy_part(to, fd, 7, 2 * READ) == 2 * READ
    assert copy_part(to, fd, 0, 3) == 3
    assert os.pread(to, len(DATA), 0) == DATA[7 : 7 + 2 * READ] + DATA[:3]


def test_a_file_that_is_shorter(files: tuple[int, int]):
    to, fd = files
    assert copy_part(to, fd, len(DATA) - 5, 100) == 5
    assert os.pread(to, 100, 0) == DATA[-5:]


def test_another_error_is_raised(files: tuple[int, int]):
    to, _ = files
    with pytest.raises(OSError, match="Bad file"):
        copy_part(to, -1, 0, 1)
