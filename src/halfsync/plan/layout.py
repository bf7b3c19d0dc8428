"""What the user wrote, worked out into sites, routes and pools.

Looks at folders and files; imports nothing, binds nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import unquote

import msgspec

from halfsync.http.error_pages import nearest as nearest_pages
from halfsync.http.header_rules import HeaderRule, nearest
from halfsync.plan.page_files import PageFiles
from halfsync.plan.plan import (
    BUILT_IN,
    DEFAULT_SITE,
    NO_POOL,
    FileRules,
    Fixed,
    Kind,
    Limits,
    PoolPlan,
    RecyclePlan,
    RoutePlan,
    ScalePlan,
    SitePlan,
)
from halfsync.settings.error_pages import PageEntry
from halfsync.settings.errors import Mistakes, SettingError
from halfsync.settings.keys import PROXYING, Does
from halfsync.settings.probes import probes_of
from halfsync.settings.rows import BY_NAME
from halfsync.settings.sites import SiteEntry
from halfsync.settings.table import Settings
from halfsync.settings.targets import FOR_FILES, FOR_FOLDERS, Target
from halfsync.settings.tls_headers import NAMES as TLS_HEADERS
from halfsync.settings.with_tls import Demanding, demanding, only_with_tls
from halfsync.system import cores
from halfsync.system.folders import here_in_words


class Layout(msgspec.Struct, frozen=True):
    """What is served: the part of a plan that comes from the configuration alone."""

    routes: tuple[RoutePlan, ...]
    pools: tuple[PoolPlan, ...]
    sites: tuple[SitePlan, ...]
    only_with_tls: tuple[str, ...] = ()  # settings that are wrong where there is an address without it
    demanding: tuple[Demanding, ...] = ()

    def addresses(self, settings: Settings) -> list[str]:
        """Where to listen: at `bind`, and where sites have addresses of their own."""
        own = [one for site in self.sites for one in site.bind if one not in settings.bind]
        return [*settings.bind, *dict.fromkeys(own)]


def target_of(argument: str) -> Target:
    """The route that a positional argument `[PATH=]TARGET` means. Raises SettingError."""
    where = f"Target {argument!r}"
    path, equals, target = argument.partition("=")
    if argument.startswith("/") and equals:
        return Target(path, target, where, is_argument=True)
    if equals and not _APPLICATION.match(argument) and not argument.startswith("."):
        raise SettingError(f"{where}: the path of a route starts with '/', such as '/{path}={target}'.")
    return Target("/", argument, where, is_argument=True)


def work_out(
    settings: Settings,
    targets: Sequence[Target],
    sites: Sequence[SiteEntry] = (),
    headers: Sequence[HeaderRule] = (),
    error_pages: Sequence[PageEntry] = (),
    mistakes: Mistakes | None = None,
) -> Layout:
    """`targets` are the routes of the default site; `headers` and `error_pages` are for all sites. What is
    wrong (a target is not to be found, or is where another is; two sites have the same host) is noted in
    `mistakes`; without them, it raises SettingError."""
    found = Mistakes() if mistakes is None else mistakes
    if not (targets or any(site.routes for site in sites) or found.found):
        found.note(
            "There is nothing to serve: name an application such as app:app, or a folder such as ./public."
        )
    _check_hosts(sites, settings.bind, found)
    with found.noted():
        probes_of(settings.upgrade_probe)
    pools = [PoolPlan("built-in", None, 1, settings.builtin_threads)]
    files = PageFiles(found)
    of_all = files.load(error_pages)
    plans = [SitePlan(headers=nearest(_of_tls(settings), headers), error_pages=tuple(of_all))]
    routes = _routes(targets, settings, plans[0], headers, files, pools, DEFAULT_SITE, found)
    for site in sites:
        of_site = msgspec.structs.replace(settings, **site.own)
        planned = SitePlan(
            site.name,
            site.hosts,
            site.bind,
            nearest(_of_tls(of_site), headers, site.headers),
            nearest_pages(of_all, files.load(site.error_pages)),
        )
        of_its_routes = nearest(headers, site.headers)
        routes += _routes(site.routes, of_site, planned, of_its_routes, files, pools, len(plans), found)
        plans.append(planned)
    if settings.health_bind:
        routes += _health_routes(len(plans))
        plans.append(SitePlan("health", bind=tuple(map(in_clear, settings.health_bind)), is_health=True))
    if mistakes is None:
        found.raise_all()
    usual = Limits.of(settings)
    routes = [
        msgspec.structs.replace(route, limits=None) if route.limits == usual else route for route in routes
    ]
    return Layout(
        tuple(routes),
        tuple(pools),
        tuple(plans),
        only_with_tls(settings, targets, sites),
        tuple(demanding(settings, targets, sites)),
    )


HEALTH = {"/-/healthy": "healthy", "/-/ready": "ready"}


def _health_routes(site: int) -> list[RoutePlan]:
    return [
        RoutePlan(prefix, f"health check ({shows})", Kind.STATUS, NO_POOL, site=site, shows=shows)
        for prefix, shows in HEALTH.items()
    ]


def in_clear(address: str) -> str:
    """An address of `health_bind`, as `bind` has it: without TLS, since those who probe have no name to
    check a certificate by."""
    return address if "://" in address or address.startswith("unix:") else f"http://{address}"


def _of_tls(settings: Settings) -> list[HeaderRule]:
    texts = {header: getattr(settings, name) for name, header in TLS_HEADERS.items()}
    return [HeaderRule(header, (text,)) for header, text in texts.items() if text]


def _routes(
    targets: Sequence[Target],
    settings: Settings,
    of_site: SitePlan,
    headers: Sequence[HeaderRule],
    files: PageFiles,
    pools: list[PoolPlan],
    site: int,
    mistakes: Mistakes,
) -> list[RoutePlan]:
    """Of one site, whose `settings` these are, and whose index is `site`: the longest prefix first.
    `headers` are its rules for them, without what its settings add."""
    routes: dict[str, RoutePlan] = {}
    by_prefix: dict[str, Target] = {}
    for target in targets:
        with mistakes.noted():
            prefix = _free_prefix(target, by_prefix)
            by_prefix[prefix] = target
            of_route = msgspec.structs.replace(settings, **target.own)
            route = _route(prefix, target, of_route, pools)
            routes[prefix] = msgspec.structs.replace(
                route,
                site=site,
                limits=Limits.of(of_route),
                headers=nearest(_of_tls(of_route), headers, target.headers),
                error_pages=nearest_pages(of_site.error_pages, files.load(target.error_pages)),
                allow=_allowed(target, of_route),
                deny=tuple(of_route.deny),
                client_rate=of_route.client_rate,
                client_burst=of_route.client_burst,
            )
    found = sorted(routes.values(), key=lambda route: (-len(route.prefix), route.prefix))
    _check_loops(found, by_prefix, mistakes)
    return [_with_others(one, found) if one.files.listing else one for one in found]


def _with_others(listing: RoutePlan, routes: Sequence[RoutePlan]) -> RoutePlan:
    below = [one.prefix for one in routes if one.prefix.startswith(f"{listing.prefix}/")]
    files = msgspec.structs.replace(listing.files, of_others=tuple(below))
    return msgspec.structs.replace(listing, files=files)


LOOPBACK = ("127.0.0.0/8", "::1")


def _allowed(target: Target, of_route: Settings) -> tuple[str, ...]:
    """Whom a route is for. The status page is for this machine alone, unless its own table says something
    else: what stands above it is meant for what is served."""
    if target.does is Does.STATUS and "allow" not in target.own:
        return LOOPBACK
    return tuple(of_route.allow)


def _free_prefix(target: Target, by_prefix: Mapping[str, Target]) -> str:
    prefix = _prefix(target)
    there = by_prefix.get(prefix)
    if there is None:
        return prefix
    if target.is_argument:
        shown = there.target or f"status {there.status}"
        raise SettingError(
            f"{target.where}: {shown!r} is served at '{prefix or '/'}' already; to have both, "
            f"write a path before one of them, such as /path={target.target}."
        )
    raise SettingError(
        f"{target.where} is the same path as {there.path!r}, which is a route already: give one of them "
        "another path, or take it away."
    )


def _check_hosts(sites: Sequence[SiteEntry], bind: Sequence[str], mistakes: Mistakes) -> None:
    """Note each host by which a request could be for two of them. `bind`: where those are served that have no
    address of their own."""
    there: dict[tuple[str, str], SiteEntry] = {}  # by address and host
    for site in sites:
        for host in site.hosts:
            others = {there.setdefault((address, host), site).name for address in site.bind or bind}
            for other in others - {site.name}:
                where = site.places.get("hosts", f"{site.where}: ")
                mistakes.note(f"{where}the host {host} belongs to the site {other!r} already.")


_APPLICATION = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d][\w.]*(?:\(.*\))?$", re.DOTALL)
"""`package.module:name`, `module:name.attribute` or `module:factory(...)`. Whether it can be
imported, a worker finds out."""

_MODULE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*$")
"""A module alone, if there is no folder or file of that name: its `application` or `app` is meant."""


def _is_application(target: Target) -> bool:
    name = target.target
    if target.does is Does.APP:
        if _APPLICATION.match(name) or _MODULE.match(name):
            return True
        raise SettingError(
            f"{target.where}: app must be of the form module:name or module:factory(), not {name!r}."
        )
    if target.does in (Does.FOLDER, Does.FILE):
        return False
    if _APPLICATION.match(name):
        return True
    if not _MODULE.match(name) or name.endswith(".py"):
        return False
    if not os.path.exists(name):
        return True
    if os.path.exists(os.path.join(name, "__init__.py")):
        raise SettingError(
            f"{target.where}: {name!r} is a Python package. For an application in it, name that, such as "
            f"{name}:app; to serve the folder's files, say ./{name}."
        )
    return False


def _route(prefix: str, target: Target, settings: Settings, pools: list[PoolPlan]) -> RoutePlan:
    """Raises SettingError, once for all that is wrong with it."""
    if target.does in (Does.REDIRECT, Does.RESPOND, Does.ERROR, Does.STATUS):
        why_not = f"has no effect beside {target.does.value}"
        _check_own(target, lambda name: BY_NAME[name].of_routes == "all", why_not)
        if target.does is Does.STATUS:
            return RoutePlan(prefix, target.target, Kind.STATUS, NO_POOL, shows="status")
        return RoutePlan(prefix, _in_words(target), Kind.FIXED, NO_POOL, fixed=_fixed(target))
    if _is_application(target):
        _check_own(target, lambda name: name not in FOR_FILES, "is for files; an application says its own")
        root_path = _root_path(target, settings.root_path)
        return RoutePlan(
            prefix,
            target.target,
            Kind.WSGI,
            _pool(target, settings, pools),
            streams=settings.stream_body,
            intercepts=settings.intercept_errors,
            root_path=root_path,
        )
    mistakes = Mistakes()
    with mistakes.noted():
        _check_files(target)
    with mistakes.noted():
        why_not = "is for applications, not for files"
        _check_own(target, lambda name: BY_NAME[name].of_routes != "applications", why_not)
    mistakes.raise_all()
    return RoutePlan(prefix, target.target, Kind.FILES, BUILT_IN, _file_rules(target, settings))


def _check_own(target: Target, is_right: Callable[[str], bool], why_not: str) -> None:
    """Raises SettingError, once for all settings of its own that are for other routes."""
    mistakes = Mistakes()
    for name in target.own:
        if not is_right(name):
            mistakes.note(f"{target.where}: {name} {why_not}.")
    mistakes.raise_all()


def _root_path(target: Target, text: str) -> str:
    path = text.rstrip("/")
    if path and not path.startswith("/"):
        raise SettingError(f"{target.where}: root_path must begin with '/', unlike {text!r}.")
    return path


def _fixed(target: Target) -> Fixed:
    if target.does is Does.ERROR:
        return Fixed(target.status, is_error=True)
    if target.does is Does.REDIRECT:
        return Fixed(target.status, location=target.target)
    return Fixed(target.status, body=target.target.encode(), content_type=target.content_type)


def _in_words(target: Target) -> str:
    """What is shown for a route that needs no worker: "redirect /new (301)"."""
    if target.does is Does.REDIRECT:
        return f"redirect {target.target} ({target.status})"
    return f"respond {target.status}"


def _check_loops(site: Sequence[RoutePlan], by_prefix: Mapping[str, Target], mistakes: Mistakes) -> None:
    """Note each redirect that leads to its own route."""
    for route in site:
        if route.fixed is None or not route.fixed.location:
            continue
        path = route.fixed.location.partition("?")[0].partition("$")[0]
        if not path.startswith("/"):
            if route.prefix or not route.fixed.location.startswith("$path"):
                continue
            path = "/"
        leads_to = next((one for one in site if f"{path.rstrip('/')}/".startswith(f"{one.prefix}/")), None)
        if leads_to is route:
            where = f"{by_prefix[route.prefix].where}: the redirect to {route.fixed.location!r}"
            mistakes.note(f"{where} leads to this route again.")


def _file_rules(target: Target, settings: Settings) -> FileRules:
    rules = {name: getattr(settings, name) for name in FOR_FILES}
    is_file = not os.path.isdir(target.target)
    own = target.own.get("fallback", "")
    if is_file:
        why_not = f"is for folders, and {target.target!r} is one file"
        _check_own(target, lambda name: name not in FOR_FOLDERS or not target.own[name], why_not)
    rules["fallback"] = "" if is_file else rules["fallback"].strip("/")
    if own and not os.path.isfile(os.path.join(target.target, rules["fallback"])):
        raise SettingError(f"{target.where}: fallback: there is no file {own!r} in that folder.")
    rules["listing"] = rules["listing"] and not is_file
    return FileRules(**rules, is_file=is_file)


def _pool(target: Target, settings: Settings, pools: list[PoolPlan]) -> int:
    """The application's pool. Routes of one application share it, unless they ask for sizes of
    their own that differ."""
    processes, scale = _processes(target, settings)
    recycle = RecyclePlan(settings.max_worker_age, settings.max_worker_memory)
    pool = PoolPlan(
        target.target,
        target.target,
        processes,
        settings.threads,
        scale,
        recycle,
        settings.interface,
        settings.limit_concurrency,
        settings.lifespan,
        settings.loop,
    )
    for index, one in enumerate(pools):
        if msgspec.structs.replace(one, name=pool.name) == pool:
            return index
    pools.append(msgspec.structs.replace(pool, name=_free_name(target, pools)))
    return len(pools) - 1


def _free_name(target: Target, pools: Sequence[PoolPlan]) -> str:
    """The application's; with the route's path, where another pool of the application has it already. What is
    shown and counted by pool needs a name for each."""
    taken = {pool.name for pool in pools}
    path = f"{target.target} at {target.path}"
    numbered = (f"{path} ({number})" for number in range(2, len(pools) + 3))
    return next(name for name in (target.target, path, *numbered) if name not in taken)


def _processes(target: Target, settings: Settings) -> tuple[int, ScalePlan | None]:
    """How many to begin with; and the bounds, if the number is not fixed."""
    least, most = settings.min_workers, settings.max_workers
    workers = cores.usable() if settings.workers == "auto" else settings.workers
    if not (least or most):
        return workers, None
    if most and settings.workers != "auto" and workers > most:
        raise SettingError(f"{target.where}: workers ({workers}) is more than max_workers ({most}).")
    if most and least > most:
        raise SettingError(f"{target.where}: min_workers ({least}) is more than max_workers ({most}).")
    most = most or max(workers, least)
    workers = min(max(workers, least), most)
    least = least or workers
    if least == most:
        return workers, None
    spare, threads = settings.min_spare, settings.threads
    enough = settings.max_spare or spare + 2 * threads
    return workers, ScalePlan(least, most, spare, max(enough, spare + threads))


def prefix_of(path: str) -> str:
    """A route's path without the trailing slash, percent-decoded."""
    return unquote(path).removesuffix("/")


def _prefix(target: Target) -> str:
    """Raises SettingError."""
    if not target.path.startswith("/"):
        raise SettingError(f"{target.where}: the path of a route starts with '/', not {target.path!r}.")
    prefix = prefix_of(target.path)
    begin = target.path.partition("?")[0].partition("#")[0]
    segments = prefix.split("/")[1:]
    if begin != target.path or any(one in ("", ".", "..") for one in segments) or _UNFIT.search(prefix):
        raise SettingError(f"{target.where}: no request has a path that begins with {target.path!r}.")
    return prefix


_UNFIT = re.compile(r"[\x00-\x1f\x7f\ufffd]")


def _check_files(target: Target) -> None:
    """Raises SettingError."""
    where, name = target.where, target.target
    if target.does is Does.TARGET and name.startswith(("http://", "https://")):
        raise SettingError(f"{where}: {name!r} can't be served: {PROXYING}")
    if not name:
        raise SettingError(
            f"{where} is empty: name an application such as app:app, or a folder such as ./public."
        )
    if target.does is Does.FILE and os.path.isdir(name):
        raise SettingError(f"{where}: {name!r} is a folder; say so: folder = {name!r}.")
    if target.does is Does.FOLDER and os.path.isfile(name):
        raise SettingError(f"{where}: {name!r} is a file; say so: file = {name!r}.")
    _check_is_there(where, name, target.does)


def _check_is_there(where: str, name: str, does: Does) -> None:
    if os.path.isdir(name):
        if not os.access(name, os.R_OK | os.X_OK):
            raise SettingError(f"{where}: the folder {name!r} may not be read by this user.")
        return
    if os.path.isfile(name) and (does is Does.FILE or not name.endswith(".py")):
        if not os.access(name, os.R_OK):
            raise SettingError(f"{where}: the file {name!r} may not be read by this user.")
        return
    if name.endswith(".py") and does is Does.TARGET:
        raise SettingError(
            f"{where}: an application is named with its module and without .py, such as {_guess(name)}:app."
        )
    if os.path.exists(name):
        raise SettingError(f"{where}: {name!r} is neither a folder nor a regular file.")
    module, colon, attribute = name.partition(":")
    if colon and "/" in module and _APPLICATION.match(f"{_guess(module)}:{attribute}"):
        meant = f"{_guess(module)}:{attribute}"
        raise SettingError(f"{where}: an application is named with its module, with dots, such as {meant}.")
    if "/" in name or name.startswith(".") or does is not Does.TARGET:
        raise SettingError(f"{where}: there is no folder or file {name!r} in {here_in_words()}.")
    raise SettingError(
        f"{where}: {name!r} is neither a folder or file in {here_in_words()} nor of the form module:name or "
        "module:factory()."
    )


def _guess(name: str) -> str:
    """The module that a file is."""
    parts = os.path.relpath(name).removesuffix(".py").split("/")
    return ".".join(parts) if all(part.isidentifier() for part in parts) else "module"
