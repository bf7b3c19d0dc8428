"""Reads requests: the steps of FRESH, IDLE, HEAD and BODY.

A step reads once, frames at most one request, and says MORE, WAIT or GONE (see sender.py). What is
behind the request stays in `conn.inbox`; pipelined requests are so answered one after the other,
in order, and a client that sends without end is never read further than one buffer ahead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfsync.pump.answers import CONTINUE
from halfsync.pump.closes import CloseReason
from halfsync.pump.connection import NEVER, Connection, Exchange
from halfsync.pump.leases import Leased, cut_cookie
from halfsync.pump.sender import RECHECK
from halfsync.pump.spool import Spool
from halfsync.pump.states import REQUEST, Event, State
from halfsync.pump.steps import MORE, WAIT, Outcome
from halfsync.wire.chunked import ChunkedBody
from halfsync.wire.http1 import (
    CHUNKED,
    HEAD_END,
    Limits,
    RequestHead,
    check_partial,
    parse_head,
    without_empty_lines,
)
from halfsync.wire.messages import Reply
from halfsync.wire.refusals import Refusal

MAX_SEEN = 1024
MAX_SEEN_HEAD = 1024
"""Heads, and bytes of each, that are kept with what they mean: 2 MiB at most, twice."""

READS_A_TURN = 16
"""For each connection: how many reads of a body it may have taken in before others are served (1 MiB)."""

SERVER_OPTIONS = Leased(Reply(0, 200, "OK", b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n", 0))
"""The answer to `OPTIONS *`, which asks the server and no resource of it (RFC 9110 9.3.7)."""

if TYPE_CHECKING:
    from halfsync.pump.loop import Pump
    from halfsync.settings import Settings


def limits_of(settings: Settings) -> Limits:
    return Limits(
        settings.limit_request_line,
        settings.limit_request_fields,
        settings.limit_request_field_size,
        settings.limit_request_head,
    )


class Receiver:
    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._clock = pump.clock
        self._settings = pump.settings
        self._limits = pump.head_limits
        # Plain heads; by all their bytes, and (apart, for such a head has somebody's cookie in it) by
        # their bytes without the cookie. What could break a limit by its cookie is not looked up.
        self._seen: dict[bytes, RequestHead] = {}
        self._seen_but_cookie: dict[bytes, RequestHead] = {}
        self._routes = pump.routes
        self._leases = pump.leases.table

    # --- heads -----------------------------------------------------------------------------------

    def read_head(self, conn: Connection) -> Outcome:
        """The step of FRESH, IDLE and HEAD."""
        if (not conn.inbox or conn.scanned) and not self._read(conn):
            return self._head_ended(conn) if conn.ended and not conn.readable else WAIT
        if not conn.scanned:
            conn.when = self._clock.wall
            conn.first_byte = self._clock.now
            seen = self._seen.get(conn.inbox)
            if seen is not None:
                conn.inbox = b""
                return self._take_plain(conn, seen)
        if conn.inbox[0] == 13 and not self._skip_empty_lines(conn):
            return MORE if conn.readable else WAIT
        end = conn.inbox.find(HEAD_END, max(0, conn.scanned - 3))
        raw = conn.inbox if end < 0 else conn.inbox[: end + 4]
        try:
            if end < 0:
                return self._part_of_head(conn)
            conn.inbox = conn.inbox[end + 4 :]
            conn.scanned = 0
            return self._take(conn, self._parse(raw))
        except Refusal as refusal:
            return self._refuse(conn, refusal, raw)

    def _parse(self, raw: bytes) -> RequestHead:
        """The same bytes are the same head: programs that call an interface again and again send
        it again and again, and a look-up costs 0.1 µs where parsing costs 4. The heads of browsers
        differ in their cookies, so from these it is cut out first, as for leases (see leases.py)."""
        uncookied = cut_cookie(raw) if len(raw) <= self._limits.harmless else b""
        if not uncookied:
            head = parse_head(raw, self._limits)
            _keep(self._seen, raw, head)
            return head
        like = self._seen_but_cookie.get(uncookied)
        if like is not None:
            head = like.with_cookie(raw)
        else:
            head = parse_head(raw, self._limits)
            _keep(self._seen_but_cookie, uncookied, head)
        if not self._pump.log_cookies:
            head.logged = uncookied
        return head

    def _read(self, conn: Connection) -> bool:
        """One read, behind what the inbox holds; whether anything came. At the end of file,
        `ended` is set and `readable` is not."""
        if not conn.readable:
            return False
        size = self._pump.RECV_SIZE
        try:
            data = conn.sock.recv(size)
        except BlockingIOError:
            conn.readable = False
            return False
        except OSError:
            data = b""
        if not data:
            conn.ended = True
            conn.readable = False
            return False
        if len(data) < size and not conn.ended:
            conn.readable = False  # edge-triggered: the next bytes will be told
        conn.inbox = conn.inbox + data if conn.inbox else data
        return True

    def _head_ended(self, conn: Connection) -> Outcome:
        """The client closed its way before a whole head came."""
        if conn.state is State.HEAD:
            return self._pump.close(conn, CloseReason.CLIENT_LEFT)
        return self._pump.close(conn, CloseReason.CLIENT_CLOSED)

    def _skip_empty_lines(self, conn: Connection) -> bool:
        """RFC 9112 2.2: empty lines before a request are let pass. Whether anything is behind them."""
        conn.inbox = without_empty_lines(conn.inbox)
        conn.scanned = 0
        if conn.inbox == b"\r":  # half of one
            self._begin_head(conn)
            conn.scanned = 1
            return False
        return bool(conn.inbox)

    def _part_of_head(self, conn: Connection) -> Outcome:
        check_partial(conn.inbox, self._limits, conn.scanned)
        self._begin_head(conn)
        conn.scanned = len(conn.inbox)
        return MORE if conn.readable else WAIT

    def _begin_head(self, conn: Connection) -> None:
        if conn.state is State.IDLE:  # FRESH has had its limit since it was accepted
            conn.expires = self._clock.now + self._settings.head_timeout
        conn.move(Event.PART_OF_HEAD)

    def _refuse(self, conn: Connection, refusal: Refusal, raw: bytes) -> Outcome:
        """An answer like any other. After one that closes, nothing behind it is acted on."""
        if conn.exchange is None:
            # What the log shows of a request that never became one: its beginning.
            conn.exchange = Exchange(conn, RequestHead(raw[:1024], b"", b"", 1))
        if refusal.close:
            conn.readable = conn.readable or bool(conn.inbox)  # there is something unread: linger
            conn.inbox = b""
            conn.scanned = 0
        self._pump.sender.refuse(conn, refusal)
        return MORE

    def _take_plain(self, conn: Connection, head: RequestHead) -> Outcome:
        """The same as _take, which may refuse."""
        try:
            return self._take(conn, head)
        except Refusal as refusal:
            return self._refuse(conn, refusal, head.raw)

    def _take(self, conn: Connection, head: RequestHead) -> Outcome:
        """A whole head: answer it from a lease, read its body, or give it to a pool."""
        if head.body_size == 0 and self._leases:
            leased = self._pump.leases.find(head, conn.listener)
            if leased is not None and self._clock.now < leased.expires:
                if self._clock.now >= leased.renew_at:
                    leased.renew_at = leased.expires  # this one asks for a new lease, for all
                elif leased.stamp is None or self._pump.changing.may_repeat(leased):
                    return self._repeat(conn, head, leased)
        conn.exchange = exchange = Exchange(conn, head)
        exchange.mount_index = mount_index = self._routes.find(head.target)
        if head.target == b"*" and head.body_size == 0:
            self._pump.sender.repeat(conn, exchange, SERVER_OPTIONS)
            return MORE
        if mount_index < 0:
            raise Refusal(404, "Nothing is served under this path.", close=head.body_size != 0)
        if head.body_size == 0:
            return self._queue(conn, exchange)
        return self._expect_body(conn, exchange, head)

    def _repeat(self, conn: Connection, head: RequestHead, leased: Leased) -> Outcome:
        if head.keep_alive and head.minor == 1:
            if leased.until <= self._clock.now:
                leased.refresh(self._clock)
            self._pump.leases.remember(head.raw, conn.listener, leased)
        conn.exchange = exchange = Exchange(conn, head)
        self._pump.sender.repeat(conn, exchange, leased)
        return MORE

    def _queue(self, conn: Connection, exchange: Exchange) -> Outcome:
        conn.move(REQUEST)
        conn.expires = NEVER  # the queue has its own limit, by age (see dispatch.py)
        return self._pump.dispatcher.queue(conn, exchange)

    # --- bodies ----------------------------------------------------------------------------------

    def _expect_body(self, conn: Connection, exchange: Exchange, head: RequestHead) -> Outcome:
        limit = self._settings.limit_request_body
        if head.body_size > limit:
            raise Refusal(413, f"The body is larger than {limit} bytes (limit_request_body).")
        if head.body_size == CHUNKED:
            exchange.chunks = ChunkedBody()
        self._check_space(exchange, max(head.body_size, 0))
        exchange.body_left = head.body_size
        exchange.spool = Spool(self._settings.body_memory, self._pump.spool_folder, self._pump.spool_space)
        conn.move(Event.HEAD_WITH_BODY)
        if head.expects and not conn.inbox:
            # Nothing of ours is unsent, so the socket takes these 25 bytes whole; or none of them, if
            # it is full of answers that the client does not read: then it is not this it waits for.
            try:
                conn.sock.send(CONTINUE)
            except BlockingIOError:
                pass
            except OSError:
                return self._pump.close(conn, CloseReason.CLIENT_LEFT)
        exchange.progress_at = exchange.checked_at = self._clock.now
        conn.expires = self._clock.now + RECHECK
        return MORE

    def _check_space(self, exchange: Exchange, size: int) -> None:
        """Raises Refusal if `size` more bytes can't be kept aside."""
        space = self._pump.spool_space
        if space.has_room(size):
            return
        self._pump.fault(
            f"{exchange.request_line} is refused: {space.used} bytes of request bodies are kept aside "
            f"already, and spool_limit is {space.limit}"
        )
        raise Refusal(503, "There is no room for this body now. Please try again soon.", retry_after=5)

    def read_body(self, conn: Connection) -> Outcome:
        """The step of BODY: takes in what has come, but no more than a turn's share."""
        exchange = conn.exchange
        assert exchange is not None
        spool = exchange.spool
        assert spool is not None
        try:
            for _ in range(READS_A_TURN):
                whole = _is_whole(exchange)
                if not spool.flush(conn, self._pump.helpers, whole=whole):
                    return WAIT  # for the disk
                if whole:
                    return self._queue(conn, exchange)
                if not conn.inbox and not self._read(conn):
                    if conn.ended and not conn.readable:
                        return self._pump.close(conn, CloseReason.CLIENT_LEFT)
                    return WAIT
                self._take_in(conn, exchange, spool)
        except Refusal as refusal:
            return self._refuse(conn, refusal, b"")
        except OSError as error:
            self._pump.fault(
                f"cannot keep the body of {exchange.request_line} in {self._pump.spool_folder} (spool_dir): "
                f"{error.strerror}"
            )
            return self._refuse(conn, Refusal(507, "There is no room for this body."), b"")
        self._pump.run_again(conn)
        return WAIT

    def _take_in(self, conn: Connection, exchange: Exchange, spool: Spool) -> None:
        """What is in the inbox goes into the spool; what is left of it is the next request's, or more
        work than one step may be."""
        data = conn.inbox
        chunks = exchange.chunks
        if chunks is None:
            left = exchange.body_left
            conn.inbox = data[left:] if len(data) > left else b""
            if conn.inbox:
                data = data[:left]
            exchange.body_left = left - len(data)
            exchange.received += len(data)
            self._check_space(exchange, len(data))
            spool.write(data)
            return
        piece = chunks.feed(data)
        conn.inbox = chunks.rest
        exchange.received += len(data) - len(conn.inbox)
        if piece:
            limit = self._settings.limit_request_body
            if spool.size + len(piece) > limit:
                raise Refusal(413, f"The body is larger than {limit} bytes (limit_request_body).")
            self._check_space(exchange, len(piece))
            spool.write(piece)


def _is_whole(exchange: Exchange) -> bool:
    return exchange.body_left == 0 if exchange.chunks is None else exchange.chunks.done


def _keep(seen: dict[bytes, RequestHead], key: bytes, head: RequestHead) -> None:
    if head.plain and len(key) <= MAX_SEEN_HEAD:
        if len(seen) >= MAX_SEEN:
            seen.clear()
        seen[key] = head
