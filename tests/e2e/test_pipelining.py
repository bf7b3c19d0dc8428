"""Pipelining against a real server: bursts in several writes, on many connections at once."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.harness import Client, Server, digest, pattern, request, serving

BURST = 100
LEASED = "/public/leased"
CONTENT = pattern(3000)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving_leased(tmp_path_factory.mktemp("pipelining")) as server:
        yield server


@contextmanager
def serving_leased(folder: Path) -> Iterator[Server]:
    (folder / "public").mkdir()
    (folder / "public/leased").write_bytes(CONTENT)
    with serving(folder, "story:app", "/public=./public", "--lease", "60") as server:
        for _ in range(3):
            assert server.get(LEASED).body == CONTENT
        yield server


def fetch(*fields: str) -> bytes:
    return request(LEASED, *fields)


def paced(server: Server) -> Client:
    """A client whose every write is a segment of its own."""
    client = server.client()
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


@pytest.mark.parametrize("last", ["/environ?last", "/received"])
def test_a_hundred_leased_ones_and_then_one_more(server, last):
    """The one that comes late is answered last."""
    for _ in range(40):
        with paced(server) as client:
            client.send(fetch() * BURST)
            client.send(request(last, method="POST", body=b"abc"))
            for number in range(BURST):
                answer = client.answer()
                assert answer.body == CONTENT, f"response {number} is another request's"
            answer = client.answer()
            if last == "/received":
                assert answer.body.decode() == f"3 {digest(b'abc')}"
            else:
                assert b"QUERY_STRING" in answer.body


def test_a_hundred_and_one_leased_ones_differ_in_what_they_ask(server):
    """All leased, and yet not alike: ranges, whose responses differ."""
    heads = [fetch(f"Range: bytes={at}-{at + 9}") for at in range(7)]
    for head in heads:
        for _ in range(2):
            with server.client() as client:
                client.send(head)
                assert client.answer().status == 206
    for _ in range(40):
        with paced(server) as client:
            client.send(b"".join(heads[number % 6] for number in range(BURST)))
            client.send(heads[6])
            for number in range(BURST + 1):
                at = 6 if number == BURST else number % 6
                assert client.answer().body == CONTENT[at : at + 10], f"response {number}"


def test_leased_and_unleased_ones_mixed_on_many_connections(server):
    """None is lost, none comes twice, all in order, wherever the pauses fall."""
    troubles: list[str] = []

    def converse(seed: int) -> None:
        chance = random.Random(seed)
        try:
            with paced(server) as client:
                asked = [_ask(chance, number) for number in range(6 * BURST)]
                requests = [one for one, _, _ in asked]
                sender = threading.Thread(target=_send_in_pieces, args=(client, requests, chance))
                sender.start()
                try:
                    for number, (_, method, body) in enumerate(asked):
                        answer = client.answer(method)
                        assert answer.status == 200, f"{number}: {answer.line}"
                        assert answer.body == body, f"{number}: {answer.body[:60]!r}, not {body[:60]!r}"
                finally:
                    sender.join()
        except (AssertionError, OSError) as error:
            troubles.append(f"{seed}: {error!r}"[:300])

    for batch in range(3):
        threads = [threading.Thread(target=converse, args=(10 * batch + one,)) for one in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not troubles, "\n".join(troubles[:5])


def _ask(chance: random.Random, number: int) -> tuple[bytes, str, bytes]:
    """A request, its method, and the body of its response."""
    kind = chance.choice(["leased"] * 100 + ["echo", "chunked", "path", "head"])
    text = b"body %d" % number
    if kind == "echo":
        return request("/echo", method="POST", body=text), "POST", text
    if kind == "chunked":
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in text) + b"0\r\n\r\n"
        return request("/echo", "Transfer-Encoding: chunked", method="POST") + chunks, "POST", text
    if kind == "path":
        return request(f"/path/{number}"), "GET", b"'/path/%d'" % number
    if kind == "head":
        return request(LEASED, method="HEAD"), "HEAD", b""
    return fetch(), "GET", CONTENT


def _send_in_pieces(client: Client, requests: list[bytes], chance: random.Random) -> None:
    """Bursts of about what the pump answers in a turn, and then few; some cut during a request."""
    left = b""
    try:
        while requests:
            count = chance.choice([1, 1, 2, 64, 70, 100])
            burst, requests = left + b"".join(requests[:count]), requests[count:]
            cut = len(burst) - chance.choice([0, 0, 1, 30])
            client.send(burst[:cut])
            left = burst[cut:]
        client.send(left)
    except OSError:
        pass  # the reader tells
