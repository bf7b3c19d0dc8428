"""Sends what is framed: each simple object by its fastest method, and nothing that is not true.

Theory of operation
-------------------
A connection's queue (`out`) holds what its protocol has framed and the socket has not taken: bytes, spans of
files, pipes to read, and behind each response's last byte a Mark. `send` is the step that gives the queue
to the socket until it would block. It alone knows the methods:

    bytes   gathered, head and chunk lines among them, into one sendmsg(2)
    file    sendfile(2), after a look whether its pages are in memory (see page_cache.py); but one into which
            somebody may write is read, and gathered (see changing.py)
    pipe    read(2), framed by the protocol, gathered

A response is over when its Mark is reached: a worker said DONE, and every byte before it was taken. Whatever
else happens (the worker died, the file shrank, the handler gave too few bytes) ends in a reset, so that
not even a response whose end is told by the close alone can look complete.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections import deque
from functools import partial
from itertools import islice

from halfsync.pump.changing import ChangingFiles, FileChangedError, FileCopy
from halfsync.pump.clock import Clock
from halfsync.pump.connection import MORE, NEVER, WAIT, Connection, Exchange, Mark, Outcome, Queued
from halfsync.pump.endings import Endings
from halfsync.pump.internal_errors import InternalErrors
from halfsync.pump.page_cache import PageCache
from halfsync.pump.poller import Poller
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.sendables import FileSpan, Framing, PipeEnd
from halfsync.pump.states import ExchangeEvent
from halfsync.wire.closes import KEPT, CloseReason
from halfsync.wire.messages import RESPONSE_WINDOW

SEND_SHARE = 1024 * 1024
"""Bytes that one connection may send in one turn, before the others have theirs."""
GATHER = 64
"""Buffers in one sendmsg(2); the kernel's limit (IOV_MAX) is 1024."""
PIPE_READ = 64 * 1024
LINGER_AFTER = 5.0
"""Seconds for a client that was slow to close its side, too."""
LEFT_AFTER = 0.5
"""Seconds for which a client that has closed its side may still get a response, or more of it, from a handler
that goes on until it is told that the client has left."""
RECHECK = 1.0
"""Seconds between the sweep's looks at a client that is sending or receiving (see timeouts.py)."""

_NOT_THE_CLIENT = {
    *(errno.EIO, errno.ENOMEM, errno.EBADF, errno.EINVAL, errno.EOVERFLOW),
    *(errno.ESTALE, errno.EREMOTEIO, errno.ENODATA),  # network file systems
    *(errno.EUCLEAN, errno.EBADMSG),  # damaged ones
    *(errno.EPERM, errno.EACCES, errno.ENOSYS),  # sandboxes
}


class Output:
    def __init__(
        self,
        clock: Clock,
        poller: Poller,
        run_queue: RunQueue,
        endings: Endings,
        errors: InternalErrors,
        page_cache: PageCache,
        changing: ChangingFiles,
    ) -> None:
        self._clock = clock
        self._poller = poller
        self._run_queue = run_queue
        self._endings = endings
        self._errors = errors
        self._page_cache = page_cache
        self._changing = changing
        self.linger_timeout = 0.0

    # --- timing ------------------------------------------------------------------------------------

    def time_sending(self, conn: Connection, exchange: Exchange) -> None:
        """It is the client's turn to take what there is, from now on."""
        now = self._clock.now
        exchange.progress_at = exchange.checked_at = now
        conn.deadline = now + RECHECK

    def wait_for_more(self, conn: Connection, exchange: Exchange) -> Outcome:
        """The client has taken what there is. It is the handler's turn now, or the disk's, and no limit
        of the client's runs."""
        exchange.move(ExchangeEvent.OUT_OF_DATA)
        if exchange.window >= RESPONSE_WINDOW // 2 and not conn.out and exchange.route is not None:
            exchange.route.backend.taken(exchange)
        if exchange.websocket is not None and exchange.websocket.has_begun:
            conn.deadline = exchange.websocket.deadline
            if exchange.websocket.pong is not None:
                self._run_queue.ready(conn)
            return WAIT
        limit = exchange.route.limits.stream_timeout if exchange.route is not None else 0
        conn.deadline = self._clock.now + limit if limit else NEVER
        if exchange.stream is not None:  # it may be the client's turn all the same: see timeouts.py
            exchange.stream.paused_at = self._clock.now
            conn.deadline = min(conn.deadline, self._clock.now + RECHECK)
        if conn.ended and exchange.is_left:
            conn.deadline = min(conn.deadline, self._clock.now + LEFT_AFTER)
        if conn.readable and not (conn.ended or conn.inbox or conn.transport.ends_by_close):
            return MORE  # what came meanwhile may be the client's end, for which Http1 looks
        return WAIT

    # --- steps -------------------------------------------------------------------------------------

    def send(self, conn: Connection) -> Outcome:
        """The step of SENDING."""
        exchange = conn.exchange
        out = conn.out
        assert exchange is not None
        assert out is not None
        share = SEND_SHARE
        try:
            while out:
                first = out[0]
                if isinstance(first, FileSpan):
                    sent = self._send_file(conn, out, first)
                elif isinstance(first, PipeEnd):
                    sent = self.read_pipe(conn, out, first)
                elif isinstance(first, Mark):
                    return self._at_mark(conn, first)
                else:
                    sent = self.send_memory(conn, out)
                if sent < 0:
                    return self.wait_for_more(conn, exchange)
                share -= sent
                if share <= 0 and out:
                    self._run_queue.again(conn)
                    return WAIT
        except BlockingIOError:
            return WAIT
        except ShrunkError:
            return self._endings.reset(conn, CloseReason.FILE_SHRANK)
        except FileChangedError:
            return self._endings.reset(conn, CloseReason.FILE_CHANGED)
        except OSError as error:
            return self.send_failed(conn, error)
        return self.wait_for_more(conn, exchange)

    def send_failed(self, conn: Connection, error: OSError) -> Outcome:
        """With that error, of what is sent or of the client's socket."""
        if error.errno in _NOT_THE_CLIENT:
            self._errors.report(f"cannot read what is being sent to {conn.origin}: {error.strerror}")
            return self._endings.reset(conn, CloseReason.INTERNAL_ERROR)
        return self._endings.reset(conn, CloseReason.CLIENT_DISCONNECTED)

    def produce(self, conn: Connection) -> Outcome:
        """The step of PRODUCING: is there more to send?"""
        exchange = conn.exchange
        out = conn.out
        assert exchange is not None
        assert out is not None
        if not self._has_more(conn, out):
            return WAIT
        exchange.move(ExchangeEvent.MORE_CAME)
        self.time_sending(conn, exchange)
        return MORE

    def linger(self, conn: Connection, reason: CloseReason = CloseReason.ANSWERED) -> Outcome:
        """The step of LINGERING: read and drop, until the client closes. (RFC 9112 9.6: with bytes unread,
        close(2) would send a reset, which can destroy the response before the client has read it.) `reason`:
        why our way is shut."""
        if conn.transport.ends_unsaid and not self._has_finished(conn):
            return self._endings.close(conn, CloseReason.CLIENT_DISCONNECTED)
        if not conn.readable:
            return WAIT
        for _ in range(16):
            try:
                data = conn.transport.recv(65536)
            except BlockingIOError:
                conn.readable = False
                return WAIT
            except OSError:
                return self._endings.close(conn, reason)
            if not data:
                return self._endings.close(conn, reason)
        self._run_queue.again(conn)
        return WAIT

    def _has_finished(self, conn: Connection) -> bool:
        """There was no room for the close_notify. Whether the client is still there."""
        try:
            conn.transport.finish()
        except BlockingIOError:
            return True
        except OSError:
            return False
        conn.deadline = min(conn.deadline, self._clock.now + LINGER_AFTER)
        return True

    # --- what is in the queue ----------------------------------------------------------------------

    def _has_more(self, conn: Connection, out: deque[Queued]) -> bool:
        if not out:
            return False
        first = out[0]
        if isinstance(first, PipeEnd):
            return self.read_pipe(conn, out, first) >= 0
        return not isinstance(first, FileSpan) or self.is_at_hand(conn, first)

    def _at_mark(self, conn: Connection, mark: Mark) -> Outcome:
        exchange = mark.exchange
        if mark.reason is not KEPT:
            return self._endings.reset(conn, mark.reason)
        if exchange.body_owed > 0:
            return self._endings.reset(conn, CloseReason.REPLY_CUT_SHORT)
        conn.out = None
        return conn.protocol.exchange_ended(conn, exchange)

    def send_memory(self, conn: Connection, out: deque[Queued]) -> int:
        """One gathering write of all the memory at the queue's head."""
        flags = 0
        buffers: list[bytes | memoryview] = []
        size = 0
        for item in islice(out, GATHER):
            if isinstance(item, (bytes, memoryview)):
                buffers.append(item)
                size += len(item)
                continue
            if isinstance(item, FileSpan):
                flags = socket.MSG_MORE  # the head shares its packet with the file's first bytes
            break
        if len(buffers) == 1:
            sent = conn.transport.send(buffers[0], flags)
        else:
            sent = conn.transport.sendmsg(buffers, (), flags)
        self.taken(conn, sent)
        return sent

    @staticmethod
    def taken(conn: Connection, sent: int) -> None:
        """The transport took `sent` bytes, all of them memory, from the queue's head."""
        out = conn.out
        assert out is not None
        conn.wire_bytes += sent
        while sent:
            item = out[0]
            assert isinstance(item, (bytes, memoryview))
            size = len(item)
            framing = isinstance(item, Framing)
            if sent < size:
                out[0] = Framing(item[sent:]) if framing else memoryview(item)[sent:]
                if not framing:
                    conn.body_bytes += sent
                return
            out.popleft()
            sent -= size
            if not framing:
                conn.body_bytes += size

    def is_at_hand(self, conn: Connection, span: FileSpan) -> bool:
        """Whether the next share of a file can be sent without waiting for the disk."""
        count = min(span.count, SEND_SHARE)
        return span.offset + count <= span.cached_until or self._page_cache.is_cached(conn, span, count)

    def _send_file(self, conn: Connection, out: deque[Queued], span: FileSpan) -> int:
        if not self.is_at_hand(conn, span):
            return -1
        transport = conn.transport
        if transport.owed:  # it needs no data: what it was given before is yet to be sent
            sent = transport.send(b"")
        elif span.stamp is not None:
            data = self._changing.read(span, span.stamp, transport.read_size)
            if not data:
                raise ShrunkError
            sent = transport.send(data)
        elif not transport.sends_files and (memory := in_memory(span)) is not None:
            sent = transport.send(memory[: transport.send_size])
        else:
            sent = transport.send_file(span.file.fd, span.offset, min(span.count, SEND_SHARE))
            if sent == 0:
                raise ShrunkError
        conn.wire_bytes += sent
        conn.body_bytes += sent
        span.offset += sent
        span.count -= sent
        if span.count == 0:
            out.popleft()
        return sent

    # --- pipes -------------------------------------------------------------------------------------

    def watch_pipe(self, conn: Connection, pipe: PipeEnd) -> None:
        """Go on with the connection whenever the pipe has something."""
        ready = partial(self._run_queue.ready, conn)
        self._poller.watch(pipe.file.fd, lambda _mask: ready(), select.EPOLLIN | select.EPOLLET)

    def read_pipe(self, conn: Connection, out: deque[Queued], pipe: PipeEnd) -> int:
        """Turn what the pipe holds into framed memory at the queue's head. -1: there is nothing yet."""
        if pipe.ended:
            if len(out) == 1:
                return -1  # the worker has yet to say that this was all
            out.popleft()
            return 0
        try:
            data = os.read(pipe.file.fd, PIPE_READ)
        except BlockingIOError:
            return -1
        if not data:
            pipe.ended = True
            self._poller.forget(pipe.file.fd)
            return 0
        assert conn.exchange is not None
        out.extendleft(reversed(conn.protocol.framed(conn.exchange, data)))
        return 0


def in_memory(span: FileSpan) -> memoryview | None:
    """What is left of a span, if that is in memory."""
    memory = span.file.in_memory() if isinstance(span.file, FileCopy) else None
    return None if memory is None else memory[span.offset : span.offset + span.count]


class ShrunkError(Exception):
    """A file ended before the length that was announced."""
