"""Messages to syslog and to the journal, as receivers of our own get them from real sockets."""

from __future__ import annotations

import array
import errno
import os
import re
import socket
from pathlib import Path

import pytest

from halfsync.logs import datagrams
from halfsync.logs.journal import Journal
from halfsync.logs.sending import send_all
from halfsync.logs.streams import FIRST_WAIT, MessageStream
from halfsync.logs.syslog import MAX_MESSAGE, Syslog, syslog_of
from halfsync.logs.target import is_target, target_of
from halfsync.wire.messages import LogRecord
from tests.ports import free_port

LONG = 60.0


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """No pause between two attempts to reach a receiver; and all sockets are closed at the end."""
    monkeypatch.setattr(datagrams, "RETRY", 0.0)
    made: list[datagrams.Datagrams] = []
    begin = datagrams.Datagrams.__init__

    def noted(self: datagrams.Datagrams, address: datagrams.Address) -> None:
        made.append(self)
        begin(self, address)

    monkeypatch.setattr(datagrams.Datagrams, "__init__", noted)
    yield
    for one in made:
        one.close()


def unix_receiver(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(str(path))
    made.settimeout(LONG)
    return made


def received(receiver: socket.socket, count: int) -> list[bytes]:
    return [receiver.recv(65536) for _ in range(count)]


# --- syslog ------------------------------------------------------------------------------------------


def test_a_message_is_as_rfc_3164_says(tmp_path):
    with unix_receiver(tmp_path / "log") as receiver:
        target = syslog_of(f"server=unix:{tmp_path}/log")
        assert target.send("Grüße", 3)
        [message] = received(receiver, 1)
    months = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
    pattern = rf"<187>(?:{months}) [ \d]\d \d\d:\d\d:\d\d halfsync\[{os.getpid()}\]: Grüße"
    assert re.fullmatch(pattern, message.decode())


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost"])
def test_by_udp_it_names_the_host(address):
    with socket.socket(
        socket.AF_INET6 if address == "::1" else socket.AF_INET, socket.SOCK_DGRAM
    ) as receiver:
        try:
            receiver.bind(("127.0.0.1" if address == "localhost" else address, 0))
        except OSError:
            pytest.skip(f"there is no {address} here")
        receiver.settimeout(LONG)
        port = receiver.getsockname()[1]
        shown = f"[{address}]" if ":" in address else address
        host = re.escape(socket.gethostname().partition(".")[0])
        for more, pattern in (
            ("", rf"<190>\w{{3}} [ \d]\d [\d:]{{8}} {host} halfsync\[\d+\]: x"),
            (",nohostname,tag=shop/web,facility=daemon", r"<30>\w{3} [ \d]\d [\d:]{8} shop/web\[\d+\]: x"),
            (
                ",format=rfc5424,facility=user",
                rf"<14>1 \d{{4}}-\d\d-\d\dT[\d:]{{8}}\.\d{{6}}Z {host} halfsync {os.getpid()} - - x",
            ),
            (",format=rfc5424,nohostname", r"<190>1 \S+Z - halfsync \d+ - - x"),
        ):
            target = syslog_of(f"server={shown}:{port}{more}")
            if address == "localhost" and "::1" in str(target._sender._address):
                pytest.skip("localhost is ::1 here")
            assert target.send("x", 6)
            [message] = received(receiver, 1)
            assert re.fullmatch(pattern, message.decode()), message


def test_each_line_is_a_message_and_no_control_character_gets_through(tmp_path):
    with unix_receiver(tmp_path / "log") as receiver:
        assert syslog_of(f"server=unix:{tmp_path}/log").send("one\r\n\n  two\x1b[31m\x00\t\x85\udcff\n", 6)
        texts = [message.decode().partition("]: ")[2] for message in received(receiver, 2)]
    assert texts == ["one\\x0d", "  two\\x1b[31m\\x00\t\\x85\\udcff"]


def test_a_long_line_is_cut_between_characters(tmp_path):
    with unix_receiver(tmp_path / "log") as receiver:
        target = syslog_of(f"server=unix:{tmp_path}/log")
        for text in ("x" * 100_000, "ü" * 100_000, "x" + "ü" * 100_000):
            assert target.send(text, 6)
            [message] = received(receiver, 1)
            assert MAX_MESSAGE - 1 <= len(message) <= MAX_MESSAGE
            assert message.decode().endswith(text[1:10] + "...")


def test_a_receiver_that_is_away_and_comes_back(tmp_path):
    target = syslog_of(f"server=unix:{tmp_path}/log")
    assert not target.send("lost", 6)
    assert target.why == "No such file or directory"
    for text in ("one", "two"):
        with unix_receiver(tmp_path / "log") as receiver:
            assert target.send(text, 6)
            assert received(receiver, 1)[0].endswith(text.encode())
        assert not target.send("lost", 6)
        assert target.why == "Connection refused"
        (tmp_path / "log").unlink()


def test_one_that_is_away_is_tried_again_after_a_while_only(tmp_path, monkeypatch):
    monkeypatch.setattr(datagrams, "RETRY", 3600.0)
    target = syslog_of(f"server=unix:{tmp_path}/log")
    assert not target.send("lost", 6)
    with unix_receiver(tmp_path / "log") as receiver:
        assert not target.send("lost too", 6)
        monkeypatch.setattr(target._sender, "_retry_at", 0.0)
        assert target.send("here", 6)
        assert received(receiver, 1)[0].endswith(b"here")


def test_a_receiver_that_does_not_read_holds_nobody(tmp_path):
    with unix_receiver(tmp_path / "log") as receiver:
        target = syslog_of(f"server=unix:{tmp_path}/log")
        sent = 0
        while target.send(f"{sent}", 6):
            sent += 1
        assert target.why == "it reads too slowly"
        assert not target.send("lost", 6, wait=0.01)
        assert [m.rpartition(b" ")[2] for m in received(receiver, sent)] == [b"%d" % n for n in range(sent)]
        assert target.send("again", 6)


def test_a_file_that_has_taken_the_descriptors_number_is_not_written_to(tmp_path):
    """An application may close what is not its own."""
    with unix_receiver(tmp_path / "log") as receiver:
        target = syslog_of(f"server=unix:{tmp_path}/log")
        assert target.send("one", 6)
        made = target._sender._socket
        assert made is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with ours, theirs:
            os.dup2(ours.fileno(), made.fileno())
            assert target.send("two", 6)
            theirs.setblocking(False)
            with pytest.raises(BlockingIOError):
                theirs.recv(100)
        os.close(made.detach() if made.fileno() >= 0 else os.dup(0))
        assert [m.rpartition(b" ")[2] for m in received(receiver, 2)] == [b"one", b"two"]


# --- a unix socket that is a stream ----------------------------------------------------------------------


def unix_stream_receiver(path: Path, backlog: int = 8) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen(backlog)
    made.settimeout(LONG)
    return made


def unix_target(path: Path) -> Syslog:
    return syslog_of(f"server=unix:{path}/log")


def test_to_a_unix_stream_each_message_ends_in_a_nul(tmp_path):
    """As the C library's syslog(3) does."""
    target = unix_target(tmp_path)
    with unix_stream_receiver(tmp_path / "log") as receiver:
        assert target.send("one\ntwo", 6)
        assert target.send("Grüße\0", 3)
        with accepted(receiver) as peer:
            got = peer.recv(65536)
    pattern = r"<(\d+)>\w{3} [ \d]\d [\d:]{8} halfsync\[\d+\]: (.*)"
    found = [re.fullmatch(pattern, one.decode()) for one in got.split(b"\0")[:-1]]
    assert [one and one.groups() for one in found] == [("190", "one"), ("190", "two"), ("187", "Grüße\\x00")]
    assert got.endswith(b"\0")


@pytest.mark.parametrize(("framing", "expected"), [("traditional", b"%b\n"), ("octet-counted", b"%d %b")])
def test_to_a_unix_stream_with_a_framing_that_is_named(tmp_path, framing, expected):
    """As rsyslog's imptcp wants it. Then it is no datagram socket, whatever is there."""
    target = syslog_of(f"server=unix:{tmp_path}/log,framing={framing}")
    with unix_stream_receiver(tmp_path / "log") as receiver:
        assert target.send("one", 6)
        assert target.send("two", 6)
        with accepted(receiver) as peer:
            got = peer.recv(65536)
    found = re.findall(rb"<190>\w{3} [ \d]\d [\d:]{8} halfsync\[\d+\]: \w{3}", got)
    assert len(found) == 2
    assert got == b"".join(expected % ((len(one), one) if b"%d" in expected else one) for one in found)
    (tmp_path / "log").unlink()
    with unix_receiver(tmp_path / "log"):
        assert not target.send("lost", 6)
        assert target.why == os.strerror(errno.EPROTOTYPE)


def test_a_unix_receiver_that_starts_again_may_be_of_the_other_kind(tmp_path):
    target = unix_target(tmp_path)
    for number in range(3):
        with unix_stream_receiver(tmp_path / "log") as stream:
            assert target.send(f"stream {number}", 6)
            with accepted(stream) as peer:
                assert peer.recv(65536).endswith(b": stream %d\0" % number)
        (tmp_path / "log").unlink()
        with unix_receiver(tmp_path / "log") as receiver:
            assert target.send(f"datagram {number}", 6)
            assert receiver.recv(65536).endswith(b": datagram %d" % number)
        (tmp_path / "log").unlink()
    assert not target.send("lost", 6)
    assert target.why == "No such file or directory"


def test_a_unix_stream_that_is_not_read_or_not_accepted_holds_nobody(tmp_path):
    with unix_stream_receiver(tmp_path / "log") as receiver:
        target = unix_target(tmp_path)
        sent = 0
        while target.send(f"{sent} {'x' * 8000}", 6):
            sent += 1
        assert target.why == "it reads too slowly"
        with accepted(receiver) as peer, peer.makefile("rb") as stream:
            got = b""
            while got.count(b"\0") < sent - 1:  # the last one may have been taken in part
                got += stream.read1()
            assert target.send("again", 6, wait=LONG)
            while got.count(b"\0") < sent + 1:
                got += stream.read1()
    numbers = [one.partition(b"]: ")[2].partition(b" ")[0] for one in got.split(b"\0")[:-1]]
    assert numbers == [*(b"%d" % number for number in range(sent)), b"again"]


def test_a_unix_stream_whose_queue_is_full_is_a_receiver_that_is_away(tmp_path):
    with unix_stream_receiver(tmp_path / "log", backlog=0), socket.socket(socket.AF_UNIX) as first:
        first.connect(str(tmp_path / "log"))  # its queue is full
        target = unix_target(tmp_path)
        assert not target.send("lost", 6)
        assert target.why == os.strerror(errno.EAGAIN)


def test_a_unix_socket_of_a_third_kind_is_tried_as_seldom_as_one_that_is_away(tmp_path, monkeypatch):
    monkeypatch.setattr(datagrams, "RETRY", 3600.0)
    tries: list[int] = []
    connecting = datagrams.connecting

    def noted(address: datagrams.Address, kind: int) -> socket.socket:
        tries.append(kind)
        return connecting(address, kind)

    monkeypatch.setattr(datagrams, "connecting", noted)
    monkeypatch.setattr("halfsync.logs.streams.connecting", noted)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as receiver:
        receiver.bind(str(tmp_path / "log"))
        receiver.listen()
        target = unix_target(tmp_path)
        assert not any(target.send("lost", 6) for _ in range(5))
        assert tries == [socket.SOCK_DGRAM, socket.SOCK_STREAM]


# --- syslog by TCP -----------------------------------------------------------------------------------


def tcp_receiver(backlog: int = 8, port: int = 0) -> socket.socket:
    """(Not at a port of the kernel's choice, which others may be given when this one is closed.)"""
    made = socket.create_server(("127.0.0.1", port or free_port()), backlog=backlog)
    made.settimeout(LONG)
    return made


def tcp_target(receiver: socket.socket, more: str = "") -> Syslog:
    return syslog_of(f"server=tcp://127.0.0.1:{receiver.getsockname()[1]},nohostname{more}")


def accepted(receiver: socket.socket) -> socket.socket:
    peer = receiver.accept()[0]
    peer.settimeout(LONG)
    return peer


def sent_at_last(target: Syslog, text: str) -> bool:
    """Whether the connection is there when it has been waited for."""
    return target.send(text, 6, wait=LONG)


def texts(data: bytes) -> list[bytes]:
    return [line.rpartition(b"]: ")[2] for line in data.split(b"\n")[:-1]]


def test_by_tcp_each_message_ends_in_a_line_end():
    with tcp_receiver() as receiver:
        target = tcp_target(receiver)
        assert sent_at_last(target, "one")
        with accepted(receiver) as peer, peer.makefile("rb") as lines:
            assert target.send("two\nthree\r", 6)
            assert target.send("x" * 100_000, 6, wait=LONG)
            got = [lines.readline() for _ in range(4)]
    assert texts(b"".join(got[:3])) == [b"one", b"two", b"three\\x0d"]
    assert all(line.startswith(b"<190>") for line in got)
    assert len(got[3]) == MAX_MESSAGE + 1
    assert got[3].endswith(b"x...\n")


@pytest.mark.parametrize("form", ["rfc3164", "rfc5424"])
def test_by_tcp_with_the_size_before_each_message(form):
    with tcp_receiver() as receiver:
        target = tcp_target(receiver, f",framing=octet-counted,format={form}")
        assert sent_at_last(target, "Grüße")
        with accepted(receiver) as peer, peer.makefile("rb") as stream:
            assert target.send("two", 6)
            for text in ("Grüße", "two"):
                size = b""
                while not size.endswith(b" "):
                    size += stream.read(1)
                message = stream.read(int(size)).decode()
                assert message.startswith("<190>")
                assert message.endswith(f" {text}")


def test_by_tcp_a_receiver_that_starts_again_loses_nothing_that_is_sent_later():
    """That the connection is over is seen before the next message, and not by its loss."""
    with tcp_receiver() as receiver:
        target = tcp_target(receiver)
        for number in range(3):
            assert sent_at_last(target, f"{number}")
            with accepted(receiver) as peer:
                assert texts(peer.recv(65536)) == [b"%d" % number]


def test_by_tcp_one_that_is_away_and_comes_back():
    with tcp_receiver() as receiver:
        port = receiver.getsockname()[1]
    target = syslog_of(f"server=tcp://127.0.0.1:{port}")
    assert not target.send("lost", 6, wait=LONG)
    assert target.why == "Connection refused"
    with tcp_receiver(port=port) as receiver:
        assert sent_at_last(target, "here")
        with accepted(receiver) as peer:
            assert texts(peer.recv(65536)) == [b"here"]


def test_by_tcp_a_receiver_that_does_not_read_holds_nobody():
    """What the kernel has room for is kept; what follows is the caller's to count; and nothing is torn."""
    with tcp_receiver() as receiver:
        target = tcp_target(receiver)
        assert sent_at_last(target, "first")
        with accepted(receiver) as peer, peer.makefile("rb") as lines:
            sent = 0
            while target.send(f"{sent} {'x' * 8000}", 6):
                sent += 1
            assert target.why == "it reads too slowly"
            assert not target.send("lost", 6, wait=0.01)
            got = b"".join(lines.readline() for _ in range(sent))
            assert target.send("again", 6, wait=LONG)
            got += b"".join(lines.readline() for _ in range(2))
    expected = [b"first", *(b"%d %b" % (number, b"x" * 8000) for number in range(sent)), b"again"]
    assert texts(got) == expected


def test_by_tcp_one_that_does_not_accept_holds_nobody(monkeypatch):
    """A connection that is not made is waited for once, and for a moment."""
    waits: list[float] = []
    has_room = datagrams.has_room

    def noted(sock: socket.socket, seconds: float) -> bool:
        waits.append(seconds)
        return has_room(sock, seconds)

    monkeypatch.setattr("halfsync.logs.streams.has_room", noted)
    with tcp_receiver(backlog=0) as receiver:
        address = receiver.getsockname()
        with socket.create_connection(address), socket.socket() as second:  # its queue is full
            second.setblocking(False)
            second.connect_ex(address)
            target = tcp_target(receiver)
            assert not target.send("lost", 6)
            assert target.why == "it does not accept the connection"
            assert not target.send("lost too", 6)
            assert sum(waits) == FIRST_WAIT


def test_by_tcp_a_file_that_has_taken_the_descriptors_number_is_not_written_to():
    with tcp_receiver() as receiver:
        target = tcp_target(receiver)
        assert sent_at_last(target, "one")
        made = target._sender._socket
        assert isinstance(target._sender, MessageStream)
        assert made is not None
        ours, theirs = socket.socketpair()
        with ours, theirs, accepted(receiver) as first:
            os.dup2(ours.fileno(), made.fileno())
            assert sent_at_last(target, "two")
            theirs.setblocking(False)
            with pytest.raises(BlockingIOError):
                theirs.recv(100)
            with accepted(receiver) as second:
                assert texts(first.recv(65536)) == [b"one"]
                assert texts(second.recv(65536)) == [b"two"]
        os.close(made.detach() if made.fileno() >= 0 else os.dup(0))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("server=unix:log", "begins with /"),
        ("server=unix:/" + "x" * 107, "107 bytes"),
        ("server=:514", "none of HOST"),
        ("server=a:0", "none of HOST"),
        ("server=a:65536", "none of HOST"),
        ("server=::1", "none of HOST"),
        ("server=no-such-host.invalid", "is not found"),
        ("server=" + "x" * 300, "is not found"),
        ("facility=local8", "is no facility"),
        ("severity=loud", "is no severity"),
        ("tag=a b", "the tag"),
        ("tag=", "the tag"),
        ("server=tcp://:514", "none of HOST"),
        ("server=tls://a:514", "none of HOST"),
        ("server=tcp://no-such-host.invalid", "is not found"),
        ("server=tcp://127.0.0.1,framing=json", "neither traditional nor octet-counted"),
        ("server=127.0.0.1,framing=traditional", "framing is for streams"),
        ("framing=octet-counted", "framing is for streams"),
        ("format=json", "neither rfc3164 nor rfc5424"),
        ("colour=red", "'colour' is not known"),
    ],
)
def test_a_target_that_is_none_is_told_in_a_sentence(text, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        syslog_of(text)


def test_what_is_a_target_and_what_is_a_file():
    assert isinstance(target_of("syslog:"), Syslog)
    assert isinstance(target_of("journald"), Journal)
    assert not any(
        map(is_target, (None, "", "-", "syslog.log", "./journald", "journald.log", "/var/log/syslog"))
    )


# --- the journal -------------------------------------------------------------------------------------


def entry(data: bytes) -> dict[str, str]:
    """What journald makes of an entry (its native protocol)."""
    found = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(data[:8], "little")
            value, data = data[8 : 8 + size], data[8 + size :]
            assert data[:1] == b"\n"
            data = data[1:]
        found[name.decode()] = value.decode()
    return found


def test_an_entry_has_fields_and_its_text_as_it_is(tmp_path):
    with unix_receiver(tmp_path / "socket") as receiver:
        target = Journal(str(tmp_path / "socket"))
        for text in ("plain", "a=b", "two\nlines\n", "MESSAGE=x\nPRIORITY=0", ""):
            assert target.send(text, 4, fields={"HALFSYNC_PROCESS": "pump"})
            assert entry(received(receiver, 1)[0]) == {
                "PRIORITY": "4",
                "SYSLOG_IDENTIFIER": "halfsync",
                "HALFSYNC_PROCESS": "pump",
                "MESSAGE": text,
            }


def test_a_large_entry_comes_in_a_sealed_file(tmp_path):
    text = "x" * 1_000_000
    with unix_receiver(tmp_path / "socket") as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert Journal(str(tmp_path / "socket")).send(text, 4)
        data, ancillary, _, _ = receiver.recvmsg(4096, socket.CMSG_SPACE(4))
    assert data == b""
    fds = array.array("i", ancillary[0][2])
    with open(fds[0], "rb") as file:
        file.seek(0)
        assert entry(file.read())["MESSAGE"] == text
        with pytest.raises(PermissionError):
            os.pwrite(fds[0], b"x", 0)


def test_records_are_entries_with_what_can_be_searched_for(tmp_path):
    head = b"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n"
    record = LogRecord(1.5, "192.0.2.1 0", head, 200, 5, 100, 10, 20, 300, 0, 0)
    with unix_receiver(tmp_path / "socket") as receiver:
        assert send_all(Journal(str(tmp_path / "socket")), [record, record], b"line 1\nline 2\n") == 0
        one, two = map(entry, received(receiver, 2))
    assert (one["MESSAGE"], two["MESSAGE"]) == ("line 1", "line 2")
    assert (one["HALFSYNC_CLIENT"], one["HALFSYNC_METHOD"], one["HALFSYNC_TARGET"]) == (
        "192.0.2.1",
        "GET",
        "/a?b",
    )
    assert (one["HALFSYNC_STATUS"], one["HALFSYNC_TOTAL_USEC"], one["PRIORITY"]) == ("200", "300", "6")
    assert send_all(Journal(str(tmp_path / "nowhere")), [record, record], b"line 1\nline 2\n") == 2
