"""Whatever dies in the middle of a response, the part that the client got can't be taken for the whole,
also where only the end of the connection tells the end of the body (HTTP/1.0)."""

from __future__ import annotations

import os
import signal

import pytest

from tests.e2e.harness import Client, Server, pattern, serving


def begun(server: Server) -> Client:
    """A client of HTTP/1.0 that has a part of a response whose length nobody said."""
    client = server.client()
    client.send(b"GET /steps?file=never HTTP/1.0\r\n\r\n")
    head = client.until(b"\r\n\r\n")
    assert b"Content-Length" not in head
    assert b"Transfer-Encoding" not in head
    assert client.take(2) == b"0 "
    return client


def ends_with_a_reset(client: Client) -> bool:
    try:
        while client.socket.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return False


@pytest.mark.parametrize("victim", ["pump", "parent", "worker"])
def test_a_response_that_ends_with_the_connection_is_reset_when_somebody_is_killed(tmp_path, victim):
    """A clean end would say that it is whole."""
    with serving(tmp_path, "story:app") as server:
        with begun(server) as client:
            pids = {
                "pump": server.pump,
                "parent": server.process.pid,
                "worker": server.workers("story:app")[0],
            }
            os.kill(pids[victim], signal.SIGKILL)
            assert ends_with_a_reset(client)
        (tmp_path / "never-1").touch()  # a worker that lived on may leave
        (tmp_path / "never-2").touch()
        if victim == "parent":
            server.process.wait()
        else:
            server.until(lambda: server.get("/hello").status == 200)


def test_the_same_when_a_stop_cuts_it_off(tmp_path):
    """graceful_timeout is over."""
    with serving(tmp_path, "story:app", "--graceful-timeout", "0.2") as server:
        with begun(server) as client:
            server.signal(signal.SIGTERM)
            assert ends_with_a_reset(client)
            (tmp_path / "never-1").touch()
            (tmp_path / "never-2").touch()
        server.ends()


def test_a_whole_one_ends_in_good_order(tmp_path):
    """Also one of megabytes, which is still in the socket when it is closed."""
    with serving(tmp_path, "story:app") as server:
        size = 3 * 1024 * 1024
        with server.client(receive_buffer=8192) as client:
            client.send(b"GET /pieces?size=%d HTTP/1.0\r\n\r\n" % size)
            assert client.until(b"\r\n\r\n")
            body = bytearray(client.unread)
            client.unread.clear()
            while data := client.socket.recv(65536):  # a reset would raise
                body += data
            assert bytes(body) == pattern(size)


def test_clients_that_left_the_queue_are_not_served(tmp_path):
    """Thirty clients close while one thread is busy: no handler runs for them, and the log says that they
    left."""
    log = tmp_path / "access"
    arguments = ("--threads", "1", "--access-logfile", str(log), "--access-logformat", "%U %s %{ending}x")
    with serving(tmp_path, "story:app", *arguments) as server:
        with server.client() as busy:
            busy.send(b"GET /hang?file=go&as=busy HTTP/1.1\r\nHost: a\r\n\r\n")
            server.until((tmp_path / "here-busy").exists)
            for number in range(30):
                client = server.client()
                client.send(b"GET /hang?file=go&as=%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
                client.close()
            server.until(lambda: log.exists() and log.read_text().count("client_disconnected") == 30)
            (tmp_path / "go").touch()
            assert busy.answer().status == 200
        assert server.get("/hello").status == 200
        assert [path.name for path in tmp_path.glob("here-*")] == ["here-busy"]
        assert log.read_text().count("/hang - client_disconnected") == 30
