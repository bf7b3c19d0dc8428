"""Where a log goes that is no file: `syslog:...` or `journald` in place of the file's name."""

from __future__ import annotations

from halfsync.logs.journal import SOCKET, Journal
from halfsync.logs.syslog import Syslog, syslog_of

Target = Syslog | Journal


def is_target(text: str | None) -> bool:
    """Whether it names one, in place of a file."""
    return text is not None and (text.startswith(("syslog:", "journald:")) or text in ("syslog", "journald"))


def target_of(text: str | None) -> Target | None:
    """None for a file, or nothing. `journald:/path` names another socket. Raises ValueError with a
    sentence."""
    if text is None or not is_target(text):
        return None
    kind, _, rest = text.partition(":")
    return syslog_of(rest) if kind == "syslog" else Journal(rest or SOCKET)
