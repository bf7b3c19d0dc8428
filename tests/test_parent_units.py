"""The parent's parts, each alone."""

from __future__ import annotations

import errno
import itertools
import os
import re
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from halfsync import channel
from halfsync.logs import error
from halfsync.parent import listeners, privileges
from halfsync.parent.logfiles import AccessLogFile
from halfsync.parent.service.pidfile import PidFile
from halfsync.parent.service.systemd import Notifier
from halfsync.parent.service.watchdog import Watchdog
from halfsync.parent.states import TRANSITIONS, ChildEvent, ChildState
from halfsync.parent.tree import Tree
from halfsync.parent.workers import joins, processes
from halfsync.parent.workers.backoff import DELAYS, Backoff
from halfsync.parent.workers.children import Child, ProtocolError, Role
from halfsync.parent.workers.reaping import MOST_UNKNOWN, UnknownChildren
from halfsync.parent.workers.staffing import Staffing
from halfsync.plan.plan import Listener, Plan, PoolPlan
from halfsync.plan.schemes import scheme_of
from halfsync.settings.errors import SettingError
from halfsync.settings.table import Settings
from halfsync.wire import orders
from tests.descriptors import open_descriptors
from tests.e2e.harness import LONG
from tests.ports import free_port

# --- states


def test_every_state_can_end_and_be_killed():
    for state in ChildState:
        if state is not ChildState.ENDED:
            assert TRANSITIONS[state, ChildEvent.ENDED] is ChildState.ENDED
            assert TRANSITIONS[state, ChildEvent.KILLED] is ChildState.KILLED


def test_nothing_follows_the_end_and_every_state_is_reached():
    assert not [event for (state, event) in TRANSITIONS if state is ChildState.ENDED]
    assert set(TRANSITIONS.values()) | {ChildState.STARTING} == set(ChildState)


def test_only_a_ready_worker_is_made_known_to_the_pump():
    before = {state for (state, event) in TRANSITIONS if event is ChildEvent.JOINED}
    assert before == {ChildState.READY, ChildState.WORKING}


# --- backoff


def test_a_child_that_lived_is_replaced_at_once():
    backoff = Backoff()
    assert backoff.ended(now=100.0, lived=50.0, was_ready=True) == 0.0


def test_one_that_dies_at_the_start_is_tried_more_and_more_slowly():
    backoff = Backoff()
    waits = [backoff.ended(now=0.0, lived=0.1, was_ready=False) for _ in range(10)]
    assert waits == [*DELAYS, 30.0, 30.0]
    assert backoff.until == 30.0
    assert backoff.ended(now=0.0, lived=50.0, was_ready=True) == 0.0
    assert backoff.early_ends == 0


def test_one_that_had_been_ready_is_tried_every_second():
    backoff = Backoff()
    waits = [backoff.ended(now=0.0, lived=0.1, was_ready=True) for _ in range(5)]
    assert waits == [0.0, 0.5, 1.0, 1.0, 1.0]


# --- listeners


@pytest.mark.parametrize(
    ("address", "where"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("localhost:0", ("localhost", 0)),
        (":8000", ("0.0.0.0", 8000)),
        ("8000", ("127.0.0.1", 8000)),
        ("[::1]:80", ("::1", 80)),
        ("unix:/run/a:b.sock", "/run/a:b.sock"),
        ("unix:here.sock", "here.sock"),
        ("http://127.0.0.1:80", ("127.0.0.1", 80)),
        ("http://[::1]:80/", ("::1", 80)),
        ("HTTP://:80", ("0.0.0.0", 80)),
        ("tcp://0.0.0.0:80", ("0.0.0.0", 80)),
        ("0.0.0.0", ("0.0.0.0", 8000)),
        ("localhost", ("localhost", 8000)),
        ("[::]", ("::", 8000)),
    ],
)
def test_addresses(address, where):
    assert listeners.parse(address) == where


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host",
        "host:",
        "1.2.3.4:",
        "host:http",
        "host:65536",
        "host:-1",
        "::1:80",
        "unix:",
        "1.2.3.4:٣",
        "http://a",
        "shop..example:80",
        f"{'a' * 64}.example:80",
        f"http://{'ä' * 60}.example:80",
    ],
)
def test_addresses_that_are_none(address):
    with pytest.raises(SettingError, match=r"^bind "):
        listeners.parse(address)


def test_a_socket_by_number_is_refused_with_what_to_do():
    with pytest.raises(
        SettingError, match=r"^bind 'fd://3': a socket is not taken over by its number; .* left out\.$"
    ):
        listeners.parse("fd://3")


@pytest.mark.parametrize(
    "address", ["https://127.0.0.1", "https://host:80/path", "http://host:80/path", "ftp://x:1"]
)
def test_urls_that_can_not_be_bound(address):
    with pytest.raises(SettingError, match="must be"):
        listeners.parse(address)


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("https://", "https://"),
        ("http://[::1", "[::1"),
        ("http://::1]:80", "::1]:80"),
        ("[::1:80", "[::1:80"),
    ],
)
def test_what_is_said_of_half_an_address(address, named):
    with pytest.raises(SettingError, match=rf"^bind {re.escape(repr(named))} must be host:port, "):
        listeners.parse(address)


@pytest.mark.parametrize(
    ("address", "where"),
    [
        ("https://127.0.0.1:443", ("127.0.0.1", 443)),
        ("HTTPS://[::]:443/", ("::", 443)),
        ("http://host:80", ("host", 80)),
    ],
)
def test_urls_that_can_be_bound(address, where):
    assert listeners.parse(address) == where


@pytest.mark.parametrize(
    ("address", "scheme", "with_certificate"),
    [
        ("127.0.0.1:1", "http", "https"),
        ("1", "http", "https"),
        ("tcp://127.0.0.1:1", "http", "https"),
        ("http://127.0.0.1:1", "http", "http"),
        ("HTTPS://127.0.0.1:1", "https", "https"),
        ("unix:/run/a.sock", "http", "http"),
    ],
)
def test_a_certificate_means_https_where_nothing_else_is_said(address, scheme, with_certificate):
    assert scheme_of(address, Settings()) == scheme
    assert scheme_of(address, Settings(certfile=["a.pem"])) == with_certificate


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6")


def connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 5).close()
    except OSError:
        return False
    return True


@needs_ipv6
@pytest.mark.parametrize("others", [["0.0.0.0"], ["127.0.0.1"], ["localhost"]])
@pytest.mark.parametrize("v6_first", [False, True])
def test_the_same_port_for_ipv4_and_ipv6(others, v6_first):
    port = free_port()
    addresses = [f"{other}:{port}" for other in others]
    addresses = [f"[::]:{port}", *addresses] if v6_first else [*addresses, f"[::]:{port}"]
    bound = listeners.bind(Settings(bind=addresses))
    assert connects("127.0.0.1", port)
    assert connects("::1", port)
    listeners.close(bound)


@needs_ipv6
def test_ipv6_alone_takes_ipv4_clients_as_the_machine_is_set_up():
    only = Path("/proc/sys/net/ipv6/bindv6only").read_text().strip() == "1"
    bound = listeners.bind(Settings(bind=["[::]:0"]))
    assert connects("127.0.0.1", bound[0].port) is not only
    assert connects("::1", bound[0].port)
    listeners.close(bound)


def named(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """A host `many.test` with these addresses."""
    real = socket.getaddrinfo

    def found(host: str, *how: int, **more: int) -> list[tuple[object, ...]]:
        hosts = addresses if host == "many.test" else [host]
        return [one for address in hosts for one in real(address, *how, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", found)


def test_a_name_is_bound_at_all_its_addresses_that_this_machine_has(monkeypatch):
    named(monkeypatch, "203.0.113.7", "127.0.0.1", "127.0.0.2", "2001:db8::7")
    bound = listeners.bind(Settings(bind=["many.test:0"]))
    (port,) = {listener.port for listener in bound}
    assert [listener.address for listener in bound] == [f"127.0.0.1:{port}", f"127.0.0.2:{port}"]
    assert {listener.host for listener in bound} == {"many.test"}
    assert connects("127.0.0.1", port)
    assert connects("127.0.0.2", port)
    with pytest.raises(SettingError, match="in use"):  # at one of them: no half service
        listeners.bind(Settings(bind=[f"127.0.0.3:{port}", f"many.test:{port}"]))
    listeners.close(bound)


def test_a_name_of_which_no_address_is_here(monkeypatch):
    named(monkeypatch, "203.0.113.7", "2001:db8::7")
    with pytest.raises(SettingError, match=r"bind 'many.test:0': this machine has no such address\."):
        listeners.bind(Settings(bind=["many.test:0"]))


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("[::]:8000", "there is no IPv6 here; write 0.0.0.0:8000."),
        ("[::1]:8000", "there is no IPv6 here; write 127.0.0.1:8000."),
        ("[2001:db8::7]:8000", "there is no IPv6 here."),
        ("many.test:8000", "there is no IPv6 here."),
    ],
)
def test_a_machine_without_ipv6(monkeypatch, address, words):
    named(monkeypatch, "2001:db8::7")
    real = socket.socket

    def without_ipv6(family: int, *more: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return real(family, *more)

    monkeypatch.setattr(socket, "socket", without_ipv6)
    with pytest.raises(SettingError) as refused:
        listeners.bind(Settings(bind=[address]))
    assert str(refused.value) == f"bind {address!r}: {words}"


@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_a_unix_socket_has_its_mode_from_the_beginning(tmp_path, monkeypatch, umask):
    """No chmod(2) afterwards, which would follow a link."""
    monkeypatch.delattr(os, "chmod")
    before = os.umask(umask)
    try:
        bound = listeners.bind(Settings(bind=[f"unix:{tmp_path}/a"], unix_mode="0o620"))
        assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == 0o620
        assert os.umask(umask) == umask
        listeners.close(bound)
    finally:
        os.umask(before)


def test_accepted_sockets_inherit_nodelay():
    (listener,) = listeners.bind(Settings(bind=["127.0.0.1:0"]))
    with socket.create_connection(("127.0.0.1", listener.port)):
        listener.socket.setblocking(True)
        accepted, _ = listener.socket.accept()
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        accepted.close()
    listeners.close([listener])


def test_if_one_address_fails_none_stays_bound(tmp_path):
    (taken,) = listeners.bind(Settings(bind=["127.0.0.1:0"]))
    path = f"{tmp_path}/a.sock"
    with pytest.raises(SettingError, match="the address is in use by another program"):
        listeners.bind(Settings(bind=[f"unix:{path}", taken.address]))
    assert not os.path.exists(path)
    listeners.close([taken])


def test_an_address_that_this_server_has_itself_is_not_called_another_programs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    port = free_port()
    for addresses, reason in (
        ([f"127.0.0.1:{port}"] * 2, f"bind '127.0.0.1:{port}': it is named twice."),
        ([f"unix:{tmp_path}/a"] * 2, f"bind 'unix:{tmp_path}/a': it is named twice."),
        ([f"127.0.0.1:{port}", "unix:s", "unix:s"], "bind 'unix:s': it is named twice."),
        (
            [f"127.0.0.1:{port}", f"localhost:{port}"],
            f"bind 'localhost:{port}': 127.0.0.1:{port} is the same address.",
        ),
        (
            [f"0.0.0.0:{port}", f"127.0.0.1:{port}", f"localhost:{port}"],
            f"bind 'localhost:{port}': 127.0.0.1:{port} is the same address.",
        ),
    ):
        with pytest.raises(SettingError) as caught:
            listeners.bind(Settings(bind=addresses))
        assert str(caught.value) == reason


def connected_at(bound: tuple[Listener, ...], address: str, port: int) -> str:
    """As the listener is named to which the kernel gives a connection to that address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as client:
        client.connect((address, port))
        found, _, _ = select.select([one.socket for one in bound], [], [], LONG)
        found[0].accept()[0].close()
    (name,) = [one.host for one in bound if one.socket is found[0]]
    return name


@pytest.mark.parametrize(
    ("hosts", "given"),
    [
        (["0.0.0.0", "127.0.0.9"], {"127.0.0.9": "127.0.0.9", "127.0.0.1": "0.0.0.0"}),
        (["127.0.0.9", "0.0.0.0"], {"127.0.0.9": "127.0.0.9", "127.0.0.1": "0.0.0.0"}),
        (
            ["127.0.0.9", "0.0.0.0", "127.0.0.8", "[::]"],
            {"127.0.0.9": "127.0.0.9", "127.0.0.8": "127.0.0.8", "127.0.0.1": "0.0.0.0", "::1": "::"},
        ),
        (
            ["[::]", "[::1]", "127.0.0.9"],
            {"::1": "::1", "127.0.0.9": "127.0.0.9", "127.0.0.1": "::"},
        ),
        (["127.0.0.9", "[::]"], {"127.0.0.9": "127.0.0.9", "127.0.0.1": "::", "::1": "::"}),
        (["[::]", "*"], {"127.0.0.1": "0.0.0.0", "::1": "::"}),
    ],
)
def test_a_connection_is_given_to_the_nearest_address(hosts, given):
    port = free_port()
    bound = listeners.bind(Settings(bind=[f"{host}:{port}" for host in hosts]))
    for address, name in given.items():
        assert connected_at(bound, address, port) == name
    for host in hosts:  # a server that is started twice does not share them
        with pytest.raises(SettingError, match=r"the address is in use by another program\.$"):
            listeners.bind(Settings(bind=[f"{host}:{port}"]))
    listeners.close(bound)


def taken(host: str, port: int) -> bool:
    """By another program that has SO_REUSEPORT."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            other.bind((host.strip("[]"), port))
            other.listen()
        except OSError:
            return False
    return True


@pytest.mark.parametrize(
    "hosts",
    [
        *map(list, itertools.permutations(["0.0.0.0", "127.0.0.9"])),
        *map(list, itertools.permutations(["0.0.0.0", "[::]", "127.0.0.9", "127.0.0.8"])),
    ],
)
def test_no_other_program_shares_a_port_that_this_one_has_shared_with_itself(hosts):
    port = free_port()
    bound = listeners.bind(Settings(bind=[f"{host}:{port}" for host in hosts]))
    assert not [host for host in hosts if taken(host, port)]
    listeners.close(bound)


def test_no_other_program_shares_a_port_after_what_failed_or_was_added():
    port = free_port()
    settings = Settings(bind=[f"0.0.0.0:{port}"])
    present = listeners.bind(settings)
    wanted = [f"0.0.0.0:{port}", f"127.0.0.9:{port}"]
    listeners.close(listeners.bind_beside(settings, None, wanted, wanted[1:], present))
    assert not taken("0.0.0.0", port)
    assert not taken("127.0.0.9", port)
    added = listeners.bind_beside(settings, None, wanted, wanted[1:], present)
    listeners.listen(added, present, 10)
    assert not taken("0.0.0.0", port)
    assert not taken("127.0.0.9", port)
    listeners.close((*present, *added))


def test_nearer_addresses_are_listened_at_first(monkeypatch):
    """Or clients of theirs would be connected to the one that has all."""
    order: list[str] = []
    listens = socket.socket.listen

    def listen(self: socket.socket, backlog: int) -> None:
        order.append(self.getsockname()[0])
        listens(self, backlog)

    monkeypatch.setattr(socket.socket, "listen", listen)
    port = free_port()
    hosts = ("0.0.0.0", "127.0.0.9", "[::]", "127.0.0.8", "[::1]")
    settings = Settings(bind=[f"{host}:{port}" for host in hosts])
    listeners.close(listeners.bind(settings))
    assert order == ["127.0.0.9", "127.0.0.8", "::1", "0.0.0.0", "::"]
    order.clear()
    bound = listeners.bind_beside(settings, None, settings.bind, settings.bind, ())
    assert not order
    listeners.listen(bound, (), 10)
    assert order == ["127.0.0.9", "127.0.0.8", "::1", "0.0.0.0", "::"]
    listeners.close(bound)


def test_what_is_bound_beside_another_address_takes_no_client_until_it_listens():
    port = free_port()
    settings = Settings(bind=[f"0.0.0.0:{port}"])
    present = listeners.bind(settings)
    wanted = [f"0.0.0.0:{port}", f"127.0.0.9:{port}"]
    bound = listeners.bind_beside(settings, None, wanted, wanted[1:], present)
    assert connected_at((*present, *bound), "127.0.0.9", port) == "0.0.0.0"
    listeners.listen(bound, present, 10)
    assert connected_at((*present, *bound), "127.0.0.9", port) == "127.0.0.9"
    assert connected_at((*present, *bound), "127.0.0.1", port) == "0.0.0.0"
    listeners.close(present)
    assert connected_at(bound, "127.0.0.9", port) == "127.0.0.9"
    listeners.close(bound)


@pytest.mark.parametrize(
    ("steps", "is_told"),
    [
        ([["0.0.0.0", "[::]"], ["[::]"]], True),
        ([["0.0.0.0", "[::]"], ["0.0.0.0"]], False),
        ([["0.0.0.0"], ["[::]"]], False),
        ([["[::]"], ["[::]", "0.0.0.0"], ["[::]"]], False),
    ],
)
def test_where_ipv4_clients_are_lost_until_a_restart_it_is_told(capfd, steps, is_told):
    """[::] has not taken them where 0.0.0.0 did."""
    error.be("parent", "info", "text")
    port = free_port()
    first, *later = [[f"{host}:{port}" for host in hosts] for hosts in steps]
    present = listeners.bind(Settings(bind=first))
    for addresses in later:
        there = [one.bound_as for one in present]
        missing = [one for one in addresses if one not in there]
        added = listeners.bind_beside(Settings(bind=addresses), None, addresses, missing, present)
        listeners.listen(added, present, 10)
        kept = tuple(one for one in present if one.bound_as in addresses)
        listeners.note_lost_ipv4(present, (*kept, *added))
        listeners.close([one for one in present if one not in kept])
        present = (*kept, *added)
    listeners.close(present)
    assert (f"[::]:{port} has no IPv4 clients before a restart" in capfd.readouterr().err) == is_told


def test_an_address_that_is_present_is_not_bound_a_second_time():
    port = free_port()
    settings = Settings(bind=[f"127.0.0.9:{port}", f"0.0.0.0:{port}"])
    present = listeners.bind(settings)
    with pytest.raises(
        SettingError,
        match=rf"^bind '127.0.0.9:{port}': this server listens there already, at http://127.0.0.9",
    ):
        listeners.bind_beside(settings, None, settings.bind, settings.bind[:1], present)
    listeners.close(present)


def test_why_a_unix_socket_can_not_be_made_is_reported_with_its_folder(tmp_path, monkeypatch):
    with pytest.raises(
        SettingError, match=rf"^bind 'unix:{tmp_path}/no/a': there is no folder '{tmp_path}/no'\.$"
    ):
        listeners.bind(Settings(bind=[f"unix:{tmp_path}/no/a"]))

    def bind(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)
    for address, folder in ((f"unix:{tmp_path}/a", str(tmp_path)), ("unix:a", ".")):
        with pytest.raises(
            SettingError, match=rf"no permission to make a socket in the folder '{folder}'\.$"
        ):
            listeners.bind(Settings(bind=[address]))
    with pytest.raises(SettingError, match=r"permission denied \(ports below 1024 are often root's\)\.$"):
        listeners.bind(Settings(bind=["127.0.0.1:1"]))


def test_a_unix_socket_is_open_to_all_and_removed_at_the_end(tmp_path):
    path = f"{tmp_path}/a.sock"
    bound = listeners.bind(Settings(bind=[f"unix:{path}"]))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o666
    with pytest.raises(SettingError, match="in use"):
        listeners.bind(Settings(bind=[f"unix:{path}"]))
    listeners.close(bound)
    assert not os.path.exists(path)


def test_a_stale_unix_socket_gives_way_but_no_other_file(tmp_path):
    path = f"{tmp_path}/a.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    listeners.close(listeners.bind(Settings(bind=[f"unix:{path}"])))
    Path(path).write_text("precious")
    with pytest.raises(SettingError, match="there is a file of that name which is not a socket"):
        listeners.bind(Settings(bind=[f"unix:{path}"]))
    assert Path(path).read_text() == "precious"


def test_a_unix_socket_that_another_made_since_stays(tmp_path):
    path = f"{tmp_path}/a.sock"
    bound = listeners.bind(Settings(bind=[f"unix:{path}"]))
    os.rename(path, path + ".away")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        listeners.close(bound)
        assert os.path.exists(path)


def test_why_workers_are_not_joined_is_said_once_for_each_shortage(monkeypatch, capfd):
    """It is tried twenty times a second, for each of them."""
    shortage = [errno.EMFILE] * 10
    made = [((1000, 1001, 1002), (1003, 1004, 1005))]

    def make(_concurrency):
        if shortage:
            number = shortage.pop(0)
            raise OSError(number, os.strerror(number))
        return made.pop()

    monkeypatch.setattr(joins, "make", make)
    plan = Plan(Settings(), (), (PoolPlan("app:app", "app:app", 2, 8),), ())
    tree = Tree(plan)
    pump = Child(1, Role.PUMP, "pump", -1, 0, None, 0.0)
    tree.pumps.children.append(pump)
    staffing = Staffing(tree, None, UnknownChildren())  # type: ignore[arg-type]
    workers = [
        Child(number, Role.WORKER, "worker", 0, 0, None, 0.0, state=ChildState.READY) for number in (2, 3)
    ]
    for _ in range(3):
        for worker in workers:
            staffing.join(worker)
    said = capfd.readouterr().err
    assert said.count("can't be joined to the pump now") == 1
    assert "as many files open as it may (ulimit -n, LimitNOFILE)" in said
    assert workers[1].pump == pump.id


def test_what_waits_to_be_sent_is_sent_before_a_join_fails(monkeypatch):
    """It holds six descriptors for each worker."""
    ours, theirs = channel.pair()

    def make(_concurrency):
        if pump.has_unsent:
            raise OSError(errno.EMFILE, "too many")
        return (os.dup(0),), (os.dup(0),)

    monkeypatch.setattr(joins, "make", make)
    pump = Child(1, Role.PUMP, "pump", -1, 0, ours, 0.0)
    tree = Tree(Plan(Settings(), (), (PoolPlan("app:app", "app:app", 2, 8),), ()))
    tree.pumps.children.append(pump)
    staffing = Staffing(tree, None, UnknownChildren())  # type: ignore[arg-type]
    for number in range(2, 8):
        worker = Child(number, Role.WORKER, "worker", 0, 0, None, 0.0, state=ChildState.READY)
        staffing.join(worker)
        assert worker.pump == pump.id
        worker.close_channel()
    pump.close_channel()
    theirs.close()


# --- the pid file, the access log


def test_of_many_children_that_end_at_once_none_is_lost_to_who_waits_for_it():
    """Such as a new version's process, among the orphans that an application has left."""
    unknown = UnknownChildren()
    for pid in range(1, 2 * MOST_UNKNOWN):
        unknown.add(pid, pid << 8)
    assert unknown.take(1) == 1 << 8
    unknown.drop_oldest()
    assert unknown.take(2) is None
    assert unknown.take(MOST_UNKNOWN) == MOST_UNKNOWN << 8
    assert unknown.take(MOST_UNKNOWN) is None


def test_the_pid_file_is_held_while_its_server_lives(tmp_path):
    path = str(tmp_path / "pid")
    (tmp_path / "pid").write_text("1\n")  # left over by a dead one, whose number lives on
    held = PidFile(path)
    assert int(Path(path).read_text()) == os.getpid()
    with pytest.raises(SettingError, match=f"belongs to a running server, process {os.getpid()}"):
        PidFile(path)
    held.remove()
    assert not os.path.exists(path)


def test_a_named_pipe_without_a_reader_is_refused_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "log")
    with pytest.raises(SettingError, match=r"^access_logfile: the file .*/log can't be written: "):
        AccessLogFile(str(tmp_path / "log"))


def test_if_reopening_fails_the_old_access_log_stays(tmp_path):
    log = AccessLogFile(str(tmp_path / "log"))
    (tmp_path / "log").unlink()
    (tmp_path / "log").mkdir()
    with pytest.raises(IsADirectoryError):
        log.reopen()
    os.write(log.fd, b"still open")
    os.close(log.fd)


# --- privileges and processes


def in_a_child(
    entry: Callable[[], int], identity: privileges.Identity | None = None, imports: Collection[str] = ()
) -> int:
    start = processes.Start("test", "test", entry, [], identity, "error", "text", imports=imports)
    return os.waitstatus_to_exitcode(os.waitpid(processes.fork(start), 0)[1])


def test_a_child_ends_with_the_entrys_status_whatever_it_does(capfd):
    def raises() -> int:
        raise KeyError("oh")

    assert in_a_child(lambda: 7) == 7
    assert in_a_child(lambda: sys.exit(8)) == 8
    assert in_a_child(sys.exit) == 0
    assert in_a_child(raises) == processes.FAILED
    assert "ERROR ended by a bug: Traceback" in capfd.readouterr().err


def test_a_child_has_its_own_signals():
    """And the mask that its parent had before the fork."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])

    def looks() -> int:
        os.kill(os.getpid(), signal.SIGTERM)  # is for the parent to handle: nothing happens
        os.kill(os.getpid(), signal.SIGINT)
        fine = signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
        return int(not fine or signal.pthread_sigmask(signal.SIG_BLOCK, []) != mask)

    assert in_a_child(looks) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another")
def test_dropped_privileges_are_gone_for_good():
    identity = privileges.identity(Settings(user="65534", group="0"))
    assert identity is not None

    def looks() -> int:
        try:
            os.setuid(0)
        except PermissionError:
            return int(os.getresuid() != (65534,) * 3 or os.getresgid() != (0,) * 3)
        return 2

    assert in_a_child(looks, identity=identity) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another")
def test_modules_are_imported_before_privileges_are_dropped(tmp_path, monkeypatch):
    """Python may be installed where the user can't read it: the pump has its `ssl` nevertheless."""
    tmp_path.chmod(0o700)
    (tmp_path / "of_root_alone.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    identity = privileges.identity(Settings(user="65534"))

    def imports() -> int:
        try:
            import of_root_alone  # type: ignore[import-not-found]  # noqa: F401
        except ImportError:
            return 1
        return 0

    assert in_a_child(imports, identity, ["of_root_alone"]) == 0
    assert in_a_child(imports, identity) == 1


def test_how_it_ended():
    assert processes.how_it_ended(9) == "was killed by SIGKILL"
    assert processes.how_it_ended(3 << 8) == "exited with status 3"
    assert processes.how_it_ended(11 | 0x80) == "was killed by SIGSEGV and dumped core"


# --- channels


@pytest.fixture
def child_and_end():
    ours, theirs = channel.pair()
    ours.setblocking(False)
    child = Child(1, Role.WORKER, "worker(test)", 1, 0, ours, 0.0)
    yield child, theirs
    child.close_channel()
    theirs.close()


@pytest.mark.parametrize(
    "sent", [b"\xc1", b"garbage", b"\x91" * 5000, orders.encode(orders.Drain(1.0)), b"\x80"]
)
def test_a_malformed_report_is_a_protocol_error(child_and_end, sent):
    child, theirs = child_and_end
    theirs.send(sent)
    with pytest.raises(ProtocolError):
        child.receive()


def test_descriptors_that_come_with_a_report_are_closed(child_and_end):
    child, theirs = child_and_end
    before = open_descriptors()
    channel.send(theirs, orders.encode(orders.Ready(5)), (0, 1, 2))
    assert child.receive() == orders.Ready(5)
    assert open_descriptors() == before
    assert child.receive() is None
    assert child.channel is not None


def test_orders_wait_for_room_and_keep_their_descriptors(child_and_end):
    """Nothing is lost and nothing blocks, however slowly the child reads."""
    child, theirs = child_and_end
    before = open_descriptors()
    for _ in range(1000):
        child.order(orders.LogFile(), (os.dup(0),))
    child.flush(now=1.0)
    assert child.has_unsent
    assert child.stuck_since == 1.0
    arrived = 0
    while arrived < 1000:
        received = channel.receive(theirs)
        assert received is not None
        packet, descriptors = received
        assert orders.decode_order(packet) == orders.LogFile()
        assert len(descriptors) == 1
        channel.close_all(descriptors)
        arrived += 1
        child.flush(now=2.0)
    assert child.stuck_since == float("inf")
    assert open_descriptors() == before


def test_orders_to_the_dead_are_dropped(child_and_end):
    child, theirs = child_and_end
    before = open_descriptors()
    theirs.close()
    child.order(orders.LogFile(), (os.dup(0),))
    child.flush(now=1.0)
    assert not child.has_unsent
    assert child.receive() is None
    assert child.channel is None
    assert open_descriptors() == before - 2


# --- the error log


def test_a_record_is_one_line_and_further_ones_are_indented(capfd):
    error.be("worker(app:app)", "info")
    error.log("debug", "not said")
    error.log("warning", "first\nsecond\x1b[0m \udc80\n")
    said = capfd.readouterr().err
    when = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [+-]\d{4}"
    head = rf"{when} \[{os.getpid()}\] worker\(app:app\) WARNING "
    assert re.sub(head, "", said) == "first\n    second\\x1b[0m \\udc80\n"


def test_a_reader_that_has_stopped_does_not_stop_us():
    """Records are dropped, and when there is room again it is said how many."""
    writes = "from halfsync.logs import error\nfor n in range(36): error.log('error', f'{n} ' + 'x' * 2000)"
    code = f"{writes}\nimport sys; print('alive', flush=True); sys.stdin.read(1); error.log('error', 'end')"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        assert writer.stderr is not None
        assert writer.stdout.readline() == b"alive\n"
        os.set_blocking(writer.stderr.fileno(), False)
        before = writer.stderr.read() or b""
        os.set_blocking(writer.stderr.fileno(), True)
        writer.stdin.write(b"x")
        writer.stdin.close()
        after = writer.stderr.read()
    dropped = 36 - before.count(b"\n")
    assert dropped > 0
    assert f"(and {dropped} earlier records that found no room) end\n".encode() in after


# --- the watchdog


def watchdog_of(**environment: str) -> tuple[Watchdog, list[str]]:
    told: list[str] = []

    class Listening(Notifier):
        def alive(self) -> None:
            told.append("alive")

    found = Watchdog(environment, Listening())
    assert not environment
    return found, told


def test_the_watchdog_is_told_while_the_pump_responds(capfd):
    watchdog, told = watchdog_of(WATCHDOG_USEC="8000000", WATCHDOG_PID=str(os.getpid()))
    ours, theirs = channel.pair()
    pump = Child(1, Role.PUMP, "pump", -1, 0, ours, 0.0)
    watchdog.look(None, 100.0)  # it is being started
    watchdog.look(pump, 101.0)  # not due
    watchdog.look(pump, 102.0)  # it accepts nobody yet
    assert told == ["alive"] * 2
    pump.opened = True
    watchdog.look(pump, 104.0)
    assert len(told) == 3
    pump.flush(104.0)
    packet = channel.receive(theirs)
    assert packet is not None
    assert isinstance(orders.decode_order(packet[0]), orders.Ping)
    watchdog.look(pump, 106.0)  # it has not responded
    watchdog.look(pump, 108.0)
    assert len(told) == 3
    assert capfd.readouterr().err.count("does not respond") == 1
    pump.has_responded = True
    watchdog.look(pump, 110.0)
    assert len(told) == 4
    assert watchdog.due == 112.0
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "x"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "-1"},
    ],
)
def test_no_watchdog_is_told_if_none_asks_this_process(environment, capfd):
    watchdog, told = watchdog_of(**environment)
    watchdog.look(None, 1e9)
    assert told == []
    assert ("must be a number of microseconds" in capfd.readouterr().err) is (
        "WATCHDOG_PID" not in environment and bool(environment)
    )
