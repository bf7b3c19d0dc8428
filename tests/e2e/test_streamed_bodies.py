"""Request bodies that an application reads while they come (stream_body), through all processes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from tests.e2e.harness import MIB, Server, curl, digest, large, pattern, request, resident, serving

POST = "POST"
DATA = pattern(3 * MIB)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    logs = ("--access-logfile", "access", "--access-logformat", "json")
    with serving(folder, "reading:app", "--stream-body", "--threads", "4", *logs) as server:
        yield server


def head(path: str, size: int, *lines: str) -> bytes:
    return request(path, f"Content-Length: {size}", *lines, method=POST)


def worker(server: Server) -> int:
    return server.workers("reading:app")[-1]


def logged(server: Server, path: str) -> list[dict[str, object]]:
    """The lines of the access log about a path, when there is one."""

    def lines() -> list[dict[str, object]]:
        file = Path(server.folder, "access")
        text = file.read_text("utf-8") if file.exists() else ""
        found = [json.loads(line) for line in text.splitlines()]
        return [one for one in found if path in str(one)]

    return server.until(lines)


def test_an_upload_is_read_in_bounded_memory(site):
    """256 MiB: neither process keeps more of it than the window, and nothing of it goes to a disk."""
    block = DATA[:MIB]
    size = large(256 * MIB)
    with site.client(seconds=120) as client:
        client.send(head("/digest", len(block)))
        client.send(block)
        client.answer(POST)
        before = resident(site.pump), resident(worker(site))
        client.send(head("/digest", size))
        found = hashlib.sha256()
        most = [0, 0]
        for number in range(size // MIB):
            found.update(block)
            client.send(block)
            if not number % 8:
                most = [max(most[0], resident(site.pump)), max(most[1], resident(worker(site)))]
        answer = client.answer(POST)
    assert answer.body.startswith(f"{size} {found.hexdigest()} ".encode())
    assert most[0] - before[0] < 4 * MIB
    assert most[1] - before[1] < 4 * MIB


@pytest.mark.skipif(
    os.environ.get("HALFSYNC_TEST_TRANSPORT") == "bytes", reason="what is read in single bytes is given on so"
)
def test_what_has_come_is_answered_while_the_rest_comes(site):
    """Both ways in chunks, and the connection is kept."""
    with site.client() as client:
        client.send(request("/echo", "Transfer-Encoding: chunked", method=POST))
        for piece in (b"one", b"two", b"three"):
            client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            client.until(piece)
        client.send(b"0\r\n\r\n")
        assert client.until(b"0\r\n\r\n")
        answer = client.ask("/digest", method=POST, body=b"next")
        assert answer.body.startswith(b"4 " + digest(b"next").encode())


def test_curl_uploads_in_chunks_and_reads_meanwhile(site, tmp_path):
    (tmp_path / "file").write_bytes(DATA)
    with open(tmp_path / "file", "rb") as file:
        done = subprocess.run(
            ["curl", "-s", "-T", "-", f"{site.url}/echo"],
            stdin=file,
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert done.stdout == DATA


def test_curl_waits_for_100_continue(site, tmp_path):
    """It is sent when the application reads; if it does not, the body is never sent."""
    (tmp_path / "file").write_bytes(DATA)
    options = ("-v", "--expect100-timeout", "60", "-H", "Expect: 100-continue", "-T", str(tmp_path / "file"))
    done = curl(*options, f"{site.url}/digest")
    assert done.stdout.startswith(f"{len(DATA)} {digest(DATA)}".encode())
    assert b"100 Continue" in done.stderr
    done = curl(*options, f"{site.url}/never")
    assert done.stdout == b"no"
    assert b"100 Continue" not in done.stderr


def test_a_response_before_the_body_ends_the_connection(site):
    """The client gets it, though it sends on; the application, which reads on, is told that nothing comes."""
    with site.client() as client:
        client.send(head("/early", len(DATA)) + DATA[:100_000])
        answer = client.answer(POST)
        assert answer.body == b"early"
        client.send(DATA[100_000:200_000])
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest() == b""
    assert ending(site, "early") == "BodyCutError"
    [line] = logged(site, "/early")
    assert line["status"] == 200
    assert line["body_bytes"] == 5


def ending(server: Server, name: str) -> str:
    """How a body ended for the application (see `reading.outcome`)."""
    path = Path(server.folder, name)
    return server.until(lambda: path.exists() and path.read_text("utf-8")) or ""


def test_a_client_that_leaves_is_an_error_of_the_read(site):
    with site.client() as client:
        client.send(head("/lost", 1000) + b"abc")
        site.until(Path(site.folder, "lost-begun").exists)
    assert ending(site, "lost") == "BodyCutError"


def test_a_handler_that_does_not_read_holds_its_client(site):
    """The kernel stops the client, and others are served meanwhile."""
    with site.client() as client:
        client.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.send(head("/slow?held", 64 * MIB) + bytes(64 * MIB))
        site.until(Path(site.folder, "held-begun").exists)
        assert site.get("/digest", method=POST, body=b"abc").status == 200
        assert resident(site.pump) < 60 * MIB
    Path(site.folder, "held").touch()


def test_more_clients_than_threads(site):
    """Each gets the digest of its own bytes, whatever they do meanwhile."""
    wrong: list[str] = []

    def upload(number: int) -> None:
        data = DATA[number * 1000 :]
        try:
            with site.client() as client:
                for _ in range(3):
                    client.send(head("/digest", len(data)))
                    for start in range(0, len(data), 77_777):
                        client.send(data[start : start + 77_777])
                    answer = client.answer(POST)
                    if not answer.body.startswith(f"{len(data)} {digest(data)}".encode()):
                        wrong.append(f"{answer.status} {answer.body!r}")
        except (OSError, AssertionError) as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=upload, args=[number]) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_a_forked_child_reads_nothing(site):
    with site.client() as client:
        client.send(head("/fork", 6) + b"abc")
        assert ending(site, "child") == "BodyCutError"
        client.send(b"def")
        assert client.answer(POST).body.startswith(b"6 " + digest(b"abcdef").encode())


def test_signal_handlers_that_raise_lose_no_byte(tmp_path):
    """They are run by the thread that delivers, between any two of its steps."""
    with serving(tmp_path, "reading:app", "--stream-body") as server:
        server.tracebacks = -1
        with server.client(seconds=120) as client:
            for _ in range(5):
                client.send(head("/raising", len(DATA)) + DATA)
                assert client.answer(POST).body == digest(DATA).encode()


def test_a_worker_that_dies_in_the_middle(tmp_path):
    """502 and a close: what it had read is gone. The next request is served by another."""
    with serving(tmp_path, "reading:app", "--stream-body") as server, server.client() as client:
        pid = server.workers("reading:app")[-1]
        client.send(head("/slow?dies", len(DATA)) + DATA[:1000])
        server.until((tmp_path / "dies-begun").exists)
        os.kill(pid, signal.SIGKILL)
        answer = client.answer(POST)
        assert (answer.status, answer["Connection"]) == (502, "close")
        assert server.get("/digest", method=POST, body=DATA).body.startswith(f"{len(DATA)} ".encode())


def test_the_pump_dies_in_the_middle(tmp_path):
    """The handler's read fails, so its thread is free again."""
    with serving(tmp_path, "reading:app", "--stream-body", "--threads", "1") as server:
        with server.client() as client:
            client.send(head("/lost", 1000) + b"abc")
            server.until((tmp_path / "lost-begun").exists)
            os.kill(server.pump, signal.SIGKILL)
            assert ending(server, "lost") == "BodyCutError"
        server.until(lambda: answers(server))


def answers(server: Server) -> bool:
    try:
        return server.get("/digest", method=POST, body=b"a").status == 200
    except (OSError, AssertionError):
        return False


def test_a_reload_in_the_middle(tmp_path):
    """The old worker gets all of its body; a next request is the new one's."""
    with serving(tmp_path, "reading:app", "--stream-body") as server, server.client() as client:
        old = server.workers("reading:app")[-1]
        client.send(head("/slow?reloaded", len(DATA)) + DATA[:1000])
        server.until((tmp_path / "reloaded-begun").exists)
        server.signal(signal.SIGHUP)
        server.until_logged("reading:app is reloaded")
        (tmp_path / "reloaded").touch()
        client.send(DATA[1000:])
        assert client.answer(POST).body == DATA
        client.send(head("/digest", 1) + b"a")
        assert int(client.answer(POST).body.split()[2]) != old


def test_a_stop_in_the_middle(tmp_path):
    with serving(tmp_path, "reading:app", "--stream-body") as server, server.client() as client:
        client.send(head("/slow?stopped", len(DATA)) + DATA[:1000])
        server.until((tmp_path / "stopped-begun").exists)
        server.signal(signal.SIGTERM)
        server.until_logged("SIGTERM: stopping")
        (tmp_path / "stopped").touch()
        client.send(DATA[1000:])
        answer = client.answer(POST)
        assert answer.body == DATA
        assert answer["Connection"] == "close"
        assert server.ends() == 0


def test_a_stop_that_can_not_wait_longer(tmp_path):
    with serving(tmp_path, "reading:app", "--stream-body", "--graceful-timeout", "1") as server:
        with server.client() as client:
            client.send(head("/lost", len(DATA)) + DATA[:1000])
            server.until((tmp_path / "lost-begun").exists)
            server.signal(signal.SIGTERM)
            assert client.rest() == b""
        assert server.ends() == 0


def test_limits_count_in_both_ways(tmp_path):
    """`limit_request_body` and `body_timeout`, for a route that streams and one that does not."""
    (tmp_path / "halfsync.toml").write_text(
        'bind = ["127.0.0.1:0"]\nlimit_request_body = 100000\nbody_timeout = 1\n[routes]\n'
        '"/" = "reading:app"\n"/streamed" = { app = "reading:app", stream_body = true }\n'
    )
    with serving(tmp_path, "-c", "halfsync.toml", bind=False) as server:
        for path in ("/digest", "/streamed/digest"):
            with server.client() as client:
                client.send(head(path, 100_001))
                assert client.answer(POST).status == 413
            with server.client() as client:
                client.send(request(path, "Transfer-Encoding: chunked", method=POST))
                client.send(b"%x\r\n" % 100_001 + DATA[:100_001])
                assert client.answer(POST).status == 413
            with server.client() as client:
                client.send(head(path, 1000) + b"abc")
                assert client.answer(POST).status == 408
            assert server.get(path, method=POST, body=DATA[:100_000]).status == 200
        server.tracebacks = -1


@pytest.mark.parametrize("framework", ["flasked", "djangoed"])
def test_frameworks_take_an_upload_as_it_comes(framework, tmp_path):
    pytest.importorskip({"flasked": "flask", "djangoed": "django"}[framework])
    start = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    form = start + DATA + b"\r\n--B--\r\n"
    token = "t" * 32  # Django compares a cookie and a field
    fields = (
        "Content-Type: multipart/form-data; boundary=B",
        f"Cookie: csrftoken={token}",
        f"X-CSRFToken: {token}",
    )
    with serving(tmp_path, f"{framework}:app", "--stream-body") as server, server.client() as client:
        client.send(head("/upload", len(form), *fields))
        for at in range(0, len(form), 100_000):
            client.send(form[at : at + 100_000])
        answer = client.answer(POST)
        assert answer.status == 200, answer
        assert digest(DATA).encode() in answer.body
