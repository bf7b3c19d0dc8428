"""A plan as bytes, for a pump that is running when the parent makes another one.

The listening sockets and the certificates are not among them: their descriptors stand beside the bytes.
"""

from __future__ import annotations

import socket

import msgspec

from halfsync.plan.plan import Listener, Plan, PoolPlan, RoutePlan, SitePlan
from halfsync.settings.table import Settings
from halfsync.tls.certificates import Certificates


class _Listener(msgspec.Struct, array_like=True):
    address: str
    host: str
    port: int
    is_removed: bool
    sites: tuple[int, ...]
    scheme: str
    is_proxied: bool


class _Plan(msgspec.Struct, array_like=True):
    settings: Settings
    routes: tuple[RoutePlan, ...]
    pools: tuple[PoolPlan, ...]
    listeners: tuple[_Listener, ...]
    number: int
    sites: tuple[SitePlan, ...]
    certificates: Certificates | None


_decode = msgspec.msgpack.Decoder(_Plan).decode


def encode(plan: Plan) -> bytes:
    listeners = tuple(
        _Listener(one.address, one.host, one.port, one.is_removed, one.sites, one.scheme, one.is_proxied)
        for one in plan.listeners
    )
    return msgspec.msgpack.encode(
        _Plan(
            plan.settings,
            plan.routes,
            plan.pools,
            listeners,
            plan.number,
            plan.sites,
            plan.certificates,
        )
    )


def decode(data: bytes, sockets: dict[int, socket.socket], certificates: int) -> Plan:
    """`sockets`: those of its listeners, by index; whichever are missing must be removed ones.
    `certificates`: the descriptor of their file, if there are any. Raises msgspec.DecodeError."""
    found = _decode(data)
    listeners = tuple(
        Listener(
            one.address,
            one.host,
            one.port,
            sockets.get(index) or _none(),
            one.is_removed,
            sites=one.sites,
            scheme=one.scheme,
            is_proxied=one.is_proxied,
        )
        for index, one in enumerate(found.listeners)
    )
    known = None if found.certificates is None else found.certificates.at(certificates)
    return Plan(
        found.settings,
        found.routes,
        found.pools,
        listeners,
        found.number,
        found.sites,
        certificates=known,
    )


def _none() -> socket.socket:
    """A socket that is closed."""
    made = socket.socket(socket.AF_UNIX)
    made.close()
    return made
