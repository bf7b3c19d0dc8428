"""Logs to syslog: the target as it is written in a setting (nginx's way), and the messages.

    syslog:server=unix:/dev/log,facility=local7,tag=halfsync,severity=info,nohostname
    syslog:server=192.0.2.1:514,format=rfc5424
    syslog:server=tcp://192.0.2.1:514,framing=octet-counted

A message is what RFC 3164 describes, and what nginx and the C library send:

    <190>Nov 26 15:00:00 host halfsync[4711]: text

(to a unix socket without the host, for the receiver knows it), or that of RFC 5424:

    <190>1 2026-11-26T15:00:00.123456Z host halfsync 4711 - - text

Each line of a text is a message of its own: a line end within one is the end of it to many receivers. Other
control characters are escaped. A message has MAX_MESSAGE bytes at most; a longer one is cut, and ends in
"...".
"""

from __future__ import annotations

import ipaddress
import re

from halfsync.logs.datagrams import Address, Datagrams
from halfsync.logs.streams import NUL, MessageStream
from halfsync.system.primitives import os, socket, time

DEFAULT_SERVER = "unix:/dev/log"
DEFAULT_PORT = 514
MAX_MESSAGE = 8192
"""Bytes: what rsyslog takes, and more than RFC 5424 6.1 asks receivers to take (2048)."""

FACILITIES = (
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
    "local7",
)  # fmt: skip
"""By number (RFC 5424 6.2.1, with the C library's names)."""
SEVERITIES = {
    "emerg": 0, "alert": 1, "crit": 2, "error": 3, "err": 3, "warn": 4, "warning": 4, "notice": 5, "info": 6,
    "debug": 7,
}  # fmt: skip
OF_LEVELS = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""Severities of our own levels. (Also systemd's priorities.)"""

TCP, UDP = "tcp://", "udp://"
TRADITIONAL, COUNTED = "traditional", "octet-counted"
"""Values of framing=, with rsyslog's names."""

_WORDS = ("server", "facility", "severity", "tag", "format", "framing", "nohostname")
_TAG = re.compile(r"[A-Za-z0-9_./-]{1,48}")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_CONTROLS = {code: f"\\x{code:02x}" for code in [*range(32), 127, *range(128, 160)] if code != 9}


class Syslog:
    """Messages to one receiver."""

    def __init__(
        self,
        server: str,
        facility: int,
        severity: int,
        tag: str,
        host: str,
        *,
        modern: bool,
        framing: str = "",
    ) -> None:
        """`host`: "" for none. `framing`: of a stream. A unix socket with one is a stream; without one,
        whatever is there. Raises ValueError with a sentence."""
        self.name = f"syslog at {server}"
        self.severity = severity  # of the access log
        self._facility = facility
        self._tag = tag
        self._modern = modern
        address = address_of(server)
        self._host = "" if isinstance(address, str) and not modern else host
        is_stream = server.startswith(TCP) or bool(framing)
        self._address = address
        self._may_change = not is_stream
        self._sender = (
            MessageStream(address, is_counted=framing == COUNTED) if is_stream else Datagrams(address)
        )

    @property
    def why(self) -> str:
        """Why the last one was not sent."""
        return self._sender.why

    def send(self, text: str, severity: int, wait: float = 0.0) -> bool:
        """All its lines. False if one of them was not sent."""
        head = self._head(8 * self._facility + severity, time.time())
        is_sent = True
        for line in text.split("\n"):
            shown = line.translate(_CONTROLS) if not line.isprintable() else line
            if shown:
                data = cut(head + shown.encode("utf-8", "backslashreplace"))
                is_sent = self._send(data, wait) and is_sent
        return is_sent

    def _send(self, data: bytes, wait: float) -> bool:
        """To a unix socket of either kind, as the C library's syslog(3) does."""
        if self._try(data, wait):
            return True
        if not (self._may_change and self._sender.is_of_other_kind):
            return False
        is_stream = isinstance(self._sender, MessageStream)
        self._sender = Datagrams(self._address) if is_stream else MessageStream(self._address, end=NUL)
        return self._try(data, wait)

    def _try(self, data: bytes, wait: float) -> bool:
        try:
            return self._sender.send(data, wait)
        except OSError:  # this machine's socket takes less
            return self._sender.send(data[:1024], wait)

    def _head(self, priority: int, now: float) -> bytes:
        pid = os.getpid()
        if self._modern:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
            micro = int(now % 1 * 1e6)
            return f"<{priority}>1 {stamp}.{micro:06}Z {self._host or '-'} {self._tag} {pid} - - ".encode()
        local = time.localtime(now)
        clock = time.strftime("%H:%M:%S", local)
        stamp = f"{_MONTHS[local.tm_mon - 1]} {local.tm_mday:2d} {clock}"
        host = f" {self._host}" if self._host else ""
        return f"<{priority}>{stamp}{host} {self._tag}[{pid}]: ".encode()


def cut(data: bytes) -> bytes:
    """A message of MAX_MESSAGE bytes at most, whose UTF-8 is whole."""
    if len(data) <= MAX_MESSAGE:
        return data
    return data[: MAX_MESSAGE - 3].decode("utf-8", "ignore").encode() + b"..."


def syslog_of(text: str) -> Syslog:
    """`text`: what follows "syslog:". Raises ValueError with a sentence."""
    given: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in _WORDS:
            known = "=, ".join(_WORDS)
            raise ValueError(f"{name!r} is not known; there are {known}.")
        given[name] = value
    facility = given.get("facility", "local7")
    if facility not in FACILITIES:
        raise ValueError(f"{facility!r} is no facility; these are: {', '.join(FACILITIES)}.")
    severity = given.get("severity", "info")
    if severity not in SEVERITIES:
        raise ValueError(f"{severity!r} is no severity; these are: {', '.join(SEVERITIES)}.")
    tag = given.get("tag", "halfsync")
    if not _TAG.fullmatch(tag):
        raise ValueError(f"the tag {tag!r} has to be 1 to 48 letters, digits, or any of _ . / -")
    form = given.get("format", "rfc3164")
    if form not in ("rfc3164", "rfc5424"):
        raise ValueError(f"the format {form!r} is neither rfc3164 nor rfc5424.")
    host = "" if "nohostname" in given else socket.gethostname().partition(".")[0]
    server = given.get("server") or DEFAULT_SERVER
    framing = given.get("framing", "")
    if framing not in (TRADITIONAL, COUNTED) and "framing" in given:
        raise ValueError(f"the framing {framing!r} is neither {TRADITIONAL} nor {COUNTED}.")
    if framing and not given.get("server", "").startswith((TCP, "unix:")):
        raise ValueError(f"framing is for streams, as in server={TCP}192.0.2.1:514.")
    number, modern = FACILITIES.index(facility), form == "rfc5424"
    return Syslog(server, number, SEVERITIES[severity], tag, host, modern=modern, framing=framing)


def address_of(server: str) -> Address:
    """Names are looked up now, and not again: that may take long. Raises ValueError with a sentence."""
    if server.startswith("unix:"):
        path = server.removeprefix("unix:")
        if not path.startswith("/") or len(path.encode()) > 107:
            raise ValueError(f"the server {server!r} needs a path that begins with / (107 bytes at most).")
        return path
    host, port = _host_and_port(server.removeprefix(TCP).removeprefix(UDP), server)
    try:
        return str(ipaddress.ip_address(host)), port
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no name"
        raise ValueError(f"the server {host!r} is not found: {why}.") from None
    return str(found[0][4][0]), port


def _host_and_port(place: str, server: str) -> tuple[str, int]:
    found = re.fullmatch(
        r"\[(?P<six>[0-9A-Fa-f:.]+)\](?::(?P<p6>\d+))?|(?P<host>[^:\[\]]+)(?::(?P<p>\d+))?", place
    )
    port = int((found["p6"] or found["p"] or DEFAULT_PORT) if found is not None else 0)
    if found is None or not 0 < port < 65536:
        raise ValueError(
            f"the server {server!r} is none of HOST, HOST:PORT, [ADDRESS]:PORT, the same behind tcp://, and "
            "unix:/PATH."
        )
    return found["six"] or found["host"], port
