"""The fast path of responses that come piece by piece, such as server-sent events: from a worker to clients.

As with WebSockets (websocket/small_messages.py) it is written out in one function, and stands beside the
general road (`GeneralReplies._respond`, then `Output.produce` and `Output.send`) with the same states at its
ends. What it is for is a small part in memory, of a response on an HTTP/1.1 connection whose client has taken
everything before: one that is sent at once, so that the response is in PRODUCING before and behind it.
Everything else goes by the general road: a slow client, a response of a known length, a request whose body
still comes, HTTP/2.

An event of 24 bytes costs the pump one system call, and some 3 µs of its own in place of 20.
"""

from __future__ import annotations

from halfsync.objects import Memory
from halfsync.pump.clock import Clock
from halfsync.pump.connection import NEVER, BodyEnd, Connection, Exchange
from halfsync.pump.endings import Endings
from halfsync.pump.output import Output
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.states import PRODUCING
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import PIECE_COST, RESPONSE_WINDOW, UNFINISHED, Credit, Part, ToPump

SMALL = 16 * 1024
"""Bytes of a part. A larger one is better gathered than copied."""

_CHUNKS = BodyEnd.CHUNKS


class SmallParts:
    def __init__(self, clock: Clock, run_queue: RunQueue, endings: Endings, output: Output) -> None:
        self._clock = clock
        self._run_queue = run_queue
        self._endings = endings
        self._output = output

    def put_out(self, owners: dict[int, object], messages: ToPump) -> tuple[ToPump, int]:
        """Of a packet of a worker with an event loop, send the parts for which this is. Gives the other
        messages, and how many bytes of bodies those parts had."""
        now = self._clock.now
        body_bytes = 0
        others: ToPump = []
        waiting: set[int] = set()  # tasks of which something is among these: what follows stays behind it
        for message in messages:
            number = message.number
            exchange = owners.get(number)
            if (
                type(message) is not Part
                or type(exchange) is not Exchange
                or exchange.state is not PRODUCING
                or message.ending is not UNFINISHED
                or len(message.objects) != 1
                or type(item := message.objects[0]) is not Memory
                or item.block >= 0
                or not 0 < (size := len(data := item.data)) <= SMALL
                or type(conn := exchange.conn) is not Connection
                or conn.out
                or conn.ended
                or exchange.body_owed >= 0
                or exchange.stream is not None
                or exchange.websocket is not None
                or (window := exchange.window + size + PIECE_COST) > RESPONSE_WINDOW
                or (route := exchange.route) is None
                or (others and number in waiting)
            ):
                others.append(message)
                if type(message) is not Credit:
                    waiting.add(number)
                continue
            wire = b"%x\r\n%b\r\n" % (size, data) if exchange.body_end is _CHUNKS else data
            exchange.window = window
            body_bytes += size
            try:
                sent = conn.transport.send(wire)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._endings.reset(conn, CloseReason.CLIENT_DISCONNECTED)
                continue
            if sent != len(wire):
                conn.protocol.add(exchange, (data,))
                self._output.taken(conn, sent)
                self._run_queue.ready(conn)
                continue
            conn.wire_bytes += sent
            conn.body_bytes += size
            limit = route.limits.stream_timeout
            conn.deadline = now + limit if limit else NEVER
            if window >= RESPONSE_WINDOW // 2:
                route.backend.taken(exchange)
                self._run_queue.ready(conn)  # which sends that, too
        return others, body_bytes
