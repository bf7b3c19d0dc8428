"""As many files open as the process may have: who is refused, what is said, and when it is over."""

from __future__ import annotations

import re
import resource
import selectors
import signal
import socket
import subprocess
import time
from typing import Any

import pytest

from halfsync import channel
from halfsync.parent.workers import joins
from tests.e2e.harness import AT_ONCE, LONG, pattern, request
from tests.e2e.harness import serving_by_command as serving

LIMIT = 64
CLIENTS = 500


@pytest.fixture
def few_descriptors(monkeypatch):
    """For all processes of the servers that this test starts."""
    real: Any = subprocess.Popen

    def limited(*arguments: Any, **options: Any) -> Any:
        return real(*arguments, preexec_fn=limit, **options)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))

    monkeypatch.setattr("tests.e2e.harness.subprocess.Popen", limited)


def socket_of(key: selectors.SelectorKey) -> socket.socket:
    assert isinstance(key.fileobj, socket.socket)
    return key.fileobj


def length(head: bytes) -> int:
    found = re.search(rb"Content-Length: (\d+)", head)
    assert found
    return int(found[1])


def crowd(port: int, count: int, asked: bytes) -> dict[str, int]:
    """So many clients at once that ask, wait for a whole response, and leave; how it ended for them."""
    chosen = selectors.DefaultSelector()
    begun = time.monotonic()
    for _ in range(count):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", port))
        chosen.register(sock, selectors.EVENT_WRITE, bytearray())
    ended = {"200": 0, "503": 0, "refused": 0, "waits": 0}
    while chosen.get_map() and time.monotonic() < begun + LONG:
        for key, mask in chosen.select(0.1):
            sock = socket_of(key)
            try:
                if mask & selectors.EVENT_WRITE:
                    sock.send(asked)
                    chosen.modify(sock, selectors.EVENT_READ, key.data)
                    continue
                data = sock.recv(1 << 20)
            except OSError:
                data = b""
            key.data.extend(data)
            head, found, body = bytes(key.data).partition(b"\r\n\r\n")
            if not data:
                outcome = "refused"
            elif found and len(body) >= length(head):
                outcome = head.split(b" ")[1].decode()
            else:
                continue
            ended[outcome] = ended.get(outcome, 0) + 1
            chosen.unregister(sock)
            sock.close()
    ended["waits"] = len(chosen.get_map())
    for key in list(chosen.get_map().values()):
        socket_of(key).close()
    return ended


@pytest.mark.parametrize("size", [10, 300_000])
def test_500_clients_and_64_descriptors(few_descriptors, tmp_path, size):
    """Each is answered or refused; no worker is lost; right afterwards all is as before. The log says which
    limit it is, once."""
    with serving(tmp_path, "story:app", "-w", "2", "--threads", "4") as server:
        server.until(lambda: len(server.workers("story:app")) == 2)
        workers = server.workers("story:app")
        ended = crowd(server.port, CLIENTS, request(f"/whole?size={size}"))
        assert ended["waits"] == 0, ended
        assert ended["200"] + ended["503"] + ended["refused"] == CLIENTS
        assert ended["200"] > CLIENTS // 2
        with server.client(seconds=AT_ONCE) as client:
            assert client.ask(f"/whole?size={size}").body == pattern(size)
        assert server.workers("story:app") == workers
        assert server.log().count("(ulimit -n, LimitNOFILE)") >= 1
        assert server.log().count("out of file descriptors") == 1
        # A reload needs room for new workers beside the old ones, and idle clients hold what they can.
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
        server.signal(signal.SIGHUP)
        server.until(lambda: not set(server.workers("story:app")) & set(workers))
        for one in idle:
            one.close()
        with server.client(seconds=AT_ONCE) as client:
            assert client.ask("/hello").body == b"hello\n"


def test_a_join_takes_no_more_descriptors_than_are_counted():
    pumps, workers = joins.make()
    assert len(pumps) == len(workers) == 3
    channel.close_all(pumps)
    channel.close_all(workers)
