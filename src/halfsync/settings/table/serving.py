"""Where is served, and what."""

from typing import Annotated, Literal

import msgspec

from halfsync.settings.table.about import about


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    bind: Annotated[
        list[str],
        about(
            "Serving",
            "Where to listen: host:port, [address]:port, port, or unix:/path. May be given several times. "
            "https:// before it means TLS, http:// none; with neither it is TLS if there is a `certfile`. "
            "[::] takes IPv4 clients, too, unless 0.0.0.0 has the same port. "
            "PORT=8080 in the environment means 0.0.0.0:8080.",
            short="-b",
            env="PORT",
            metavar="ADDRESS",
            of_sites=True,
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
    intercept_errors: Annotated[
        bool,
        about(
            "Serving",
            "Send `error_pages` also in place of the error responses of an application: of each status for "
            "which there is a page. By default they stand in for errors of the server itself alone.",
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
