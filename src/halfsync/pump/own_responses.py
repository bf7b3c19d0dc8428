"""How the pump's own responses look: with the error pages and the rules for headers of their route, or of
their site if they are refused before their route is known.

Which site that is, is known where there is one alone, or when the request's head has been read. Of any other
request the response is in the server's own words."""

from __future__ import annotations

from halfsync.http.error_pages import ErrorPages
from halfsync.http.header_rules import HeaderRules
from halfsync.http.hosts import HostTable
from halfsync.http.request_ids import LINE_START
from halfsync.plan.plan import Plan, RoutePlan, SitePlan
from halfsync.pump.connection import Exchange, Look
from halfsync.wire.refusals import Refusal


class PlannedLook:
    """Of one route, or of one site."""

    __slots__ = ("headers", "pages")

    def __init__(self, planned: RoutePlan | SitePlan) -> None:
        self.headers = HeaderRules(planned.headers) if planned.headers else None
        self.pages = ErrorPages(planned.error_pages) if planned.error_pages else None

    def apply(self, status: int, fields: bytes, body: bytes) -> tuple[bytes, bytes]:
        if self.pages is not None:
            fields, body = self.pages.instead(status, fields, body)
        return fields if self.headers is None else self.headers.apply(fields), body


def look_of(planned: RoutePlan | SitePlan) -> Look | None:
    """None: as they are."""
    return PlannedLook(planned) if planned.headers or planned.error_pages else None


class OwnResponses:
    def __init__(self, plan: Plan) -> None:
        self.configure(plan)

    def configure(self, plan: Plan) -> None:
        """Another plan is in effect."""
        self._sites = [look_of(site) for site in plan.sites]
        self._only = [one.sites[0] if len(one.sites) == 1 else None for one in plan.listeners]
        self._hosts = [
            HostTable(((site, plan.sites[site].hosts) for site in one.sites), one.sites[0])
            for one in plan.listeners
        ]

    def of(self, exchange: Exchange, refusal: Refusal) -> tuple[bytes, bytes]:
        """Field lines, each ended by CRLF, and body."""
        look = self._look_of(exchange) if refusal.is_of_site else None
        fields, body = refusal.fields(), refusal.body()
        if exchange.id_line and body:
            body += b"Request id: " + exchange.id_line[len(LINE_START) - 2 : -2] + b"\n"
        return (fields, body) if look is None else look.apply(refusal.status, fields, body)

    def _look_of(self, exchange: Exchange) -> Look | None:
        if exchange.route is not None:
            return exchange.route.look
        assert exchange.conn is not None
        listener = exchange.conn.origin.listener
        site = self._only[listener]
        if site is None and exchange.head.method:
            site = self._hosts[listener].find(exchange.head.host)
        return None if site is None else self._sites[site]
