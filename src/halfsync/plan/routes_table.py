"""What serves what, as a table for people: addresses, sites, routes, pools."""

from __future__ import annotations

from collections.abc import Sequence

from halfsync.plan.plan import DEFAULT_SITE, Kind, Plan, RoutePlan, SitePlan
from halfsync.plan.schemes import scheme_of
from halfsync.settings.table import Settings


def addresses_of(plan: Plan, site: int) -> list[str]:
    """Where a site is served: as bound, or, if nothing is bound yet, as configured."""
    settings = plan.settings
    found = [one.url for one in plan.listeners if site in one.sites and not one.is_removed]
    found = found or [_url_of(address, settings) for address in plan.sites[site].bind or settings.bind]
    if not settings.redirect_http or plan.sites[site].is_health:
        return found
    return [f"{one} (redirects)" if one.startswith("http:") else one for one in found]


def _url_of(address: str, settings: Settings) -> str:
    if address.startswith("unix:") or "://" in address:
        return address
    return f"{scheme_of(address, settings)}://{address}"


def table_of(plan: Plan) -> list[str]:
    """Lines. With one site: its routes, and where it is served. With several: each under its hosts."""
    health = [index for index, site in enumerate(plan.sites) if site.is_health]
    checks = [f"health checks at {', '.join(addresses_of(plan, index))}" for index in health]
    if len(plan.sites) - len(health) == 1:
        addresses = [f"  {one}" for one in addresses_of(plan, DEFAULT_SITE)]
        return [*_routes(plan, DEFAULT_SITE), "at", *addresses, *checks]
    lines: list[str] = []
    for index, site in enumerate(plan.sites):
        routes = _routes(plan, index)
        if routes and not site.is_health:
            lines += [
                f"  {_hosts(site)} at {', '.join(addresses_of(plan, index))}",
                *(f"  {one}" for one in routes),
            ]
    return lines + checks


def _hosts(site: SitePlan) -> str:
    return ", ".join(site.hosts) or "all other hosts"


def _routes(plan: Plan, site: int) -> list[str]:
    """The shortest path first, in columns."""
    routes = [route for route in reversed(plan.routes) if route.site == site]
    rows = [(route.prefix or "/", route.target, _by_whom(plan, route)) for route in routes]
    width, wide = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    return [f"  {path:{width}}  {target:{wide}}  {whom}".rstrip() for path, target, whom in rows]


def _by_whom(plan: Plan, route: RoutePlan) -> str:
    said: list[str] = []
    if route.kind is Kind.FILES:
        said.append("files")
    elif route.kind not in (Kind.FIXED, Kind.STATUS):
        pool = plan.pools[route.pool]
        processes = _count(pool.processes, "process", "processes")
        if pool.scale is not None:
            processes = f"{pool.scale.least} to {pool.scale.most} processes"
        threads = _count(pool.threads, "thread", "threads")
        said.append(f"{processes} of {threads}")
    said += _networks("allow", route.allow) + _networks("deny", route.deny)
    return ", ".join(said)


def _networks(setting: str, networks: Sequence[str]) -> list[str]:
    return [f"{setting} {' '.join(networks)}"] if networks else []


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
