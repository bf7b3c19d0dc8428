"""systemd's two protocols: sockets that it made (sd_listen_fds(3)), and how far we are (sd_notify(3)).

Both are a few environment variables, which are meant for this process alone: they are removed, so that no
child takes them for its own.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping, Sequence

import msgspec

from halfsync.logs.error import log
from halfsync.parent.tcp_listeners import prepare_tcp
from halfsync.plan.plan import Listener
from halfsync.plan.schemes import scheme_of
from halfsync.settings.errors import SettingError
from halfsync.settings.table import Settings

FIRST = 3
"""The first inherited descriptor (SD_LISTEN_FDS_START)."""

MOST = 1000
"""More descriptors than this are a mistake."""


# --- inherited sockets


def inherited(environment: MutableMapping[str, str], settings: Settings) -> tuple[Listener, ...]:
    """The listening sockets that were handed over (LISTEN_FDS); they take the place of `bind`. None if there
    are none, or if they are meant for another process. Raises SettingError if one is no such socket.

    What is named `http` or `https` (FileDescriptorName= of the .socket unit) is for that; others are for what
    an address of `bind` would be that says neither."""
    count, pid = environment.pop("LISTEN_FDS", ""), environment.pop("LISTEN_PID", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    environment.pop("LISTEN_PIDFDID", None)
    if not count or count == "0":
        return ()
    if not (count.isascii() and count.isdigit() and int(count) <= MOST):
        raise SettingError(f"LISTEN_FDS must be a number of sockets, not {count!r}.")
    if pid != str(os.getpid()):
        log("warning", f"LISTEN_FDS is not for this process, but for {pid or 'none'} (LISTEN_PID); ignored.")
        return ()
    names += [""] * (int(count) - len(names))
    found = tuple(_of_scheme(_listener(FIRST + index), names[index], settings) for index in range(int(count)))
    if settings.health_bind:
        log("warning", "health_bind has no effect: the sockets are the service manager's.")
    addresses = ", ".join(listener.address for listener in found)
    log("info", f"LISTEN_FDS: serving at the sockets that were inherited, {addresses}, and not at `bind`.")
    return found


def _of_scheme(listener: Listener, name: str, settings: Settings) -> Listener:
    scheme = name if name in ("http", "https") else scheme_of(listener.address, settings)
    return msgspec.structs.replace(listener, scheme=scheme)


def _listener(descriptor: int) -> Listener:
    wrong = f"LISTEN_FDS: descriptor {descriptor} is not a listening stream socket"
    try:
        found = socket.socket(fileno=os.dup(descriptor))
    except OSError as error:
        raise SettingError(f"{wrong}: {error.strerror}.") from None
    listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if found.type != socket.SOCK_STREAM or not listens:
        raise SettingError(f"{wrong}.")
    if found.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        raise SettingError(f"{wrong} of a family that is served (IPv4, IPv6, unix).")
    os.close(descriptor)
    found.setblocking(False)
    name = found.getsockname()
    if found.family == socket.AF_UNIX:
        path = os.fsdecode(name)
        return Listener("unix:" + path.replace("\0", "@", 1), "", 0, found)
    prepare_tcp(found)
    host, port = name[:2]
    return Listener(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", host, port, found)


# --- notifications


class Notifier:
    """Tells the service manager how far we are; does nothing if none asked for it."""

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        """Takes NOTIFY_SOCKET: a path, or @name in the abstract namespace."""
        address = "" if environment is None else environment.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._failed = False
        self._status = self._outcome = ""
        self._is_reloading = self._is_stopping = self._is_held = False
        if address and address[0] not in "/@":
            log("warning", f"NOTIFY_SOCKET {address!r} is neither a path nor @name; nothing is sent there.")
            self._address = ""

    def ready(self, addresses: Sequence[str]) -> None:
        self._is_held = False
        self.serving_at(addresses)
        self._send(f"READY=1\nMAINPID={os.getpid()}\nSTATUS={self._status}")

    def serving_at(self, addresses: Sequence[str]) -> None:
        """From now on; told with what is told next."""
        self._status = f"Serving at {', '.join(addresses)}"

    @property
    def is_told(self) -> bool:
        """Somebody wants to know, and so can be told of another process."""
        return bool(self._address)

    def hold(self) -> None:
        """Say nothing until `ready`: another process is the service's main one."""
        self._is_held = True

    def hand_over(self, process: int) -> None:
        """That process is the main one from now on, and says what there is to say."""
        self._send(f"MAINPID={process}\nSTATUS=Upgraded")
        self._is_held = True

    def take_back(self) -> None:
        """It is not."""
        self._is_held = False
        self._send(f"MAINPID={os.getpid()}")

    def reloading(self) -> None:
        self._is_reloading, self._outcome = True, ""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now}\nSTATUS=Reloading")

    def reload_failed(self) -> None:
        self._outcome = "Reload failed, the old workers keep serving. "

    def upgrade_failed(self) -> None:
        self._outcome = "Upgrade failed, the running version keeps serving. "
        self.reload_is_over()

    def reload_is_over(self) -> None:
        """Whatever came of it. May be called at any time."""
        if self._is_reloading:
            self._is_reloading = False
            self._send(f"READY=1\nSTATUS={self._outcome}{self._status}")

    def stopping(self) -> None:
        """May be called again."""
        if self._is_stopping:
            return
        self._is_stopping = True
        self._send("STOPPING=1\nSTATUS=Stopping")

    def alive(self) -> None:
        """To its watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        """Never waits, and never raises: a service manager that does not read must not stop us."""
        if not self._address or self._is_held:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(text.encode(), self._address)
        except (OSError, ValueError) as error:
            if not self._failed:
                log("warning", f"NOTIFY_SOCKET: the service manager can't be told: {error}.")
            self._failed = True
        else:
            self._failed = False
