"""A client of a WebSocket, and the worker's end of it. The client is `websockets`' own, without its I/O."""

from __future__ import annotations

import os
import socket
from typing import Any

from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.protocol import State
from websockets.uri import parse_uri

from halfsync.objects import File
from halfsync.pump.connection import Connection, Exchange
from halfsync.pump.websocket.state import WebSocket
from halfsync.wire.messages import (
    MAX_DESCRIPTORS,
    MAX_PACKET,
    Accept,
    ClientDisconnected,
    Close,
    Credit,
    Ending,
    Message,
    Part,
    Taken,
    Task,
    WatchMessage,
    WebSocketTask,
    decode_watch,
    message_cost,
)
from halfsync.wire.websocket import BINARY, TEXT
from tests.pump.harness import APP, Client, Hand, Stage


def stage(**settings: Any) -> Stage:
    """Its application takes WebSockets."""
    made = Stage(**settings)
    made.pump.pools.pools[APP].has_loops = made.with_loops = True
    return made


class Pair:
    """`client` is the connection, `protocol` what speaks on it. With `accept` it is open."""

    def __init__(
        self,
        stage: Stage,
        hand: Hand | None = None,
        *,
        accept: bool = True,
        behind: bytes = b"",
        fields: bytes = b"",
        subprotocol: str = "",
        rcvbuf: int = 0,
        **protocol: Any,
    ) -> None:
        self.stage = stage
        self.hand = hand or stage.hand()
        self.client: Client = stage.client(rcvbuf=rcvbuf)
        self.protocol = ClientProtocol(parse_uri("ws://a/chat?x=1"), max_size=None, **protocol)
        self.protocol.send_request(self.protocol.connect())
        self.behind = behind
        self._send(behind)
        self.taken = 0  # what Taken has said in all
        self.disconnected = False
        task = self.hand.take()
        assert type(task) is WebSocketTask
        self.task: Task = task
        if accept:
            self.accept(fields, subprotocol)

    def accept(self, fields: bytes = b"", subprotocol: str = "") -> None:
        self.hand.send([Accept(self.task.number, fields, subprotocol)])
        self.stage.until(lambda: self.got() is not None and self.protocol.state is not State.CONNECTING)
        if self.protocol.handshake_exc is not None:
            raise self.protocol.handshake_exc

    @property
    def exchange(self) -> Exchange:
        """What the pump has of it."""
        [found] = [one for one in self.hand.worker.owners.values() if isinstance(one, Exchange)]  # type: ignore[union-attr]
        return found

    @property
    def conn(self) -> Connection:
        assert self.exchange.conn is not None
        return self.exchange.conn

    @property
    def ws(self) -> WebSocket:
        assert self.exchange.websocket is not None
        return self.exchange.websocket

    # --- the client ----------------------------------------------------------------------------------

    def _send(self, behind: bytes = b"") -> None:
        data = b"".join(self.protocol.data_to_send())
        if data or behind:
            self.client.send(data + behind)

    def say(self, data: str | bytes, *, fin: bool = True) -> None:
        """A whole message."""
        if isinstance(data, str):
            self.protocol.send_text(data.encode(), fin)
        else:
            self.protocol.send_binary(data, fin)
        self._send()

    def say_more(self, data: bytes, *, fin: bool) -> None:
        self.protocol.send_continuation(data, fin)
        self._send()

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.protocol.send_close(code, reason)
        self._send()

    def got(self) -> list[Frame]:
        """Frames that came; Pings and Closes are answered."""
        self.client.receive()
        if self.client.inbox:
            self.protocol.receive_data(self.client.inbox)
            self.client.inbox = b""
        if self.client.ended and self.protocol.state is not State.CLOSED:
            self.protocol.receive_eof()
        if not self.client.over:
            self._send()
        return [one for one in self.protocol.events_received() if isinstance(one, Frame)]

    def wait(self, count: int = 1) -> list[Frame]:
        """So many frames."""
        found: list[Frame] = []

        def enough() -> bool:
            found.extend(self.got())
            return len(found) >= count

        self.stage.until(enough, f"{count} frames; there are {len(found)}")
        return found

    def wait_for_end(self) -> tuple[int, str]:
        """Until the connection is closed in good order: the code and the reason that the client got."""

        def over() -> bool:
            self.got()
            return self.client.over

        self.stage.until(over, "the end")
        assert self.client.ended, "reset"
        received = self.protocol.close_rcvd
        assert received is not None, "no Close came"
        return received.code, received.reason

    # --- the worker ----------------------------------------------------------------------------------

    def heard(self, *, grants: bool = True) -> list[Message | Close | ClientDisconnected]:
        """What the worker got; what is in a descriptor is read. Taken is counted. With `grants`, the
        application has taken it."""
        self.stage.settle()
        found: list[Message | Close | ClientDisconnected] = []
        while (packet := self._packet()) is not None:
            messages, fds = packet
            for message in messages:
                if isinstance(message, Taken):
                    self.taken += message.size
                elif isinstance(message, Message | Close | ClientDisconnected):
                    assert message.number == self.task.number
                    found.append(message)
                    if not isinstance(message, Message):
                        continue
                    if grants:
                        self.grant([message])
                    for item in message.objects:
                        assert isinstance(item, File)
                        message.data = os.pread(fds[item.fd], item.count + 1, 0)
                        assert len(message.data) == item.count
            for fd in fds:
                os.close(fd)
            self.stage.settle()
        return found

    def _packet(self) -> tuple[list[WatchMessage], list[int]] | None:
        try:
            data, ancillary, _, _ = self.hand.watch_sock.recvmsg(
                MAX_PACKET + 4096, socket.CMSG_SPACE(4 * MAX_DESCRIPTORS)
            )
        except BlockingIOError:
            return None
        fds = [fd for _, _, raw in ancillary for fd in memoryview(raw).cast("i")]
        return decode_watch(data), fds

    def texts(self) -> list[str | bytes]:
        """Only the data of messages that came."""
        return [
            one.data.decode() if one.kind == TEXT else one.data
            for one in self.heard()
            if isinstance(one, Message)
        ]

    def wait_for_texts(self, count: int) -> list[str | bytes]:
        """So many."""
        found: list[str | bytes] = []

        def enough() -> bool:
            found.extend(self.texts())
            return len(found) >= count

        self.stage.until(enough, f"{count} messages")
        return found

    def grant(self, messages: list[Message]) -> None:
        """The application has taken them."""
        self.hand.send([Credit(self.task.number, sum(map(message_cost, messages)))])

    def tell(self, *data: str | bytes) -> None:
        """The application sends messages, in one packet."""
        self.hand.send([self.message(one) for one in data])

    def message(self, data: str | bytes) -> Message:
        raw = data.encode() if isinstance(data, str) else data
        return Message(self.task.number, TEXT if isinstance(data, str) else BINARY, raw)

    def tell_in_file(self, data: bytes) -> None:
        fd = os.memfd_create("message")
        os.write(fd, data)
        self.hand.send([Message(self.task.number, BINARY, b"", [File(0, 0, len(data))])], (fd,))

    def close_by_application(self, code: int = 1000, reason: str = "") -> None:
        self.hand.send([Close(self.task.number, code, reason.encode())])

    def returns(self, ending: Ending = Ending.DONE) -> None:
        """The application's coroutine has ended."""
        self.hand.send([Part(self.task.number, [], ending)])
