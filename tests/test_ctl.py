"""halfsyncctl, and what it says when it is not a halfsync that responds."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from halfsync.commands import ctl

LONG = 60.0


@contextlib.contextmanager
def responding(path: Path, answer: bytes) -> Iterator[None]:
    """A server that says this to the one client that comes."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    listener.settimeout(LONG)

    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(65536)
            peer.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    yield
    thread.join()
    listener.close()


def status_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        ctl.main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


ODD = "does not respond as this version of halfsync does"


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (b"", 1, "The server has ended before it said anything."),
        (b'{"ok":tr', 1, "The server has ended before it said anything."),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", 2, ODD),
        (b"\xff\n", 2, ODD),
        (b'"\xff"\n', 2, ODD),
        (b"[" * 10_000 + b"\n", 2, ODD),
        (b"{}\n", 2, ODD),
        (b"[]\n", 2, ODD),
        (b'"ok"\n', 2, ODD),
        (b'{"ok":1}\n', 2, ODD),
        (b'{"ok":false}\n', 2, ODD),
        (b'{"ok":false,"error":"Not now."}\n', 1, "Not now."),
        (b'{"error":"Not now."}\n', 2, ODD),
        (b'{"ok":true}\n', 2, f"{ODD}. (--json shows it.)"),
        (b'{"ok":true,"version":1,"pid":2}\n', 2, f"{ODD}. (--json shows it.)"),
        (b'{"ok":true,"version":1,"pid":2,"phase":3,"uptime":"x","addresses":4}\n', 2, ODD),
    ],
)
def test_what_is_not_a_response_is_a_sentence(tmp_path, capsys, answer, status, words):
    with responding(tmp_path / "at", answer):
        assert status_of("-s", str(tmp_path / "at"), "status") == status
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("halfsyncctl: ")
    assert said.err.count("\n") == 1
    assert words in said.err


def test_as_json_it_is_shown_whatever_its_members_are(tmp_path, capsys):
    with responding(tmp_path / "at", b'{"ok":true,"later":"x"}\n'):
        assert status_of("-s", str(tmp_path / "at"), "--json", "status") == 0
    assert capsys.readouterr().out == '{"ok":true,"later":"x"}\n'


@pytest.mark.parametrize("queued", [0, 1], ids=["accepts no client", "its queue is full"])
@pytest.mark.parametrize("command", ["status", "reload"])
def test_a_server_that_does_not_respond_is_a_sentence_after_a_while(tmp_path, capsys, command, queued):
    with contextlib.ExitStack() as clients:
        listener = clients.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(str(tmp_path / "at"))
        listener.listen(0)
        for _ in range(queued):
            clients.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)).connect(
                str(tmp_path / "at")
            )
        assert status_of("-s", str(tmp_path / "at"), "--timeout", "0.3", command) == 1
    assert capsys.readouterr().err.endswith("has not responded within 0.3 s (--timeout).\n")


@pytest.mark.parametrize("seconds", ["0", "-1", "x"])
def test_a_timeout_that_is_none_is_a_sentence(capsys, seconds):
    assert status_of("-s", "at", "--timeout", seconds, "status") == 2
    assert "--timeout" in capsys.readouterr().err


def test_only_what_takes_long_by_nature_has_no_limit():
    assert {name for name in ctl.command.commands if name in ctl.PATIENT} == set(ctl.PATIENT)
    assert ctl.TIMEOUT < 60  # whoever waits at a terminal
