"""systemd's protocols, with real descriptors and a real datagram socket: a launcher in systemd's place."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import issued, write
from tests.e2e.harness import LONG, Client, Server, frozen, serving, until
from tests.e2e.test_missing import refused

LAUNCHER = """
import os, socket, sys
family, kind, address, listens, pid, name, *command = sys.argv[1:]
made = socket.socket(int(family), int(kind))
made.bind((address, 0) if int(family) != socket.AF_UNIX else address.replace("@", chr(0), 1))
if listens == "1":
    made.listen()
os.dup2(made.fileno(), 10)  # out of the way of 3
os.dup2(10, 3)
os.closerange(4, 100)
os.set_inheritable(3, True)
os.environ["LISTEN_FDS"], os.environ["LISTEN_FDNAMES"] = "1", name
os.environ["LISTEN_PID"] = pid if pid != "mine" else str(os.getpid())
os.execv(command[0], command)
"""


def launcher(
    family: int,
    address: str,
    *,
    kind: int = socket.SOCK_STREAM,
    listens: bool = True,
    pid: str = "mine",
    name: str = "web",
) -> tuple[str, ...]:
    arguments = (str(int(family)), str(int(kind)), address, str(int(listens)), pid, name)
    return (sys.executable, "-c", LAUNCHER, *arguments)


TELLS = """
import os
def app(environ, start):
    start("200 OK", [])
    names = [name for name in os.environ if name.startswith(("LISTEN_", "NOTIFY_"))]
    return [f"{sorted(names)}".encode()]
"""


# --- inherited sockets -----------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_an_inherited_tcp_socket_takes_the_place_of_bind(tmp_path, family, host):
    (tmp_path / "tells.py").write_text(TELLS)
    taken = ("-b", "203.0.113.7:1")  # nowhere, if it were used
    with serving(tmp_path, *taken, "tells:app", bind=False, through=launcher(family, host)) as server:
        with socket.create_connection((host, server.port), LONG) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert client.makefile("rb").read().endswith(b"\r\n\r\n[]")
        assert "LISTEN_FDS: serving at the sockets that were inherited" in server.log()


@pytest.mark.parametrize("abstract", [False, True])
def test_an_inherited_unix_socket_is_served_and_not_removed(tmp_path, abstract):
    at = f"@halfsync-{os.getpid()}" if abstract else str(tmp_path / "at")
    with serving(tmp_path, "story:app", bind=False, through=launcher(socket.AF_UNIX, at)) as server:
        assert f"unix:{at}" in server.addresses
        with Client(at.replace("@", "\0", 1)) as client:
            assert client.ask("/hello").body == b"hello\n"
    assert abstract or Path(at).exists()


ACME = ("--acme", "--acme-hosts", "shop.test", "--acme-directory", "https://127.0.0.1:1/dir")


@pytest.mark.parametrize(
    ("name", "tls", "scheme"),
    [
        ("web", (), "http"),
        ("web", ("--certfile", "server.pem", "--keyfile", "server.key"), "https"),
        ("web", ACME, "https"),
        ("https", ACME, "https"),
        ("http", ACME, "http"),
    ],
)
def test_the_name_of_an_inherited_socket_says_what_it_is_for_or_else_the_certificate(
    tmp_path, name, tls, scheme
):
    write(tmp_path, issued("shop.test"))
    through = launcher(socket.AF_INET, "127.0.0.1", name=name)
    with serving(tmp_path, *tls, "story:app", bind=False, through=through) as server:
        assert server.url.startswith(f"{scheme}://")


def test_the_pump_that_follows_has_the_inherited_socket_too(tmp_path):
    through = launcher(socket.AF_INET, "127.0.0.1")
    with serving(tmp_path, "story:app", bind=False, through=through) as server:
        os.kill(server.pump, signal.SIGKILL)
        server.until_logged("was killed by SIGKILL")
        assert server.get("/hello").status == 200


@pytest.mark.parametrize(
    "wrong",
    [
        launcher(socket.AF_INET, "127.0.0.1", kind=socket.SOCK_DGRAM, listens=False),
        launcher(socket.AF_INET, "127.0.0.1", listens=False),
    ],
    ids=["datagrams", "does not listen"],
)
def test_what_is_no_listening_stream_socket_is_refused(tmp_path, wrong):
    sentence = refused(tmp_path, "story:app", through=wrong)
    assert "LISTEN_FDS: descriptor 3 is not a listening stream socket" in sentence


@pytest.mark.parametrize("count", ["1", "99"])
def test_what_is_no_socket_is_refused(tmp_path, count):
    script = f'export LISTEN_FDS={count} LISTEN_PID=$$; exec "$@" 3</dev/null'
    sentence = refused(tmp_path, "story:app", through=("sh", "-c", script, "sh"))
    assert "LISTEN_FDS: descriptor 3 is not a listening stream socket" in sentence


@pytest.mark.parametrize("count", ["x", "-1", "100000"])
def test_a_number_that_is_none_is_refused(tmp_path, count):
    script = f'export LISTEN_FDS={count} LISTEN_PID=$$; exec "$@"'
    assert "LISTEN_FDS" in refused(tmp_path, "story:app", through=("sh", "-c", script, "sh"))


def test_sockets_for_another_process_are_not_touched_and_that_is_said(tmp_path):
    through = launcher(socket.AF_INET, "127.0.0.1", pid="1")
    with serving(tmp_path, "story:app", through=through) as server:
        assert "LISTEN_FDS is not for this process, but for 1 (LISTEN_PID)" in server.log()
        assert server.get("/hello").status == 200


# --- notifications ---------------------------------------------------------------------------------


class Manager:
    """The service manager's end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))
        self._socket.settimeout(LONG)

    def next(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self._socket.recv(4096).decode().splitlines())

    def says_nothing(self) -> bool:
        self._socket.setblocking(False)
        try:
            self._socket.recv(4096, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        finally:
            self._socket.settimeout(LONG)
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@notify-{os.getpid()}"
    with contextlib.closing(Manager(address)) as made:
        yield made


def test_ready_reloading_ready_stopping(tmp_path, manager):
    (tmp_path / "tells.py").write_text(TELLS)
    with serving(tmp_path, "tells:app", environment={"NOTIFY_SOCKET": manager.address}) as server:
        told = manager.next()
        assert (told["READY"], told["MAINPID"]) == ("1", str(server.process.pid))
        assert server.url.removeprefix("http://") in told["STATUS"]
        assert server.get("/").body == b"[]"
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        server.signal(signal.SIGHUP)
        told = manager.next()
        assert told["RELOADING"] == "1"
        assert before <= int(told["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert manager.next()["READY"] == "1"
        server.signal(signal.SIGTERM)
        assert manager.next()["STOPPING"] == "1"
        assert server.ends() == 0
        assert manager.says_nothing()


def test_a_reload_that_fails_is_over_too(tmp_path, manager):
    (tmp_path / "tells.py").write_text(TELLS)
    with serving(tmp_path, "tells:app", environment={"NOTIFY_SOCKET": manager.address}) as server:
        manager.next()
        server.tracebacks = -1
        (tmp_path / "tells.py").write_text("raise ValueError\n")
        server.signal(signal.SIGHUP)
        assert manager.next()["RELOADING"] == "1"
        told = manager.next()
        assert told["READY"] == "1"
        assert "old workers keep serving" in told["STATUS"]


def test_it_is_not_ready_before_the_application_is(tmp_path, manager):
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\n"
        "while not pathlib.Path('go').exists():\n    time.sleep(0.01)\n"
        "from story import app\n"
    )
    where = ("-b", "127.0.0.1:0", "slow:app")
    server = Server(tmp_path, where, {"NOTIFY_SOCKET": manager.address})
    try:
        server.until_logged(r"worker\(slow:app\) \[\d+\] is started")
        server.until_logged(r"worker\(built-in\) \[\d+\] is ready")
        assert manager.says_nothing()
        (tmp_path / "go").touch()
        assert manager.next()["READY"] == "1"
        server.stop()
    finally:
        server.kill()


@pytest.mark.parametrize("address", ["/nowhere/at/all", "nonsense", "@" + "x" * 200])
def test_a_service_manager_that_is_not_there_harms_nothing(tmp_path, address):
    with serving(tmp_path, "story:app", environment={"NOTIFY_SOCKET": address}) as server:
        assert server.get("/hello").status == 200
        assert server.log().count("NOTIFY_SOCKET") == 1


def test_a_service_manager_that_does_not_read_harms_nothing(tmp_path, manager):
    """Its queue is full."""
    with contextlib.ExitStack() as fillers:
        while filled(manager, fillers.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))):
            pass
        with serving(tmp_path, "story:app", environment={"NOTIFY_SOCKET": manager.address}) as server:
            assert server.get("/hello").status == 200
            until(lambda: "NOTIFY_SOCKET: the service manager can't be told" in server.log())


def filled(manager: Manager, filler: socket.socket) -> int:
    """How many messages this socket finds room for. One alone may be stopped by its own buffer, if the other
    has a long queue (net.unix.max_dgram_qlen)."""
    filler.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filler.sendto(b"x", manager.address.replace("@", "\0", 1))
            count += 1
    return count


def test_the_watchdog_is_told_while_all_is_well(tmp_path, manager):
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "400000"}
    (tmp_path / "public").mkdir()
    with serving(tmp_path, "./public", environment=environment) as server:
        seen = 0
        while seen < 5:
            seen += manager.next().get("WATCHDOG") == "1"
        with frozen(server.pump):
            server.until_logged("pump .* does not respond")
            while not manager.says_nothing():
                manager.next()
        assert manager.next() == {"WATCHDOG": "1"}
