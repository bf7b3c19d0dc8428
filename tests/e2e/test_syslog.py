"""The logs of a real server, sent to syslog and to a journal: sockets of the test's own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.harness import AT_ONCE, Answer, Client, Server, serving, until
from tests.ports import free_port
from tests.test_syslog import entry


class Receiver:
    """Reads datagrams as they come, in a thread."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.got: list[bytes] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while data := self._socket.recv(65536):
            self.got.append(data)

    def text(self) -> str:
        return b"\n".join(self.got).decode("utf-8", "replace")

    def until(self, words: str) -> str:
        """What the expression's first group has; else all of it."""
        until(lambda: re.search(words, self.text()), told=self.text)
        found = re.search(words, self.text())
        assert found
        return found[found.lastindex or 0]

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.connect(self._socket.getsockname())
            last.send(b"")
        self._thread.join()
        self._socket.close()


@contextmanager
def receiving(path: Path) -> Iterator[Receiver]:
    receiver = Receiver(path)
    try:
        yield receiver
    finally:
        receiver.close()


def ask(port: int, target: str) -> Answer:
    """(Of a server whose log does not say to the harness where it is.)"""
    with Client(("127.0.0.1", port)) as client:
        return client.ask(target)


def test_both_logs_go_to_syslog_and_while_it_is_away_the_error_log_is_on_standard_error(tmp_path):
    where = f"syslog:server=unix:{tmp_path}/log"
    errors = ("--error-logfile", f"{where},tag=errors,facility=daemon")
    access = ("--access-logfile", f"{where},severity=notice", "--access-logformat", "%m %U %s")
    server = Server(tmp_path, ("-b", "127.0.0.1:0", "story:app", *errors, *access), {})
    try:
        with receiving(tmp_path / "log") as receiver:
            port = int(receiver.until(r"<30>.{15} errors\[\d+\]: parent INFO .* serves .*:(\d+)"))
            ask(port, "/hello")
            receiver.until(r"<189>.{15} halfsync\[\d+\]: GET /hello 200")
            ask(port, "/fail")
            receiver.until(
                r"<27>.* errors\[\d+\]: worker\(story:app\) ERROR Exception before the response to GET /fail"
            )
            receiver.until(r"<27>.*: +ZeroDivisionError: the story's own")
            assert "ZeroDivisionError" not in server.log()
        (tmp_path / "log").unlink()
        ask(port, "/fail?again")
        server.until_logged("The error log can't be sent to syslog at unix:.*(refused|No such file)", 1)
        server.until_logged("ZeroDivisionError: the story's own")
        server.until_logged("The access log can't be sent to syslog at unix:.*Its records are dropped")
        with receiving(tmp_path / "log") as receiver:

            def is_back() -> bool:
                ask(port, "/hello")
                return "GET /hello 200" in receiver.text()

            until(is_back, told=receiver.text)
            receiver.until(r"The access log is sent to syslog at unix:\S+ again; \d+ records were dropped")
            until(
                lambda: (
                    ask(port, "/fail") and "earlier records that went to standard error)" in receiver.text()
                )
            )
            server.signal(signal.SIGTERM)
            assert server.ends(AT_ONCE) == 0
            receiver.until("stopped")
        server.tracebacks = -1
    finally:
        server.stop()


class StreamReceiver:
    """Reads lines of every connection to this port, and keeps what the last one said."""

    def __init__(self, port: int = 0) -> None:
        self.port = port or free_port()  # nobody else is given it while this one is closed
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._peers: list[socket.socket] = []
        self.got: list[str] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self._peers.append(peer)
            self._threads.append(threading.Thread(target=self._read, args=[peer]))
            self._threads[-1].start()

    def _read(self, peer: socket.socket) -> None:
        with peer.makefile("r", encoding="utf-8") as lines, contextlib.suppress(ConnectionResetError):
            for line in lines:
                self.got.append(line)

    def until(self, words: str) -> str:
        text = ""

        def is_there() -> bool:
            nonlocal text
            text = "".join(self.got)
            return re.search(words, text, re.MULTILINE) is not None

        until(is_there, told=lambda: text)
        found = re.search(words, text, re.MULTILINE)
        assert found
        return found[found.lastindex or 0]

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        for peer in self._peers:
            with contextlib.suppress(OSError):  # the other end was quicker
                peer.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        for peer in self._peers:
            peer.close()


def test_both_logs_go_to_syslog_by_tcp_and_to_one_that_starts_again(tmp_path):
    with contextlib.closing(StreamReceiver()) as receiver:
        where = f"syslog:server=tcp://127.0.0.1:{receiver.port}"
        logs = ("--error-logfile", f"{where},tag=errors", "--access-logfile", where)
        server = Server(tmp_path, ("-b", "127.0.0.1:0", "story:app", *logs), {})
        port = int(receiver.until(r"^<190>.{15} \S+ errors\[\d+\]: parent INFO .* serves .*:(\d+)$"))
        ask(port, "/hello")
        receiver.until(r'^<190>.{15} \S+ halfsync\[\d+\]: .*"GET /hello HTTP/1.1" 200')
    try:
        ask(port, "/fail")
        server.until_logged("The error log can't be sent to syslog at tcp://127.0.0.1:.*refused", 1)
        server.until_logged("ZeroDivisionError: the story's own")
        server.until_logged("The access log can't be sent to syslog at tcp://.*Its records are dropped")
        with contextlib.closing(StreamReceiver(receiver.port)) as again:

            def is_back() -> bool:
                ask(port, "/hello")
                return "GET /hello" in "".join(again.got)

            until(is_back)
            again.until(r"The access log is sent to syslog at tcp://\S+ again; \d+ records were dropped")
            server.signal(signal.SIGTERM)
            assert server.ends(AT_ONCE) == 0
            again.until("stopped")
        server.tracebacks = -1
    finally:
        server.stop()


def test_both_logs_go_to_the_journal_with_fields(tmp_path):
    with receiving(tmp_path / "socket") as receiver:
        where = f"journald:{tmp_path}/socket"
        arguments = ("--access-logfile", where, "--error-logfile", where, "--request-id", "own")
        server = Server(tmp_path, ("-b", "127.0.0.1:0", "story:app", *arguments), {})
        try:
            port = int(receiver.until(r" serves .*:(\d+)"))
            answer = ask(port, "/fail")
            request_id = answer["X-Request-ID"]
            receiver.until("HALFSYNC_LOG=access")
            receiver.until("ZeroDivisionError")
            entries = [entry(data) for data in list(receiver.got)]
            access = next(one for one in entries if one.get("HALFSYNC_LOG") == "access")
            assert (access["HALFSYNC_STATUS"], access["HALFSYNC_TARGET"]) == ("500", "/fail")
            assert access["HALFSYNC_REQUEST_ID"] == request_id
            failed = next(one for one in entries if "ZeroDivisionError" in one["MESSAGE"])
            assert (failed["PRIORITY"], failed["HALFSYNC_PROCESS"]) == ("3", "worker(story:app)")
            assert f"(request {request_id}):\nTraceback (most recent call last):\n" in failed["MESSAGE"]
            assert failed["SYSLOG_IDENTIFIER"] == "halfsync"
        finally:
            server.stop()


UNDER_SYSTEMD = """
import os, sys
status = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_under_systemd_each_line_of_standard_error_has_its_priority(tmp_path):
    through = (sys.executable, "-c", UNDER_SYSTEMD)
    with serving(tmp_path, "story:app", through=through) as server:
        server.get("/fail")
        server.until_logged("ZeroDivisionError: the story's own")
        server.tracebacks = 1
        lines = server.log().splitlines()
    assert all(re.match(r"<[3-7]>", line) for line in lines), lines
    assert any(re.match(r"<6>\d{4}-.* INFO .* serves ", line) for line in lines)
    failed = [line for line in lines if line.startswith("<3>")]
    assert "ERROR Exception before" in failed[0]
    assert failed[-1] == "<3>    ZeroDivisionError: the story's own"


def test_a_reload_moves_the_access_log_to_syslog_and_back(tmp_path):
    settings = tmp_path / "app.toml"
    settings.write_text('access_logfile = "access"\naccess_logformat = "%U"\n')
    with (
        receiving(tmp_path / "log") as receiver,
        serving(tmp_path, "story:app", "-c", "app.toml") as server,
    ):
        for number, where in enumerate((f"syslog:server=unix:{tmp_path}/log", "access"), 1):
            settings.write_text(f'access_logfile = "{where}"\naccess_logformat = "%U"\n')
            server.signal(signal.SIGHUP)
            server.until_logged("configuration is in effect", number)
            server.get("/hello")
            if number == 1:
                receiver.until(r"halfsync\[\d+\]: /hello")
        server.until(lambda: (tmp_path / "access").read_text() == "/hello\n")
        settings.write_text('access_logfile = "syslog:facility=none"\n')
        server.signal(signal.SIGHUP)
        server.until_logged("Reload failed.*access_logfile: 'none' is no facility")


def test_a_wrong_target_ends_the_start_with_a_sentence(tmp_path):
    command = [sys.executable, "-m", "halfsync", ".", "--error-logfile", "syslog:server=unix:log"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src"), "PWD": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"halfsync: error_logfile: the server 'unix:log' needs a path .*\n", done.stderr)
