"""The fast path of WebSockets: small messages, from a client to its worker and the other way.

As with requests, each direction is written out in one function, and stands beside the general road
(protocol.py) with the same states at its ends. What it is for is a WebSocket on a connection of its own,
in clear or over TLS, of which nothing waits in that direction; everything else goes by the general road:
what comes in several frames or is deflated, Pings and Closes, what breaks a rule, and a client that is slow.

A message of 32 bytes costs the pump two system calls, recv and send, and some 3 µs of its own in each
direction.
"""

from __future__ import annotations

from halfsync.pump.connection import Connection, Exchange
from halfsync.pump.endings import Endings
from halfsync.pump.output import Output
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.sendables import Framing
from halfsync.pump.task_messages import OVERHEAD, MessageQueue
from halfsync.pump.transport import RECV_SIZE
from halfsync.pump.websocket.state import WebSocket
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import (
    MESSAGE_TAG,
    MESSAGE_WINDOW,
    PIECE_COST,
    RESPONSE_WINDOW,
    Credit,
    Message,
    ToPump,
)
from halfsync.wire.websocket import BINARY, SMALL_HEADERS, TEXT, frame_header, whole_message

AT_ONCE = 64
"""Messages of one client that are passed on before others are served; further ones go by the general road."""
ROOM = MESSAGE_WINDOW // 2
"""With more than this outstanding, each message is counted before the next one is read. (What is read at once
is RECV_SIZE, or counts PIECE_COST a message: less than the other half.)"""
JOINED = 64 * 1024
"""Bytes of messages that are sent in one write."""
HALF_WINDOW = RESPONSE_WINDOW // 2
"""When so much was taken, the worker is told."""
_KINDS = (TEXT, BINARY)


class SmallMessages:
    def __init__(self, run_queue: RunQueue, endings: Endings, output: Output) -> None:
        self._run_queue = run_queue
        self._endings = endings
        self._output = output

    # --- from clients ------------------------------------------------------------------------------

    def take_in(self, conn: Connection) -> bool:
        """An event says that there is something to read, of a connection that is BUSY: read it, and pass on
        what messages it has. False: it is for the general road, and nothing was read."""
        exchange: Exchange = conn.exchange  # type: ignore[assignment]  # since it is BUSY
        ws = exchange.websocket
        if ws is None or not ws.at_rest or conn.out or ws.outstanding > ROOM:
            return False
        transport = conn.transport
        try:
            data = transport.recv(RECV_SIZE)
        except BlockingIOError:
            return True
        except OSError:
            return False  # found out again, and dealt with, where all reads are
        came = len(data)
        if not came:
            return False  # the same
        ws.is_pinged = False
        payload = whole_message(data, ws.reader.limit)
        if payload is not None:
            size = len(payload)
            ws.outstanding += size + PIECE_COST
            queue: MessageQueue = ws.queue  # type: ignore[assignment]  # since it was accepted
            queue.append((MESSAGE_TAG, exchange.task, data[0] & 15, payload))
            queue.size += size + OVERHEAD
            if not queue.is_known:
                queue.gather()
            if transport.drained(came, RECV_SIZE):
                return True
            conn.readable = True
        else:
            ws.reader.feed(data)
            self.pass_on(exchange, ws, AT_ONCE)
            conn.readable = not transport.drained(came, RECV_SIZE)
        if conn.readable or not ws.reader.is_read:
            ws.at_rest = False
            self._run_queue.ready(conn)
        return True

    @staticmethod
    def pass_on(exchange: Exchange, ws: WebSocket, most: int) -> int:
        """Of what was read, the messages that come next and are small and whole, at most so many. (It is
        open, nothing is collected, and no more than ROOM is outstanding.) How many they were; each KiB of
        them counts as one more."""
        found = ws.reader.whole_messages(most)
        if not found:
            return 0
        queue = ws.queue
        assert queue is not None
        number = exchange.task
        size = 0
        for kind, data in found:
            size += len(data)
            queue.messages.append((MESSAGE_TAG, number, kind, data))
        ws.outstanding += size + PIECE_COST * len(found)
        queue.size += size + OVERHEAD * len(found)
        if not queue.is_known:
            queue.gather()
        return len(found) + (size >> 10)

    # --- to clients --------------------------------------------------------------------------------

    def put_out(  # noqa: C901 (a call would cost more than what is called)
        self, owners: dict[int, object], messages: ToPump
    ) -> ToPump:
        """Of a worker's packet, send the messages that are in it (not in a file) to clients that have taken
        everything before (which are in PRODUCING), in one write if several for one stand side by side. Gives
        the others."""
        others: ToPump = []
        waiting: set[int] = set()  # tasks of which something is among these: what follows stays behind it
        count = len(messages)
        at = 0
        while at < count:
            message = messages[at]
            at += 1
            number = message.number
            exchange = owners.get(number)
            if (
                type(message) is not Message
                or message.objects
                or type(exchange) is not Exchange
                or (ws := exchange.websocket) is None
                or not ws.is_plain
                or (conn := exchange.conn) is None
                or conn.out
                or (window := exchange.window) > RESPONSE_WINDOW
                or (kind := message.kind) not in _KINDS
                or (others and number in waiting)
            ):
                others.append(message)
                if type(message) is not Credit:
                    waiting.add(number)
                continue
            data = message.data
            size = len(data)
            if size < 126:
                header = SMALL_HEADERS[kind][size]
            elif size < 65536:
                header = (0x807E0000 | kind << 24 | size).to_bytes(4, "big")
            else:
                header = frame_header(kind, size)
            wire = header + data
            window += size + PIECE_COST
            frames = None  # if they are several
            while at < count and messages[at].number == number and len(wire) < JOINED:
                more = messages[at]
                if type(more) is not Message or more.objects or more.kind not in _KINDS:
                    break
                at += 1
                if frames is None:
                    frames = [Framing(header), data]
                header, data = frame_header(more.kind, len(more.data)), more.data
                frames += [Framing(header), data]
                wire += header + data
                size += len(data)
                window += len(data) + PIECE_COST
            exchange.window = window
            try:
                sent = conn.transport.send(wire)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._endings.close(conn, CloseReason.CLIENT_DISCONNECTED)
                continue
            if sent != len(wire):
                conn.protocol.add(exchange, frames or (Framing(header), data))
                self._output.taken(conn, sent)
                self._run_queue.ready(conn)
                continue
            conn.wire_bytes += sent
            conn.body_bytes += size
            if window >= HALF_WINDOW and exchange.route is not None:
                exchange.route.backend.taken(exchange)
                self._run_queue.ready(conn)  # which sends that, too
        return others
