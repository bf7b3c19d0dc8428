"""What an HTTP/2 client may do, right and wrong, and what a server has to say to it: RFC 9113, section by
section.

Each case is a name (with its section), the frames behind the client's preface and empty SETTINGS, and what
the server says. What is said:

    GOAWAY code         the connection is at its end
    RST stream code     the stream is
    request n           a complete request came on stream n
    refused n status    the same, and its response is fixed
    nothing             no more than to a client that sends nothing

In `answered` cases, the server responds to each request at once, so that its stream is closed; else it never
does.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.wire.http2_frames import (
    EH,
    ES,
    GET,
    PAD,
    POST,
    PRIO,
    block,
    continuation,
    data,
    field,
    frame,
    goaway,
    headers,
    ping,
    priority,
    priority_update,
    request,
    rst,
    settings,
    window,
)


@dataclass(frozen=True)
class Http2Case:
    name: str
    sent: bytes
    said: tuple[str, ...]
    answered: bool = False


def case(name: str, *sent: bytes, said: str, answered: bool = False) -> Http2Case:
    return Http2Case(name, b"".join(sent), tuple(s for s in said.split(", ") if s != "nothing"), answered)


def bad(name: str, *more: tuple[bytes, bytes], drop: bytes = b"", **changed: bytes) -> Http2Case:
    """A request whose fields make it malformed: a stream error (8.1.1)."""
    fields = {b":method": b"GET", b":scheme": b"http", b":path": b"/", b":authority": b"example.com"}
    fields.update({b":" + name.encode(): value for name, value in changed.items()})
    fields.pop(drop, None)
    return case(name, headers(1, block(*fields.items(), *more)), said="RST 1 PROTOCOL_ERROR")


M16 = b"x" * 16_384
TOO_LARGE = frame(0, 0, 1, M16 + b"x")

GENERIC = [
    case("2: a request", headers(1), said="request 1"),
    case("2: two requests", headers(1), headers(3), said="request 1, request 3"),
    case("2: numbers of streams may be left out", headers(5), headers(11), said="request 5, request 11"),
    case("2: a body in one frame", headers(1, POST, EH), data(1, b"abc", ES), said="request 1"),
    case("2: a body in several", headers(1, POST, EH), data(1, b"abc"), data(1, b"d", ES), said="request 1"),
    case("2: an empty body", headers(1, POST, EH), data(1, b"", ES), said="request 1"),
    case(
        "2: a body that is padded", headers(1, POST, EH), data(1, b"\x02abc\0\0", ES | PAD), said="request 1"
    ),
    case(
        "2: nothing but padding", headers(1, POST, EH), data(1, b"\x05\0\0\0\0\0", ES | PAD), said="request 1"
    ),
    case("2: padded headers", headers(1, b"\x03" + GET + b"\0\0\0", EH | ES | PAD), said="request 1"),
    case("2: headers with a priority", headers(1, b"\0\0\0\0\x0f" + GET, EH | ES | PRIO), said="request 1"),
    case(
        "2: headers with padding and a priority",
        headers(1, b"\x01" + b"\x80\0\0\x05\xff" + GET + b"\0", EH | ES | PAD | PRIO),
        said="request 1",
    ),
    case("2: headers in two frames", headers(1, GET[:9], ES), continuation(1, GET[9:]), said="request 1"),
    case(
        "2: headers in five frames",
        headers(1, b"", ES),
        continuation(1, GET[:3], 0),
        continuation(1, GET[3:9], 0),
        continuation(1, GET[9:], 0),
        continuation(1, b""),
        said="request 1",
    ),
    case("2: HEAD", headers(1, request(method=b"HEAD")), said="request 1"),
    case("2: OPTIONS *", headers(1, request(method=b"OPTIONS", path=b"*")), said="request 1"),
    case(
        "2: trailers",
        headers(1, POST, EH),
        data(1, b"abc"),
        headers(1, block((b"x-sum", b"1"))),
        said="request 1",
    ),
    case(
        "2: trailers in two frames",
        headers(1, POST, EH),
        headers(1, field(b"x-sum", b"1")[:4], ES),
        continuation(1, field(b"x-sum", b"1")[4:]),
        said="request 1",
    ),
    case("2: a stream's window is opened amid a request", headers(1), window(1, 100), said="request 1"),
    case("2: the connection's window is opened", window(0, 100), said="nothing"),
    case("2: a stream is reset", headers(1), rst(1), headers(3), said="request 1, request 3"),
    case("2: GOAWAY from the client", headers(1), goaway(0), said="request 1"),
    case("2: a priority for an idle stream", priority(3), headers(3), said="request 3"),
    case("2: a priority with all its bits", priority(1, 0x80000005, 255), said="nothing"),
    case("2: a priority behind the request's end", headers(1), priority(1), said="request 1"),
    case("2: a priority for a closed stream", headers(1), priority(1), said="request 1", answered=True),
    case("2: a window for a closed stream", headers(1), window(1, 10), said="request 1", answered=True),
    case("2: a closed stream is reset", headers(1), rst(1), said="request 1", answered=True),
]

FRAMES = [
    case("4.1: a frame of an unknown kind", frame(0x42, 0xFF, 0, b"x" * 9), headers(1), said="request 1"),
    case(
        "4.1: of an unknown kind, on a stream that is idle", frame(0x42, 0, 7), headers(1), said="request 1"
    ),
    case("4.1: flags without a meaning", ping(flags=0xFE), said="PING ACK"),
    case("4.1: the reserved bit", frame(6, 0, 0x80000000, b"12345678"), said="PING ACK"),
    case("4.1: the reserved bit of a stream", frame(1, EH | ES, 0x80000001, GET), said="request 1"),
    case("4.2: a frame of the largest size", headers(1, POST, EH), data(1, M16, ES), said="request 1"),
    case("4.2: DATA that is too large", headers(1, POST, EH), TOO_LARGE, said="GOAWAY FRAME_SIZE_ERROR"),
    case("4.2: HEADERS that are too large", headers(1, M16 + b"x"), said="GOAWAY FRAME_SIZE_ERROR"),
    case("4.2: SETTINGS that are too large", frame(4, 0, 0, M16 + b"xx"), said="GOAWAY FRAME_SIZE_ERROR"),
    case("4.3: a header block that is none", headers(1, b"\x00\x01"), said="GOAWAY COMPRESSION_ERROR"),
    case(
        "4.3: the same in trailers",
        headers(1, POST, EH),
        headers(1, b"\x80"),
        said="GOAWAY COMPRESSION_ERROR",
    ),
    case("4.3: PRIORITY amid headers", headers(1, GET, ES), priority(1), said="GOAWAY PROTOCOL_ERROR"),
    case("4.3: PING amid headers", headers(1, GET, ES), ping(), said="GOAWAY PROTOCOL_ERROR"),
    case("4.3: others' HEADERS amid headers", headers(1, GET, ES), headers(3), said="GOAWAY PROTOCOL_ERROR"),
    case(
        "4.3: others' CONTINUATION amid headers",
        headers(1, GET, ES),
        continuation(3, b""),
        said="GOAWAY PROTOCOL_ERROR",
    ),
    case(
        "5.5: an unknown frame amid headers",
        headers(1, GET, ES),
        frame(0x42, 0, 1),
        said="GOAWAY PROTOCOL_ERROR",
    ),
    case("5.5: an unknown setting", settings((0x42, 7)), headers(1), said="SETTINGS ACK, request 1"),
]

IDLE = "GOAWAY PROTOCOL_ERROR"
CLOSED = "GOAWAY STREAM_CLOSED"
STATES = [
    case("5.1 idle: DATA", data(1, b"x"), said=IDLE),
    case("5.1 idle: RST_STREAM", rst(1), said=IDLE),
    case("5.1 idle: WINDOW_UPDATE", window(1, 1), said=IDLE),
    case("5.1 idle: CONTINUATION", continuation(1, GET), said=IDLE),
    case("5.1 half closed: DATA", headers(1), data(1, b"x"), said="request 1, RST 1 STREAM_CLOSED"),
    case("5.1 half closed: HEADERS", headers(1), headers(1), said="request 1, RST 1 STREAM_CLOSED"),
    case("5.1 half closed: CONTINUATION", headers(1), continuation(1, b""), said=f"request 1, {IDLE}"),
    case("5.1 reset by the client: DATA", headers(1, POST, EH), rst(1), data(1, b"x"), said=CLOSED),
    case("5.1 reset by the client: HEADERS", headers(1, POST, EH), rst(1), headers(1), said=CLOSED),
    case(
        "5.1 reset by the client: CONTINUATION", headers(1, POST, EH), rst(1), continuation(1, b""), said=IDLE
    ),
    case("5.1 closed: DATA", headers(1), data(1, b"x"), said=f"request 1, {CLOSED}", answered=True),
    case("5.1 closed: HEADERS", headers(1), headers(1), said=f"request 1, {CLOSED}", answered=True),
    case(
        "5.1 closed: CONTINUATION", headers(1), continuation(1, b""), said=f"request 1, {IDLE}", answered=True
    ),
    case(
        "5.1 reset by the server: what was under way is dropped",
        headers(1, POST, EH),
        window(1, 0),
        data(1, b"x"),
        headers(1, block((b"x-sum", b"1"))),
        window(1, 9),
        rst(1),
        headers(3),
        said="RST 1 PROTOCOL_ERROR, request 3",
    ),
    case("5.1.1: a stream with an even number", headers(2), said=IDLE),
    case("5.1.1: a number that was left out before", headers(5), headers(3), said=f"request 5, {IDLE}"),
    case("5.1.1: DATA on one that was left out", headers(5), data(3, b"x"), said=f"request 5, {IDLE}"),
    case(
        "5.1.2: more streams than there may be",
        *(headers(number) for number in range(1, 203, 2)),
        said=", ".join(f"request {number}" for number in range(1, 201, 2)) + ", RST 201 REFUSED_STREAM",
    ),
    case(
        "5.1.2: closed ones do not count",
        *(headers(number) for number in range(1, 403, 2)),
        said=", ".join(f"request {number}" for number in range(1, 403, 2)),
        answered=True,
    ),
    case(
        "5.3: HEADERS that depend on themselves",
        headers(1, b"\0\0\0\x01\x0f" + GET, EH | ES | PRIO),
        said=IDLE,
    ),
    case(
        "5.3: a stream that depends on itself",
        headers(1),
        priority(1, 1),
        said="request 1, RST 1 PROTOCOL_ERROR",
    ),
    case(
        "5.4.1: nothing is read behind an error",
        ping(b"1"),
        headers(1),
        ping(),
        said="GOAWAY FRAME_SIZE_ERROR",
    ),
    case(
        "5.4.2: other streams go on",
        headers(1),
        window(1, 0),
        headers(3),
        said="request 1, RST 1 PROTOCOL_ERROR, request 3",
    ),
]

KINDS = [
    case("6.1: DATA on stream 0", data(0, b"x"), said=IDLE),
    case("6.1: padding as long as the frame", headers(1, POST, EH), data(1, b"\x03xx", PAD), said=IDLE),
    case("6.1: padding longer than the frame", headers(1, POST, EH), data(1, b"\xffxx", PAD), said=IDLE),
    case("6.1: padded, and empty", headers(1, POST, EH), data(1, b"", PAD), said="GOAWAY FRAME_SIZE_ERROR"),
    case("6.2: HEADERS on stream 0", headers(0), said=IDLE),
    case("6.2: padding longer than the frame", headers(1, b"\xff" + GET, EH | ES | PAD), said=IDLE),
    case(
        "6.2: a priority that is cut off",
        headers(1, b"\0\0\0", EH | ES | PRIO),
        said="GOAWAY FRAME_SIZE_ERROR",
    ),
    case("6.3: PRIORITY on stream 0", priority(0), said=IDLE),
    case(
        "6.3: PRIORITY of another size",
        headers(1),
        frame(2, 0, 1, b"\0" * 4),
        said="request 1, RST 1 FRAME_SIZE_ERROR",
    ),
    case("6.3: the same on an idle stream", frame(2, 0, 1, b"\0" * 6), said="GOAWAY FRAME_SIZE_ERROR"),
    case("6.4: RST_STREAM on stream 0", rst(0), said=IDLE),
    case(
        "6.4: RST_STREAM of another size",
        headers(1),
        frame(3, 0, 1, b"abc"),
        said="request 1, GOAWAY FRAME_SIZE_ERROR",
    ),
    case("6.5: ACK with settings", settings((1, 1), flags=1), said="GOAWAY FRAME_SIZE_ERROR"),
    case("6.5: ACK", settings(flags=1), said="nothing"),
    case("6.5: SETTINGS on a stream", settings(stream=1), said=IDLE),
    case(
        "6.5: SETTINGS of a size that is no multiple",
        frame(4, 0, 0, b"\0" * 7),
        said="GOAWAY FRAME_SIZE_ERROR",
    ),
    case("6.5.2: ENABLE_PUSH of 2", settings((2, 2)), said=IDLE),
    case("6.5.2: ENABLE_PUSH of 0 and 1", settings((2, 0), (2, 1)), said="SETTINGS ACK"),
    case("6.5.2: a window of 2^31", settings((4, 2**31)), said="GOAWAY FLOW_CONTROL_ERROR"),
    case("6.5.2: the largest window", settings((4, 2**31 - 1)), said="SETTINGS ACK"),
    case("6.5.2: frames of less than 16,384", settings((5, 16_383)), said=IDLE),
    case("6.5.2: frames of 2^24", settings((5, 2**24)), said=IDLE),
    case(
        "6.5.2: frames of the least and largest size",
        settings((5, 16_384), (5, 2**24 - 1)),
        said="SETTINGS ACK",
    ),
    case("6.5.2: a table of any size", settings((1, 0), (1, 2**32 - 1)), said="SETTINGS ACK"),
    case("6.5.2: other limits of any size", settings((3, 0), (6, 0), (8, 1)), said="SETTINGS ACK"),
    case("6.5.2: 33 settings", settings(*[(6, 1)] * 33), said="GOAWAY ENHANCE_YOUR_CALM"),
    case("6.5.2: 32 settings", settings(*[(6, 1)] * 32), said="SETTINGS ACK"),
    case("RFC 9218 2.1: NO_RFC7540_PRIORITIES of 2", settings((9, 2)), said=IDLE),
    case(
        "6.5.3: SETTINGS are acknowledged, each",
        settings(),
        settings((1, 1)),
        said="SETTINGS ACK, SETTINGS ACK",
    ),
    case("6.6: PUSH_PROMISE", headers(1), frame(5, EH, 1, b"\0\0\0\x02" + GET), said=f"request 1, {IDLE}"),
    case("6.7: PING", ping(), said="PING ACK"),
    case("6.7: PING that acknowledges", ping(flags=1), said="nothing"),
    case("6.7: PING on a stream", ping(stream=1), said=IDLE),
    case("6.7: PING of six bytes", ping(b"123456"), said="GOAWAY FRAME_SIZE_ERROR"),
    case("6.8: GOAWAY on a stream", goaway(stream=1), said=IDLE),
    case("6.8: GOAWAY that is cut off", frame(7, 0, 0, b"\0" * 7), said="GOAWAY FRAME_SIZE_ERROR"),
    case("6.9: the connection's window opened by 0", window(0, 0), said=IDLE),
    case(
        "6.9: a stream's window opened by 0", headers(1), window(1, 0), said="request 1, RST 1 PROTOCOL_ERROR"
    ),
    case("6.9: WINDOW_UPDATE of three bytes", frame(8, 0, 0, b"\0\0\1"), said="GOAWAY FRAME_SIZE_ERROR"),
    case("6.9: the reserved bit of an increment", window(0, 0x80000001), said="nothing"),
    case(
        "6.9.1: the connection's window beyond 2^31-1",
        window(0, 2**31 - 1),
        said="GOAWAY FLOW_CONTROL_ERROR",
    ),
    case("6.9.1: the connection's window of 2^31-1", window(0, 2**31 - 1 - 65_535), said="nothing"),
    case(
        "6.9.1: a stream's window beyond 2^31-1",
        headers(1),
        window(1, 2**31 - 1),
        said="request 1, RST 1 FLOW_CONTROL_ERROR",
    ),
    case(
        "6.9.2: a stream's window beyond 2^31-1 by a setting",
        headers(1),
        window(1, 2**31 - 1 - 65_535),
        settings((4, 65_536)),
        said="request 1, GOAWAY FLOW_CONTROL_ERROR",
    ),
    case(
        "6.9.1: more DATA than the stream's window",
        headers(1, POST, EH),
        *[data(1, M16)] * 4,
        said="RST 1 FLOW_CONTROL_ERROR",
    ),
    case(
        "6.10: CONTINUATION behind whole headers", headers(1), continuation(1, b""), said=f"request 1, {IDLE}"
    ),
    case("6.10: CONTINUATION on stream 0", headers(1, GET, ES), continuation(0, b""), said=IDLE),
    case(
        "6.10: CONTINUATION behind the last one",
        headers(1, b"", ES),
        continuation(1, GET),
        continuation(1, b""),
        said=f"request 1, {IDLE}",
    ),
    case(
        "6.10: CONTINUATION behind DATA", headers(1, POST, EH), data(1, b"x"), continuation(1, b""), said=IDLE
    ),
    case(
        "6.10: an empty CONTINUATION that is not the last",
        headers(1, GET, ES),
        continuation(1, b"", 0),
        said="GOAWAY ENHANCE_YOUR_CALM",
    ),
    case(
        "6.10: nine CONTINUATIONs",
        headers(1, b"", ES),
        *[continuation(1, b"\x82", 0)] * 9,
        said="GOAWAY ENHANCE_YOUR_CALM",
    ),
    case("7: an error code that nobody knows", headers(1), rst(1, 0xFF), goaway(0, 0xFF), said="request 1"),
    case("RFC 9218 7.1: PRIORITY_UPDATE", headers(1), priority_update(1, b"u=0, i"), said="request 1"),
    case("RFC 9218 7.1: for a stream to come", priority_update(7, b"u=0"), headers(7), said="request 7"),
    case(
        "RFC 9218 7.1: on a stream",
        headers(1),
        priority_update(1, b"u=1", stream=1),
        said=f"request 1, {IDLE}",
    ),
    case("RFC 9218 7.1: for stream 0", priority_update(0, b"u=1"), said=IDLE),
    case("RFC 9218 7.1: that is cut off", frame(16, 0, 0, b"\0\0"), said="GOAWAY FRAME_SIZE_ERROR"),
    case(
        "RFC 9218 7.1: what is no priority", headers(1), priority_update(1, b"\xff;;=,u=9"), said="request 1"
    ),
]

X = b"x"
MESSAGES = [
    case(
        "8.1: HEADERS amid a body that do not end it",
        headers(1, POST, EH),
        headers(1, POST, EH),
        said="RST 1 PROTOCOL_ERROR",
    ),
    case(
        "8.1: a pseudo-header field in trailers",
        headers(1, POST, EH),
        headers(1, block((b":path", b"/"))),
        said="RST 1 PROTOCOL_ERROR",
    ),
    case(
        "8.1: upper case in trailers",
        headers(1, POST, EH),
        headers(1, block((b"X-Sum", b"1"))),
        said="RST 1 PROTOCOL_ERROR",
    ),
    case(
        "8.1: a line end in trailers",
        headers(1, POST, EH),
        headers(1, block((b"x", b"1\r\ny: z"))),
        said="RST 1 PROTOCOL_ERROR",
    ),
    case(
        "8.1.1: content-length is too large",
        headers(1, request((b"content-length", b"4")), EH),
        data(1, b"abc", ES),
        said="RST 1 PROTOCOL_ERROR",
    ),
    case(
        "8.1.1: content-length is too small",
        headers(1, request((b"content-length", b"2")), EH),
        data(1, b"abc", ES),
        said="RST 1 PROTOCOL_ERROR",
    ),
    case(
        "8.1.1: the same over several frames",
        headers(1, request((b"content-length", b"2")), EH),
        data(1, b"ab"),
        data(1, b"c"),
        said="RST 1 PROTOCOL_ERROR",
    ),
    case(
        "8.1.1: content-length and no body",
        headers(1, request((b"content-length", b"1"))),
        said="RST 1 PROTOCOL_ERROR",
    ),
    case(
        "8.1.1: the same before trailers",
        headers(1, request((b"content-length", b"2")), EH),
        data(1, b"a"),
        headers(1, block((b"x", b"y"))),
        said="RST 1 PROTOCOL_ERROR",
    ),
    case(
        "8.1.1: content-length that is right",
        headers(1, request((b"content-length", b"3")), EH),
        data(1, b"\x01abc\0", ES | PAD),
        said="request 1",
    ),
    case("8.1.1: content-length of 0", headers(1, request((b"content-length", b"0"))), said="request 1"),
    bad("8.1.1: content-length twice", (b"content-length", b"0"), (b"content-length", b"0")),
    bad("8.1.1: content-length with a sign", (b"content-length", b"+0")),
    bad("8.2: upper case in a name", (b"X-A", X)),
    bad("8.2.1: a space in a name", (b"x a", X)),
    bad("8.2.1: a colon in a name", (b"x:a", X)),
    bad("8.2.1: an empty name", (b"", X)),
    bad("8.2.1: a control character in a name", (b"x\x01", X)),
    bad("8.2.1: a byte beyond ASCII in a name", (b"x\xe4", X)),
    bad("8.2.1: a carriage return in a value", (b"x", b"a\rb")),
    bad("8.2.1: a line feed in a value", (b"x", b"a\nb")),
    bad("8.2.1: a whole line in a value", (b"x", b"a\r\ncookie: b")),
    bad("8.2.1: NUL in a value", (b"x", b"a\0b")),
    bad("8.2.1: white space before a value", (b"x", b" a")),
    bad("8.2.1: white space behind a value", (b"x", b"a\t")),
    bad("8.2.1: a line end in the path", path=b"/ HTTP/1.1\r\nx: y"),
    bad("8.2.1: a line end in the authority", authority=b"a\r\nx: y"),
    bad("8.2.2: connection", (b"connection", b"keep-alive")),
    bad("8.2.2: keep-alive", (b"keep-alive", b"timeout=5")),
    bad("8.2.2: proxy-connection", (b"proxy-connection", X)),
    bad("8.2.2: transfer-encoding", (b"transfer-encoding", b"chunked")),
    bad("8.2.2: upgrade", (b"upgrade", b"websocket")),
    bad("8.2.2: te that wants more than trailers", (b"te", b"trailers, deflate")),
    case("8.2.2: te for trailers", headers(1, request((b"te", b"trailers"))), said="request 1"),
    case(
        "8.2.3: a cookie in parts",
        headers(1, request((b"cookie", b"a=b"), (b"cookie", b"c=d"))),
        said="request 1",
    ),
    bad("8.3: a pseudo-header field that nobody knows", (b":x", X)),
    bad("8.3: one of responses", (b":status", b"200")),
    bad("8.3: one twice", (b":path", b"/")),
    bad("8.3: :method twice", (b":method", b"GET")),
    bad("8.3: :scheme twice", (b":scheme", b"http")),
    bad("8.3: :authority twice", (b":authority", b"example.com")),
    case(
        "8.3: one behind a field",
        headers(1, block((b":method", b"GET"), (b":scheme", b"http"), (b"x", X), (b":path", b"/"))),
        said="RST 1 PROTOCOL_ERROR",
    ),
    case(
        "8.3: one behind a cookie",
        headers(1, block((b":method", b"GET"), (b":scheme", b"http"), (b"cookie", X), (b":path", b"/"))),
        said="RST 1 PROTOCOL_ERROR",
    ),
    bad("8.3.1: no :method", drop=b":method"),
    bad("8.3.1: an empty :method", method=b""),
    bad("8.3.1: no :scheme", drop=b":scheme"),
    bad("8.3.1: no :path", drop=b":path"),
    bad("8.3.1: an empty :path", path=b""),
    bad("8.3.1: a :path that is a URL", path=b"http://example.com/"),
    bad("8.3.1: a :path that begins with another character", path=b"a/b"),
    bad("8.3.1: * is for OPTIONS alone", path=b"*"),
    bad("8.3.1: host is another one than :authority", (b"host", b"example.net")),
    bad("8.3.1: host twice", (b"host", b"example.com"), (b"host", b"example.com")),
    case(
        "8.3.1: host as well as :authority", headers(1, request((b"host", b"Example.com"))), said="request 1"
    ),
    case(
        "8.3.1: host in place of :authority",
        headers(1, block((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b"host", b"a"))),
        said="request 1",
    ),
    case(
        "8.3.1: neither",
        headers(1, block((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"))),
        said="refused 1 400",
    ),
    case(
        "8.3.1: a user in the authority",
        headers(
            1, block((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"u@a"))
        ),
        said="refused 1 400",
    ),
    case(
        "8.3.1: a scheme of others",
        headers(
            1, block((b":method", b"GET"), (b":scheme", b"ftp"), (b":path", b"/"), (b":authority", b"a"))
        ),
        said="refused 1 400",
    ),
    case("8.3.1: a space in :path", headers(1, request(path=b"/a b")), said="refused 1 400"),
    case("8.3.1: a space in :method", headers(1, request(method=b"GET /x")), said="refused 1 400"),
    case("9110 9.1: a method that nobody knows", headers(1, request(method=b"BREW")), said="refused 1 501"),
    case(
        "9110 5.5: a control character in a value",
        headers(1, request((b"x", b"a\x01b"))),
        said="refused 1 400",
    ),
    case(
        "8.5: CONNECT",
        headers(1, block((b":method", b"CONNECT"), (b":authority", b"a:1")), EH),
        said="refused 1 501",
    ),
    case("8.5: CONNECT with a path", headers(1, request(method=b"CONNECT"), EH), said="RST 1 PROTOCOL_ERROR"),
    case(
        "RFC 8441: a WebSocket",
        headers(1, request((b":protocol", b"websocket"), method=b"CONNECT"), EH),
        said="request 1",
    ),
    case(
        "RFC 8441: another protocol",
        headers(1, request((b":protocol", b"connect-udp"), method=b"CONNECT"), EH),
        said="refused 1 501",
    ),
    case(
        "RFC 8441: :protocol with another method",
        headers(1, request((b":protocol", b"websocket")), EH),
        said="RST 1 PROTOCOL_ERROR",
    ),
    case(
        "RFC 8441: a WebSocket that is over before it has begun",
        headers(1, request((b":protocol", b"websocket"), method=b"CONNECT"), EH | ES),
        said="RST 1 PROTOCOL_ERROR",
    ),
    case(
        "8.6: Expect",
        headers(1, request((b"expect", b"100-continue")), EH),
        data(1, b"", ES),
        said="request 1",
    ),
    case(
        "8.6: an expectation that nobody knows",
        headers(1, request((b"expect", b"tea"))),
        said="refused 1 417",
    ),
    case("limits: 101 fields", headers(1, request(*[(b"x", b"")] * 101)), said="refused 1 431"),
    case(
        "limits: 100 cookies are one field", headers(1, request(*[(b"cookie", b"a")] * 100)), said="request 1"
    ),
    case("limits: 401 fields and more", headers(1, b"\x82" * 1000), said="GOAWAY COMPRESSION_ERROR"),
    case(
        "limits: a field of 9,000 bytes",
        headers(1, GET + b"\x00\x01x\x7f\xa9\x45" + b"x" * 9000),
        said="refused 1 431",
    ),
]

CASES = [*GENERIC, *FRAMES, *STATES, *KINDS, *MESSAGES]
