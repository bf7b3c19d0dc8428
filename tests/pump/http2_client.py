"""HTTP/2 clients for a stage: one with the `h2` library as its engine, one that sends whatever frames a test
wants."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings

from tests.pump.harness import Client, Stage
from tests.wire.http2_frames import PREFACE, said, settings

Headers = list[tuple[bytes, bytes]]


def prompt(client: Client) -> Client:
    """Small frames do not wait for acknowledgements (Nagle), as with any HTTP/2 client."""
    client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def receive(stage: Stage, client: Client) -> int:
    """Read what the pump has sent by now, all of it; how many bytes that was."""
    stage.settle()
    total = 0
    while size := client.receive():
        total += size
    return total


@dataclass
class Response:
    status: int = 0
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None  # the code with which the server reset the stream
    interim: list[int] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None


class Http2Client:
    """A client that keeps all rules, and complains of a server that does not."""

    def __init__(
        self, stage: Stage, *, window: int | None = None, rcvbuf: int = 0, opens: bool = True, **tls: Any
    ) -> None:
        """`window`: of its streams. `opens`: whether windows are opened again as data comes. `tls`: see
        Stage.client."""
        self.stage = stage
        self.client = prompt(stage.client(rcvbuf=rcvbuf, **tls))
        self.engine = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding=None)
        )
        self.opens = opens
        self.engine.initiate_connection()
        if window is not None:
            self.engine.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.responses: dict[int, Response] = {}
        self.goaways: list[tuple[int, int]] = []  # code, last stream
        self.acked = 0
        self.flush()
        if window is not None:
            self.settle()  # it counts from the acknowledgement on

    def flush(self) -> None:
        if data := self.engine.data_to_send():
            self.client.send(data)

    def start(
        self,
        path: str = "/",
        method: str = "GET",
        *,
        fields: Headers | None = None,
        body: bytes | None = None,
        end: bool = True,
        authority: str = "a",
        flush: bool = True,
    ) -> int:
        """Begin a request; the number of its stream. With a body, all of it is sent."""
        number = self.engine.get_next_available_stream_id()
        head = [
            (b":method", method.encode()),
            (b":scheme", b"http"),
            (b":authority", authority.encode()),
            (b":path", path.encode()),
            *(fields or []),
        ]
        self.engine.send_headers(number, head, end_stream=end and body is None)
        self.responses[number] = Response()
        if flush:
            self.flush()
        if body is not None:
            self.upload(number, body, end=end)
        return number

    def upload(self, number: int, body: bytes, *, end: bool = True) -> None:
        """Send a body, as windows open."""
        view = memoryview(body)
        while view:
            self.stage.until(
                lambda: self.read() >= 0 and self.engine.local_flow_control_window(number) > 0, "a window"
            )
            size = min(len(view), self.engine.local_flow_control_window(number), 16_384)
            self.engine.send_data(number, bytes(view[:size]))
            view = view[size:]
            self.flush()
        if end:
            self.engine.end_stream(number)
            self.flush()

    def read(self) -> int:
        """Take what has come; how many bytes that was."""
        size = receive(self.stage, self.client)
        data, self.client.inbox = self.client.inbox, b""
        if data:
            for event in self.engine.receive_data(data):
                self._take(event)
            self.flush()
        return size

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            response = self.responses[event.stream_id]
            for name, value in event.headers:
                if name == b":status":
                    response.status = int(value)
                else:
                    assert name.decode() not in response.fields or name == b"set-cookie"
                    response.fields[name.decode()] = value.decode("latin-1")
        elif isinstance(event, h2.events.InformationalResponseReceived):
            self.responses[event.stream_id].interim.append(int(dict(event.headers)[b":status"]))
        elif isinstance(event, h2.events.DataReceived):
            self.responses[event.stream_id].body += event.data
            if self.opens and event.flow_controlled_length:
                self.engine.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.responses[event.stream_id].ended = True
        elif isinstance(event, h2.events.StreamReset):
            self.responses[event.stream_id].reset = int(event.error_code or 0)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaways.append((int(event.error_code or 0), event.last_stream_id or 0))
        elif isinstance(event, h2.events.SettingsAcknowledged):
            self.acked += 1

    def response(self, number: int) -> Response:
        """Wait for a whole one."""

        def over() -> bool:
            self.read()
            assert not self.client.over or self.responses[number].over, "closed amid a response"
            return self.responses[number].over

        self.stage.until(over, f"the response on stream {number}")
        return self.responses[number]

    def early_response(self, number: int) -> Response:
        """One that comes before the request is whole: its end is told a second later."""
        self.settle()
        assert self.responses[number].status, "no response has come"
        assert not self.responses[number].over, "some clients would drop the response"
        self.stage.later(2)
        return self.response(number)

    def ask(self, path: str = "/", method: str = "GET", *, body: bytes | None = None) -> Response:
        return self.response(self.start(path, method, body=body))

    def reset(self, number: int, code: int = 8) -> None:
        self.engine.reset_stream(number, code)
        self.flush()

    def settle(self) -> None:
        """Take turns and read until nothing happens any more."""
        while True:
            self.stage.settle()
            if not self.read():
                return

    def until_closed(self) -> None:
        def closed() -> bool:
            self.read()
            return self.client.over

        self.stage.until(closed, "the end of the connection")


class RawHttp2:
    """A client that sends frames of the test's making, and reads the server's."""

    def __init__(self, stage: Stage, *first: bytes) -> None:
        self.stage = stage
        self.client = prompt(stage.client())
        self.send(PREFACE + settings(), *first)

    def send(self, *frames: bytes) -> None:
        self.client.send(b"".join(frames))

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        """All whole frames that have come by now."""
        receive(self.stage, self.client)
        found = []
        while len(self.client.inbox) >= 9:
            data = self.client.inbox
            end = 9 + int.from_bytes(data[:3], "big")
            if len(data) < end:
                break
            found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9:end]))
            self.client.inbox = data[end:]
        return found

    def said(self) -> list[str]:
        return said(self.frames())

    def until_said(self, words: str) -> list[str]:
        """All that was said, up to that."""
        heard: list[str] = []

        def is_said() -> bool:
            heard.extend(self.said())
            return words in heard

        self.stage.until(is_said, f"{words}; there was {heard}")
        return heard
