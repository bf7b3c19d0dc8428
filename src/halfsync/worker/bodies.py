"""A handler's response turned into simple objects: what lets a thread go while the client still reads.

Theory of operation
-------------------
Nobody acknowledges anything: the worker cannot know how fast the client reads its response, and need not.
What bounds memory is where the pieces go, by how much there has been of this body:

    a whole body up to 64 KiB      in the Reply itself, and out in one write with the head
    the first `reply_memory`       Memory objects
    then, up to `reply_spool`      an anonymous temporary file: each piece is appended and sent as a File;
                                   the descriptor crosses once, then SAME_FILE
    beyond                         a Pipe. The kernel's own back-pressure holds the thread now, and that is
                                   the one case where a slow client holds one

A whole body that is larger than `reply_memory` goes to the file at once: sent from there
with sendfile(2), it costs the pump no memory at all.

The file is one on the disk's file system, not memory of its own (memfd_create), though its pages stay in the
page cache as well: writing to it takes half the time (ext4, which has large folios; milliseconds of
processor time for 1, 8 and 64 MiB: 0.3, 2.2 and 21; with a memfd 0.6, 5.9 and 42), and what is left there
by slow clients is written out instead of filling the memory.

Small pieces go to the file early (after MAX_PIECES), for each Memory object costs the pump some 100
bytes beside its data, while File segments that follow each other can be one.

The end is said: the last message says DONE or ABORTED. End of file on the pipe is not the end.
"""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Sized

import msgspec

from halfsync.http.error_pages import ErrorPages
from halfsync.http.header_rules import HeaderRules
from halfsync.http.response import SMALL, ClientDisconnectedError, Head
from halfsync.objects import SAME_FILE, File, Memory, Pipe, SimpleObject, Tunnel
from halfsync.settings.table import Settings
from halfsync.system.primitives import os, time
from halfsync.system.stamps import Stamp
from halfsync.system.temporary_files import out_of_reach, temporary_file
from halfsync.wire.messages import DONE, Ending, Lease, Part, Reply
from halfsync.worker.forks import end_if_child
from halfsync.worker.outbox import Outbox

MAX_PIECE = 128 * 1024
"""Bytes of a Memory object: with its message it must fit a packet (MAX_PACKET)."""
MAX_PIECES = 128
"""Memory objects of one reply."""
ASK_EVERY = 1_000_000_000
"""Nanoseconds. A handler that has only empty pieces sends nothing, so a client that has closed its connection
is not found out by a failed send: the pump is asked."""
PIPE_SIZE = 1024 * 1024
"""The most that an unprivileged process may ask for (/proc/sys/fs/pipe-max-size)."""


class ResponseLimits(msgspec.Struct, frozen=True):
    memory: int
    spool: int
    folder: str

    @classmethod
    def of(cls, settings: Settings) -> ResponseLimits:
        """To be called before the application is imported, which may go to another folder."""
        folder = settings.spool_dir or tempfile.gettempdir()
        return cls(settings.reply_memory, settings.reply_spool, os.path.abspath(folder))


class TaskReplier:
    """The Replier of one task. Used by the thread that has the task, and by no other."""

    __slots__ = (
        "_asked",
        "_began",
        "_limits",
        "_others",
        "_outbox",
        "_pages",
        "_rules",
        "_spill",
        "begun",
        "ended",
        "number",
        "sent",
    )

    def __init__(
        self,
        outbox: Outbox,
        limits: ResponseLimits,
        number: int,
        began: int,
        others: Sized,
        rules: HeaderRules | None = None,
        pages: ErrorPages | None = None,
    ) -> None:
        self._rules = rules
        self._pages = pages
        self._outbox = outbox
        self._others = others  # tasks that wait to begin
        self._limits = limits
        self.number = number
        self._began = began
        self._asked = began
        self._spill: _Spill | None = None
        self.begun = False
        self.ended = False
        self.sent = 0  # bytes of the body that were handed over

    def whole(self, head: Head, length: int, body: bytes, lease: Lease | None = None) -> None:
        if len(body) > SMALL:
            self._large(head, length, body, lease)
            return
        self.begun = self.ended = True
        self.sent = len(body)
        now = time.monotonic_ns()
        self._outbox.put(
            Reply(
                self.number,
                head.status,
                head.reason,
                head.fields if self._rules is None else self._rules.apply(head.fields),
                length,
                body,
                [],
                DONE,
                head.dated,
                False,
                lease,
                now - self._began,
            ),
            len(body),
            now,
        )

    def own(self, head: Head, body: bytes, lease: Lease | None = None) -> None:
        if self._pages is not None:
            fields, body = self._pages.instead(head.status, head.fields, body)
            head = msgspec.structs.replace(head, fields=fields)
        self.whole(head, len(body), body, lease)

    def file(
        self,
        head: Head,
        length: int,
        descriptor: int,
        offset: int,
        count: int,
        lease: Lease | None = None,
        ending: Ending = DONE,
        stamp: Stamp | None = None,
    ) -> None:
        self.sent = count
        self._reply(head, length, b"", [File(descriptor, offset, count, stamp)], ending, lease)

    def tunnel(self, head: Head, descriptor: int) -> None:
        self._reply(head, -1, b"", [Tunnel(descriptor)], DONE)

    def begin(self, head: Head, length: int, piece: bytes) -> None:
        assert not self.begun
        self._spill = spill = _Spill(self._limits)
        if len(piece) <= SMALL:
            spill.count_memory(len(piece))
            self.sent = len(piece)
            self._reply(head, length, piece, [], Ending.UNFINISHED)
            self._leave()
            return
        self._reply(head, length, b"", [], Ending.UNFINISHED)
        self.write(piece)

    def write(self, piece: bytes, *, last: bool = False) -> None:
        end_if_child()  # or it would write to the file or pipe that it shares with the worker
        assert self.begun
        assert not self.ended
        spill = self._spill
        if spill is None:
            self._spill = spill = _Spill(self._limits)
        self.sent += len(piece)
        objects = spill.objects(piece)
        if last and not spill.piped:
            self._part(objects, DONE)
        elif objects:
            self._part(objects, Ending.UNFINISHED)
            self._leave()
        if spill.piped:
            spill.write_pipe()
            if last:
                self.finish()

    def finish(self) -> None:
        self._part([], DONE)

    def abort(self) -> None:
        self._part([], Ending.ABORTED)

    def soon(self) -> None:
        # If others wait, the pump nudges when they wait too long, and that sends this reply too.
        if not self._others:
            self._outbox.flush()

    def release(self) -> None:
        """The thread is done with the task: let go of what the response still holds."""
        if self._spill is not None:
            self._spill.close()

    def _large(self, head: Head, length: int, body: bytes, lease: Lease | None) -> None:
        """A whole body that does not fit its Reply. One with a lease must be whole in one message."""
        self.sent = len(body)
        if len(body) > self._limits.memory or lease is not None:
            spill = self._spill = _Spill(self._limits)
            objects = spill.objects_in_file(body)
            if spill.piped:
                self._reply(head, length, b"", objects, Ending.UNFINISHED)
                self._leave()
                spill.write_pipe()
                self.finish()
            else:
                self._reply(head, length, b"", objects, DONE, lease)
            return
        self._reply(head, length, body[:SMALL], [], Ending.UNFINISHED)
        for start in range(SMALL, len(body), MAX_PIECE):
            piece = Memory(body[start : start + MAX_PIECE])
            last = start + MAX_PIECE >= len(body)
            self._part([piece], DONE if last else Ending.UNFINISHED)

    def _reply(
        self,
        head: Head,
        length: int,
        body: bytes,
        objects: list[SimpleObject],
        ending: Ending,
        lease: Lease | None = None,
    ) -> None:
        self.begun = True
        self.ended = ending is not Ending.UNFINISHED
        now = time.monotonic_ns()
        handler_ns = now - self._began if self.ended else 0
        self._outbox.put(
            Reply(
                self.number,
                head.status,
                head.reason,
                head.fields if self._rules is None else self._rules.apply(head.fields),
                length,
                body,
                objects,
                ending,
                head.dated,
                False,
                lease,
                handler_ns,
            ),
            len(body),
            now,
        )

    def _part(self, objects: list[SimpleObject], ending: Ending) -> None:
        assert not self.ended
        self.ended = ending is not Ending.UNFINISHED
        now = time.monotonic_ns()
        handler_ns = now - self._began if self.ended else 0
        self._outbox.put(Part(self.number, objects, ending, handler_ns), _memory(objects), now)

    def end_if_child(self) -> None:
        end_if_child()

    def check_client(self) -> None:
        self._raise_if_disconnected()
        now = time.monotonic_ns()
        if now - self._asked > ASK_EVERY:
            self._asked = now
            self._part([], Ending.UNFINISHED)
            self._leave()

    def _raise_if_disconnected(self) -> None:
        if self._outbox.gone or self._outbox.is_disconnected(self.number):
            raise ClientDisconnectedError

    def _leave(self) -> None:
        self._outbox.flush()
        self._raise_if_disconnected()


class TaskResponder:
    """A thread's Responder: most tasks need no TaskReplier."""

    __slots__ = ("_limits", "_others", "_replier", "outbox", "put_small", "sent")

    def __init__(self, outbox: Outbox, limits: ResponseLimits, others: Sized) -> None:
        self.outbox = outbox
        self.put_small = outbox.put_small
        self._limits = limits
        self._others = others
        self._replier: TaskReplier | None = None
        self.sent = 0  # bytes of bodies, until they are counted

    def replier(
        self,
        number: int,
        began: int,
        rules: HeaderRules | None = None,
        pages: ErrorPages | None = None,
    ) -> TaskReplier:
        self._replier = replier = TaskReplier(
            self.outbox, self._limits, number, began, self._others, rules, pages
        )
        return replier

    def replier_of(
        self, number: int, began: int, rules: HeaderRules | None, pages: ErrorPages | None
    ) -> TaskReplier:
        """The one that the handler of this task has used, or the first one."""
        replier = self._replier
        self._replier = None
        # Another's: of a task whose application still calls what it was given, after its response.
        if replier is None or replier.number != number:
            return self.replier(number, began, rules, pages)
        return replier


def _memory(objects: list[SimpleObject]) -> int:
    return sum(len(item.data) for item in objects if isinstance(item, Memory))


class _Spill:
    """Where the pieces of one body go: memory, then a file, then a pipe."""

    __slots__ = ("_file", "_file_size", "_limits", "_memory", "_pieces", "_pipe", "_rest", "_said")

    def __init__(self, limits: ResponseLimits) -> None:
        self._limits = limits
        self._memory = 0
        self._pieces = 0
        self._file = -1
        self._file_size = 0
        self._said = False  # the pump has the file's descriptor
        self._pipe = -1
        self._rest = memoryview(b"")  # to be written to the pipe

    @property
    def piped(self) -> bool:
        return self._pipe >= 0

    def count_memory(self, size: int) -> None:
        self._memory += size
        self._pieces += 1

    def objects(self, piece: bytes) -> list[SimpleObject]:
        """What to tell the pump of this piece. After it, `write_pipe` if `piped`."""
        if self.piped:
            self._rest = memoryview(piece)
            return []
        in_memory = self._file < 0 and self._pieces < MAX_PIECES and len(piece) <= MAX_PIECE
        if in_memory and self._memory + len(piece) <= self._limits.memory:
            self.count_memory(len(piece))
            return [Memory(piece)]
        return self.objects_in_file(piece)

    def objects_in_file(self, piece: bytes) -> list[SimpleObject]:
        data = memoryview(piece)
        room = self._limits.spool - self._file_size
        objects: list[SimpleObject] = []
        if room > 0 and data:
            objects.append(self._write_file(data[:room]))
        if len(data) > room:
            objects.append(Pipe(self._open_pipe()))
            self._rest = data[max(0, room) :]
        return objects

    def _write_file(self, data: memoryview) -> File:
        if self._file < 0:
            self._file = temporary_file(self._limits.folder)
        offset = self._file_size
        write_all(self._file, data)
        self._file_size += len(data)
        descriptor = SAME_FILE if self._said else out_of_reach(os.dup(self._file))
        self._said = True
        return File(descriptor, offset, len(data))

    def _open_pipe(self) -> int:
        reading, self._pipe = map(out_of_reach, os.pipe2(os.O_CLOEXEC))
        try:
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:
            pass  # this user has too much in pipes already (pipe(7)): the default size does, too
        return reading

    def write_pipe(self) -> None:
        """Write what is left over for the pipe; waits for the client."""
        rest, self._rest = self._rest, memoryview(b"")
        try:
            write_all(self._pipe, rest)
        except BrokenPipeError:
            raise ClientDisconnectedError from None

    def close(self) -> None:
        for descriptor in (self._file, self._pipe):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._pipe = -1


def write_all(descriptor: int, data: memoryview) -> None:
    """Raises OSError."""
    while data:
        data = data[os.write(descriptor, data) :]
