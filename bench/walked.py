"""A halfsync that writes down which of its functions are entered: `python -m bench.walked FOLDER ARGUMENTS`.

What is recorded, and when, is up to `bench.walk`: the first byte of FOLDER/recording is the number of the
recording, 0 for none. Each process appends to a file of its own, FOLDER/<pid>, a line for each function when
it first enters it in that recording: number, file and qualified name, separated by tabs. The first line is
the caller of the first function entered.

The profile function is set in the parent. fork(2) takes it to every process and `threading` to every thread,
so the server itself contains no code for this.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType

import halfsync
from halfsync.commands.cli import main

SOURCE = str(Path(halfsync.__file__).resolve().parent) + os.sep
NOT_FUNCTIONS = "<"
"""What the names of comprehensions, lambdas and modules begin with."""


class Recorder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        fd = os.open(folder / "recording", os.O_RDWR)
        self._recording = mmap.mmap(fd, mmap.PAGESIZE)
        os.close(fd)
        self._number = 0
        self._seen: set[CodeType] = set()

    def profile(self, frame: FrameType, event: str, _argument: object) -> None:
        number = self._recording[0]
        if not number or event != "call" or not frame.f_code.co_filename.startswith(SOURCE):
            return
        if number != self._number:
            self._number = number
            self._seen.clear()
            if frame.f_back is not None and frame.f_back.f_code.co_filename.startswith(SOURCE):
                self._note(frame.f_back.f_code)
        self._note(frame.f_code)

    def _note(self, code: CodeType) -> None:
        if code in self._seen or code.co_name.startswith(NOT_FUNCTIONS):
            return
        self._seen.add(code)
        line = f"{self._number}\t{code.co_filename.removeprefix(SOURCE)}\t{code.co_qualname}\n"
        fd = os.open(self._folder / str(os.getpid()), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, line.encode())
        os.close(fd)


if __name__ == "__main__":
    recorder = Recorder(Path(sys.argv[1]))
    threading.setprofile(recorder.profile)
    sys.setprofile(recorder.profile)
    main(sys.argv[2:])
