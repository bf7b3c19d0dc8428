"""Who is let in, and how often."""

from typing import Annotated

from halfsync.settings.table.about import about
from halfsync.settings.table.tls import Tls


class ClientAccess(Tls, frozen=True, kw_only=True):
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
    client_prefix_ipv4: Annotated[
        int,
        about(
            "Access",
            "Bits of an IPv4 address that make a client, for `client_rate` and `client_connections`: with "
            "24, 256 addresses share a limit.",
            unit="bits",
            least=8,
            most=32,
        ),
    ] = 32
    client_prefix_ipv6: Annotated[
        int,
        about(
            "Access",
            "The same of an IPv6 address. A subscriber usually has 64 to 56 bits, an organization 48.",
            unit="bits",
            least=16,
            most=128,
        ),
    ] = 64
    limit_store: Annotated[
        str | None,
        about(
            "Access",
            "A Redis or Valkey server, such as redis://:password@10.0.0.5:6379/0, rediss://redis.example "
            "(TLS) or unix:///run/redis.sock, by which several machines share each `client_rate` and "
            "`client_connections`. While it is away, each counts alone.",
            metavar="URL",
        ),
    ] = None
