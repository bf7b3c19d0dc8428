"""What is to be served: the settings worked out into sites, routes, pools and listeners (see layout.py).

Made once, in the parent, before the first fork; every process inherits it and none changes it.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Literal

import msgspec

from halfsync import __version__
from halfsync.http.error_pages import ErrorPage
from halfsync.http.header_rules import HeaderRule
from halfsync.settings.table import Settings
from halfsync.system.seen_files import SeenFile
from halfsync.tls.acme_plan import AcmePlan
from halfsync.tls.certificates import Certificates

BUILT_IN = 0
"""Index of the built-in pool."""
NO_POOL = -1
"""Of routes that the pump responds to by itself."""
DEFAULT_SITE = 0
"""Index of the site that has the requests for all hosts that no other site has."""


class Kind(Enum):
    WSGI = "wsgi"
    FILES = "files"
    FIXED = "fixed"
    STATUS = "status"


class FileRules(msgspec.Struct, frozen=True):
    """How the files of a route are served."""

    lease: float = 0.0  # seconds
    cache_control: str | dict[str, str] = ""  # by pattern; the first that fits counts
    immutable: bool = False  # hashed names get a Cache-Control for ever
    precompressed: bool = False  # .br, .zst and .gz beside a file are sent in its place
    fallback: str = ""  # sent in place of what is not there; within the folder
    listing: bool = False  # a folder without an index is a page of what is in it
    of_others: tuple[str, ...] = ()  # prefixes below this one's that other routes have, if it lists
    is_file: bool = False  # the target is one file


class Fixed(msgspec.Struct, frozen=True):
    """A response that needs no worker."""

    status: int
    location: str = ""  # of a redirect; $host, $path and $query stand for parts of the request
    body: bytes = b""
    content_type: str = ""
    is_error: bool = False  # one of our own, like those that the pump sends by itself


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the requests of a route: the settings of these names."""

    limit_request_body: int
    body_timeout: float
    send_timeout: float
    min_rate: int
    rate_grace: float
    queue_timeout: float
    queue_limit: int
    queue_target: float | Literal["auto"]
    handler_timeout: float
    handler_grace: float
    stream_timeout: float

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        return cls(*(getattr(settings, one.name) for one in fields(cls)))


class RoutePlan(msgspec.Struct, frozen=True):
    """A path prefix of a site, and what responds under it."""

    prefix: str  # "/static", or "" for the root; never a trailing slash; percent-decoded
    target: str  # as the user wrote it: "app:app", "app:create_app()", "./static"
    kind: Kind
    pool: int  # index into Plan.pools; or NO_POOL
    files: FileRules = FileRules()
    site: int = DEFAULT_SITE  # index into Plan.sites
    fixed: Fixed | None = None
    shows: str = ""  # of the server itself: "status", "healthy" or "ready"
    streams: bool = False  # whether a WSGI application gets request bodies while they come, as ASGI ones do
    intercepts: bool = False  # whether error pages stand in for errors of the application's own, too
    root_path: str = ""  # what a proxy has cut off; never a trailing slash
    limits: Limits | None = None  # None: those of the settings
    headers: tuple[HeaderRule, ...] = ()
    error_pages: tuple[ErrorPage, ...] = ()
    allow: tuple[str, ...] = ()  # networks whose requests are served; (): all
    deny: tuple[str, ...] = ()  # networks whose requests are not, in any case
    client_rate: float = 0.0  # requests a second of one client; 0: any number
    client_burst: int = 0  # how many of them may come at once; 0: those of a second


class SitePlan(msgspec.Struct, frozen=True):
    """A virtual host: whose requests they are that name one of its hosts, at an address where it is served.

    The default one is what stands at the top of the configuration."""

    name: str = ""  # as in [sites."name"]; "" for the default one
    hosts: tuple[str, ...] = ()  # lower case; "*.example" for all hosts below it; () for the default one
    bind: tuple[str, ...] = ()  # addresses where it alone is served; (): where the default one is
    headers: tuple[HeaderRule, ...] = ()  # of what is refused before its route is known
    error_pages: tuple[ErrorPage, ...] = ()  # the same
    is_health: bool = False  # the one at `health_bind`


class ScalePlan(msgspec.Struct, frozen=True):
    """Of a pool whose number of processes changes with the load (see parent/workers/scaling.py)."""

    least: int  # processes
    most: int
    min_spare: int  # idle threads: with fewer it grows
    max_spare: int  # with more it shrinks


class RecyclePlan(msgspec.Struct, frozen=True):
    """When workers of a pool are replaced, beside `max_requests`. 0: never."""

    max_age: float = 0.0  # seconds
    max_memory: int = 0  # bytes


class PoolPlan(msgspec.Struct, frozen=True):
    """A pool as planned: worker processes of one kind. The first is the built-in one: files and the log."""

    name: str  # "built-in", or the application's target; a second one's is "app:app at /path"
    target: str | None  # None: no application code is imported
    processes: int  # 0: a reload has removed it
    threads: int
    scale: ScalePlan | None = None  # None: as many processes always
    recycle: RecyclePlan = RecyclePlan()
    # What else the settings of these names say of an application's:
    interface: str = "auto"
    limit_concurrency: int = 10000
    lifespan: str = "auto"
    loop: str = "auto"

    @property
    def most_processes(self) -> int:
        return self.processes if self.scale is None else self.scale.most


class Listener(msgspec.Struct, frozen=True):
    """A listening socket and what is said of it.

    A reload leaves each where it is in Plan.listeners: connections that were accepted there know it by its
    index."""

    address: str  # "127.0.0.1:8000" or "unix:/run/app.sock", as bound
    host: str  # SERVER_NAME when the request has no Host; "" on a unix socket
    port: int  # 0 on a unix socket
    socket: socket.socket
    is_removed: bool = False  # a reload took it out of `bind`
    bound_as: str = ""  # in `bind`; "" if a service manager made it
    sites: tuple[int, ...] = (DEFAULT_SITE,)  # served here: indices into Plan.sites, the default one first
    scheme: str = "http"  # or "https"
    is_proxied: bool = False  # a proxy says first for whom it speaks (proxy_protocol)

    @property
    def url(self) -> str:
        """ "http://127.0.0.1:8000", "unix:/run/app.sock"."""
        return f"{self.scheme}://{self.address}" if self.port else self.address


@dataclass(frozen=True, slots=True)
class Plan:
    """A reload that changes something makes another one, with the next number."""

    settings: Settings
    routes: tuple[RoutePlan, ...]  # of all sites; of each, the longest prefix first
    pools: tuple[PoolPlan, ...]
    listeners: tuple[Listener, ...]
    number: int = 0
    sites: tuple[SitePlan, ...] = (SitePlan(),)
    configuration: tuple[SeenFile, ...] = field(default=(), compare=False)
    """The files that it was read from, by whole paths; the pump is sent none."""
    certificates: Certificates | None = None  # None: nobody listens for https
    acme: AcmePlan | None = None  # the pump is not sent it

    def is_for_health(self, listener: int) -> bool:
        """Whether health checks alone are responded to there."""
        return self.sites[self.listeners[listener].sites[0]].is_health

    @property
    def addresses(self) -> list[str]:
        """Where it is served."""
        return [one.url for one in self.listeners if not one.is_removed]

    @property
    def in_words(self) -> str:
        of_sites = (
            (self.sites[route.site].name, route)
            for route in self.routes
            if not self.sites[route.site].is_health
        )
        what = ", ".join(f"{name}{route.prefix or '/'} = {route.target}" for name, route in of_sites)
        return f"halfsync {__version__} serves {what} at {', '.join(self.addresses)}"
