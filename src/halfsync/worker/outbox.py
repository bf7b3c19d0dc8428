"""Replies on their way to the pump: collected by all threads of a worker, sent in few packets.

A packet costs the worker a system call and, on a shared core, a switch to the pump: sent one by
one, trivial responses cost 70 µs each, batched 20. So responses wait here until the task queue is empty
(`threads` says when), and every packet takes as many as fit.

Descriptors stand beside the packet, in order (SCM_RIGHTS). In a message that waits here, a `File` or
`Pipe` has the true descriptor; when the packet is made it gets its index. What was sent is closed
here. Messages of one task leave in the order in which they were put.
"""

from __future__ import annotations

import array
import errno
from collections import deque
from collections.abc import Iterator

from halfsync.http.response import SLIGHT, Head, SmallReply
from halfsync.logs.error import log
from halfsync.objects import File, Memory, Pipe, Tunnel
from halfsync.system.primitives import os, select, socket, threading, time
from halfsync.wire.messages import (
    ALIKE_TAG,
    DONE,
    MAX_DESCRIPTORS,
    MAX_PACKET,
    Accept,
    AlikeColumns,
    Close,
    EarlyHints,
    Ending,
    FromWorker,
    Message,
    MessageColumns,
    Part,
    PartColumns,
    Reply,
    encode,
)
from halfsync.wire.packets import BEHIND_FROM, buffers_of
from halfsync.wire.task_slots import SCOREBOARD_SLOTS
from halfsync.worker.forks import end_if_child

MAX_WAIT = 1_000_000
"""Nanoseconds that a response waits to be batched while further tasks begin."""
MAX_WAITING = 128 * 1024
"""Bytes that wait."""

Waiting = FromWorker | MessageColumns | PartColumns
"""What else can wait here."""

NEVER = 1 << 63

_FEW = 256
"""Messages of a packet that are encoded without a look at their sizes first."""
_OVERHEAD = 160
"""Bytes that a message can take beside its fields and bodies: numbers, reason, a lease's names."""


class Outbox:
    """Any thread may call any method. To put is an append, which needs no lock; `size` and `flush_at` tell
    when to flush, and nothing else, so they may be a little wrong."""

    def __init__(self, tasks: socket.socket) -> None:
        self._tasks = tasks
        self._sending = threading.Lock()
        self.waiting: deque[Waiting] = deque()
        self.small: list[SmallReply] = []  # what else waits; in a packet they stand behind the others
        self.put_small = self.small.append  # (who calls it sees to `flush_at`)
        self._with_objects: deque[int] = deque()  # one entry for each message that waits and has objects
        self._behind: dict[int, list[bytes]] = {}  # what stands behind messages, by id() of these
        self.gone = False  # the pump will read nothing more
        self._disconnected: dict[int, int] = {}  # slot -> number of its task, if that has no client any more
        self.size = 0  # bytes of bodies that wait
        self.flush_at = NEVER  # monotonic nanoseconds until which what waits may do so

    def put(self, message: FromWorker, size: int, now: int) -> None:
        """`size` is that of its body; `now` is monotonic nanoseconds. The descriptors of its objects
        are closed after it left."""
        if message.objects:
            self._with_objects.append(message.number)  # first: who takes the message finds the entry
        self.waiting.append(message)
        if size:
            self._grow(size)
        if self.flush_at is NEVER:
            self.flush_at = now + MAX_WAIT

    def put_pieces(self, part: Part, pieces: list[bytes], size: int, now: int) -> None:
        """The same for a part of which the only object is these pieces, together."""
        self._behind[id(part)] = pieces
        self.put(part, size, now)

    def whole(self, number: int, head: Head, body: bytes, began: int) -> int:
        """Put the whole of a small response (see `response.SmallReplies`)."""
        now = _now()
        self.put_small((head, number, body, now - began))
        if len(body) > SLIGHT:
            self._grow(len(body))
        if self.flush_at is NEVER:
            self.flush_at = now + MAX_WAIT
        return now

    def _grow(self, size: int) -> None:
        self.size += size
        if self.size > MAX_WAITING:
            self.flush_at = 0

    def say(self, message: MessageColumns | PartColumns) -> None:
        """Put a message of a WebSocket, or a small piece of a body. `size` and `flush_at` do not count it: an
        event loop flushes at the end of its turn."""
        self.waiting.append(message)

    def client_disconnected(self, number: int) -> None:
        """The client of this task has left."""
        self._disconnected[number % SCOREBOARD_SLOTS] = number  # by slot, so it never grows

    def is_disconnected(self, number: int) -> bool:
        """Whether the client of this task has left."""
        return self._disconnected.get(number % SCOREBOARD_SLOTS) == number

    def flush(self) -> None:
        """Send all that waits. Waits while the pump reads too slowly; never raises."""
        with self._sending:
            self.size, self.flush_at = 0, NEVER
            small = self.small[:]  # these first: what their tasks have said before is in `waiting` by now
            del self.small[: len(small)]
            messages = []
            if self.waiting:
                take = self.waiting.popleft
                messages = [take() for _ in range(len(self.waiting))]
            elif not small:
                return
            while len(messages) > _FEW and not self._with_objects:
                self._send_some(messages[:_FEW], [])
                messages = messages[_FEW:]
            self._send_some(messages, small[:_FEW])
            for at in range(_FEW, len(small), _FEW):
                self._send_some([], small[at : at + _FEW])

    def _send_some(self, waiting: list[Waiting], small: list[SmallReply]) -> None:
        """In one packet, if it has room for them."""
        if not self._with_objects:
            packet = encode([*waiting, *_alike(small)])
            if len(packet) <= MAX_PACKET and self._send([packet], []):
                return
        self._send_in_packets([*waiting, *map(_as_reply, small)])

    def _send_in_packets(self, waiting: list[Waiting]) -> None:
        for one in waiting:
            if not isinstance(one, tuple) and one.objects:
                self._with_objects.popleft()
        for some in _packets([self._fitting(_as_message(one)) for one in waiting]):
            self._send_packet(some)

    def _send_packet(self, messages: list[FromWorker]) -> None:
        """One packet; if the socket never takes one as large (net.core.wmem_max), one for each message. A
        message that does not fit even so costs itself."""
        descriptors = _index_descriptors(messages)
        if not self._send(self._buffers(messages), descriptors):
            if len(messages) > 1:
                _undo_indexes(messages, descriptors)
                for message in messages:
                    self._send_packet([message])
                return
            self._send([encode([_instead_of(messages[0])])], [])
        for descriptor in descriptors:
            os.close(descriptor)
        for message in messages:
            self._behind.pop(id(message), None)

    def _buffers(self, messages: list[FromWorker]) -> list[bytes]:
        """What a packet consists of: the messages, and the bytes behind them."""
        pieces: list[bytes] = []
        for message in messages:
            if message.objects:
                self._put_behind(message)
                pieces += self._behind.get(id(message), ())
        return buffers_of(messages, pieces)

    def _put_behind(self, message: FromWorker) -> None:
        """Large pieces, which need not be copied so."""
        for index, item in enumerate(message.objects):
            if type(item) is Memory and len(item.data) >= BEHIND_FROM:
                self._behind.setdefault(id(message), []).append(item.data)
                message.objects[index] = Memory(b"", len(item.data))

    def _fitting(self, message: FromWorker) -> FromWorker:
        """The message; or, in place of one that no packet has room for, one that says so."""
        if _size(message) <= MAX_PACKET and _descriptors(message) <= MAX_DESCRIPTORS:
            return message
        for item in message.objects:
            if isinstance(item, (File, Pipe, Tunnel)) and item.fd >= 0:
                os.close(item.fd)
        self._behind.pop(id(message), None)
        return _instead_of(message)

    def _send(self, buffers: list[bytes], descriptors: list[int]) -> bool:
        """Waits while the pump reads too slowly. False if the socket will never take such a packet."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        while not self.gone:
            try:
                if descriptors:
                    self._tasks.sendmsg(buffers, ancillary, socket.MSG_NOSIGNAL)
                elif len(buffers) > 1:
                    self._tasks.sendmsg(buffers, (), socket.MSG_NOSIGNAL)
                else:
                    self._tasks.send(buffers[0], socket.MSG_NOSIGNAL)
                return True
            except OSError as error:
                if error.errno in _SHORT_OF:
                    time.sleep(0.001)
                elif error.errno == errno.EAGAIN:  # an event loop has made it non-blocking (uvloop does)
                    self._wait()
                elif error.errno == errno.EMSGSIZE:
                    return False
                else:  # the pump died; its connections are gone with it
                    end_if_lost(self._tasks, error)
                    self.gone = True
        return True

    def _wait(self) -> None:
        """Until there is room for a packet, or the pump is gone."""
        poller = select.poll()
        poller.register(self._tasks, select.POLLOUT)
        poller.poll()


def end_if_lost(channel: socket.socket, error: OSError) -> None:
    """To be called after an error of our own channel. If the application has closed its descriptor, nothing
    of what is begun here can be responded to: the process ends, so that another takes its place."""
    if error.errno in (errno.EBADF, errno.ENOTSOCK) and channel.fileno() >= 0:
        log("error", "the application has closed the descriptors of the server; this worker ends.")
        os._exit(1)


class OutboxOfChild(Outbox):
    """What an Outbox becomes in a process that the application forked (see `forks`): nothing leaves it."""

    def put(self, message: FromWorker, size: int, now: int) -> None:
        end_if_child()

    def whole(self, number: int, head: Head, body: bytes, began: int) -> int:
        end_if_child()
        return 0

    def say(self, message: MessageColumns | PartColumns) -> None:
        end_if_child()

    def flush(self) -> None:
        end_if_child()


_now = time.monotonic_ns


def _alike(small: list[SmallReply]) -> list[AlikeColumns]:
    """AlikeReplies, as their columns."""
    if not small:
        return []
    heads, numbers, bodies, times = zip(*small, strict=True)
    head = heads[0]
    if heads.count(head) == len(heads):
        return [(ALIKE_TAG, head.status, head.reason, head.fields, head.dated, numbers, bodies, times)]
    by_head: dict[tuple[int, str, bytes], list[SmallReply]] = {}
    for one in small:
        by_head.setdefault((one[0].status, one[0].reason, one[0].fields), []).append(one)
    columns: list[AlikeColumns] = []
    for (status, reason, fields), group in by_head.items():
        heads, numbers, bodies, times = zip(*group, strict=True)
        columns.append((ALIKE_TAG, status, reason, fields, heads[0].dated, numbers, bodies, times))
    return columns


def _as_message(message: Waiting) -> FromWorker:
    if not isinstance(message, tuple):
        return message
    if len(message) == 3:
        [(_, data)] = message[2]
        return Part(message[1], [Memory(data)])
    return Message(*message[1:])


def _as_reply(small: SmallReply) -> Reply:
    head, number, body, handler_ns = small
    return Reply(
        number,
        head.status,
        head.reason,
        head.fields,
        len(body),
        body,
        dated=head.dated,
        handler_ns=handler_ns,
    )


_FAILED = b"500 Internal Server Error\n"

_SHORT_OF = {errno.ENOMEM, errno.ENOBUFS, errno.ETOOMANYREFS}
"""The last one: as many descriptors as we may have are on their way, and the pump has not read them yet."""


def _size(message: FromWorker) -> int:
    """Of its encoding, at most."""
    size = _OVERHEAD
    if type(message) is EarlyHints:
        size += len(message.fields)
    elif type(message) is Message:
        size += len(message.data)
    elif type(message) is Accept:
        size += len(message.fields) + len(message.subprotocol)
    elif type(message) is Close:
        size += len(message.reason)
    elif type(message) is Reply:
        size += len(message.fields) + len(message.body) + 3 * len(message.reason)
        size += 3 * sum(map(len, message.lease.names)) if message.lease is not None else 0
    for item in message.objects:
        size += 96 + (item.length if type(item) is Memory and item.block < 0 else 0)
    return size


def _instead_of(message: FromWorker) -> FromWorker:
    """What is sent in place of a message that can't be."""
    log("error", f"A part of a response is too large to be sent ({_size(message)} bytes).")
    if type(message) is Reply and message.ending is DONE:
        return Reply(message.number, 500, "", b"Content-Type: text/plain\r\n", len(_FAILED), _FAILED)
    return Part(message.number, [], Ending.ABORTED)


def _packets(messages: list[FromWorker]) -> Iterator[list[FromWorker]]:
    """The same messages in the same order, in packets that have room for them."""
    packet: list[FromWorker] = []
    size = descriptors = 0
    for message in messages:
        its_size, its_descriptors = _size(message), _descriptors(message)
        full = size + its_size > MAX_PACKET or descriptors + its_descriptors > MAX_DESCRIPTORS
        if full and packet:
            yield packet
            packet, size, descriptors = [], 0, 0
        packet.append(message)
        size += its_size
        descriptors += its_descriptors
    yield packet


def _descriptors(message: FromWorker) -> int:
    return sum(1 for item in message.objects if not isinstance(item, Memory) and item.fd >= 0)


def _index_descriptors(packet: list[FromWorker]) -> list[int]:
    """Write indexes where descriptors are, and return these in order."""
    descriptors: list[int] = []
    for message in packet:
        for item in message.objects:
            if isinstance(item, (File, Pipe, Tunnel)) and item.fd >= 0:
                descriptors.append(item.fd)
                item.fd = len(descriptors) - 1
    return descriptors


def _undo_indexes(packet: list[FromWorker], descriptors: list[int]) -> None:
    for message in packet:
        for item in message.objects:
            if isinstance(item, (File, Pipe, Tunnel)) and item.fd >= 0:
                item.fd = descriptors[item.fd]
