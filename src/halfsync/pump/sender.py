"""Sends answers: each simple object by its fastest method, and nothing that is not true.

Theory of operation
-------------------
`begin` frames an answer's head and what is known of its body into `exchange.out` (framing.py); `add`
frames more as it comes; `send` is the step that gives `out` to the socket until it would block. It
alone knows the methods:

    bytes   gathered, head and chunk lines among them, into one sendmsg(2)
    file    sendfile(2), after a look whether its pages are in memory (see cold.py); but one into which
            somebody may write is read, and gathered (see changing.py)
    pipe    read(2), framed, gathered

A body ends when a worker says DONE and its every byte was taken: then, and only then, is the last
chunk written, or the connection kept or closed in good order. Whatever else happens (the worker
died, the file shrank, the handler gave too few bytes) ends in `abort`: a reset, so that not even
an answer whose end is told by the close alone can look complete.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from halfsync.objects import File, Memory, Pipe, SimpleObject
from halfsync.pump import framing
from halfsync.pump.answers import BODILESS, LAST_CHUNK, connection_line, head_start
from halfsync.pump.changing import FileChangedError
from halfsync.pump.closes import KEPT, CloseReason
from halfsync.pump.connection import NEVER, Connection, Exchange
from halfsync.pump.descriptors import Descriptor
from halfsync.pump.sendables import FileSpan, Framing, PipeEnd, Sendable
from halfsync.pump.states import CLOSED, REPLY, SENT, Event
from halfsync.pump.steps import GONE, MORE, WAIT, Outcome
from halfsync.wire.http1 import without_empty_lines
from halfsync.wire.messages import ABORTED, DONE, Ending, Reply
from halfsync.wire.messages import MORE as MORE_PARTS

if TYPE_CHECKING:
    from halfsync.pump.leases import Leased
    from halfsync.pump.loop import Pump
    from halfsync.wire.refusals import Refusal

SEND_SHARE = 1024 * 1024
"""Bytes that one connection may send in one turn, before the others have theirs."""
GATHER = 64
"""Buffers in one sendmsg(2); the kernel's limit (IOV_MAX) is 1024."""
PIPE_READ = 64 * 1024
SMALL = 16 * 1024
SMALL_FIELDS = 1024
"""Bytes of a body, and of field lines, up to which an answer is sent as one string."""
RECHECK = 1.0
"""Seconds between the sweep's looks at a client that is sending or receiving (see limits.py)."""

_NOT_THE_CLIENT = {errno.EIO, errno.ENOMEM, errno.EBADF, errno.EINVAL, errno.EOVERFLOW}
"""Errors of a file or pipe, not of the client's socket."""
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close(2) sends a reset
_NO_RESET = struct.pack("ii", 0, 0)


class Sender:
    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._clock = pump.clock

    # --- beginning an answer ---------------------------------------------------------------------

    def refuse(self, conn: Connection, refusal: Refusal) -> None:
        """Answer by ourselves. The caller goes on with the step of SENDING."""
        exchange = conn.exchange
        if exchange is None:
            exchange = conn.exchange = Exchange(conn, None)
        body = refusal.body()
        if refusal.close:
            exchange.reason = CloseReason.REFUSED
        keep = not refusal.close and exchange.head is not None and exchange.head.keep_alive
        conn.move(Event.ANSWER)
        reply = Reply(0, refusal.status, "", refusal.fields(), len(body))
        framing.head(exchange, reply, keep and self._pump.keeps_alive, self._clock.date_line)
        framing.memory(exchange, body)
        exchange.ending = DONE
        self._time_sending(conn)

    def repeat(self, conn: Connection, exchange: Exchange, leased: Leased) -> None:
        """Answer from a lease."""
        head = exchange.head
        assert head is not None
        conn.move(Event.ANSWER)
        keep = head.keep_alive and self._pump.keeps_alive
        date_line = b"" if leased.dated else self._clock.date_line
        exchange.out.append(Framing(leased.head(date_line, connection_line(keep, head.minor))))
        exchange.status = leased.status
        exchange.keep = keep
        exchange.ending = DONE
        if not leased.head_only:
            if leased.body:
                exchange.out.append(leased.body)
            if leased.file is not None and leased.count:
                exchange.out.append(FileSpan(leased.file, leased.offset, leased.count, leased.stamp))
        self._time_sending(conn)

    def begin(self, conn: Connection, exchange: Exchange, reply: Reply, fds: list[Descriptor]) -> Outcome:
        """Answer with a worker's reply; `fds` are its packet's descriptors."""
        head = exchange.head
        assert head is not None
        body = reply.body
        if (
            reply.length == len(body) <= SMALL
            and head.plain
            and self._pump.keeps_alive
            and reply.ending is DONE
            and not (reply.objects or reply.dated or reply.close)
            and reply.status not in BODILESS
            and len(reply.fields) <= SMALL_FIELDS
        ):
            return self._send_small(conn, exchange, reply)
        keep = head.keep_alive and not reply.close and self._pump.keeps_alive
        framing.head(exchange, reply, keep, self._clock.date_line)
        if exchange.until_close:
            self._end_by_reset(conn)
        if body:
            framing.memory(exchange, body)
        self.add(exchange, reply.objects, reply.ending, fds)
        conn.move(REPLY)  # not before: what could not be framed can be answered otherwise still
        self._time_sending(conn)
        return MORE

    def _send_small(self, conn: Connection, exchange: Exchange, reply: Reply) -> Outcome:
        """The common answer: all of it in memory, small, with a length, on a kept connection. One
        write of one string, for to join a few kilobytes costs less than to gather them."""
        body = reply.body
        start = head_start(reply.status, reply.reason, reply.fields, reply.length)
        wire = start + self._clock.date_end + body
        conn.move(REPLY)
        exchange.status = reply.status
        exchange.keep = True
        try:
            sent = conn.sock.send(wire)
        except BlockingIOError:
            sent = 0
        except OSError:
            return self._pump.close(conn, CloseReason.CLIENT_LEFT)
        if sent == len(wire):
            exchange.wire_bytes = sent
            exchange.body_bytes = reply.length
            return self.finish(conn, exchange)
        exchange.ending = DONE
        exchange.body_owed = 0
        head_size = len(wire) - reply.length
        exchange.out.append(Framing(wire[:head_size]))
        if body:
            exchange.out.append(body)
        self.taken(exchange, sent)
        self._time_sending(conn)
        return WAIT

    def add(
        self, exchange: Exchange, objects: list[SimpleObject], ending: Ending, fds: list[Descriptor]
    ) -> None:
        """Frame more of a body. Nothing is sent yet."""
        for item in objects:
            if type(item) is Memory:
                framing.memory(exchange, item.data)
            elif type(item) is File:
                framing.file(exchange, item, fds)
            elif type(item) is Pipe and exchange.body_owed:
                pipe = PipeEnd(fds[item.fd])
                exchange.out.append(pipe)
                self._pump.watch_pipe(exchange, pipe)
        exchange.ending = ending

    def _time_sending(self, conn: Connection) -> None:
        exchange = conn.exchange
        assert exchange is not None
        now = self._clock.now
        exchange.progress_at = exchange.checked_at = now
        conn.expires = now + RECHECK
        if exchange.moved:  # while the request's body came
            exchange.moved = 0
            exchange.timed = 0.0

    @staticmethod
    def _end_by_reset(conn: Connection) -> None:
        """Only the close will tell the client that this response is whole. So that it can't be taken for
        whole if we die in the middle, the kernel is told now to reset the connection at any close; the
        orderly end takes that back. (On a unix socket there is no reset.)"""
        try:
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            pass  # the client has left, which the next send tells

    def taken(self, exchange: Exchange, sent: int) -> None:
        """`sent` bytes of what has been framed were given to the socket already."""
        exchange.wire_bytes += sent
        self._consume(exchange, exchange.out, sent)

    # --- sending ---------------------------------------------------------------------------------

    def send(self, conn: Connection) -> Outcome:
        """The step of SENDING."""
        exchange = conn.exchange
        assert exchange is not None
        out = exchange.out
        share = SEND_SHARE
        try:
            while out:
                first = out[0]
                if isinstance(first, FileSpan):
                    sent = self._send_file(conn, exchange, first)
                elif isinstance(first, PipeEnd):
                    sent = self._read_pipe(exchange, first)
                else:
                    sent = self._send_memory(conn, exchange, out)
                if sent < 0:
                    return self._wait_for_more(conn)
                share -= sent
                if share <= 0 and out:
                    self._pump.run_again(conn)
                    return WAIT
        except BlockingIOError:
            return WAIT
        except ShrunkError:
            return self.abort(conn, CloseReason.FILE_SHRANK)
        except FileChangedError:
            return self.abort(conn, CloseReason.FILE_CHANGED)
        except OSError as error:
            if error.errno in _NOT_THE_CLIENT:
                self._pump.fault(f"cannot read what is being sent to {conn.client}: {error.strerror}")
                return self.abort(conn, CloseReason.FAULT)
            return self.abort(conn, CloseReason.CLIENT_LEFT)
        return self._sent_all(conn, exchange)

    def _wait_for_more(self, conn: Connection) -> Outcome:
        """The client has taken what there is. It is the handler's turn now, or the disk's, and no limit
        of the client's runs."""
        conn.move(Event.OUT_OF_DATA)
        limit = self._pump.settings.stream_timeout
        conn.expires = self._clock.now + limit if limit else NEVER
        return WAIT

    def produce(self, conn: Connection) -> Outcome:
        """The step of PRODUCING: is there more to send?"""
        exchange = conn.exchange
        assert exchange is not None
        if not self._has_more(conn, exchange):
            return WAIT
        conn.move(Event.MORE_CAME)
        now = self._clock.now
        exchange.progress_at = exchange.checked_at = now  # from now on the client is timed again
        conn.expires = now + RECHECK
        return MORE

    def _has_more(self, conn: Connection, exchange: Exchange) -> bool:
        if not exchange.out:
            return exchange.ending is not MORE_PARTS
        first = exchange.out[0]
        if isinstance(first, PipeEnd):
            return self._read_pipe(exchange, first) >= 0
        return not isinstance(first, FileSpan) or self._is_at_hand(conn, first)

    def _is_at_hand(self, conn: Connection, span: FileSpan) -> bool:
        """Whether the next share of a file can be sent without waiting for the disk."""
        count = min(span.count, SEND_SHARE)
        return span.offset + count <= span.warm_until or self._pump.cold.is_warm(conn, span, count)

    def _send_memory(self, conn: Connection, exchange: Exchange, out: deque[Sendable]) -> int:
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
            sent = conn.sock.send(buffers[0], flags)
        else:
            sent = conn.sock.sendmsg(buffers, (), flags)
        exchange.wire_bytes += sent
        if sent == size and len(buffers) == len(out):  # nearly always
            exchange.body_bytes += size - sum([len(b) for b in buffers if type(b) is Framing])
            out.clear()
        else:
            self._consume(exchange, out, sent)
        return sent

    @staticmethod
    def _consume(exchange: Exchange, out: deque[Sendable], sent: int) -> None:
        """Take what the socket took off the queue."""
        while sent:
            item = out[0]
            assert isinstance(item, (bytes, memoryview))
            size = len(item)
            framing = isinstance(item, Framing)
            if sent < size:
                out[0] = Framing(item[sent:]) if framing else memoryview(item)[sent:]
                if not framing:
                    exchange.body_bytes += sent
                return
            out.popleft()
            sent -= size
            if not framing:
                exchange.body_bytes += size

    def _send_file(self, conn: Connection, exchange: Exchange, span: FileSpan) -> int:
        if not self._is_at_hand(conn, span):
            return -1
        if span.stamp is None:
            sent = os.sendfile(conn.fd, span.file.fd, span.offset, min(span.count, SEND_SHARE))
            if sent == 0:
                raise ShrunkError
        else:
            data = self._pump.changing.read(span, span.stamp)
            if not data:
                raise ShrunkError
            sent = conn.sock.send(data)
        exchange.wire_bytes += sent
        exchange.body_bytes += sent
        span.offset += sent
        span.count -= sent
        if span.count == 0:
            exchange.out.popleft()
        return sent

    def _read_pipe(self, exchange: Exchange, pipe: PipeEnd) -> int:
        """Turn what the pipe holds into framed memory at the queue's head."""
        if pipe.ended:
            if exchange.ending is MORE_PARTS:
                return -1  # the worker has yet to say that this was all
            exchange.out.popleft()
            return 0
        try:
            data = os.read(pipe.file.fd, PIPE_READ)
        except BlockingIOError:
            return -1
        if not data:
            pipe.ended = True
            self._pump.forget_pipe(pipe)
            return 0
        out = exchange.out
        out.popleft()
        after = list(out)
        out.clear()
        framing.memory(exchange, data)
        out.append(pipe)
        out.extend(after)
        return 0

    # --- endings ---------------------------------------------------------------------------------

    def _sent_all(self, conn: Connection, exchange: Exchange) -> Outcome:
        """The queue is empty: is that the end?"""
        if exchange.ending is MORE_PARTS:
            return self._wait_for_more(conn)
        if exchange.ending is ABORTED or exchange.body_owed > 0:
            return self.abort(conn, CloseReason.REPLY_CUT_SHORT)
        if exchange.chunked:
            exchange.chunked = False
            exchange.out.append(Framing(LAST_CHUNK))
            return MORE  # the step of SENDING once more
        return self.finish(conn, exchange)

    def finish(self, conn: Connection, exchange: Exchange) -> Outcome:
        """The whole answer was taken."""
        pump = self._pump
        conn.exchange = None
        if exchange.keep and pump.keeps_alive:
            if pump.access.enabled:
                pump.log(conn, exchange)
            conn.served += 1
            if conn.inbox:
                return self._go_on_with_inbox(conn)
            conn.move(SENT)
            conn.expires = self._clock.now + pump.settings.keep_alive
            return MORE if conn.readable else WAIT
        if exchange.reason is KEPT:
            exchange.reason = CloseReason.DRAINING if exchange.keep else CloseReason.ANSWERED
        pump.log(conn, exchange)
        conn.move(Event.SENT_LAST)
        return self._end_in_good_order(conn, exchange)

    def _go_on_with_inbox(self, conn: Connection) -> Outcome:
        """The client has sent more than the request that was answered. Empty lines behind a body are
        no beginning of a request (RFC 9112 2.2)."""
        conn.inbox = without_empty_lines(conn.inbox)
        pipelined = bool(conn.inbox)
        conn.move(Event.SENT_PIPELINED if pipelined else SENT)
        settings = self._pump.settings
        conn.expires = self._clock.now + (settings.head_timeout if pipelined else settings.keep_alive)
        return MORE

    def _end_in_good_order(self, conn: Connection, exchange: Exchange) -> Outcome:
        """RFC 9112 9.6. If bytes of the client's were unread, close(2) would send a reset, which
        can destroy the answer before the client has read it. A client that has asked for the close
        itself, and of which everything was read, sends nothing more: there a plain close will do."""
        asked = exchange.head is not None and (exchange.head.closes or exchange.head.minor == 0)
        if exchange.until_close:
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_RESET)
        if asked and exchange.reason is CloseReason.ANSWERED and not conn.inbox and not conn.readable:
            return self._pump.close(conn, CloseReason.ANSWERED)
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return self._pump.close(conn, CloseReason.CLIENT_LEFT)
        conn.inbox = b""
        conn.expires = self._clock.now + self._pump.linger_timeout
        return MORE

    def linger(self, conn: Connection) -> Outcome:
        """The step of LINGERING: read and drop, until the client closes."""
        for _ in range(16):
            try:
                data = conn.sock.recv(self._pump.RECV_SIZE)
            except BlockingIOError:
                conn.readable = False
                return WAIT
            except OSError:
                return self._pump.close(conn, CloseReason.ANSWERED)
            if not data:
                return self._pump.close(conn, CloseReason.ANSWERED)
        self._pump.run_again(conn)
        return WAIT

    def abort(self, conn: Connection, reason: CloseReason) -> Outcome:
        """End it so that what was sent can't be taken for the whole: no last chunk, and a reset."""
        if conn.state is CLOSED:
            return GONE
        try:
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            pass  # the client was faster
        return self._pump.close(conn, reason)


class ShrunkError(Exception):
    """A file ended before the length that was announced."""
