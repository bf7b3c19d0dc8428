"""What concerns one protocol alone."""

from typing import Annotated

from halfsync.settings.table.about import MIB, about
from halfsync.settings.table.files import Files


class Protocols(Files, frozen=True, kw_only=True):
    http2: Annotated[
        bool,
        about(
            "HTTP/2",
            "Speak HTTP/2 with clients that choose it: over TLS by ALPN, without by prior knowledge (a "
            "connection that begins with HTTP/2's preface).",
        ),
    ] = True
    http2_max_concurrent_streams: Annotated[
        int,
        about(
            "HTTP/2",
            "Requests that a client may have open on one connection; it is told, and more are refused "
            "(REFUSED_STREAM). RFC 9113 recommends no fewer than the default. A request that its client has "
            "given up counts until its handler is done.",
            least=1,
            most=100_000,
        ),
    ] = 100
    http2_max_resets: Annotated[
        int,
        about(
            "HTTP/2",
            "Requests that a client may give up (or break) on one connection at once; a third as many more a "
            "second. A browser gives up all of a page's when its user leaves the page. A client that does so "
            "more often is disconnected (ENHANCE_YOUR_CALM).",
            least=1,
            most=1_000_000,
        ),
    ] = 100
    http2_max_idle_frames: Annotated[
        int,
        about(
            "HTTP/2",
            "Frames that carry neither a request nor a part of a body (such as PING and SETTINGS) that a "
            "client may send at once; a tenth as many more a second. A client that sends more is "
            "disconnected (ENHANCE_YOUR_CALM).",
            least=10,
            most=1_000_000,
        ),
    ] = 1000

    ws_max_size: Annotated[
        int,
        about(
            "WebSocket",
            "Largest message that a client may send, decompressed. A client that sends a larger one is "
            "disconnected with code 1009.",
            unit="bytes",
            least=1,
        ),
    ] = 16 * MIB
    ws_ping_interval: Annotated[
        float,
        about(
            "WebSocket",
            "Send a client a Ping this often, so that proxies keep the connection, and one that is gone is "
            "noticed. 0: never.",
            unit="seconds",
            least=0,
        ),
    ] = 20.0
    ws_ping_timeout: Annotated[
        float,
        about(
            "WebSocket",
            "Disconnect a client (code 1011) from which nothing has come this long after a Ping. 0: no "
            "limit.",
            unit="seconds",
            least=0,
        ),
    ] = 20.0
    ws_per_message_deflate: Annotated[
        bool,
        about(
            "WebSocket",
            "Compress messages (permessage-deflate) with clients that offer it. It costs processor time for "
            "each message, and up to 44 KiB of memory a connection.",
        ),
    ] = False
