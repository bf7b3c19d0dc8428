"""Requests for a WebSocket in every right and wrong form."""

from __future__ import annotations

import pytest
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from halfsync.wire.http1 import HeadLimits, RequestHead, parse_head
from halfsync.wire.refusals import Refusal
from halfsync.wire.websocket_handshake import asks_for_websocket, check_handshake

GOOD = {
    "Host": "a",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def request(method: str = "GET", version: str = "1.1", more: str = "", **changes: str | None) -> RequestHead:
    """The good one with fields set, added or (None) left out; underscores are dashes. `more`: more lines."""
    fields: dict[str, str | None] = dict(GOOD)
    fields.update({name.replace("_", "-"): value for name, value in changes.items()})
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    raw = f"{method} /chat HTTP/{version}\r\n{lines}{more}\r\n"
    return parse_head(raw.encode("latin-1"), HeadLimits())


def test_the_example_of_the_rfc():
    head = request()
    assert asks_for_websocket(head)
    assert check_handshake(head).accept == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_a_real_client():
    client = ClientProtocol(parse_uri("ws://a/chat"), subprotocols=["one", "two"])  # type: ignore[list-item]
    client.send_request(client.connect())
    [raw] = client.data_to_send()
    head = parse_head(raw, HeadLimits())
    assert asks_for_websocket(head)
    offer = check_handshake(head)
    assert offer.subprotocols == ["one", "two"]
    client.receive_data(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + offer.accept + b"\r\nSec-WebSocket-Protocol: two\r\n\r\n"
    )
    assert client.handshake_exc is None
    assert client.subprotocol == "two"


@pytest.mark.parametrize(
    "changes",
    [
        {"Upgrade": "WebSocket"},
        {"Upgrade": "h2c, websocket"},
        {"Connection": "keep-alive, Upgrade"},
        {"Connection": "upgrade"},
        {"Connection": "keep-alive", "more": "Connection: Upgrade\r\n"},
        {"Sec_WebSocket_Protocol": "a, b"},
        {"Sec_WebSocket_Protocol": "a ,, b,"},
        {"Sec_WebSocket_Extensions": 'permessage-deflate; client_max_window_bits, x; a=b; c="d"'},
        {"Sec_WebSocket_Extensions": ", x ;a , ,y,"},
        {"Origin": "https://other.example"},
    ],
)
def test_good(changes: dict[str, str]):
    head = request(**changes)
    assert asks_for_websocket(head)
    check_handshake(head)


def test_lists():
    offer = check_handshake(
        request(
            Sec_WebSocket_Protocol="chat, superchat",
            more="Sec-WebSocket-Protocol: chat,v2\r\nSec-WebSocket-Extensions: y\r\n",
            Sec_WebSocket_Extensions='x; a=1; b; c="q"; a',
        )
    )
    assert offer.subprotocols == ["chat", "superchat", "v2"]
    assert offer.extensions == [("x", {"a": "1", "b": None, "c": "q", "": None}), ("y", {})]


@pytest.mark.parametrize(
    ("changes", "status", "word"),
    [
        ({"method": "POST"}, 400, "GET"),
        ({"method": "HEAD"}, 400, "GET"),
        ({"Content_Length": "5"}, 400, "body"),
        ({"Transfer_Encoding": "chunked"}, 400, "body"),
        ({"Connection": None}, 400, "Connection"),
        ({"Connection": "keep-alive"}, 400, "Connection"),
        ({"Connection": "close"}, 400, "Connection"),
        ({"Sec_WebSocket_Key": None}, 400, "Key"),
        ({"Sec_WebSocket_Key": ""}, 400, "Key"),
        ({"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ"}, 400, "Key"),
        ({"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25j"}, 400, "Key"),
        ({"Sec_WebSocket_Key": "dGhlIHNhbXBs*SBub25jZQ=="}, 400, "Key"),
        ({"Sec_WebSocket_Key": "\xe9GhlIHNhbXBsZSBub25jZQ=="}, 400, "Key"),
        ({"more": "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"}, 400, "Key"),
        ({"Sec_WebSocket_Version": None}, 426, "13"),
        ({"Sec_WebSocket_Version": "8"}, 426, "13"),
        ({"Sec_WebSocket_Version": "14"}, 426, "13"),
        ({"Sec_WebSocket_Version": "013"}, 426, "13"),
        ({"Sec_WebSocket_Version": "13, 8"}, 426, "13"),
        ({"more": "Sec-WebSocket-Version: 13\r\n"}, 400, "Version"),
        ({"Sec_WebSocket_Protocol": "a b"}, 400, "Protocol"),
        ({"Sec_WebSocket_Protocol": "a;b"}, 400, "Protocol"),
        ({"Sec_WebSocket_Extensions": "a b"}, 400, "Extensions"),
        ({"Sec_WebSocket_Extensions": "a; =b"}, 400, "Extensions"),
        ({"Sec_WebSocket_Extensions": 'a; b="c d"'}, 400, "Extensions"),
        ({"Sec_WebSocket_Extensions": "a; b=", "Sec_WebSocket_Protocol": "p"}, 400, "Extensions"),
    ],
)
def test_bad(changes: dict[str, str], status: int, word: str):
    head = request(**changes)
    assert asks_for_websocket(head)
    with pytest.raises(Refusal) as caught:
        check_handshake(head)
    assert caught.value.status == status
    assert word in caught.value.sentence
    assert caught.value.close == (head.body_size != 0)


def test_what_a_426_says():
    """RFC 6455 4.4; RFC 9110 15.5.22."""
    with pytest.raises(Refusal) as caught:
        check_handshake(request(Sec_WebSocket_Version="8"))
    fields = caught.value.fields()
    for line in (b"Sec-WebSocket-Version: 13\r\n", b"Upgrade: websocket\r\n", b"Connection: Upgrade\r\n"):
        assert line in fields


@pytest.mark.parametrize(
    "changes",
    [
        {"Upgrade": None},
        {"Upgrade": "h2c"},
        {"Upgrade": "websockets"},
        {"Upgrade": "x-websocket"},
        {"version": "1.0", "Connection": "Upgrade"},
        {"Upgrade": None, "Cookie": "websocket"},
    ],
)
def test_other_requests(changes: dict[str, str]):
    assert not asks_for_websocket(request(**changes))
