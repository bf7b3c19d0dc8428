"""The frames of HTTP/2 that move neither requests nor bodies: checked, and put into effect. See http2.py."""

from __future__ import annotations

from collections.abc import Callable

from halfsync.wire import http2_frames as frames
from halfsync.wire.hpack import TABLE_SIZE
from halfsync.wire.http2_events import (
    ClientClosing,
    Event,
    PingAnswered,
    PriorityChanged,
    StreamEnded,
    WindowsOpened,
)
from halfsync.wire.http2_frames import ACK, FRAME_SIZE, MAX_WINDOW, ErrorCode, Setting
from halfsync.wire.http2_state import ConnectionFault, Http2State, Limit, StreamFault
from halfsync.wire.priorities import priority_of

MAX_SETTINGS = 32
"""Entries in a SETTINGS frame. There are nine settings."""


def _priority(state: Http2State, _flags: int, stream_id: int, payload: bytes, _events: list[Event]) -> None:
    """Of RFC 7540: checked, and of no effect (RFC 9113 5.3.2)."""
    if not stream_id:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
    wrong = None
    if len(payload) != 5:
        wrong = (ErrorCode.FRAME_SIZE_ERROR, f"PRIORITY of {len(payload)} bytes")
    elif int.from_bytes(payload[:4], "big") & 0x7FFFFFFF == stream_id:
        wrong = (ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")
    if wrong is not None:
        if stream_id in state.streams:
            raise StreamFault(stream_id, *wrong)
        raise ConnectionFault(*wrong)
    state.count_idle("PRIORITY frames")


def _rst_stream(state: Http2State, _flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
    if len(payload) != 4:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"RST_STREAM of {len(payload)} bytes")
    if not stream_id or (stream_id > state.last_stream and stream_id < state.refuses_from):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"RST_STREAM on stream {stream_id}")
    stream = state.streams.get(stream_id)
    if stream is None:
        state.count_idle("resets of closed streams")
    else:
        state.count_reset()
        state.drop(stream)
        events.append(StreamEnded(stream))


def _settings(state: Http2State, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
    if stream_id:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"SETTINGS on stream {stream_id}")
    if len(payload) % 6 or (flags & ACK and payload):
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes")
    state.count_idle("SETTINGS frames")
    if flags & ACK:
        return
    if len(payload) > 6 * MAX_SETTINGS:
        raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many settings", Limit.IDLE_FRAMES)
    windows = []
    for at in range(0, len(payload), 6):
        entry = int.from_bytes(payload[at : at + 6], "big")
        key, value = entry >> 32, entry & 0xFFFFFFFF
        _check_setting(key, value)
        if key == Setting.INITIAL_WINDOW_SIZE:
            windows.append(value)
        elif key == Setting.HEADER_TABLE_SIZE and value < TABLE_SIZE:
            state.shrink_table()
    if windows:
        _set_windows(state, windows, events)
    state.out.append(frames.SETTINGS_ACK)


def _check_setting(key: int, value: int) -> None:
    """RFC 9113 6.5.2. (Our frames are never larger than every client has to take.)"""
    if key in (Setting.ENABLE_PUSH, Setting.NO_RFC7540_PRIORITIES) and value > 1:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"setting {key} is {value}")
    if key == Setting.MAX_FRAME_SIZE and not FRAME_SIZE <= value < 2**24:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"frames of {value} bytes")
    if key == Setting.INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
        raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, f"a window of {value} bytes")


def _set_windows(state: Http2State, sizes: list[int], events: list[Event]) -> None:
    """The sizes of one frame, one after the other; but the streams are walked once. (32 times for each frame,
    with 100 streams, took 0.3 ms for 200 bytes.)"""
    highest = max(sizes) - state.stream_window
    more = sizes[-1] - state.stream_window
    state.stream_window = sizes[-1]
    for stream in state.streams.values():
        if stream.window + highest > MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
        stream.window += more
    if more > 0:
        events.append(WindowsOpened(None))


def _push_promise(
    state: Http2State, _flags: int, _stream_id: int, _payload: bytes, _events: list[Event]
) -> None:
    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")


def _ping(state: Http2State, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
    if stream_id:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"PING on stream {stream_id}")
    if len(payload) != 8:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"PING of {len(payload)} bytes")
    state.count_idle("PING frames")
    if flags & ACK:
        events.append(PingAnswered())
    else:
        state.out.append(frames.ping(payload, ACK))


def _goaway(state: Http2State, _flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
    if stream_id:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"GOAWAY on stream {stream_id}")
    if len(payload) < 8:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"GOAWAY of {len(payload)} bytes")
    state.count_idle("GOAWAY frames")
    events.append(ClientClosing())


def _window_update(
    state: Http2State, _flags: int, stream_id: int, payload: bytes, events: list[Event]
) -> None:
    if len(payload) != 4:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"WINDOW_UPDATE of {len(payload)} bytes")
    if state.updates:
        state.updates -= 1
    else:
        state.count_idle("WINDOW_UPDATE frames")
    more = int.from_bytes(payload, "big") & 0x7FFFFFFF
    if not stream_id:
        if not more:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a window opened by 0")
        state.window += more
        if state.window > MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
        events.append(WindowsOpened(None))
        return
    stream = state.streams.get(stream_id)
    if stream is None:
        if stream_id > state.last_stream and stream_id < state.refuses_from:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"WINDOW_UPDATE on idle stream {stream_id}")
        return  # it may have been under way when the stream was closed (RFC 9113 5.1)
    if not more:
        raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "a window opened by 0")
    stream.window += more
    if stream.window > MAX_WINDOW:
        raise StreamFault(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
    events.append(WindowsOpened(stream))


def _priority_update(
    state: Http2State, _flags: int, stream_id: int, payload: bytes, events: list[Event]
) -> None:
    """RFC 9218 7.1. For a stream that has not begun it is of no effect."""
    if stream_id:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"PRIORITY_UPDATE on stream {stream_id}")
    if len(payload) < 4:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"PRIORITY_UPDATE of {len(payload)} bytes")
    about = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
    if not about or about % 2 == 0:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"PRIORITY_UPDATE of stream {about}")
    state.count_idle("PRIORITY_UPDATE frames")
    stream = state.streams.get(about)
    if stream is not None:
        stream.urgency, stream.incremental = priority_of(payload[4:])
        events.append(PriorityChanged(stream))


Handler = Callable[[Http2State, int, int, bytes, list[Event]], None]
"""Of one kind of frames: the connection, flags, stream, payload; adds what it means to the events. Raises
ConnectionFault and StreamFault."""

HANDLERS: dict[int, Handler] = {
    frames.PRIORITY: _priority,
    frames.RST_STREAM: _rst_stream,
    frames.SETTINGS: _settings,
    frames.PUSH_PROMISE: _push_promise,
    frames.PING: _ping,
    frames.GOAWAY: _goaway,
    frames.WINDOW_UPDATE: _window_update,
    frames.PRIORITY_UPDATE: _priority_update,
}
