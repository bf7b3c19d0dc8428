"""HTTP/2 in cleartext, with clients of other makers: curl, httpx, nghttp, h2load."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.e2e.harness import LONG, Server, curl, digest, pattern, resident, serving, until

KNOWN = "--http2-prior-knowledge"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("http2")
    (folder / "public").mkdir()
    (folder / "public/small.bin").write_bytes(pattern(6144))
    (folder / "public/large.bin").write_bytes(pattern(5_000_000))
    # On a busy machine hundreds of streams that come in bursts can look like an overload.
    patient = ("--queue-target", "0")
    with serving(folder, "story:app", "/public=./public", "-w", "2", "--threads", "8", *patient) as server:
        yield server


def run(name: str, *arguments: str) -> str:
    """A client's output, where there is one; else the story is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name}")
    done = subprocess.run([found, *arguments], capture_output=True, timeout=LONG, check=False)
    return (done.stdout + done.stderr).decode("latin-1")


def client(server: Server) -> httpx.Client:
    return httpx.Client(http1=False, http2=True, base_url=server.url, timeout=LONG, trust_env=False)


def async_client(server: Server) -> httpx.AsyncClient:
    """(Of several threads' requests on one connection, the other kind of client mixes up the headers.)"""
    return httpx.AsyncClient(http1=False, http2=True, base_url=server.url, timeout=LONG, trust_env=False)


def test_curl(server):
    assert curl(KNOWN, "-w", "%{http_version}", f"{server.url}/hello").stdout == b"hello\n2"
    assert curl(KNOWN, "-I", f"{server.url}/hello").stdout.startswith(b"HTTP/2 200")
    for name in ("small", "large", "small"):
        got = curl(KNOWN, f"{server.url}/public/{name}.bin").stdout
        assert got == pattern(6144 if name == "small" else 5_000_000)
    ranged = curl(KNOWN, "-r", "100-199", "-w", "%{http_code}", f"{server.url}/public/large.bin").stdout
    assert ranged == pattern(200)[100:] + b"206"


def test_curl_that_would_upgrade_gets_http1(server):
    """`Upgrade: h2c` is not part of RFC 9113 any more."""
    assert curl("--http2", "-w", "%{http_version}", f"{server.url}/hello").stdout == b"hello\n1.1"


def test_what_the_application_sees(server):
    said = curl(KNOWN, "-H", "X-Test: 1", "-H", "Cookie: a=b", f"{server.url}/environ?x=y").stdout
    environ = json.loads(said)
    assert environ["SERVER_PROTOCOL"] == "HTTP/2.0"
    assert environ["HTTP_HOST"] == f"127.0.0.1:{server.port}"
    assert environ["REQUEST_METHOD"] == "GET"
    assert environ["PATH_INFO"] == "/environ"
    assert environ["QUERY_STRING"] == "x=y"
    assert environ["HTTP_X_TEST"] == "1"
    assert environ["HTTP_COOKIE"] == "a=b"
    assert "CONTENT_LENGTH" not in environ


@pytest.mark.parametrize("size", [0, 1, 65_535, 3_000_000])
def test_uploads(server, tmp_path, size):
    body = pattern(size)
    (tmp_path / "body").write_bytes(body)
    for how in (("--data-binary", f"@{tmp_path}/body"), ("-T", f"{tmp_path}/body")):
        assert curl(KNOWN, *how, f"{server.url}/received").stdout.decode() == f"{size} {digest(body)}"


def test_httpx_many_at_once(server):
    """Two hundred requests on two connections, each with its own response."""
    assert asyncio.run(ask_many(server)) == []


async def ask_many(server: Server) -> list[str]:
    wrong: list[str] = []

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        body = pattern(500 * number)
        got = await client.post(f"/echo?{number}", content=body)
        if got.http_version != "HTTP/2" or got.content != body:
            wrong.append(f"{number}: {got}")

    async with async_client(server) as one, async_client(server) as two:
        await asyncio.gather(*(ask(client, number) for number in range(100) for client in (one, two)))
    return wrong


def test_bodies_that_are_streamed(tmp_path):
    """`stream_body`: handlers read while it comes, and respond meanwhile, and before."""
    body = pattern(20_000_000)
    (tmp_path / "body").write_bytes(body)
    upload = (KNOWN, "-T", f"{tmp_path}/body")
    with serving(tmp_path, "reading:app", "--stream-body", "--threads", "4") as server:
        before = resident(server.pump)
        got = curl(*upload, f"{server.url}/digest").stdout.split()
        assert got[:2] == [b"20000000", digest(body).encode()]
        assert curl(*upload, f"{server.url}/echo").stdout == body
        assert resident(server.pump) < before + 8_000_000
        assert curl(*upload, "-w", "%{http_code}", f"{server.url}/never").stdout == b"no403"


def test_httpx_kinds_of_responses(server):
    with client(server) as one:
        assert one.get("/pieces?size=1000000").content == pattern_of_app(one, 1_000_000)
        assert one.get("/whole?size=3000000").content == pattern_of_app(one, 3_000_000)
        assert one.head("/public/small.bin").headers["content-length"] == "6144"
        assert one.get("/nowhere").status_code == 404
        assert one.get("/fail").status_code == 500
        assert one.get("/public/small.bin", headers={"If-None-Match": "*"}).status_code == 304
        first = one.get("/leased").content
        assert one.get("/leased").content == first
    server.tracebacks += 1


def pattern_of_app(client: httpx.Client, size: int) -> bytes:
    """What the same application sends by HTTP/1.1."""
    with httpx.Client(base_url=client.base_url, timeout=LONG, trust_env=False) as old:
        got = old.get(f"/whole?size={size}")
        assert got.http_version == "HTTP/1.1"
        return got.content


def test_nghttp(server):
    said = run("nghttp", "-nv", f"{server.url}/public/small.bin", f"{server.url}/public/large.bin")
    assert said.count("END_STREAM") >= 2
    assert "GOAWAY frame" in said
    assert "RST_STREAM" not in said


@pytest.mark.parametrize("target", ["/public/small.bin", "/hello"])
@pytest.mark.parametrize(("connections", "streams"), [(1, 32), (16, 1), (4, 100)])
def test_h2load(server, target, connections, streams):
    """Every request is answered, as it should be."""
    said = run("h2load", "-n3200", f"-c{connections}", f"-m{streams}", server.url + target)
    assert "3200 succeeded, 0 failed, 0 errored" in said, said
    assert "3200 2xx, 0 3xx" in said


def test_the_access_log(tmp_path):
    with serving(
        tmp_path, "story:app", "--access-logfile", "access.log", "--access-logformat", "%H %r %s %b"
    ):
        pass
    log = tmp_path / "access.log"
    with serving(
        tmp_path, "story:app", "--access-logfile", str(log), "--access-logformat", "%H|%r|%s|%b|%k"
    ) as server:
        with client(server) as one:
            one.get("/hello")
            one.get("/leased")
            one.get("/leased")
        until(lambda: log.read_text().count("HTTP/2.0|GET /leased HTTP/2.0|200") == 2, told=server.log)
        assert "HTTP/2.0|GET /hello HTTP/2.0|200|6|0\n" in log.read_text()


def test_a_stop_under_load_loses_no_request(tmp_path):
    """h2load's connections are told to go, and have every response by then."""
    found = shutil.which("h2load")
    if found is None:
        pytest.skip("there is no h2load")
    log = tmp_path / "access"
    logged = ("--access-logfile", str(log), "--access-logformat", "%{User-Agent}i")
    with serving(tmp_path, "story:app", "-w", "2", *logged) as server:
        command = [found, "-D4", "-c4", "-m10", f"{server.url}/hello"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            until(lambda: len(server.workers("story:app")) == 2)
            until(lambda: "h2load" in log.read_text())  # a busy machine may take longer to start it
            with client(server) as one:
                for _ in range(50):
                    assert one.get("/hello").status_code == 200
            server.signal(signal.SIGTERM)
            assert server.ends() == 0
            said = process.communicate(timeout=LONG)[0]
    status = re.search(r"status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx", said)
    assert status, said
    assert int(status[1]) > 0
    assert "were still in flight" not in server.log()


def test_reloads_under_load_lose_no_request(tmp_path):
    """Four connections of ten streams, and HUP three times meanwhile."""
    found = shutil.which("h2load")
    if found is None:
        pytest.skip("there is no h2load")
    with serving(tmp_path, "story:app", "-w", "2") as server:
        command = [found, "-D4", "-c4", "-m10", f"{server.url}/hello"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(3):
                old = server.workers("story:app")
                server.signal(signal.SIGHUP)
                server.until_gone(old)
            said = process.communicate(timeout=LONG)[0]
    assert re.search(r" done, (\d+) succeeded, 0 failed, 0 errored, 0 timeout", said), said
    status = re.search(r"status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx", said)
    assert status, said
    assert int(status[1]) > 0


def test_a_reload_closes_no_connection(tmp_path):
    """Connections belong to the pump; the next request is the new code's."""
    app = tmp_path / "word.py"
    text = "def app(environ, start):\n    start('200 OK', [])\n    return [b'%s']\n"
    app.write_text(text % "one")
    with serving(tmp_path, "word:app") as server, client(server) as one:
        assert one.get("/").content == b"one"
        old = server.workers("word:app")
        app.write_text(text % "two")
        server.signal(signal.SIGHUP)
        server.until_gone(old)
        got = one.get("/")
        assert (got.content, got.http_version) == (b"two", "HTTP/2")


def test_a_worker_that_is_killed(tmp_path):
    """Its requests get 502, on a connection that stays; the next one is served."""
    arguments = ("-w", "1", "--threads", "4", "--no-retry")
    with serving(tmp_path, "story:app", *arguments) as server:
        assert asyncio.run(ask_while_a_worker_dies(server, tmp_path)) == [502, 502, 200]


async def ask_while_a_worker_dies(server: Server, folder: Path) -> list[int]:
    async with async_client(server) as one:
        hanging = asyncio.create_task(one.get("/hang?as=a&file=never"))
        while not (folder / "here-a").exists():
            await asyncio.sleep(0.01)
        died = await one.get("/die")
        return [died.status_code, (await hanging).status_code, (await one.get("/hello")).status_code]


def test_http1_and_http2_on_one_port(server, tmp_path: Path):
    with server.client() as old, client(server) as new:
        for _ in range(3):
            assert old.ask("/hello").body == b"hello\n"
            assert new.get("/hello").content == b"hello\n"
