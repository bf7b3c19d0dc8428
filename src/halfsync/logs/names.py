"""Host names of clients' addresses, looked up in threads and remembered.

A lookup waits for other people's servers, for up to some ten seconds, and nothing tells beforehand. So nobody
waits for one but a thread that is for it: whoever wants a name asks for it, goes on, and takes what is there
when it has waited long enough. The system's resolver is asked, so /etc/hosts counts.

`double`: a name counts if it has the address in turn, for whoever has an address may give it any name.
"""

from __future__ import annotations

import ipaddress
import re
from collections import deque
from collections.abc import Callable

from halfsync.system.primitives import socket, threading, time

KEPT = 3600.0
NOT_FOUND_KEPT = 600.0
"""Seconds for which a name, or that there is none, is remembered."""
MOST = 20_000
"""Addresses that are remembered, and that may wait to be looked up."""
THREADS = 16

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9_])?")

Lookup = Callable[[str], str]
"""The name of an address; "" if it has none. Raises nothing."""


def name_of(address: str) -> str:
    try:
        name, _ = socket.getnameinfo((address, 0), socket.NI_NAMEREQD)
    except (OSError, UnicodeError):
        return ""
    return name if _NAME.fullmatch(name) else ""  # a name may be anything, and this stands in a log


def name_of_checked(address: str) -> str:
    """The same, if the name has this address."""
    name = name_of(address)
    try:
        there = {one[4][0] for one in socket.getaddrinfo(name, None)} if name else set()
    except (OSError, UnicodeError):
        return ""
    return name if address in {str(one).partition("%")[0] for one in there} else ""


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class Names:
    """`name` and `wait` are for one thread at a time."""

    def __init__(self, *, double: bool = False, lookup: Lookup | None = None, threads: int = THREADS) -> None:
        self._lookup = lookup or (name_of_checked if double else name_of)
        self._most_threads = threads
        self._threads = 0
        self._idle = 0
        self._known: dict[str, tuple[str, float]] = {}  # name or "", and until when that counts
        self._due: deque[str] = deque()
        self._pending: set[str] = set()
        self._wanted: set[str] = set()  # since the last `wait`
        self._changed = threading.Condition()

    def name(self, address: str) -> str:
        """What is known now: the name, or the address; then it is looked up."""
        found = self._found(address)
        if found is None and is_address(address):
            with self._changed:
                found = self._found(address)  # it may have come in this moment
                if found is None:
                    self._ask(address)
        return found or address

    def _found(self, address: str) -> str | None:
        """None: it is not known."""
        name, until = self._known.get(address, ("", 0.0))
        return name if time.monotonic() < until else None

    def wait(self, seconds: float) -> bool:
        """Until the names are there that `name` did not know since the last time, or have taken so long.
        False if there were none."""
        wanted, self._wanted = self._wanted, set()
        if not wanted:
            return False
        with self._changed:
            self._changed.wait_for(lambda: not (wanted & self._pending), seconds)
        return True

    def _ask(self, address: str) -> None:
        if address not in self._pending:
            if len(self._pending) >= MOST:
                return
            self._pending.add(address)
            self._due.append(address)
            if self._idle < len(self._due) and self._threads < self._most_threads:
                self._start()
            self._changed.notify_all()
        self._wanted.add(address)

    def _start(self) -> None:
        try:
            threading.Thread(target=self._work, name="names", daemon=True).start()
        except RuntimeError:  # no room for a thread: those that there are do it
            return
        self._threads += 1

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: bool(self._due))
                self._idle -= 1
                address = self._due.popleft()
            name = self._lookup(address)
            until = time.monotonic() + (KEPT if name else NOT_FOUND_KEPT)
            with self._changed:
                if len(self._known) >= MOST:
                    del self._known[next(iter(self._known))]
                self._known[address] = (name, until)
                self._pending.discard(address)
                self._changed.notify_all()
