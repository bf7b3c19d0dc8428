"""Options of gunicorn, uvicorn, waitress and hypercorn: what each means here.

One row for each: either a setting of ours that it means, or a sentence that says what to do instead. A
row with a sentence and `Effect.NOTHING` is accepted, and the sentence logged at the start; one with
`Effect.REFUSED` ends it, because to go on would do something else than what was asked for.

The page docs/how-to/coming-from.md has this table, and a test holds it against gunicorn's own list.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import msgspec

from halfsync.settings.rows import BY_NAME

GUNICORN = "gunicorn"
UVICORN = "uvicorn"
WAITRESS = "waitress"
HYPERCORN = "hypercorn"


class Effect(Enum):
    MEANS = "means"  # a setting of ours
    NOTHING = "nothing"  # is accepted, has no effect, and says so
    REFUSED = "refused"
    HOOK = "hook"  # of gunicorn's file: a function


class Foreign(msgspec.Struct, frozen=True):
    """One option."""

    server: str  # where it is from; the first of several
    flags: tuple[str, ...]  # () if it stands in gunicorn's file alone
    does: Effect
    setting: str = ""  # ours
    name: str = ""  # in gunicorn.conf.py
    sentence: str = ""  # what to do, or how it differs
    is_switch: bool = False  # takes no value
    means: str = ""  # of a switch: the setting's value
    translated: Callable[[str], str] | None = None  # its value -> ours. Raises ValueError with a sentence

    @property
    def shown(self) -> str:
        return next((flag for flag in self.flags if flag.startswith("--")), self.name)


TLS_VERSION = "TLS 1.2 and 1.3 are spoken; minimum_version says which is the oldest."
LOGGING = "halfsync writes its own log; an application's logging is set up in the application."
STRICT = "requests are always checked strictly."
SYSLOG = "it is the error log's; for the access log, access_logfile takes the same words."
SYSLOG_TARGET = "syslog:"
STATSD = "halfsync sends no statistics; Prometheus can fetch them from a route with status_page."
PREFIX = "mount the application under the path instead: /path=module:app."
DIRTY = "there are no such workers; give slow work a pool of its own by a route with workers and threads."


def same(name: str, flags: str, setting: str, sentence: str = "", **more: object) -> Foreign:
    """gunicorn's, with a counterpart."""
    return Foreign(
        GUNICORN,
        tuple(flags.split()),
        Effect.MEANS,
        setting,
        name,
        sentence,
        **more,  # type: ignore[arg-type]
    )


def nothing(server: str, name: str, flags: str, sentence: str, *, is_switch: bool = False) -> Foreign:
    return Foreign(
        server, tuple(flags.split()), Effect.NOTHING, name=name, sentence=sentence, is_switch=is_switch
    )


def refused(server: str, name: str, flags: str, sentence: str, *, is_switch: bool = False) -> Foreign:
    return Foreign(
        server, tuple(flags.split()), Effect.REFUSED, name=name, sentence=sentence, is_switch=is_switch
    )


def means(server: str, flags: str, setting: str, sentence: str = "", **more: object) -> Foreign:
    return Foreign(
        server,
        tuple(flags.split()),
        Effect.MEANS,
        setting,
        "",
        sentence,
        **more,  # type: ignore[arg-type]
    )


# --- values that are said in another way -------------------------------------------------------------


def at_most(setting: str) -> Callable[[str], str]:
    """Ours has a maximum: what is above that means it, and so does gunicorn's 0, which is no limit there."""
    most = int(BY_NAME[setting].meta.le or 0)

    def translated(text: str) -> str:
        if not text.strip().isdecimal():
            return text
        number = int(text)
        return str(most) if number == 0 or number > most else text

    return translated


def level(text: str) -> str:
    return {"trace": "debug", "warn": "warning", "fatal": "critical"}.get(text.lower(), text)


def cert_reqs(text: str) -> str:
    """The others take Python's numbers (ssl.CERT_NONE and its like)."""
    return {"0": "none", "1": "optional", "2": "required"}.get(text.strip(), text)


def syslog_server(text: str) -> str:
    """gunicorn: unix://PATH (with #dgram or #stream behind it), udp://HOST:PORT, tcp://HOST:PORT."""
    kind, _, place = text.partition("://")
    if kind == "unix" and not place.endswith("#stream"):
        return f"syslog:server=unix:{place.removesuffix('#dgram')}"
    if kind == "udp":
        return f"syslog:server={place}"
    if kind == "tcp":
        return f"syslog:server=tcp://{place}"
    raise ValueError("halfsync sends to unix:///dev/log (datagrams), udp://HOST:PORT and tcp://HOST:PORT.")


def syslog_switch(text: str) -> str:
    return "syslog:" if text.strip().lower() in ("syslog:", "true", "yes", "1", "on") else "-"


def syslog_tag(text: str) -> str:
    return f"syslog:tag={text}"


def syslog_facility(text: str) -> str:
    return f"syslog:facility={text.lower()}"


def listen(text: str) -> str:
    """waitress: several addresses, separated by spaces; `*` is every one."""
    return ",".join(one.replace("*:", "0.0.0.0:") for one in text.split())


def every_address(text: str) -> str:
    """gunicorn's proxy_protocol is a switch, or names a version."""
    words = {"on": "*", "true": "*", "auto": "*", "v1": "*", "v2": "*", "off": "", "false": ""}
    return words.get(text.strip().lower(), text)


def http_protocols(text: str) -> str:
    """gunicorn: h1, h2 and h3, with commas."""
    named = {one.strip().lower() for one in text.split(",")}
    if "h3" in named:
        raise ValueError("halfsync speaks HTTP/1.1 and HTTP/2.")
    return "true" if "h2" in named else "false"


def off_only(sentence: str) -> Callable[[str], str]:
    """For what can be harmless: nothing if it is off, else refused with the sentence."""

    def translated(text: str) -> str:
        if text.strip().lower() in ("", "off", "no", "false", "0", "http", "auto", "wsgi"):
            return ""
        raise ValueError(sentence)

    return translated
