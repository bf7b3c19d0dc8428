"""Every setting once: name, type, default, unit, reason, and where it may be set.

`Settings` is the only list. The command line's options and help, the TOML keys, the environment
variables, `--print-config` and docs/settings.md all grow from its fields; nothing repeats a name
or a default.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


def about(
    section: str,
    description: str,
    *,
    unit: str = "",
    short: str = "",
    env: str = "",
    metavar: str = "",
    least: float | None = None,
    most: float | None = None,
    of_routes: str = "",
) -> Meta:
    """What is said of a setting beside its name, type and default. `of_routes`: sites and routes may have a
    value of their own, and of which routes it is: "applications", "files" or "all"."""
    extra = {"section": section, "unit": unit, "short": short, "env": env, "metavar": metavar}
    extra["of_routes"] = of_routes
    return Meta(description=description, ge=least, le=most, extra=extra)


SECTIONS = (
    "Serving",
    "TLS",
    "Access",
    "Processes",
    "Logging",
    "Time limits",
    "Size limits",
    "Files",
    "Leases",
    "HTTP/2",
    "WebSocket",
    "Development",
)

Level = Literal["debug", "info", "warning", "error", "critical"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, checked. Durations are in seconds, sizes in bytes."""

    bind: Annotated[
        list[str],
        about(
            "Serving",
            "Where to listen: host:port, [address]:port, port, or unix:/path. May be given several times. "
            "https:// before it means TLS, http:// none; with neither it is TLS if there is a `certfile`. "
            "PORT=8080 in the environment means 0.0.0.0:8080.",
            short="-b",
            env="PORT",
            metavar="ADDRESS",
        ),
    ] = msgspec.field(default_factory=lambda: ["127.0.0.1:8000"])
    health_bind: Annotated[
        list[str],
        about(
            "Serving",
            "Where to listen for health checks, as in `bind`, and nothing else is served there: /-/healthy "
            "says whether the server responds, /-/ready whether all applications have workers.",
            metavar="ADDRESS",
        ),
    ] = []
    backlog: Annotated[
        int,
        about(
            "Serving",
            "Connections that the kernel keeps for a listening socket until they are accepted.",
            least=1,
            most=65535,
        ),
    ] = 2048
    reuse_port: Annotated[
        bool,
        about(
            "Serving",
            "Other servers may listen at the same port (SO_REUSEPORT); the kernel shares connections out "
            "among them.",
        ),
    ] = False
    unix_mode: Annotated[
        str,
        about(
            "Serving",
            "Permissions of unix sockets, as an octal number: 660 for the owner and the group alone. The "
            "default lets every user of the machine connect, as to a port.",
            metavar="MODE",
        ),
    ] = "666"
    forwarded_allow_ips: Annotated[
        list[str],
        about(
            "Serving",
            "Proxies whose `forwarded_headers` are believed: addresses or networks, or * for whoever "
            "connects. So are those of a unix socket's peers, unless the list is empty.",
            env="FORWARDED_ALLOW_IPS",
            metavar="ADDRESS",
        ),
    ] = msgspec.field(default_factory=lambda: ["127.0.0.1", "::1"])
    forwarded_headers: Annotated[
        list[str],
        about(
            "Serving",
            "What is believed from them: x-forwarded-for (who asks), x-forwarded-proto (the scheme), "
            "x-forwarded-host, x-forwarded-port, x-forwarded-prefix (the path under which the proxy has the "
            "application), and forwarded (RFC 7239: who asks, scheme and host). Name only those that the "
            "proxy sets or removes itself: others come from its clients. From peers that are not in "
            "`forwarded_allow_ips` all of them are removed. An empty list leaves them as they are, for the "
            "application to judge.",
            metavar="NAME",
        ),
    ] = msgspec.field(default_factory=lambda: ["x-forwarded-for", "x-forwarded-proto"])
    proxy_protocol: Annotated[
        list[str],
        about(
            "Serving",
            "Addresses of `bind` at which a proxy tells its client by the PROXY protocol (version 1 or 2), "
            "before the first byte of TLS or HTTP; * for all of them. Those proxies have to be in "
            "`forwarded_allow_ips`; a connection that begins otherwise is closed.",
            metavar="ADDRESS",
        ),
    ] = msgspec.field(default_factory=list)
    stream_body: Annotated[
        bool,
        about(
            "Serving",
            "Pass request bodies on to applications while they arrive; by default a request is passed on "
            "when it is complete. For large uploads, and for applications that respond before all has come. "
            "A thread then waits for its client.",
            of_routes="applications",
        ),
    ] = False
    interface: Annotated[
        Literal["auto", "wsgi", "asgi", "asgi3"],
        about(
            "Serving",
            "What applications are called by. auto looks at the callable: a coroutine function of (scope, "
            "receive, send), or an object with such a __call__, is ASGI, and runs in an event loop.",
            metavar="NAME",
            of_routes="applications",
        ),
    ] = "auto"
    root_path: Annotated[
        str,
        about(
            "Serving",
            "The path under which a proxy serves an application, if it cuts it off before it passes requests "
            "on. It becomes the beginning of ASGI's root_path and path.",
            metavar="PATH",
            of_routes="applications",
        ),
    ] = ""
    lifespan: Annotated[
        Literal["auto", "on", "off"],
        about(
            "Serving",
            "Whether ASGI applications are told of start and end. auto: if the application raises when it is "
            "asked, it does not want to know.",
            metavar="MODE",
            of_routes="applications",
        ),
    ] = "auto"
    loop: Annotated[
        Literal["auto", "asyncio", "uvloop"],
        about(
            "Serving",
            "The event loop of ASGI applications. auto: uvloop, if it is installed (pip install "
            "'halfsync[uvloop]').",
            metavar="NAME",
            of_routes="applications",
        ),
    ] = "auto"
    chdir: Annotated[
        str | None,
        about(
            "Serving", "Go to this folder first; targets and other paths start from there.", metavar="FOLDER"
        ),
    ] = None
    env: Annotated[
        list[str],
        about(
            "Serving",
            "Set an environment variable before applications are imported. May be given several times.",
            short="-e",
            metavar="NAME=VALUE",
        ),
    ] = []

    pythonpath: Annotated[
        list[str],
        about(
            "Serving",
            "Folders from which applications can import, before all others. May be given several times.",
            metavar="FOLDER",
        ),
    ] = []

    certfile: Annotated[
        list[str],
        about(
            "TLS",
            "The server's certificate and those between it and the authority (PEM). Read before root's "
            "rights are given up, and again at a reload. May be given several times, for keys of different "
            "kinds.",
            metavar="FILE",
        ),
    ] = []
    keyfile: Annotated[
        list[str],
        about(
            "TLS",
            "The private key of the certificate (PEM), one for each certfile. Without it the key is in the "
            "same file.",
            metavar="FILE",
        ),
    ] = []
    keyfile_password: Annotated[
        str | None, about("TLS", "Password of an encrypted keyfile.", metavar="TEXT")
    ] = None
    ca_certs: Annotated[
        str | None,
        about("TLS", "Authorities whose client certificates are accepted (PEM).", metavar="FILE"),
    ] = None
    cert_reqs: Annotated[
        Literal["none", "optional", "required"],
        about(
            "TLS",
            "Whether clients are asked for a certificate of one of the `ca_certs`, and refused without one. "
            "Applications find it in their environ (SSL_CLIENT_S_DN and others).",
            metavar="MODE",
        ),
    ] = "none"
    minimum_version: Annotated[
        Literal["1.2", "1.3"],
        about("TLS", "The oldest version of TLS that is spoken.", metavar="VERSION"),
    ] = "1.2"
    ciphers: Annotated[
        str,
        about(
            "TLS",
            "Cipher suites of TLS 1.2, in OpenSSL's words. The default is Mozilla's intermediate list. "
            "Those of TLS 1.3 are all good, and always on.",
            metavar="LIST",
        ),
    ] = ""

    acme: Annotated[
        bool,
        about(
            "TLS",
            "Get a certificate from an authority by ACME, and renew it: for the hosts of a site in its "
            "table, at the top for `acme_hosts`. Means that you agree to the authority's terms of service. "
            "Needs packages: pip install 'halfsync[acme]'.",
        ),
    ] = False
    acme_hosts: Annotated[
        list[str],
        about("TLS", "Hosts of the default site, for its certificate by `acme`.", metavar="HOST"),
    ] = []
    acme_email: Annotated[
        str | None,
        about("TLS", "Where the authority can write to; it need not be told.", metavar="ADDRESS"),
    ] = None
    acme_directory: Annotated[
        str,
        about("TLS", "The authority's ACME directory. The default is Let's Encrypt's.", metavar="URL"),
    ] = "https://acme-v02.api.letsencrypt.org/directory"
    acme_challenge: Annotated[
        Literal["tls-alpn-01", "http-01"],
        about(
            "TLS",
            "How the authority sees that the hosts are yours: it connects to port 443 (tls-alpn-01) or to "
            "port 80 (http-01).",
            metavar="NAME",
        ),
    ] = "tls-alpn-01"
    acme_folder: Annotated[
        str,
        about(
            "TLS",
            "Folder for what comes from the authority, with keys that only the user may read who starts the "
            "server.",
            metavar="FOLDER",
        ),
    ] = "acme"

    redirect_http: Annotated[
        bool,
        about(
            "TLS",
            "Requests at addresses without TLS are redirected to https: with 301, or 308 if they are neither "
            "GET nor HEAD. Those of unix sockets are not.",
        ),
    ] = False
    alt_svc: Annotated[
        str,
        about(
            "TLS",
            "Alt-Svc of all responses over TLS, such as 'h3=\":443\"; ma=86400': where else clients find "
            "the same, here at something in front that speaks HTTP/3.",
            metavar="TEXT",
        ),
    ] = ""
    hsts: Annotated[
        str,
        about(
            "TLS",
            "Strict-Transport-Security of all responses over TLS, such as 'max-age=63072000; "
            "includeSubDomains': browsers then use nothing but https for so many seconds.",
            metavar="TEXT",
        ),
    ] = ""

    workers: Annotated[
        Annotated[int, Meta(ge=1, le=1000)] | Literal["auto"],
        about(
            "Processes",
            "Worker processes of each application; auto: as many as there are processors that halfsync may "
            "use (its CPU set, and the quota of its container).",
            short="-w",
            env="WEB_CONCURRENCY",
            of_routes="applications",
        ),
    ] = 1
    threads: Annotated[
        int,
        about(
            "Processes",
            "Threads of each worker process. 1 for applications that are not thread-safe.",
            least=1,
            most=128,
            of_routes="applications",
        ),
    ] = 8
    min_workers: Annotated[
        int,
        about(
            "Processes",
            "Fewest worker processes of an application whose number changes with the load. 0: `workers`.",
            least=0,
            most=1000,
            of_routes="applications",
        ),
    ] = 0
    max_workers: Annotated[
        int,
        about(
            "Processes",
            "Start more worker processes, up to so many, while fewer than `min_spare` threads are idle, and "
            "end them one by one while more than `max_spare` are. 0: as many as `workers`, a fixed number.",
            least=0,
            most=1000,
            of_routes="applications",
        ),
    ] = 0
    min_spare: Annotated[
        int,
        about(
            "Processes",
            "Idle threads that an application should have, with `max_workers`: for requests that come while "
            "a worker starts.",
            unit="threads",
            least=1,
            most=1000,
            of_routes="applications",
        ),
    ] = 2
    max_spare: Annotated[
        int,
        about(
            "Processes",
            "Idle threads of which an application has too many, with `max_workers`. Less than `min_spare` "
            "and one worker's threads means that. 0: `min_spare` and two workers' threads.",
            unit="threads",
            least=0,
            most=100_000,
            of_routes="applications",
        ),
    ] = 0
    limit_concurrency: Annotated[
        int,
        about(
            "Processes",
            "Requests that a worker of an ASGI application handles at a time; more of them wait in the queue "
            "(`queue_limit`).",
            unit="requests",
            least=1,
            most=65536,
            of_routes="applications",
        ),
    ] = 10000
    max_requests: Annotated[
        int,
        about(
            "Processes",
            "Replace a worker process after so many requests, with no request lost: its successor is ready "
            "first. For applications that leak memory. 0: never.",
            unit="requests",
            least=0,
        ),
    ] = 0
    max_requests_jitter: Annotated[
        int,
        about(
            "Processes",
            "Up to so many requests more, at random for each worker, so that not all are replaced at once.",
            unit="requests",
            least=0,
        ),
    ] = 0
    max_worker_age: Annotated[
        float,
        about(
            "Processes",
            "Replace a worker process that is so old, or up to a tenth older, at random for each. One at a "
            "time, and its successor is ready first. 0: never.",
            unit="seconds",
            least=0,
            of_routes="applications",
        ),
    ] = 0.0
    max_worker_memory: Annotated[
        int,
        about(
            "Processes",
            "Replace a worker process with so much resident memory (RSS, as ps shows it), or up to a tenth "
            "more, in the same way. 0: never.",
            unit="bytes",
            least=0,
            of_routes="applications",
        ),
    ] = 0
    builtin_threads: Annotated[
        int,
        about(
            "Processes",
            "Threads of the built-in worker, which opens files and writes the access log.",
            least=1,
            most=128,
        ),
    ] = 4
    preload: Annotated[
        bool,
        about(
            "Processes",
            "Import each application once, in a process from which its workers are then forked; "
            "they share its memory.",
        ),
    ] = False
    retry: Annotated[
        bool,
        about(
            "Processes",
            "A request whose worker was killed is given to another one, once, if its method says that this "
            "is harmless (GET, HEAD, OPTIONS, TRACE, PUT, DELETE). Not after a crash (SIGSEGV and its like) "
            "or an exit of the worker's own accord, which are likely to be the request's work.",
        ),
    ] = True
    user: Annotated[
        str | None,
        about(
            "Processes",
            "Run the pump and the workers as this user (name or number); needs root.",
            metavar="USER",
        ),
    ] = None
    group: Annotated[
        str | None,
        about(
            "Processes",
            "Run the pump and the workers as this group (name or number). The default is the user's group.",
            metavar="GROUP",
        ),
    ] = None
    no_new_privs: Annotated[
        bool,
        about(
            "Processes",
            "When `user` or `group` gives root's rights up, they can't be had again: programs that "
            "applications start gain nothing from being setuid (PR_SET_NO_NEW_PRIVS). Turn it off for an "
            "application that runs sudo, ping or a setgid sendmail.",
        ),
    ] = True
    umask: Annotated[
        str | None,
        about(
            "Processes",
            "Permissions that files and folders made by applications do not get, as an octal number such as "
            "027. The default is what the server was started with.",
            metavar="MASK",
        ),
    ] = None
    name: Annotated[
        str,
        about("Processes", "What ps and top show before the role of each process.", metavar="NAME"),
    ] = "halfsync"
    pid: Annotated[
        str | None,
        about("Processes", "Write the parent's process id to this file.", short="-p", metavar="FILE"),
    ] = None
    control_socket: Annotated[
        str | None,
        about(
            "Processes",
            "Listen at this unix socket for the commands of halfsyncctl. Whoever may connect controls the "
            "server: `control_socket_mode`, and the permissions of its folder.",
            metavar="FILE",
        ),
    ] = None
    control_socket_mode: Annotated[
        str,
        about("Processes", "Permissions of the control socket, as an octal number.", metavar="MODE"),
    ] = "600"
    graceful_timeout: Annotated[
        float,
        about(
            "Processes",
            "How long requests in flight may take to finish at a stop, at a reload, or when a worker is "
            "replaced. After that they are cut off.",
            unit="seconds",
            least=0,
            most=86400,
        ),
    ] = 30.0

    startup_timeout: Annotated[
        float,
        about(
            "Processes",
            "A worker must have imported its application within this time, or it is killed. At the first "
            "start that ends the server, at a reload the old workers keep serving. 0: no limit.",
            unit="seconds",
            least=0,
            most=86400,
        ),
    ] = 60.0

    log_level: Annotated[
        Level, about("Logging", "The least severe messages to write to standard error.", metavar="LEVEL")
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"],
        about(
            "Logging",
            "How the error log is written: as text, whose levels have colours on a terminal (unless NO_COLOR "
            "is set), or as one JSON object a line. What applications write is left as it is.",
            metavar="FORMAT",
        ),
    ] = "text"
    error_logfile: Annotated[
        str | None,
        about(
            "Logging",
            "Write the error log to this file in place of standard error; what applications write to "
            "standard error goes there too. - is standard error.",
            metavar="FILE",
        ),
    ] = None
    access_logfile: Annotated[
        str | None,
        about("Logging", "Write a line for each request to this file; - is standard output.", metavar="FILE"),
    ] = None
    access_logformat: Annotated[
        str,
        about(
            "Logging",
            "Format of the access log: common, combined, json, or a format string with Apache's letters.",
            metavar="FORMAT",
        ),
    ] = "combined"

    allow: Annotated[
        list[str],
        about(
            "Access",
            "Networks whose requests are served, such as 10.0.0.0/8; all others get a 403. Where a proxy is "
            "believed (`forwarded_allow_ips`), the client that it names counts. By default all are.",
            metavar="NETWORK",
            of_routes="all",
        ),
    ] = []
    deny: Annotated[
        list[str],
        about(
            "Access",
            "Networks whose requests get a 403, also if `allow` has them. Responses to requests that `allow` "
            "or `deny` decide about are not leased.",
            metavar="NETWORK",
            of_routes="all",
        ),
    ] = []

    client_connections: Annotated[
        int,
        about(
            "Access",
            "Connections that one client may have at once; on more it gets a 429, and over TLS they are "
            "closed. Trusted proxies (`forwarded_allow_ips`) and peers on unix sockets may have any number. "
            "0: any.",
            unit="connections",
            least=0,
            most=1_000_000,
        ),
    ] = 0
    client_rate: Annotated[
        float,
        about(
            "Access",
            "Requests that one client may send to a route in a second, on average; more get a 429 with "
            "Retry-After. A client is an address, or an IPv6 network of 64 bits. Where a proxy is believed "
            "(`forwarded_allow_ips`), the client that it names counts. Such responses are not leased. 0: any "
            "number.",
            unit="requests",
            least=0,
            most=1_000_000,
            of_routes="all",
        ),
    ] = 0.0
    client_burst: Annotated[
        int,
        about(
            "Access",
            "Requests of one client that may come at once where there is a `client_rate`. 0: as many as in a "
            "second, and one at least.",
            unit="requests",
            least=0,
            most=1_000_000,
            of_routes="all",
        ),
    ] = 0

    handshake_timeout: Annotated[
        float,
        about("Time limits", "A TLS handshake must be complete within this time.", unit="seconds", least=0.1),
    ] = 10.0
    head_timeout: Annotated[
        float,
        about(
            "Time limits", "A request's head must be complete within this time.", unit="seconds", least=0.1
        ),
    ] = 20.0
    body_timeout: Annotated[
        float,
        about(
            "Time limits",
            "A request's body may pause no longer than this.",
            unit="seconds",
            least=0.1,
            of_routes="all",
        ),
    ] = 60.0
    send_timeout: Annotated[
        float,
        about(
            "Time limits",
            "Close the connection if the client reads nothing for this long.",
            unit="seconds",
            least=0.1,
            of_routes="all",
        ),
    ] = 60.0
    min_rate: Annotated[
        int,
        about(
            "Time limits",
            "Minimum average upload and download rate. 0 disables it.",
            unit="bytes per second",
            least=0,
            of_routes="all",
        ),
    ] = 500
    rate_grace: Annotated[
        float,
        about(
            "Time limits", "Grace period before `min_rate` applies.", unit="seconds", least=0, of_routes="all"
        ),
    ] = 30.0
    keep_alive: Annotated[
        float,
        about(
            "Time limits",
            "How long a connection may be idle between two requests. 0: close after each response.",
            unit="seconds",
            least=0,
        ),
    ] = 75.0
    linger_timeout: Annotated[
        float,
        about(
            "Time limits",
            "After a response that closes the connection early, what the client still sends is read and "
            "dropped for this long, so that it can read the response.",
            unit="seconds",
            least=0,
        ),
    ] = 5.0
    queue_timeout: Annotated[
        float,
        about(
            "Time limits",
            "A request may wait for a free thread no longer than this; then it gets a 503.",
            unit="seconds",
            least=0.1,
            of_routes="applications",
        ),
    ] = 30.0
    handler_timeout: Annotated[
        float,
        about(
            "Time limits",
            "A handler may take no longer than this to start its response; then the request gets a 504, "
            "the stack is logged, and the worker replaced. A stream that has begun may go on. 0: no limit. "
            "Of an ASGI application, the task is cancelled; its worker is replaced if the event loop is "
            "blocked.",
            unit="seconds",
            least=0,
            of_routes="all",
        ),
    ] = 0.0
    tunnel_timeout: Annotated[
        float,
        about(
            "Time limits",
            "After an upgrade, reset the connection if nothing goes through it for this long, in either "
            "direction. 0: no limit.",
            unit="seconds",
            least=0,
        ),
    ] = 3600.0
    stream_timeout: Annotated[
        float,
        about(
            "Time limits",
            "A handler that has begun its response may pause no longer than this before it gives more; then "
            "the connection is reset. 0: no limit.",
            unit="seconds",
            least=0,
            of_routes="all",
        ),
    ] = 0.0

    limit_request_line: Annotated[
        int,
        about(
            "Size limits",
            "Longest request line; longer ones get a 414.",
            unit="bytes",
            least=64,
            most=65536,
        ),
    ] = 8190
    limit_request_fields: Annotated[
        int,
        about("Size limits", "Most header fields in a request; more get a 431.", least=1, most=10000),
    ] = 100
    limit_request_field_size: Annotated[
        int,
        about(
            "Size limits",
            "Longest header field; longer ones get a 431.",
            unit="bytes",
            least=64,
            most=65536,
        ),
    ] = 8190
    limit_request_head: Annotated[
        int,
        about(
            "Size limits",
            "Largest header section of a request; larger ones get a 431.",
            unit="bytes",
            least=256,
            most=65536,
        ),
    ] = 64 * KIB
    limit_request_body: Annotated[
        int,
        about(
            "Size limits",
            "Largest request body; larger ones get a 413.",
            unit="bytes",
            least=0,
            of_routes="all",
        ),
    ] = GIB
    queue_limit: Annotated[
        int,
        about(
            "Size limits",
            "Most requests that may wait for an application's threads; more get a 503.",
            unit="requests",
            least=1,
        ),
    ] = 2000
    body_memory: Annotated[
        int,
        about(
            "Size limits",
            "Request bodies up to this size stay in memory; larger ones go to an anonymous temporary file.",
            unit="bytes",
            least=0,
            most=64 * KIB,
        ),
    ] = 32 * KIB
    spool_limit: Annotated[
        int,
        about(
            "Size limits",
            "Request bodies that are kept aside, all together; a body that would exceed it gets a 503.",
            unit="bytes",
            least=0,
        ),
    ] = 4 * GIB
    reply_memory: Annotated[
        int,
        about(
            "Size limits",
            "Response bytes buffered in memory per request; the rest goes to an anonymous temporary file.",
            unit="bytes",
            least=0,
        ),
    ] = 256 * KIB
    reply_spool: Annotated[
        int,
        about(
            "Size limits",
            "Response bytes buffered in a temporary file per request. Beyond that, the handler's thread "
            "waits for the client.",
            unit="bytes",
            least=0,
        ),
    ] = 64 * MIB
    spool_dir: Annotated[
        str | None,
        about("Size limits", "Folder of the temporary files. The default is the system's.", metavar="FOLDER"),
    ] = None

    cache_control: Annotated[
        str | dict[str, str],
        about(
            "Files",
            "Cache-Control of files, such as 'public, max-age=3600'. By default there is none, and caches "
            "decide by the file's age. In a TOML file it may be a table of patterns, of which the first that "
            "fits counts: { '*.html' = 'no-cache', 'assets/*' = 'max-age=3600' }. A pattern with a slash is "
            "for the path within the folder, one without for the file's name.",
            metavar="TEXT",
            of_routes="files",
        ),
    ] = ""
    immutable: Annotated[
        bool,
        about(
            "Files",
            "Files with a hash of their content in the name, such as app.3f2a9c1b.js, get Cache-Control: "
            "public, max-age=31536000, immutable.",
            of_routes="files",
        ),
    ] = False
    precompressed: Annotated[
        bool,
        about(
            "Files",
            "Send the file with .br, .zst or .gz behind its name in place of a file, if it is there, is not "
            "older, and the client accepts it.",
            of_routes="files",
        ),
    ] = False
    fallback: Annotated[
        str,
        about(
            "Files",
            "Send this file of the folder in place of what does not exist: index.html for single-page "
            "applications.",
            metavar="FILE",
            of_routes="files",
        ),
    ] = ""

    lease: Annotated[
        float,
        about(
            "Leases",
            "For this long the pump may send a file again without looking at it again. 0: never.",
            unit="seconds",
            least=0,
            of_routes="files",
        ),
    ] = 1.0
    lease_memory: Annotated[
        int,
        about(
            "Leases",
            "Memory for leased responses, in all. An open file counts as 64 KiB: descriptors are scarce.",
            unit="bytes",
            least=0,
        ),
    ] = 64 * MIB
    lease_file_memory: Annotated[
        int,
        about(
            "Leases",
            "A leased file up to this size is held in memory, a larger one as an open file.",
            unit="bytes",
            least=0,
            most=64 * KIB,
        ),
    ] = 64 * KIB

    http2: Annotated[
        bool,
        about(
            "HTTP/2",
            "Speak HTTP/2 with clients that choose it: over TLS by ALPN, without by prior knowledge (a "
            "connection that begins with HTTP/2's preface).",
        ),
    ] = True
    http2_max_concurrent_streams: Annotated[
        int,
        about(
            "HTTP/2",
            "Requests that a client may have open on one connection; it is told, and more are refused "
            "(REFUSED_STREAM). RFC 9113 recommends no fewer than the default. A request that its client has "
            "given up counts until its handler is done.",
            least=1,
            most=100_000,
        ),
    ] = 100
    http2_max_resets: Annotated[
        int,
        about(
            "HTTP/2",
            "Requests that a client may give up (or break) on one connection at once; a third as many more a "
            "second. A browser gives up all of a page's when its user leaves the page. A client that does so "
            "more often is disconnected (ENHANCE_YOUR_CALM).",
            least=1,
            most=1_000_000,
        ),
    ] = 100
    http2_max_idle_frames: Annotated[
        int,
        about(
            "HTTP/2",
            "Frames that carry neither a request nor a part of a body (such as PING and SETTINGS) that a "
            "client may send at once; a tenth as many more a second. A client that sends more is "
            "disconnected (ENHANCE_YOUR_CALM).",
            least=10,
            most=1_000_000,
        ),
    ] = 1000

    ws_max_size: Annotated[
        int,
        about(
            "WebSocket",
            "Largest message that a client may send, decompressed. A client that sends a larger one is "
            "disconnected with code 1009.",
            unit="bytes",
            least=1,
        ),
    ] = 16 * MIB
    ws_ping_interval: Annotated[
        float,
        about(
            "WebSocket",
            "Send a client a Ping this often, so that proxies keep the connection, and one that is gone is "
            "noticed. 0: never.",
            unit="seconds",
            least=0,
        ),
    ] = 20.0
    ws_ping_timeout: Annotated[
        float,
        about(
            "WebSocket",
            "Disconnect a client (code 1011) from which nothing has come this long after a Ping. 0: no "
            "limit.",
            unit="seconds",
            least=0,
        ),
    ] = 20.0
    ws_per_message_deflate: Annotated[
        bool,
        about(
            "WebSocket",
            "Compress messages (permessage-deflate) with clients that offer it. It costs processor time for "
            "each message, and up to 44 KiB of memory a connection.",
        ),
    ] = False

    reload: Annotated[
        bool,
        about(
            "Development",
            "Reload when the code of an application or the settings file changes; if it can't be imported, "
            "show why and wait for the next change. Needs the package watchfiles: pip install "
            "'halfsync[reload]'.",
        ),
    ] = False
    reload_dir: Annotated[
        list[str],
        about(
            "Development",
            "Watch this folder, and not the current one and those of the applications' modules. May be given "
            "several times.",
            metavar="FOLDER",
        ),
    ] = []
    reload_include: Annotated[
        list[str],
        about(
            "Development",
            "Files that are code too, beside *.py: a pattern such as '*.html', a file, or a folder with all "
            "that is in it. May be given several times.",
            metavar="PATTERN",
        ),
    ] = []
    reload_exclude: Annotated[
        list[str],
        about(
            "Development",
            "Files or folders that are not watched, such as 'tests' or '*_gen.py'. Hidden folders, virtual "
            "environments, __pycache__ and node_modules never are. May be given several times.",
            metavar="PATTERN",
        ),
    ] = []
