"""USR2 and `halfsyncctl upgrade`: another halfsync takes the place of the running one, and nobody notices."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from faults.tree import is_alive
from tests.certificates import client_context, issued, write
from tests.e2e.harness import LONG, Answer, Client, Crowd, Server, kill, request, until
from tests.e2e.harness import serving_by_command as serving
from tests.e2e.test_control import ctl, said
from tests.e2e.test_https import resumed
from tests.e2e.test_systemd import Manager, launcher
from tests.e2e.test_websockets import closed, open_at
from tests.ports import free_port

over_plain_sockets = pytest.mark.skipif(
    "HALFSYNC_TEST_TRANSPORT" in os.environ, reason="only connections over plain sockets are handed over"
)

SETTINGS = """
{first}
bind = {bind}
pid = "pid"
control_socket = "control"
graceful_timeout = {graceful}
log_level = "debug"
threads = 12
startup_timeout = {startup_timeout}
handshake_timeout = 300
head_timeout = 300
keep_alive = 300
body_timeout = 300
send_timeout = 300
min_rate = 0
[routes]
"/" = "upgraded:app"
{more}
"""

AS_PROCESS_1 = ("unshare", "--pid", "--fork", "--mount-proc")


def configure(
    folder: Path,
    *,
    bind: list[str] | None = None,
    first: str = "",
    more: str = "",
    graceful: float = 120,
    startup_timeout: float = 60,
    broken: str = "",
) -> None:
    text = SETTINGS.format(
        first=first,
        bind=bind or ["127.0.0.1:0"],
        more=more,
        graceful=graceful,
        startup_timeout=startup_timeout,
    )
    (folder / "halfsync.toml").write_text(text + broken)


@contextlib.contextmanager
def upgradable(folder: Path, **options: Any) -> Iterator[Server]:
    configure(folder)
    with serving(folder, bind=False, **options) as server:
        yield server


def server_process(server: Server) -> int:
    """Whom the pid file names."""
    return int((server.folder / "pid").read_text())


def _count(server: Server, words: str) -> int:
    return server.log().count(words)


def next_process(server: Server, before: int) -> int:
    """When the pid file names another, and it has the connections that wait."""
    server.until(lambda: server_process(server) != before)
    new = server_process(server)
    server.until_logged(rf"upgraded: process {new} .* is the server from now on")
    server.until(lambda: _count(server, "that wait are handed over") >= _count(server, "server from now on"))
    return new


def upgrade(server: Server) -> int:
    """Gives the new version's process."""
    before = server_process(server)
    assert said(server, "upgrade").startswith("Upgraded: halfsync ")
    assert server_process(server) != before
    return next_process(server, before)


def served_by(answer: Answer) -> int:
    """The parent of the worker that has responded."""
    assert answer.status == 200
    assert answer.whole
    process, address = answer.body.split()
    assert address == b"127.0.0.1"
    return int(process)


def process_of(answer: Answer) -> str:
    return str(served_by(answer))


# --- what clients see ------------------------------------------------------------------------------


@over_plain_sockets
def test_upgrades_under_load_lose_no_request_and_close_no_connection(tmp_path):
    """One after the other; new connections and kept ones, which stay the same sockets."""
    with upgradable(tmp_path) as server:

        def judge(answer: Answer) -> str:
            assert answer["Connection"] != "close"
            return str(served_by(answer))

        anyone = Crowd(server, ["/"] * 2, process_of, "Connection: close")
        with server.client() as kept, server.client() as silent:
            with Crowd(server, ["/"] * 4, judge) as crowd, anyone:
                processes = [served_by(kept.ask("/"))]
                crowd.until_seen(10)
                for _ in range(2):
                    server.signal(signal.SIGUSR2)
                    processes.append(next_process(server, processes[-1]))
                    crowd.until_lately(str(processes[-1]))
                    assert served_by(kept.ask("/")) == processes[-1]
                    crowd.until_seen(10)
                    anyone.until_lately(str(processes[-1]))
            assert crowd.broken == crowd.wrong == anyone.broken == anyone.wrong == []
            assert set(crowd.seen) | set(anyone.seen) <= {str(one) for one in processes}
            # the first one stays, because nobody has told those who started it of another
            assert processes[0] == server.process.pid
            assert server.process.poll() is None
            server.until_gone(processes[1:-1])
            # connected to the first version, and quiet since
            assert served_by(silent.ask("/")) == processes[-1]
        assert "are lost" not in server.log()
    assert not (tmp_path / "pid").exists()


@over_plain_sockets
def test_what_is_under_way_is_finished_and_what_waits_goes_on(tmp_path):
    """Each of these straddles the upgrade; and then its connection is the new version's."""
    with (
        upgradable(tmp_path) as server,
        server.client() as half,
        server.client() as upload,
        server.client(receive_buffer=4096) as download,
        server.client() as handler,
        server.client() as pipelined,
        server.client() as events,
    ):
        old = served_by(half.ask("/"))
        half.send(b"GET / HTTP/1.1\r\nHo")
        body = os.urandom(200_000)
        upload.send(request("/upload", method="POST", body=body)[:-100_000])
        download.send(request("/download"))
        handler.send(request("/wait/1"))
        pipelined.send(request("/wait/2") + request("/") + request("/"))
        events.send(request("/events"))
        assert b"begun" in events.until(b"begun")
        server.until(lambda: (tmp_path / "here-1").exists() and (tmp_path / "here-2").exists())
        assert b"26214400" in download.until(b"\r\n\r\n")
        new = upgrade(server)
        # the midst of a head goes over at once
        half.send(b"st: a\r\n\r\n")
        assert served_by(half.answer()) == new
        assert server.get("/").status == 200
        # a body that is still coming is taken by the old one, whose handler gets it
        upload.send(body[-100_000:])
        assert upload.answer().body == hashlib.sha256(body).hexdigest().encode()
        assert served_by(upload.ask("/")) == new
        # as is what it was doing
        assert is_alive(old)
        (tmp_path / "go").touch()
        assert served_by(handler.answer()) == old
        assert served_by(handler.ask("/")) == new
        assert served_by(pipelined.answer()) == old
        assert {served_by(pipelined.answer()) for _ in range(2)} <= {old, new}
        assert served_by(pipelined.ask("/")) == new
        assert b"over" in events.until(b"over")
        assert len(download.take(400 * 65536)) == 400 * 65536
        assert served_by(download.ask("/")) == new
        server.until_logged(r"connections that were handed over: \d+")


def test_what_does_not_end_is_cut_off_at_graceful_timeout(tmp_path):
    configure(tmp_path, graceful=1)
    with serving(tmp_path, bind=False) as server, server.client() as events:
        events.send(request("/events"))
        events.until(b"begun")
        upgrade(server)
        server.until_logged("was still in flight after 1 s and is cut off")
        events.rest()
        assert served_by(server.get("/")) == server_process(server)


def test_with_tls_sessions_are_resumed_and_connections_end_in_good_order(tmp_path):
    certificate, key = write(tmp_path, issued("127.0.0.1"))
    configure(tmp_path, bind=["https://127.0.0.1:0"])
    files = ("--certfile", str(certificate), "--keyfile", str(key))
    with serving(tmp_path, *files, bind=False) as server:
        context = client_context()
        _, session = resumed(server, context, None)
        assert resumed(server, context, session)[0]
        idle, quiet = over_tls(server, context), socket.create_connection(("127.0.0.1", server.port), LONG)
        waiting = over_tls(server, context)
        idle.sendall(request("/"))
        assert b"200 OK" in idle.recv(65536)
        waiting.sendall(request("/wait/1"))
        server.until((tmp_path / "here-1").exists)
        new = upgrade(server)
        assert idle.recv(100) == b""  # a close_notify, and not a reset
        (tmp_path / "go").touch()
        assert b"Connection: close" in waiting.recv(65536)
        # one that had connected, and not said a word, shakes hands with the new version
        with context.wrap_socket(quiet, server_hostname="127.0.0.1") as sock:
            sock.sendall(request("/"))
            assert str(new).encode() in sock.recv(65536)
        assert resumed(server, context, session)[0]
        idle.close()
        waiting.close()


def over_tls(server: Server, context: ssl.SSLContext) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", server.port), LONG)
    return context.wrap_socket(raw, server_hostname="127.0.0.1")


@over_plain_sockets
def test_a_proxys_clients_keep_their_addresses(tmp_path):
    """What the PROXY protocol said is known to the new version; and who has not said it yet, may say it
    there."""
    configure(tmp_path, bind=["127.0.0.1:0"])
    options = ("--proxy-protocol", "*", "--forwarded-allow-ips", "127.0.0.1")
    header = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n"
    with serving(tmp_path, *options, bind=False) as server, server.client() as kept, server.client() as quiet:
        kept.send(header)
        assert kept.ask("/").body.endswith(b" 192.0.2.7")
        quiet.send(header[:9])
        new = str(upgrade(server)).encode()
        assert kept.ask("/").body == new + b" 192.0.2.7"
        quiet.send(header[9:])
        assert quiet.ask("/").body == new + b" 192.0.2.7"


def test_websockets_are_closed_with_a_code_and_http2_is_told_to_go(tmp_path):
    (tmp_path / "pid").touch()
    options = ("sockets:app", "-b", "127.0.0.1:0", "--pid", "pid")
    with serving(tmp_path, *options, bind=False) as server, open_at(server, "/echo") as client:
        client.send("before")
        assert client.recv(timeout=LONG) == "before"
        with server.client() as http2:
            http2.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + NO_SETTINGS)
            assert http2.until(SETTINGS_ACKNOWLEDGED)
            server.signal(signal.SIGUSR2)
            assert closed(client)[0] == 1001
            assert GOAWAY in http2.rest()
        with open_at(server, "/echo") as other:
            other.send("after")
            assert other.recv(timeout=LONG) == "after"
        assert next_process(server, server.process.pid)


NO_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
SETTINGS_ACKNOWLEDGED = b"\0\0\0\4\1\0\0\0\0"
GOAWAY = b"\7\0\0\0\0\0"
"""(RFC 9113 6.8: type, no flags, stream 0.)"""


def test_what_was_counted_goes_on(tmp_path):
    """Counters are those of all versions since the start, also of what the old one has still to finish."""
    configure(tmp_path, more='"/status" = { status_page = true }')
    with serving(tmp_path, bind=False) as server, server.client() as waiting:

        def shown() -> dict[str, Any]:
            return dict(json.loads(server.get("/status?json").body))

        def handled() -> int:
            return sum(sum(one["times"]) for one in shown()["handlers"] if one["pool"] == "upgraded:app")

        for _ in range(20):
            served_by(server.get("/"))
        assert server.get("/nowhere\x01").status == 400
        waiting.send(request("/wait/1"))
        server.until((tmp_path / "here-1").exists)
        server.until(lambda: handled() == 20)
        before = shown()
        upgrade(server)
        after = shown()
        assert after["pid"] != before["pid"]
        for name in ("uptime", "requests", "bytes_sent"):
            assert after[name] > before[name], name
        # handed over, and not accepted another time: but one is accepted for each question
        assert after["connections_accepted"] - before["connections_accepted"] in (1, 2)
        assert after["responses"]["400"] == before["responses"]["400"] == 1
        assert after["refused"] == before["refused"] == {"malformed": 1}
        assert handled() == 20
        (tmp_path / "go").touch()
        served_by(waiting.answer())
        server.until(lambda: handled() == 21)  # the old one's last request
        upgrade(server)
        served_by(server.get("/"))
        server.until(lambda: handled() == 22)
        assert shown()["requests"] > after["requests"]
        assert shown()["refused"] == {"malformed": 1}


def test_it_takes_over_when_all_of_its_workers_are_ready(tmp_path):
    """As a reload does: it gets all the load at once."""
    configure(tmp_path, first="workers = 2")
    with serving(tmp_path, bind=False) as server:
        server.until(lambda: len(server.workers("upgraded:app")) == 2)  # it serves when the first one does
        (tmp_path / "one-at-first").touch()
        server.signal(signal.SIGUSR2)
        words = r"upgrading: the new version is process (\d+)"
        server.until_logged(words)
        server.until((tmp_path / "first").exists)
        ready = r"worker\(upgraded:app\) \[\d+\] is ready"
        server.until(lambda: len(re.findall(ready, server.log())) == 3)
        for _ in range(20):
            served_by(server.get("/"))
        (tmp_path / "others").touch()
        server.until_logged("is the server from now on")
        before = server.log().partition("is the server from now on")[0]
        assert len(re.findall(ready, before)) == 4


def test_where_the_number_of_workers_follows_the_load_it_goes_on_with_as_many(tmp_path):
    """With the fewest ones that the settings allow, requests would wait until there are enough again."""
    configure(tmp_path, first="min_workers = 1\nmax_workers = 4\nmax_spare = 400")

    def sizes() -> list[int]:
        pools = json.loads(said(server, "--json", "status"))["pools"]
        return [one["size"] for one in pools if one["pool"] == "upgraded:app"]

    with serving(tmp_path, bind=False) as server:
        said(server, "scale", "3")
        upgrade(server)
        assert sizes() == [3]
        configure(tmp_path, first="min_workers = 1\nmax_workers = 2\nmax_spare = 400")
        upgrade(server)
        assert sizes() == [2]


# --- failures --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One whose upgrades fail."""
    with upgradable(tmp_path_factory.mktemp("lasting")) as server:
        server.tracebacks = -1
        yield server


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda folder: (folder / "broken").touch(), "RuntimeError: this code does not import"),
        (lambda folder: configure(folder, broken="]"), "halfsync.toml is not TOML"),
        (lambda folder: configure(folder, more='"/a" = "./nowhere"'), "nowhere"),
        (lambda folder: configure(folder, bind=["127.0.0.1:0", "203.0.113.7:80"]), "no such address"),
    ],
    ids=["code", "toml", "folder", "address"],
)
def test_one_that_does_not_come_up_changes_nothing(lasting, break_it, sentence):
    folder, process = lasting.folder, server_process(lasting)
    with lasting.client() as kept, Crowd(lasting, ["/"] * 2, process_of) as crowd:
        assert served_by(kept.ask("/")) == process
        failures = lasting.log().count("Upgrade failed")
        break_it(folder)
        try:
            done = ctl(lasting, "-s", "control", "upgrade")
        finally:
            configure(folder)
            (folder / "broken").unlink(missing_ok=True)
        assert done.returncode == 1
        assert sentence in done.stderr, done.stderr
        assert lasting.log().count("Upgrade failed") == failures + 1
        assert server_process(lasting) == process
        assert served_by(kept.ask("/")) == process
        crowd.until_seen(5)
    assert crowd.broken == crowd.wrong == []
    until(lambda: "upgraded:app" in said(lasting, "workers"))


def test_one_that_is_killed_changes_nothing_and_a_second_upgrade_is_a_sentence(lasting):
    """Meanwhile a HUP waits: it is done when it is known that the old version goes on."""
    process = server_process(lasting)
    reloads = lasting.log().count("upgraded:app is reloaded")
    with hanging(lasting) as new:
        assert "An upgrade is under way already." in ctl(lasting, "upgrade").stderr
        os.kill(process, signal.SIGUSR2)
        lasting.until_logged("SIGUSR2: An upgrade is under way already.")
        assert "An upgrade is under way" in ctl(lasting, "reload").stderr
        os.kill(process, signal.SIGHUP)
        lasting.until_logged("SIGHUP: an upgrade is under way")
        assert "upgraded:app" in said(lasting, "workers")
        kill(new)
    lasting.until_logged(rf"Upgrade failed, .* process {new}, was killed by SIGKILL before it was ready")
    lasting.until(lambda: lasting.log().count("upgraded:app is reloaded") > reloads)
    assert served_by(lasting.get("/")) == process == server_process(lasting)


@contextlib.contextmanager
def hanging(server: Server) -> Iterator[int]:
    """An upgrade whose new version imports for ever: its process."""
    before = server.log().count("upgrading: the new version is process")
    (server.folder / "hangs").touch()
    try:
        os.kill(server_process(server), signal.SIGUSR2)
        words = r"upgrading: the new version is process (\d+)"
        server.until(lambda: server.log().count("upgrading: the new version is process") > before)
        yield int(re.findall(words, server.log())[-1])
    finally:
        (server.folder / "hangs").unlink()


def test_a_stop_ends_both(tmp_path):
    with upgradable(tmp_path) as server, hanging(server) as new:
        server.signal(signal.SIGTERM)
        assert server.ends() == 0
        assert not is_alive(new)


def test_python_complains_of_nothing_that_ends_with_the_process(tmp_path):
    with upgradable(tmp_path, environment={"PYTHONWARNINGS": "always"}) as server:
        upgrade(server)
        server.signal(signal.SIGTERM)
        assert server.ends() == 0
        assert "Warning: " not in server.log()


def test_one_that_is_too_late_is_ended(lasting):
    configure(lasting.folder, startup_timeout=3)
    try:
        with hanging(lasting) as new:
            lasting.until_logged("Upgrade failed, .* was not ready within 3 s")
            lasting.until_gone([new])
    finally:
        configure(lasting.folder)
    assert served_by(lasting.get("/")) == lasting.process.pid


# --- settings --------------------------------------------------------------------------------------


@over_plain_sockets
def test_settings_may_have_changed(tmp_path):
    """Addresses that stay are never closed; new ones are bound, others are closed, a unix socket's file with
    them. And the pid file and the control socket may move."""
    configure(tmp_path, bind=["127.0.0.1:0", "unix:stays", "unix:goes"])
    with serving(tmp_path, bind=False) as server, Client(str(tmp_path / "stays")) as local:
        old = server.process.pid
        assert local.ask("/").body.startswith(str(old).encode())
        inode = (tmp_path / "stays").stat().st_ino
        configure(tmp_path, bind=["127.0.0.1:0", "unix:stays", "unix:comes"], more='"/b" = "upgraded:app"')
        text = (tmp_path / "halfsync.toml").read_text()
        moved = text.replace('pid = "pid"', 'pid = "pid2"').replace('"control"', '"control2"')
        (tmp_path / "halfsync.toml").write_text(moved)
        server.signal(signal.SIGUSR2)
        server.until(lambda: (tmp_path / "pid2").exists() and not (tmp_path / "pid").exists())
        server.until_logged("that wait are handed over")
        new = (tmp_path / "pid2").read_text().strip().encode()
        assert local.ask("/").body.startswith(new)
        for path in ("stays", "comes"):
            with Client(str(tmp_path / path)) as client:
                assert client.ask("/b").body.startswith(new)
        assert (tmp_path / "stays").stat().st_ino == inode
        assert not (tmp_path / "goes").exists()
        server.until(lambda: not (tmp_path / "control").exists())
        assert "upgraded:app" in said(server, "-s", str(tmp_path / "control2"), "workers")
    for path in ("stays", "comes", "pid2", "control2"):
        assert not (tmp_path / path).exists()


def ask_on(address: tuple[str, int], is_over: threading.Event) -> set[int]:
    """The status of each response, all on connections of their own."""
    seen: set[int] = set()
    while not is_over.is_set():
        with Client(address) as client:
            seen.add(client.ask("/").status)
    return seen


def test_a_port_moves_to_other_addresses_and_no_request_is_lost(tmp_path):
    """What the new version binds beside an address of the old one's takes no client before it serves, and
    what it does not want any more none afterwards."""
    port = free_port()
    one, everywhere = [f"127.0.0.1:{port}"], [f"0.0.0.0:{port}"]
    nearer = [*everywhere, f"127.0.0.9:{port}"]

    def process_at(address: str) -> int:
        with Client((address, port)) as client:
            return served_by(client.ask("/"))

    configure(tmp_path, bind=one)
    with serving(tmp_path, bind=False) as server, Crowd(server, ["/"], process_of) as crowd:
        configure(tmp_path, bind=everywhere)
        assert upgrade(server) == process_at("127.0.0.9")
        is_over = threading.Event()
        with ThreadPoolExecutor() as pool:
            clients = [pool.submit(ask_on, ("127.0.0.9", port), is_over) for _ in range(2)]
            try:
                for addresses in (nearer, everywhere) * 2:
                    configure(tmp_path, bind=addresses)
                    process = upgrade(server)
                    assert (process_at("127.0.0.1"), process_at("127.0.0.9")) == (process, process)
            finally:
                is_over.set()
        assert [client.result() for client in clients] == [{200}, {200}]
        configure(tmp_path, bind=one)
        assert upgrade(server) == process_at("127.0.0.1")
        crowd.stop()
        with pytest.raises(ConnectionRefusedError):
            Client(("127.0.0.9", port))


def test_releases_with_a_program_of_their_own(tmp_path):
    """The command is looked up again: here `current` is turned to another release's script."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        script = tmp_path / name / "serve"
        script.write_text(
            f"#!{sys.executable}\nimport os\nos.environ['RELEASE'] = {name!r}\n"
            "from halfsync.start import main\nmain()\n"
        )
        script.chmod(0o755)
    (tmp_path / "current").symlink_to("one")
    (tmp_path / "released.py").write_text(
        "import os\n"
        "def app(environ, start):\n"
        "    start('200 OK', [])\n"
        "    return [os.environ['RELEASE'].encode()]\n"
    )
    with serving(tmp_path, "released:app", program=("current/serve",)) as server:
        assert server.get("/").body == b"one"
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").rename(tmp_path / "current")
        server.signal(signal.SIGUSR2)
        server.until(lambda: server.get("/").body == b"two")
        # the first process stays; and when it is killed, the server ends, as everything does then
        server.until_logged("this process passes signals on")
        assert len(server.processes()) > 2
        server.process.kill()
        server.process.wait(LONG)
        server.until(lambda: not server.processes())


# --- whoever has started the server ----------------------------------------------------------------


def test_systemd_is_told_of_the_new_process_and_the_old_one_ends(tmp_path):
    configure(tmp_path)
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    with (
        contextlib.closing(Manager(environment["NOTIFY_SOCKET"])) as manager,
        serving(tmp_path, bind=False, environment=environment) as server,
    ):
        assert manager.next()["MAINPID"] == str(server.process.pid)
        new = upgrade(server)
        assert manager.next()["RELOADING"] == "1"
        assert manager.next()["MAINPID"] == str(new)
        told = manager.next()
        assert (told["READY"], told["MAINPID"]) == ("1", str(new))
        assert server.process.wait(LONG) == 0
        assert served_by(server.get("/")) == new
        os.kill(new, signal.SIGTERM)
        assert manager.next()["STOPPING"] == "1"
        server.until_gone([new])


def can_be_process_1() -> bool:
    try:
        return subprocess.run([*AS_PROCESS_1, "true"], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_be_process_1(), reason="process namespaces are not permitted here")
def test_in_a_container_process_1_stays(tmp_path):
    with upgradable(tmp_path, through=AS_PROCESS_1) as server:
        first = process_1(server)
        assert served_by(server.get("/")) == 1
        os.kill(first, signal.SIGUSR2)
        server.until(lambda: served_by(server.get("/")) > 1)
        os.kill(first, signal.SIGTERM)
        assert server.ends() == 0


TERM_AT_FIRST = """
import os, signal
from halfsync import start  # which begins with what it holds back
os.kill(os.getpid(), signal.SIGTERM)
start.main()
"""


@pytest.mark.skipif(not can_be_process_1(), reason="process namespaces are not permitted here")
def test_process_1_is_stopped_by_a_term_that_comes_before_it_can_handle_it(tmp_path):
    """The kernel keeps such a signal from process 1 alone: it would serve on, and be killed much later."""
    (tmp_path / "public").mkdir()
    command = [
        *AS_PROCESS_1,
        "--kill-child",
        sys.executable,
        "-c",
        TERM_AT_FIRST,
        "-b",
        "127.0.0.1:0",
        "./public",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=LONG, check=False)
    assert done.returncode == 0, done.stderr
    assert "SIGTERM: stopping" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not can_be_process_1(), reason="process namespaces are not permitted here")
def test_process_1_reaps_orphans(tmp_path):
    (tmp_path / "orphans.py").write_text(ORPHANS)
    with serving(tmp_path, "orphans:app", through=AS_PROCESS_1) as server:
        orphan = int(server.get("/").body)
        server.until(lambda: server.get(f"/{orphan}").body == b"gone")
        os.kill(process_1(server), signal.SIGTERM)
        assert server.ends() == 0


ORPHANS = """
import os

def app(environ, start):
    start("200 OK", [])
    path = environ["PATH_INFO"]
    if path != "/":
        return [b"there" if os.path.exists("/proc" + path) else b"gone"]
    reading, writing = os.pipe()
    if not os.fork():
        orphan = os.fork()
        if orphan:
            os.write(writing, b"%d" % orphan)
        os._exit(0)
    os.wait()
    return [os.read(reading, 100)]
"""


@over_plain_sockets
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX], ids=["tcp", "unix"])
def test_sockets_of_a_service_manager_are_handed_on(tmp_path, family):
    """They stay the same ones from version to version, and a unix socket's file is the manager's."""
    at = "127.0.0.1" if family == socket.AF_INET else str(tmp_path / "at")
    through = launcher(family, at)
    options = ("-b", "203.0.113.7:1", "--pid", "pid", "upgraded:app")  # nowhere, if it were used
    with serving(tmp_path, *options, bind=False, through=through) as server:
        address = ("127.0.0.1", server.port) if family == socket.AF_INET else at
        processes = [server.process.pid]
        with Client(address) as kept:
            for _ in range(2):
                os.kill(server_process(server), signal.SIGUSR2)
                processes.append(next_process(server, processes[-1]))
                assert kept.ask("/").body.startswith(b"%d " % processes[-1])
                with Client(address) as new:
                    assert new.ask("/").body.startswith(b"%d " % processes[-1])
        assert server.log().count("the sockets are the service manager's") == 2
        server.stop()
        assert family == socket.AF_INET or (tmp_path / "at").exists()


def process_1(server: Server) -> int:
    """As it is numbered here."""
    return next(pid for pid in server.processes() if parent_of(pid) == server.process.pid)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_the_process_that_stays_passes_signals_on(tmp_path):
    """Once: a signal to the whole group is one, though it comes to both."""
    with upgradable(tmp_path) as server:
        new = upgrade(server)
        server.until_logged("this process passes signals on")
        server.signal(signal.SIGHUP)
        server.until_logged(rf"\[{new}\] parent INFO upgraded:app is reloaded")
        server.signal(signal.SIGUSR1)
        with server.client() as waiting:
            waiting.send(request("/wait/1"))
            server.until((tmp_path / "here-1").exists)
            os.kill(new, signal.SIGTERM)
            server.signal(signal.SIGTERM)
            server.until_logged("SIGTERM: stopping; requests in flight may take")
            (tmp_path / "go").touch()
            assert served_by(waiting.answer()) == new
        assert server.ends() == 0
        assert "at once" not in server.log()


@pytest.mark.parametrize("how", ["in good order", "killed"])
def test_the_process_that_stays_ends_though_the_server_ends_before_the_version_before_it(tmp_path, how):
    """Of three versions, the second is the parent of the third, and reaps it while it has a request."""
    with upgradable(tmp_path) as server:
        upgrade(server)
        with server.client() as waiting:
            waiting.send(request("/wait/1"))
            server.until((tmp_path / "here-1").exists)
            last = upgrade(server)
            if how == "killed":
                os.kill(last, signal.SIGKILL)
            else:
                server.signal(signal.SIGTERM)
            server.until_logged(rf"process {last}, which is the server, (exited|was killed)")
            (tmp_path / "go").touch()
            assert served_by(waiting.answer())
        assert server.ends() == (128 + signal.SIGKILL if how == "killed" else 0)
