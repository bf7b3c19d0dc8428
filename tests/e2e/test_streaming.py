"""Responses that are produced while they are sent."""

from __future__ import annotations

import http.client
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from tests.e2e.harness import AT_ONCE, LONG, MIB, curl, found_curl, request, resident, serving


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    arguments = ("--threads", "2", "--reply-memory", "64K", "--reply-spool", "1M")
    logs = ("--access-logfile", "access", "--access-logformat", "json")
    with serving(folder, "story:app", *arguments, *logs) as server:
        yield server


def test_a_piece_is_seen_before_the_next_one_is_made(site):
    with site.client() as client:
        client.send(request("/steps?file=seen&steps=4"))
        client.until(b"\r\n\r\n")
        for number in range(4):
            assert client.until(b"%d " % number).endswith(b"%d " % number)
            assert number == 3 or not client.unread.strip()  # behind the last piece comes the end
            Path(site.folder, f"seen-{number + 1}").touch()
        assert client.until(b"0\r\n\r\n")


def test_the_standard_librarys_client_sees_each_piece(site):
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=LONG)
    connection.request("GET", "/steps?file=library&steps=3")
    answer = connection.getresponse()
    for number in range(3):
        assert answer.read1() == b"%d " % number
        Path(site.folder, f"library-{number + 1}").touch()
    assert answer.read() == b""
    connection.close()


def test_curl_sees_the_first_piece(site):
    command = [found_curl(), "-s", "-N", "--max-time", "60", f"{site.url}/steps?file=curl&steps=3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        for number in range(3):
            assert process.stdout.read(2) == b"%d " % number
            Path(site.folder, f"curl-{number + 1}").touch()
    assert process.returncode == 0


@pytest.mark.parametrize("read", [0, 5 * MIB], ids=["at once", "after some"])
def test_who_leaves_an_endless_response_sets_the_thread_free(site, read):
    """close() is called, on both threads; and the server's memory has not grown by what nobody took."""
    before = resident(site.pump)
    names = [f"closed-{read}-{number}" for number in range(2)]
    clients = [site.client() for _ in names]
    for name, client in zip(names, clients, strict=True):
        client.send(request(f"/endless?file={name}"))
        assert client.until(b"\r\n\r\n")
        client.take(read)
    for client in clients:
        client.close()
    for name in names:
        site.until(Path(site.folder, name).exists)
    with site.client(seconds=AT_ONCE) as client:
        assert client.ask("/hello").body == b"hello\n"
    assert resident(site.pump) - before < 30 * MIB
    site.until(lambda: (site.folder / "access").read_text().count('"client_disconnected"') >= 2)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("first", [0, 1, 100_000])
def test_who_leaves_a_response_of_empty_pieces_sets_the_thread_free(site, first, how):
    """Nothing is sent, so no send can fail: it is told that the client has disconnected, and close() is
    called."""
    names = [f"silent-{first}-{how}-{number}" for number in range(2)]
    clients = [site.client() for _ in names]
    for name, client in zip(names, clients, strict=True):
        client.send(request(f"/silent?file={name}&first={first}"))
        if first:
            assert client.until(b"\r\n\r\n")
    for name, client in zip(names, clients, strict=True):
        site.until(Path(site.folder, f"here-{name}").exists)
        if how == "reset":
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    for name in names:
        site.until(Path(site.folder, name).exists)
    with site.client(seconds=AT_ONCE) as client:
        assert client.ask("/hello").body == b"hello\n"


def test_an_endless_response_is_taken_as_fast_as_its_client_reads(site):
    """A client that reads nothing of it holds its own thread, once the spools are full, and the memory of
    nobody."""
    with site.client(receive_buffer=8192) as slow:
        slow.send(request("/endless?file=slow"))
        assert slow.socket.recv(1) == b"H"
        before = resident(site.pump), resident(site.workers("story:app")[0])
        with site.client(seconds=AT_ONCE) as client:
            for _ in range(50):
                assert client.ask("/hello").body == b"hello\n"
        assert not Path(site.folder, "slow").exists()
        assert resident(site.pump) - before[0] < 20 * MIB
        assert resident(site.workers("story:app")[0]) - before[1] < 20 * MIB
    site.until(Path(site.folder, "slow").exists)


def test_an_application_that_fails_during_its_response_does_not_look_whole(tmp_path):
    """Neither with a length nor in chunks nor to a 1.0 client."""
    (tmp_path / "broken.py").write_text(
        "def app(environ, start):\n"
        "    fields = [('Content-Length', '100000')] if 'counted' in environ['QUERY_STRING'] else []\n"
        "    start('200 OK', fields)\n"
        "    yield b'x' * 50000\n"
        "    raise ZeroDivisionError('amid')\n"
    )
    with serving(tmp_path, "broken:app") as server:
        server.tracebacks = 3
        for target in ("/", "/?counted"):
            answer = server.get(target)
            assert answer.status == 200
            assert not answer.whole
        done = curl("-0", f"{server.url}/", "-o", f"{tmp_path}/answer")
        assert done.returncode == 56  # a reset: an end by close would have passed for the whole
        server.until_logged("ZeroDivisionError: amid", 3)


WAITING = """
import os, pathlib, threading, time

def app(environ, start):
    gone = environ["halfsync.client_gone"]
    start("200 OK", [])
    if environ["PATH_INFO"] == "/quick":
        return [str(gone()).encode()]
    if environ["PATH_INFO"] == "/elsewhere":
        found = []
        thread = threading.Thread(target=lambda: found.append(gone()))
        thread.start(); thread.join()
        child = os.fork()
        if not child:
            os._exit(int(gone()))
        return [repr((*found, os.waitpid(child, 0)[1])).encode()]
    pathlib.Path("waits").touch()
    while not gone():
        time.sleep(0.01)
    pathlib.Path("gone").touch()
    return [b""]
"""


@pytest.mark.parametrize("how", ["reset", "closed"])
def test_a_handler_can_ask_whether_its_client_is_gone(tmp_path, how):
    (tmp_path / "app.py").write_text(WAITING)
    with serving(tmp_path, "app:app", "--threads", "2") as server:
        assert server.get("/quick").body == b"False"
        assert server.get("/elsewhere").body == b"(False, 0)"
        client = server.client()
        client.send(request("/wait"))
        server.until((tmp_path / "waits").exists)
        assert not (tmp_path / "gone").exists()
        if how == "reset":
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        server.until((tmp_path / "gone").exists)
