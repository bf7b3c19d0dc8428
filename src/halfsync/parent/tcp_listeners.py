"""TCP sockets to listen at, some of them beside one that has all addresses of their port.

Linux lets 0.0.0.0:443 and 192.0.2.7:443 be listened at together, and gives a connection to the nearer one,
only if both have SO_REUSEPORT when the second is bound, and when it begins to listen. They have it for these
moments alone: with it for good, a server that is started twice by mistake would share the connections with
the first one instead of being told that the address is in use.

Nearer addresses are listened at first: or clients of theirs would be connected to the one that has all.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from halfsync.logs.error import log
from halfsync.parent.shortages import in_words
from halfsync.plan.plan import Listener
from halfsync.settings.table import Settings

EVERYWHERE = frozenset(("0.0.0.0", "::"))


def bind_tcp(
    host: str, port: int, settings: Settings, beside_ipv4: bool, present: Sequence[socket.socket]
) -> list[Listener]:
    """Bound, and not listening yet, at all addresses that the host has; those that this machine does not have
    are left out, unless no other is there. `present`: what this process has bound already. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    made: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, address in dict.fromkeys((family, where) for family, _, _, _, where in found):
            # Port 0 is any free one, but the same for all.
            where = (address[0], made[0].getsockname()[1], *address[2:]) if made and not port else address
            try:
                made.append(_bind_address(family, where, settings, beside_ipv4, present))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
                if len(found) > 1:
                    log(
                        "info",
                        f"{host} is also {address[0]}, which is left out: {why_not(error, (host, port))}.",
                    )
    except OSError:
        for one in made:
            one.close()
        raise
    if not made and missing is not None:
        raise missing
    names = [host] if len(made) == 1 else [str(one.getsockname()[0]) for one in made]
    return [_listener(one, name, host) for one, name in zip(made, names, strict=True)]


def _listener(bound: socket.socket, shown: str, host: str) -> Listener:
    port = bound.getsockname()[1]
    return Listener(f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}", host, port, bound)


def _bind_address(
    family: int, where: Any, settings: Settings, beside_ipv4: bool, present: Sequence[socket.socket]
) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and beside_ipv4:
            # [::] alone takes IPv4 clients too (net.ipv6.bindv6only); where 0.0.0.0 has them, it need not.
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if settings.reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        elif any(one.family == family and one.getsockname() == where for one in present):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))  # (bind(2) might let it be)
        prepare_tcp(bound)
        try:
            bound.bind(where)
        except OSError as error:
            # (Not with SO_REUSEPORT at once: where none of ours is in the way, another program's is noticed.)
            overlapping = [one for one in present if _overlap(bound, where, one)]
            if error.errno != errno.EADDRINUSE or not overlapping:
                raise
            with _port_shared([bound, *overlapping]):
                bound.bind(where)
    except OSError:
        bound.close()
        raise
    return bound


def listen(bound: socket.socket, backlog: int, present: Sequence[socket.socket]) -> None:
    """`present`: the others that this server has bound. Raises OSError."""
    where = bound.getsockname()
    with _port_shared([bound, *(one for one in present if _overlap(bound, where, one))]):
        bound.listen(backlog)


def rank(bound: socket.socket) -> tuple[bool, bool]:
    """In which order to listen. [::] is last: if it shares its port with no other, the kernel forgets that
    others have (see `_forget_sharing`)."""
    return bound.getsockname()[0] in EVERYWHERE, bound.family == socket.AF_INET6


def _overlap(one: socket.socket, where: Any, other: socket.socket) -> bool:
    """Whether one of them has all addresses of their port, and so the other's. `where`: of the first, which
    need not be bound yet."""
    there = other.getsockname()
    if there[1] != where[1]:
        return False
    if one.family == other.family:
        return not EVERYWHERE.isdisjoint((there[0], where[0]))
    ipv6, name = (one, where) if one.family == socket.AF_INET6 else (other, there)
    return name[0] in EVERYWHERE and not ipv6.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


@contextlib.contextmanager
def _port_shared(sockets: Sequence[socket.socket]) -> Iterator[None]:
    """With SO_REUSEPORT where there are several, and afterwards as they were."""
    changed = []
    try:
        for one in sockets if len(sockets) > 1 else ():
            if not one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                changed.append(one)
        yield
    finally:
        for one in changed:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        if changed:
            _forget_sharing(sockets[-1].getsockname()[1])


def _forget_sharing(port: int) -> None:
    """The kernel remembers of a port that the last socket which was bound there had SO_REUSEPORT, and would
    let another program of this user that has it, too, take that socket's address. Until one without it is
    bound: at an address where nobody listens at that port. (If there is none, because 0.0.0.0 and [::] are
    both listened at, or a [::] that takes IPv4 clients, it remains.)"""
    for family, host in ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.255.255.254")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as brief:
            brief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                brief.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            brief.bind((host, port))
            return


def prepare_tcp(listening: socket.socket) -> None:
    """Accepted sockets inherit it, which saves a system call for each connection."""
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def why_not(error: OSError, where: tuple[str, int]) -> str:
    """Why there is no socket, as the end of a sentence."""
    if error.errno == errno.EADDRINUSE:
        return "the address is in use by another program"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    if error.errno == errno.EACCES:
        return "permission denied (ports below 1024 are often root's)"
    if error.errno == errno.EINVAL:
        return "no socket can be bound there" + (_SCOPE if where[0].lower().startswith("fe80:") else "")
    if error.errno == errno.EAFNOSUPPORT:
        ipv4 = _IN_IPV4.get(where[0])
        return "there is no IPv6 here" + (f"; write {ipv4}:{where[1]}" if ipv4 else "")
    return in_words(error)


_SCOPE = " without the name of the network interface, as in [fe80::1%eth0]:80"
_IN_IPV4 = {"::": "0.0.0.0", "::1": "127.0.0.1"}

_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
"""One of a name's addresses is not this machine's, or it has no IPv6."""
