"""Listening sockets: bound once, by the parent, and open as long as it lives."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from collections.abc import Collection, Mapping, Sequence

import msgspec

from halfsync.logs.error import log
from halfsync.parent import tcp_listeners, trust
from halfsync.parent.privileges import Identity
from halfsync.parent.shortages import in_words
from halfsync.parent.tcp_listeners import bind_tcp
from halfsync.plan.plan import DEFAULT_SITE, Listener, SitePlan
from halfsync.plan.schemes import scheme_of
from halfsync.settings.errors import Mistakes, SettingError
from halfsync.settings.table import Settings
from halfsync.settings.values import octal
from halfsync.settings.with_tls import Demanding


def bind(
    settings: Settings, identity: Identity | None = None, addresses: Sequence[str] | None = None
) -> tuple[Listener, ...]:
    """Bind and listen at all `addresses` (None: those of `bind`). Raises SettingError; then nothing stays
    bound.

    `identity`: whom the service runs as, if not as this process: see `trust`.
    """
    named = settings.bind if addresses is None else addresses
    bound = bind_beside(settings, identity, named, named, ())
    try:
        listen(bound, (), settings.backlog)
    except SettingError:
        close(bound)
        raise
    return bound


def bind_beside(
    settings: Settings,
    identity: Identity | None,
    addresses: Sequence[str],
    missing: Sequence[str],
    present: Sequence[Listener],
) -> tuple[Listener, ...]:
    """Bind those of the `addresses` that are `missing`, beside the `present` ones. Nobody is connected to
    these, except to unix sockets, before `listen`: until it is sure that they are wanted, clients stay where
    they are served. Raises SettingError."""
    bound: list[Listener] = []
    mode = octal("unix_mode", settings.unix_mode)
    parsed = [(address, parse(address)) for address in addresses]
    ports_of_ipv4 = {where[1] for _, where in parsed if not isinstance(where, str) and where[0] == "0.0.0.0"}
    try:
        for address, where in parsed:
            if address not in missing:
                continue
            before = len(bound)
            try:
                if isinstance(where, str):
                    bound.append(bind_unix(where, settings.backlog, mode, identity))
                else:
                    bound += bind_tcp(*where, settings, where[1] in ports_of_ipv4, _tcp((*present, *bound)))
            except socket.gaierror:
                raise SettingError(f"bind {address!r}: there is no host of that name.") from None
            except OSError as error:
                note = trust.note(where, identity) if isinstance(where, str) else ""
                reason = _own_reason(error, where, bound[:before], present) or why_not(error, where)
                raise SettingError(f"bind {address!r}: {reason}{note}.") from None
            scheme = scheme_of(address, settings)
            bound[before:] = [
                msgspec.structs.replace(one, bound_as=address, scheme=scheme) for one in bound[before:]
            ]
    except SettingError:
        close(bound)
        raise
    return tuple(bound)


def listen(bound: Sequence[Listener], present: Sequence[Listener], backlog: int) -> None:
    """From now on clients can connect to what `bind_beside` has `bound`. Raises SettingError."""
    everything = _tcp((*present, *bound))
    for one in sorted((one for one in bound if one.port), key=lambda one: tcp_listeners.rank(one.socket)):
        try:
            tcp_listeners.listen(
                one.socket, backlog, [other for other in everything if other is not one.socket]
            )
        except OSError as error:
            raise SettingError(f"bind {one.bound_as!r}: {why_not(error, parse(one.bound_as))}.") from None


def _tcp(listeners: Sequence[Listener]) -> list[socket.socket]:
    return [one.socket for one in listeners if one.port]


def note_lost_ipv4(before: Sequence[Listener], after: Sequence[Listener]) -> None:
    """Log it if a [::] has given up IPv4 clients to a 0.0.0.0 that is no longer there."""
    for one in after:
        if (
            one.host != "::"
            or one.is_removed
            or not one.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        ):
            continue
        beside = ("0.0.0.0", one.port)
        if beside in map(_place, before) and beside not in map(_place, after):
            log(
                "warning",
                f"{one.bound_as} has no IPv4 clients before a restart: it was bound beside "
                f"0.0.0.0:{one.port}, which is no longer in bind.",
            )


def _place(listener: Listener) -> tuple[str, int] | None:
    return None if listener.is_removed else (listener.host, listener.port)


def at_sites(
    bound: Sequence[Listener], settings: Settings, sites: Sequence[SitePlan]
) -> tuple[Listener, ...]:
    """The listeners, each with the sites that are served there: those that name its address, and, unless it
    is only theirs, those that name none; and with whether a proxy speaks there (proxy_protocol)."""
    for_all = {parse(address) for address in settings.bind}
    own = [{parse(address) for address in site.bind} for site in sites]
    placed = []
    for listener in bound:
        where = parse(listener.bound_as or listener.address)
        is_for_all = where in for_all or not listener.bound_as
        here = [i for i, addresses in enumerate(own) if where in addresses or (is_for_all and not addresses)]
        is_proxied = ALL in settings.proxy_protocol or where in map(parse, settings.proxy_protocol)
        placed.append(
            msgspec.structs.replace(listener, sites=tuple(here) or (DEFAULT_SITE,), is_proxied=is_proxied)
        )
    return tuple(placed)


def close(listeners: Sequence[Listener]) -> None:
    """Close them and remove what they left in the file system."""
    for listener in listeners:
        _remove_if_ours(listener)
        listener.socket.close()


DEFAULT_PORT = ":8000"

_IS_HOST_ALONE = re.compile(r"localhost|[0-9]{1,3}(?:\.[0-9]{1,3}){3}|\[[0-9A-Fa-f:.]+\]").fullmatch
"""An address without a port, as other servers take it. A name alone is more likely to be a mistake."""


def parse(address: str) -> tuple[str, int] | str:
    """(host, port), or the path of a unix socket. Raises SettingError."""
    if address.lower().startswith("fd://"):
        raise SettingError(
            f"bind {address!r}: a socket is not taken over by its number; under systemd's socket activation "
            "its sockets are taken by themselves, and bind is left out."
        )
    given = address
    scheme, separator, rest = address.partition("://")
    if separator and scheme.lower() in ("http", "https"):
        address = rest.removesuffix("/")
    elif address.lower().startswith("tcp://"):
        address = address[len("tcp://") :]
    if address.startswith("unix:"):
        path = address.removeprefix("unix:").removeprefix("//")
        if not path:
            raise SettingError(f"bind {address!r}: the path is missing, as in unix:/run/app.sock.")
        return path
    if given == address and _IS_HOST_ALONE(address):
        address += DEFAULT_PORT
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    is_broken = not bracketed and not {"[", "]"}.isdisjoint(host)
    if is_broken or not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise SettingError(
            f"bind {address or given!r} must be host:port, [address]:port, a port, or unix:/path."
        )
    if not colon:
        return "127.0.0.1", int(port)
    if separator and address == given and "/" in address:
        raise SettingError(f"bind {address!r} must begin with https:// or http://, or with neither.")
    if ":" in host and not bracketed:
        raise SettingError(f"bind {address!r}: write an IPv6 address in brackets, as in [{host}]:{port}.")
    if not _may_be_looked_up(host):
        raise SettingError(f"bind {address!r}: {host!r} is no name of a host.")
    return ("0.0.0.0" if host in ("", "*") else host.strip("[]")), int(port)


def _may_be_looked_up(host: str) -> bool:
    """Whether the parts between its dots are as long as parts of names may be. (For others Python's look-up
    raises a UnicodeError.)"""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


ALL = "*"
"""In proxy_protocol: every address."""


def check(
    settings: Settings,
    addresses: Sequence[str],
    only_with_tls: Sequence[str],
    demanding: Sequence[Demanding],
) -> None:
    """Raises SettingError for what `note_wrong` would note."""
    mistakes = Mistakes()
    note_wrong(settings, addresses, only_with_tls, demanding, mistakes)
    mistakes.raise_all()


def note_wrong(
    settings: Settings,
    addresses: Sequence[str],
    only_with_tls: Sequence[str],
    demanding: Sequence[Demanding],
    mistakes: Mistakes,
    named: Mapping[str, str] | None = None,
) -> None:
    """Note the settings that are wrong for these addresses of `bind`; `only_with_tls` are if one is without
    it. `named`: how sentences about addresses begin that are not of the top's `bind`. Raises SettingError if
    an address is none."""
    health = {parse(one) for one in settings.health_bind}
    served = [one for one in addresses if parse(one) not in health]
    if len(addresses) - len(served) > len(health) or not health.isdisjoint(map(parse, settings.bind)):
        there = ", ".join(settings.health_bind)
        mistakes.note(f"health_bind: {there} is in bind too; health checks have an address of their own.")
    if not settings.reuse_port:
        _check_taken(served, named or {}, mistakes)
    _check_tls(settings, served, only_with_tls, mistakes)
    _check_demands(settings, demanding, mistakes)
    for one in settings.proxy_protocol:
        if one != ALL and parse(one) not in map(parse, addresses):
            there = ", ".join(addresses)
            mistakes.note(f"proxy_protocol: {one!r} is no address of bind, which has {there}; * means all.")
    if settings.proxy_protocol and not settings.forwarded_allow_ips:
        mistakes.note(
            "proxy_protocol: nobody is believed; name the proxies in forwarded_allow_ips, or * for whoever "
            "connects."
        )


def _check_taken(addresses: Sequence[str], named: Mapping[str, str], mistakes: Mistakes) -> None:
    """Addresses that one before them has. (What names of hosts mean is found out at the start.)"""
    before: dict[tuple[str, int] | str, str] = {}
    for address in addresses:
        where = parse(address)
        if where not in before or (not isinstance(where, str) and not where[1]):
            before[where] = address
        elif isinstance(where, str):
            mistakes.note(f"{named.get(address, 'bind')} {address!r}: it is named twice.")
        else:
            there = f"{before[where]} is the same address"
            mistakes.note(f"{named.get(address, 'bind')} {address!r}: {there}.")


def _check_tls(
    settings: Settings, addresses: Sequence[str], only_with_tls: Sequence[str], mistakes: Mistakes
) -> None:
    tcp = [address for address in addresses if not isinstance(parse(address), str)]
    schemes = {scheme_of(address, settings) for address in tcp}
    if settings.redirect_http and "https" not in schemes:
        mistakes.note("redirect_http: there is no https:// address in bind to redirect to.")
    if "http" in schemes and not settings.redirect_http:
        for setting in only_with_tls:
            mistakes.note(
                f"{setting}: it must not be sent without TLS, and bind has addresses for http: turn "
                "redirect_http on."
            )


def _check_demands(settings: Settings, demanding: Sequence[Demanding], mistakes: Mistakes) -> None:
    """Whoever connects in clear can show no certificate; so no site that requires one is served there. (But
    over a unix socket: its peer is a proxy.) Raises SettingError if an address is none."""
    if settings.redirect_http:
        return
    for site in demanding:
        in_clear = [
            address
            for address in site.bind
            if not isinstance(parse(address), str) and scheme_of(address, settings) == "http"
        ]
        if in_clear:
            mistakes.note(
                f"{site.setting} is 'required', but {site.what} is served at {in_clear[0]}, in clear, where "
                "no client can show a certificate: turn redirect_http on, or serve it at https:// addresses "
                "alone (bind)."
            )


def check_reach(
    settings: Settings, sites: Sequence[SitePlan], named: Mapping[str, str], mistakes: Mistakes
) -> None:
    """Note each site of which no request is served, because all its addresses redirect to https. `named`: how
    sentences about the `bind` of sites begin, by their names. Raises SettingError if an address is none."""
    for site in sites:
        own = [one for one in site.bind if not isinstance(parse(one), str)]
        if not settings.redirect_http or not own or len(own) < len(site.bind) or site.is_health:
            continue
        if all(scheme_of(address, settings) == "http" for address in own):
            mistakes.note(
                f"{named[site.name]}: nothing of it is served, for redirect_http redirects all that "
                f"comes at {', '.join(own)}; give it an https:// address."
            )


def check_certified(
    settings: Settings,
    sites: Sequence[SitePlan],
    certified: Collection[str],
    named: Mapping[str, str],
    mistakes: Mistakes,
) -> None:
    """Note each https:// address where no site has a certificate, though others have. `certified`: names of
    sites; the default one's ("") is shown for all others. `named`: see `note_wrong`. Raises SettingError if
    an address is none."""
    if not certified or "" in certified:
        return
    of_all = {parse(address): address for address in settings.bind}
    own = {parse(address): address for site in sites for address in site.bind}
    for where, address in {**own, **of_all}.items():
        if isinstance(where, str) or scheme_of(address, settings) == "http":
            continue
        here = [
            site for site in sites if where in map(parse, site.bind) or (where in of_all and not site.bind)
        ]
        if not any(site.name in certified or site.is_health for site in here):
            mistakes.note(
                f"{named.get(address, 'bind')} {address!r}: no site that is served there has a certificate: "
                "name one with certfile, at the top or in such a site."
            )


def _own_reason(
    error: OSError, where: tuple[str, int] | str, bound: Sequence[Listener], present: Sequence[Listener]
) -> str:
    """If the address is in use by this server itself: by one that stands before it in `bind`, or by one where
    it listens already."""
    if error.errno != errno.EADDRINUSE:
        return ""
    own = next((one for one in bound if _is_at(one, where)), None)
    if own is not None:
        is_same = parse(own.bound_as) == where
        return "it is named twice" if is_same else f"{own.bound_as} is the same address"
    own = next((one for one in present if _is_at(one, where)), None)
    if own is None:
        return ""
    return (
        f"this server listens there already, at {own.url}; to move an address between http and https needs a "
        "restart or an upgrade, and to name it in another way a restart"
    )


def _is_at(listener: Listener, where: tuple[str, int] | str) -> bool:
    if parse(listener.bound_as) == where:
        return True
    if isinstance(where, str):
        return False
    return listener.port == where[1] and listener.socket.getsockname()[0] in _addresses_of(where)


def _addresses_of(where: tuple[str, int] | str) -> set[str]:
    try:
        return set() if isinstance(where, str) else {str(one[4][0]) for one in socket.getaddrinfo(*where)}
    except OSError:
        return set()


def why_not(error: OSError, where: tuple[str, int] | str) -> str:
    """Why there is no socket, as the end of a sentence."""
    if not isinstance(where, str):
        return tcp_listeners.why_not(error, where)
    if error.errno == errno.ENOENT:
        return f"there is no folder {os.path.dirname(where)!r}"
    if error.errno == errno.EACCES:
        return f"no permission to make a socket in the folder {os.path.dirname(where) or '.'!r}"
    if error.errno == errno.EADDRINUSE:
        return "the address is in use by another program"
    return in_words(error)


def bind_unix(path: str, backlog: int, mode: int, identity: Identity | None) -> Listener:
    """Raises OSError."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        with trust.rights_for(path, identity):
            _remove_stale(path)
            # The mode is there from the beginning: a chmod(2) afterwards would follow a link that
            # somebody has put there since.
            before = os.umask(0o777 & ~mode)
            try:
                listening.bind(path)
            finally:
                os.umask(before)
            _made[f"unix:{path}"] = (*_identity(path), identity)
        listening.listen(backlog)
    except OSError:
        listening.close()
        raise
    return Listener(f"unix:{path}", "", 0, listening)


def _remove_stale(path: str) -> None:
    """A socket that nobody listens at is left over from a server that was killed."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "there is a file of that name which is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:  # its queue is full: somebody does listen
            pass
    raise OSError(errno.EADDRINUSE, "in use")


def file_of(listener: Listener) -> tuple[int, int] | None:
    """Device and inode of what we made at its path; None if we made nothing there."""
    return _made[listener.address][:2] if listener.address in _made else None


def own(address: str, file: tuple[int, int], identity: Identity | None) -> None:
    """What another process has made at this address is ours to remove."""
    _made[address] = (*file, identity)


def disown(address: str) -> None:
    """Not ours any more."""
    _made.pop(address, None)


def _remove_if_ours(listener: Listener) -> None:
    """Another server may have taken the path since: its socket is not ours to remove."""
    path = listener.address.removeprefix("unix:")
    if listener.address not in _made:
        return
    device, inode, identity = _made[listener.address]
    try:
        with trust.rights_for(path, identity):
            if _identity(path) == (device, inode):
                os.unlink(path)
    except OSError:
        pass


_made: dict[str, tuple[int, int, Identity | None]] = {}
"""Address -> device and inode of the file that we made there, and with whose rights if not our own."""


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino
