"""The new version's side of an upgrade: what it takes over from the one that started it, and when.

Until `HandedOver` comes, the running version serves, and nothing that it has is changed: whatever we inherit,
the pid file, the control socket, the unix sockets' names, is ours only from then on. So a new version that
fails leaves no trace.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import MutableMapping, Sequence

import msgspec

from halfsync import __version__, channel
from halfsync.logs.error import log
from halfsync.parent import listeners
from halfsync.parent.limits import EXIT_WRONG
from halfsync.parent.privileges import Identity
from halfsync.parent.reload import certificates
from halfsync.parent.service.control_socket import ControlSocket
from halfsync.parent.service.pidfile import PidFile
from halfsync.parent.upgrade.probes import NotServed, Probes
from halfsync.parent.workers.children import Child
from halfsync.parent.workers.pools import WorkerPool
from halfsync.plan.plan import Listener, Plan
from halfsync.plan.schemes import scheme_of
from halfsync.settings.errors import SettingError
from halfsync.settings.table import Settings
from halfsync.tls.certificates import Certificates
from halfsync.wire import upgrade

_MOST_TRACEBACK = 32 * 1024
"""Bytes of it, the last ones."""
_MOST_INHERITED = 1024 * 1024


class Predecessor:
    """`has_left`: it has handed over. `keeper`: the channel to the process that the service manager knows, if
    there is one. `is_gone`: the end of the channel has come."""

    def __init__(self, sock: socket.socket, inherited: upgrade.Inherited) -> None:
        self._sock = sock
        self._inherited = inherited
        self._sockets: dict[int, socket.socket] = {}  # by their places there
        self._taken: list[int] = []
        self._added: tuple[Listener, ...] = ()  # where it does not listen
        self._owned_files: list[tuple[str, tuple[int, int] | None]] = []
        self._is_asked = False
        self._probes = Probes()
        self.has_left = False
        self.keeper: socket.socket | None = None
        self.is_gone = False
        for one in inherited.listeners:
            self._sockets[one.place] = _adopted(one.fd)
        for fd in self._files():
            os.set_inheritable(fd, False)

    def _files(self) -> list[int]:
        """Of which nothing has been made yet."""
        inherited = self._inherited
        files = (inherited.pid_file, inherited.control_socket)
        found = [one.fd for one in files if one is not None]
        return [*found, *(fd for fd in (inherited.certificates, inherited.counted) if fd >= 0)]

    @property
    def version(self) -> int:
        """Of the conversation."""
        return self._inherited.version

    # --- what is said

    def say(self, message: upgrade.Begun | upgrade.CantStart | upgrade.Prepared | upgrade.IsServing) -> bool:
        return channel.send(self._sock, upgrade.encode(message)) is channel.SendResult.YES

    def begun(self, settings: Settings) -> None:
        self.say(upgrade.Begun(__version__, settings.startup_timeout))

    def failed(self, sentences: Sequence[str], traceback: str = "") -> bool:
        """Whether it will tell it: else we have to."""
        sentences = [" ".join(sentence.split()) for sentence in sentences]
        return not self.has_left and self.say(upgrade.CantStart(sentences, traceback[-_MOST_TRACEBACK:]))

    # --- what is inherited

    def listeners(
        self, settings: Settings, identity: Identity | None, addresses: Sequence[str]
    ) -> tuple[Listener, ...]:
        """Those that are wanted, and new ones for addresses where there is none, which listen when `prepare`
        says that we could serve. Raises SettingError."""
        if all(not one.bound_as for one in self._inherited.listeners):
            log("info", "the sockets are the service manager's; they take the place of `bind`.")
            return tuple(self._take(one, one.scheme, "") for one in self._inherited.listeners)
        found: list[Listener] = []
        missing: list[str] = []
        for address in addresses:
            scheme = scheme_of(address, settings)
            same = self._bound_as(address, scheme)
            found += [self._take(one, scheme, address) for one in same]
            if not same:
                missing.append(address)
        for listener in found:
            try:
                listener.socket.listen(settings.backlog)  # which may have changed
            except OSError:
                pass
        self._added = listeners.bind_beside(settings, identity, addresses, missing, self._present())
        return (*found, *self._added)

    def _present(self) -> list[Listener]:
        """All that it listens at, whether it is wanted or not."""
        return [
            Listener(
                one.address,
                one.host,
                one.port,
                self._sockets[one.place],
                bound_as=one.bound_as,
                scheme=one.scheme,
            )
            for one in self._inherited.listeners
        ]

    def _bound_as(self, address: str, scheme: str) -> list[upgrade.InheritedListener]:
        """(A name may stand for several sockets; and what is spoken there may have changed. But if several
        have the same address, as with port 0, each is for its scheme.)"""
        where = listeners.parse(address)
        same = [one for one in self._inherited.listeners if listeners.parse(one.bound_as) == where]
        if len({one.bound_as for one in same}) > 1:
            same = [one for one in same if one.scheme == scheme]
        return [one for one in same if one.place not in self._taken]

    def _take(self, one: upgrade.InheritedListener, scheme: str, bound_as: str) -> Listener:
        self._taken.append(one.place)
        self._owned_files.append((one.address, one.file))
        sock = self._sockets[one.place]
        return Listener(one.address, one.host, one.port, sock, bound_as=bound_as, scheme=scheme)

    def pid_file(self, path: str, identity: Identity | None) -> PidFile:
        """The same one if it is the same path. Raises SettingError."""
        inherited = self._inherited.pid_file
        if inherited is None or inherited.path != os.path.abspath(path):
            return PidFile(path, identity)
        self._inherited.pid_file = None
        return PidFile(path, identity, inherited=inherited.fd)

    def control_socket(self, path: str, mode: int, identity: Identity | None) -> ControlSocket:
        """The same. Raises SettingError."""
        inherited = self._inherited.control_socket
        if inherited is None or inherited.path != os.path.abspath(path):
            return ControlSocket(path, mode, identity)
        self._inherited.control_socket = None
        self._owned_files.append((f"unix:{inherited.path}", inherited.file))
        return ControlSocket(path, mode, identity, inherited=_adopted(inherited.fd))

    def keep_sessions(self, found: Certificates | None) -> None:
        """Clients that have a session with the running version can resume it with this one."""
        before = Certificates((), self._inherited.certificates, self._inherited.tickets)
        if found is not None and before.fd >= 0:
            try:
                certificates.keep_sessions(before, found)
            except OSError:
                pass  # then they shake hands once more
        certificates.close(before if before.fd >= 0 else None)
        self._inherited.certificates = -1

    def take_counted(self) -> int:
        """The descriptor of what is counted there, which is the caller's from now on; -1: there is none."""
        counted, self._inherited.counted = self._inherited.counted, -1
        return counted

    def keep_sizes(self, pools: Sequence[WorkerPool]) -> None:
        """Pools of a name begin with the size of those of the same name, in order."""
        sizes = list(self._inherited.sizes)
        for pool in pools:
            same = next((one for one in sizes if one[0] == pool.name), None)
            if same is not None:
                sizes.remove(same)
                pool.start_with(same[1])

    # --- handing over

    def prepare(self, plan: Plan, pump: Child, now: float) -> tuple[socket.socket, dict[int, int]] | None:
        """Say that we could serve; once, and when that is tried. Gives the pump's end of the channel between
        the pumps, and the places of the listeners whose connections it gets, by what they are there. Raises
        OSError, and NotServed if it can't take over."""
        if self._is_asked or not self._probes.are_over(plan, pump, now):
            return None
        self._listen(plan.settings.backlog)
        places = self._places(plan)
        ours, theirs = channel.pair()
        with theirs:
            taken = self._inherited.pid_file is None, self._inherited.control_socket is None
            message = upgrade.Prepared(sorted(places), sorted(self._taken), *taken)
            sent = channel.send(self._sock, upgrade.encode(message), (theirs.fileno(),))
        if sent is not channel.SendResult.YES:
            ours.close()
            return None
        self._is_asked = True
        return ours, places

    def _listen(self, backlog: int) -> None:
        """At what is new; and no longer at what is not wanted, before that one closes its own: or clients
        would be connected whom nobody accepts. Raises NotServed."""
        added, self._added = self._added, ()
        try:
            listeners.listen(added, self._present() if added else (), backlog)
        except SettingError as wrong:
            raise NotServed(str(wrong)) from None
        for place in self._sockets.keys() - set(self._taken):
            self._sockets.pop(place).close()

    def _places(self, plan: Plan) -> dict[int, int]:
        """Where the same is spoken as before."""
        there = {one.place: (one.scheme, one.is_proxied) for one in self._inherited.listeners}
        found = {}
        for old, sock in self._sockets.items():
            for new, listener in enumerate(plan.listeners):
                if listener.socket is sock and (listener.scheme, listener.is_proxied) == there[old]:
                    found[old] = new
        return found

    def own(self, identity: Identity | None) -> None:
        """What was the running version's to remove is ours from now on. To be called when it has handed
        over."""
        for address, file in self._owned_files:
            if file is not None:
                listeners.own(address, file, identity)

    def serving(self) -> None:
        """All of it is ours; there is no more to say to it."""
        self.say(upgrade.IsServing())
        channel.close_all(self._files())  # what we want none of
        if self.keeper is not self._sock:
            self._sock.close()

    def succeeded(self, pid: int) -> None:
        """Another process is the server now, which has the keeper's channel."""
        if self.keeper is not None:
            channel.send(self.keeper, upgrade.encode(upgrade.Succeeded(pid)))
            self.keeper.close()
            self.keeper = None

    def leave_to_the_exit(self) -> None:
        """The other ends take it for this process's end if these are closed, so nothing but that closes them.
        (Python would warn of sockets that are open then.)"""
        self._sock.detach()
        if self.keeper is not None:
            self.keeper.detach()

    # --- hearing

    @property
    def _heard(self) -> socket.socket | None:
        return self.keeper if self.has_left else self._sock

    def register(self, poller: select.poll) -> None:
        if self._heard is not None and not self.is_gone:
            poller.register(self._heard, select.POLLIN)
        self._probes.register(poller)

    def receive(self) -> list[int]:
        """Signals that came to the keeper since. The end, and that it has handed over, are noted."""
        signals: list[int] = []
        while (heard := self._heard) is not None and not self.is_gone:
            try:
                received = channel.receive(heard)
            except BlockingIOError:
                break
            if received is None:
                self.is_gone = True
                break
            packet, descriptors = received
            try:
                message = upgrade.decode_from_old(packet)
            except msgspec.MsgspecError as error:
                channel.close_all(descriptors)
                log("warning", f"the process before this one says what is not understood: {error}.")
                continue
            if isinstance(message, upgrade.Forwarded):
                signals.append(message.signal)
            else:
                self._handed_over(message, descriptors)
        return signals

    def _handed_over(self, message: upgrade.HandedOver, descriptors: list[int]) -> None:
        self.has_left = True
        if not message.keeper:
            channel.close_all(descriptors)
        elif descriptors:  # it has a keeper itself, which is ours now
            self.keeper = socket.socket(fileno=descriptors[0])
            self.keeper.setblocking(False)
        else:
            self.keeper = self._sock

    def forget_in_child(self) -> None:
        """In a forked process: the descriptors are closed already. (The listening sockets are the plan's.)"""
        self.leave_to_the_exit()
        self._probes.forget_in_child()


def _adopted(fd: int) -> socket.socket:
    """An inherited one. Raises OSError."""
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


_current: Predecessor | None = None


def find(environment: MutableMapping[str, str]) -> None:
    """Whether another version has started us, and what it lets us have. To be called first of all, and
    before anything copies the environment. Ends the process if the two do not understand each other."""
    global _current
    number = environment.pop(upgrade.VARIABLE, "")
    if not number.isdecimal():
        return
    try:
        sock = _adopted(int(number))
        packet = sock.recv(_MOST_INHERITED)
        _current = Predecessor(sock, upgrade.decode_inherited(packet))
    except (OSError, msgspec.MsgspecError) as error:
        log("warning", f"{upgrade.VARIABLE} is set, but not by a running server ({error}); ignored.")
        return
    if _current.version != upgrade.VERSION:
        _current.failed(["the two versions do not understand each other: restart the server instead."])
        sys.exit(EXIT_WRONG)


def current() -> Predecessor | None:
    """Who has started us to take its place."""
    return _current
