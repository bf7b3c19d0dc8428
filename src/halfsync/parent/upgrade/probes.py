"""Before a new version takes over at an upgrade, it has to serve what `upgrade_probe` names.

That an application can be imported says little: a library that was built for another Python crashes when it
is called first, a template is missing, the new database's password is wrong. So each request is sent through
the new version's own pump, which accepts nobody yet: by a connection that is handed to it as the old version
will hand over its own (wire/upgrade.py), whose other end is here. What it gets is a request like any other,
from 127.0.0.1, by the rules of an address where clients will come; but without TLS.

Of the response the status is read, and nothing else. From 200 to 399 is right, as for Kubernetes.
"""

from __future__ import annotations

import re
import select
import socket

from halfsync import __version__, channel
from halfsync.http.hosts import HostTable
from halfsync.parent.workers.children import Child
from halfsync.plan.plan import Plan
from halfsync.settings.probes import Probe, probes_of
from halfsync.wire import orders
from halfsync.wire.phrases import PHRASES
from halfsync.wire.upgrade import Passed, encode

SECONDS = 20.0
"""For all the responses. Less than the old version waits beside the imports (upgrades.BESIDE_IMPORTS)."""
CLIENT = "127.0.0.1"
MAX_HEADS = 256 * 1024
"""Bytes of responses before the last one's status: "103 Early Hints" and its like."""
_NOWHERE = -1

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


class NotServed(Exception):
    """A new version does not serve what it should. `str()` is a sentence."""


class Probes:
    """Of one upgrade."""

    def __init__(self) -> None:
        self._sent: list[_Sent] | None = None
        self._until = 0.0

    def are_over(self, plan: Plan, pump: Child, now: float) -> bool:
        """Whether all have been responded to. To be called in each turn. Raises NotServed, or OSError if
        there is no room for them now."""
        if self._sent is None:
            self._sent = self._begin(plan, pump, now)
        try:
            self._sent = [one for one in self._sent if not one.is_over()]
            if self._sent and now >= self._until:
                raise NotServed(
                    f"{self._sent[0].named} was not responded to within {SECONDS:g} s (upgrade_probe)."
                )
        except NotServed:
            self._close()
            raise
        return not self._sent

    def _close(self) -> None:
        for one in self._sent or ():
            one.sock.close()
        self._sent = []

    def _begin(self, plan: Plan, pump: Child, now: float) -> list[_Sent]:
        probes = probes_of(plan.settings.upgrade_probe)
        if not probes:
            return []
        self._until = now + SECONDS
        sent: list[_Sent] = []
        theirs: list[socket.socket] = []
        try:
            for probe in probes:
                ours, other = socket.socketpair()
                other.setblocking(False)
                theirs.append(other)
                sent.append(_Sent(probe, ours))
            self._pass_on([_place_for(probe, plan) for probe in probes], theirs, pump)
        except OSError:
            for one in sent:
                one.sock.close()
            raise
        finally:
            for sock in theirs:
                sock.close()
        return sent

    def _pass_on(self, places: list[int], connections: list[socket.socket], pump: Child) -> None:
        """As connections that were accepted there, and have said nothing yet. Raises OSError."""
        packet = encode([Passed(place, "FRESH", CLIENT, deadline=self._until) for place in places])
        descriptors = tuple(one.fileno() for one in connections)
        ours, theirs = channel.pair()
        with ours, theirs:
            if channel.send(ours, packet, descriptors) is not channel.SendResult.YES:
                raise OSError("there is no room for the descriptors")
            pump.order(orders.TakeOver({place: place for place in places}), (theirs.detach(),))

    def register(self, poller: select.poll) -> None:
        for one in self._sent or ():
            poller.register(one.sock, select.POLLIN)

    def forget_in_child(self) -> None:
        """In a forked process: the descriptors are closed already."""
        for one in self._sent or ():
            one.sock.detach()


class _Sent:
    """A request whose response is awaited."""

    def __init__(self, probe: Probe, sock: socket.socket) -> None:
        self.named = f"GET {probe.target} of {probe.host}"
        self.sock = sock
        self._received = b""
        sock.setblocking(False)
        sock.send(
            f"GET {probe.target} HTTP/1.1\r\nHost: {probe.host}\r\nUser-Agent: halfsync/{__version__} "
            "(upgrade probe)\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode()
        )

    def is_over(self) -> bool:
        """Raises NotServed."""
        try:
            while data := self.sock.recv(65536):
                self._received += data
                if (status := self._status()) is not None:
                    return self._judged(status)
        except BlockingIOError:
            return False
        except OSError:
            pass
        raise NotServed(f"{self.named} got no response: its connection was closed (upgrade_probe).")

    def _status(self) -> int | None:
        """Of the final response, when it is known."""
        while (found := _STATUS.match(self._received)) is not None:
            if (status := int(found[1])) >= 200:
                return status
            _, end, rest = self._received.partition(b"\r\n\r\n")
            if not end:
                break
            self._received = rest
        if len(self._received) > MAX_HEADS:
            raise NotServed(f"{self.named} got what is no response (upgrade_probe).")
        return None

    def _judged(self, status: int) -> bool:
        self.sock.close()
        if 200 <= status < 400:
            return True
        shown = f"{status} {PHRASES.get(status, '')}".strip()
        raise NotServed(f"{self.named} got {shown}; 200 to 399 would be right (upgrade_probe).")


def _place_for(probe: Probe, plan: Plan) -> int:
    """An address where clients come for this host: its index in Plan.listeners."""
    served = [
        place
        for place, one in enumerate(plan.listeners)
        if not (one.is_removed or plan.is_for_health(place))
        and not (plan.settings.redirect_http and one.scheme == "http" and one.port)
    ]
    host = probe.host.encode()
    named = [place for place in served if _hosts_at(plan, place).find(host) != _NOWHERE]
    return (named or served or [0])[0]


def _hosts_at(plan: Plan, place: int) -> HostTable[int]:
    return HostTable(((site, plan.sites[site].hosts) for site in plan.listeners[place].sites), _NOWHERE)
