"""Which route a request is for, by its Host and path; and routes that need no worker."""

from __future__ import annotations

import dataclasses

import pytest
from msgspec.structs import replace

from halfsync.http.header_rules import HeaderRule
from halfsync.http.hosts import HostTable
from halfsync.plan.plan import NO_POOL, Fixed, Kind, Limits, RoutePlan, SitePlan
from halfsync.pump.routes import below_prefix, target_parts
from halfsync.settings.table import Settings
from halfsync.wire.messages import Ending, Lease
from tests.pump.harness import APP, Answer, Stage, echo, get

SITES = (
    SitePlan(),
    SitePlan("blog", ("blog.example", "*.blog.example")),
    SitePlan("shop", ("shop.example", "[::1]", "very.shop.blog.example", "*.old.blog.example")),
)


def app(prefix: str, site: int = 0) -> RoutePlan:
    return RoutePlan(prefix, "app:app", Kind.WSGI, APP, site=site)


def fixed(prefix: str, response: Fixed, site: int = 0) -> RoutePlan:
    return RoutePlan(prefix, "", Kind.FIXED, NO_POOL, site=site, fixed=response)


@pytest.mark.parametrize(
    ("host", "site"),
    [
        ("blog.example", 1),
        ("BLOG.Example", 1),
        ("blog.example.", 1),
        ("blog.example:8080", 1),
        ("blog.example.:80", 1),
        ("blog.example:", 1),
        ("a.blog.example", 1),
        ("a.b.blog.example", 1),
        ("xblog.example", 0),
        (".blog.example", 1),
        ("shop.example", 2),
        ("very.shop.blog.example", 2),
        ("not.very.shop.blog.example", 1),
        ("x.old.blog.example", 2),
        ("old.blog.example", 1),
        ("a.shop.example", 0),
        ("[::1]", 2),
        ("[::1]:443", 2),
        ("[::2]:443", 0),
        ("127.0.0.1:1", 0),
        ("", 0),
        ("example", 0),
    ],
)
def test_a_host_means_a_site(host, site):
    table = HostTable(((index, one.hosts) for index, one in enumerate(SITES)), 0)
    assert [table.find(host.encode()) for _ in range(2)] == [site, site]


def test_hosts_that_nobody_has_do_not_fill_memory():
    table = HostTable([(1, ["a.example"])], 0)
    for number in range(10_000):
        assert table.find(b"%d.example" % number) == 0
    assert len(table._found) <= 1024
    assert table.find(b"x" * 4000) == 0
    assert all(len(host) < 300 for host in table._found)


def at(host: str, path: str = "/") -> bytes:
    return get(path).replace(b"Host: a\r\n", b"Host: %s\r\n" % host.encode())


def test_each_site_has_routes_of_its_own():
    routes = (app(""), app("/blog", 1), fixed("", Fixed(200, body=b"shop", content_type="text/plain"), 2))
    with Stage(routes=routes, sites=SITES) as stage:
        hand = stage.hand()
        client = stage.client()
        for host, path, route in (("other", "/blog", 0), ("blog.example", "/blog/x", 1), ("other", "/", 0)):
            for _ in range(3):  # parsed, found by its bytes, and by its bytes again
                client.send(at(host, path))
                task = hand.take()
                assert task.route == route
                hand.reply(task, b"done")
                assert client.answer().body == b"done"
        assert client.ask(at("blog.example", "/")).status == 404
        assert client.ask(at("shop.example", "/blog")).body == b"shop"


def test_a_lease_of_one_site_answers_none_of_another():
    routes = (app(""), app("", 1))
    with Stage(routes=routes, sites=SITES) as stage:
        hand = stage.hand()
        client = stage.client()
        for host in ("a.example", "blog.example"):
            client.send(at(host))
            task = hand.take()
            hand.reply(task, host.encode(), lease=Lease(60.0, ()))
            assert client.answer().body == host.encode()
        for host in ("a.example", "blog.example", "a.example", "blog.example"):
            assert client.ask(at(host)).body == host.encode()


# --- redirects, fixed responses and errors ---------------------------------------------------------


def ask_fixed(response: Fixed, request: bytes, prefix: str = "/old", method: str = "GET") -> Answer:
    with Stage(routes=(app(""), fixed(prefix, response))[::-1]) as stage:
        client = stage.client()
        client.send(request)
        answer = client.answer(method)
        stage.hand(answers=True)
        stage.handler = echo
        assert client.ask("/next").status == 200, "the connection goes on"
        return answer


@pytest.mark.parametrize(
    ("to", "asked", "location"),
    [
        ("/new", "/old", "/new"),
        ("/new", "/old/x?a=b", "/new"),
        ("/new$path", "/old", "/new"),
        ("/new$path", "/old/", "/new/"),
        ("/new$path", "/old/a/b", "/new/a/b"),
        ("/new$path$query", "/old/a?x=1&y=%20z", "/new/a?x=1&y=%20z"),
        ("/new$path$query", "/old/a", "/new/a"),
        ("/new$query", "/old?", "/new?"),
        ("/new$path", "/old/a%2Fb%0d%0aX:y", "/new/a%2Fb%0d%0aX:y"),
        ("/new$path", "/%6Fld/x", "/new/x"),
        ("/new$path", '/old/"<>\\^`{|}', "/new/%22%3C%3E%5C%5E%60%7B%7C%7D"),
        ("$path", "/old//evil.example/x", "/evil.example/x"),
        ("$path", "/old/\\evil.example", "/%5Cevil.example"),
        ("$path", "/old%2F/evil.example", "/evil.example"),
        ("$path", "/old%2f%2fevil.example", "/%2fevil.example"),
        ("$path", "/old", "/"),
        ("https://b.example$path", "/old%2F@evil.example", "https://b.example/@evil.example"),
        ("https://b.example$path", "/%6Fl%64%2f.evil.example", "https://b.example/.evil.example"),
        ("https://$host$path", "/old/x", "https://a/x"),
        ("https://b.example/$query", "/old?$path$host", "https://b.example/?$path$host"),
        ("/new$path", "http://a/old/x?y", "/new/x"),
    ],
)
def test_a_redirect(to, asked, location):
    answer = ask_fixed(Fixed(301, location=to), get(asked))
    assert (answer.status, answer.fields["location"]) == (301, location)
    assert answer.body.decode() == f"See {location}\n"


def test_a_redirect_names_the_host_without_its_port():
    request = get("/old").replace(b"Host: a\r\n", b"Host: A.example:81\r\n")
    answer = ask_fixed(Fixed(308, location="https://$host$path$query"), request)
    assert answer.fields["location"] == "https://a.example"


def test_a_redirect_that_names_the_host_needs_one():
    """HTTP/1.0 may have none, and HTTP/1.1 an empty one."""
    for request in (
        get("/old/x").replace(b"Host: a", b"Host:"),
        b"GET /old/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ):
        answer = ask_fixed(Fixed(302, location="https://$host$path"), request)
        assert (answer.status, "location" in answer.fields) == (400, False)


def test_a_redirect_of_a_head_has_no_body():
    answer = ask_fixed(Fixed(302, location="/new"), get("/old", method="HEAD"), method="HEAD")
    assert (answer.status, answer.body, answer.fields["content-length"]) == (302, b"", "9")


def test_a_request_with_a_body_is_taken_in_whole():
    request = get("/old", "Content-Length: 5", method="POST") + b"hello"
    assert ask_fixed(Fixed(307, location="/new"), request).status == 307


@pytest.mark.parametrize(
    ("response", "status", "body", "kind"),
    [
        (Fixed(200, body=b"pong", content_type="text/plain"), 200, b"pong", "text/plain"),
        (Fixed(204), 204, b"", None),
        (Fixed(503, body=b"{}", content_type="application/json"), 503, b"{}", "application/json"),
        (Fixed(200), 200, b"", None),
    ],
)
def test_a_fixed_response(response, status, body, kind):
    answer = ask_fixed(response, get("/old/x"))
    assert (answer.status, answer.body, answer.fields.get("content-type")) == (status, body, kind)


@pytest.mark.parametrize("status", [403, 404, 410, 418, 503])
def test_an_error_is_like_our_own(status):
    answer = ask_fixed(Fixed(status, is_error=True), get("/old"))
    assert answer.status == status
    assert answer.body.startswith(b"%d " % status)


# --- targets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        (b"/a?b#c", (b"/a", b"?b")),
        (b"/a#c?b", (b"/a", b"")),
        (b"/", (b"/", b"")),
        (b"*", (b"/", b"")),
        (b"http://a", (b"/", b"")),
        (b"http://a?b", (b"/", b"?b")),
        (b"http://a/b?c", (b"/b", b"?c")),
        (b"http://a?b/c", (b"/", b"?b/c")),
        (b"//a/b", (b"//a/b", b"")),
    ],
)
def test_parts_of_a_target(target, parts):
    assert target_parts(target) == parts


@pytest.mark.parametrize(
    ("path", "prefix", "below"),
    [
        (b"/a/b", b"/a", b"/b"),
        (b"/%61/b", b"/a", b"/b"),
        (b"/a", b"/a", b""),
        (b"/a%", b"/a%", b""),
        (b"/a%zz/b", b"/a%zz", b"/b"),
        (b"/%C3%A9/b%20", "/é".encode(), b"/b%20"),
        (b"/a", b"", b"/a"),
    ],
)
def test_what_is_below_a_prefix(path, prefix, below):
    assert below_prefix(path, prefix) == below


# --- limits of a route's own -----------------------------------------------------------------------


def own(prefix: str, **limits: float) -> RoutePlan:
    of = dataclasses.replace(Limits.of(Settings()), **limits)  # type: ignore[arg-type]
    return replace(app(prefix), limits=of)


def test_a_body_is_as_large_as_its_route_allows():
    with Stage(routes=(own("/up", limit_request_body=10), app("")), limit_request_body=5) as stage:
        stage.hand(answers=True)
        stage.handler = echo
        for path, length, status in (("/up", 10, 200), ("/up", 11, 413), ("/", 5, 200), ("/", 6, 413)):
            for fields, body in (
                (f"Content-Length: {length}", b"x" * length),
                ("Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (length, b"x" * length)),
            ):
                client = stage.client()
                client.send(get(path, fields, method="POST") + body)
                assert client.answer().status == status, (path, length, fields)


def test_a_handler_has_the_time_of_its_route():
    with Stage(routes=(own("/slow", handler_timeout=60.0), app("")), handler_timeout=5.0) as stage:
        hand = stage.hand()
        slow, fast = stage.client(), stage.client()
        slow.send(get("/slow"))
        task = hand.take()
        fast.send(get("/"))
        hand.take()
        stage.later(6.0)
        assert fast.answer().status == 504
        assert slow.quiet()
        hand.reply(task, b"late")
        assert slow.answer().body == b"late"


def test_a_route_may_have_a_time_where_others_have_none():
    with Stage(routes=(own("/hangs", handler_timeout=5.0), app(""))) as stage:
        hand = stage.hand()
        hangs, other = stage.client(), stage.client()
        other.send(get("/"))
        hand.take()
        hangs.send(get("/hangs"))
        hand.take()
        stage.later(6.0)
        assert hangs.answer().status == 504
        assert other.quiet()


def test_a_stream_may_pause_as_long_as_its_route_says():
    with Stage(routes=(own("/stream", stream_timeout=5.0), app(""))) as stage:
        hand = stage.hand()
        clients = {}
        for path in ("/stream", "/"):
            clients[path] = stage.client()
            clients[path].send(get(path))
            hand.reply(hand.take(), b"first", ending=Ending.UNFINISHED)
            stage.settle()
        stage.later(6.0)
        stage.until(lambda: clients["/stream"].receive() == 0 and clients["/stream"].over)
        assert not clients["/"].over


# --- header rules and access -----------------------------------------------------------------------


def test_header_rules_count_for_responses_of_our_own():
    rules = (HeaderRule("X-A", ("b",)), HeaderRule("Content-Type"))
    routes = (
        replace(fixed("/fixed", Fixed(200, body=b"x", content_type="text/plain")), headers=rules),
        replace(fixed("/error", Fixed(404, is_error=True)), headers=rules),
        replace(fixed("/to", Fixed(301, location="/")), headers=rules),
        replace(own("/app", handler_timeout=5.0), headers=rules),
    )
    with Stage(routes=routes) as stage:
        hand = stage.hand()
        for path in ("/fixed", "/error", "/to", "/app"):
            client = stage.client()
            client.send(get(path))
            if path == "/app":
                hand.take()
                stage.later(6.0)  # it gets a 504
            answer = client.answer()
            assert (answer.fields.get("x-a"), answer.fields.get("content-type")) == ("b", None), path
        assert "x-a" not in stage.client().ask("/none").fields


ALLOWED: dict[str, tuple[tuple[str, ...], tuple[str, ...], int]] = {
    "all": ((), (), 200),
    "its network": (("127.0.0.0/8",), (), 200),
    "its address": (("::1", "127.0.0.1"), (), 200),
    "others": (("10.0.0.0/8",), (), 403),
    "all, except others": ((), ("10.0.0.0/8",), 200),
    "all, except itself": ((), ("127.0.0.0/8",), 403),
    "its network, except itself": (("127.0.0.0/8",), ("127.0.0.1",), 403),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_who_is_allowed(case, capfd):
    allow, deny, status = ALLOWED[case]
    with Stage(routes=(replace(app("/x"), allow=allow, deny=deny), app(""))) as stage:
        stage.hand(answers=True)
        stage.handler = echo
        client = stage.client()
        for _ in range(3):
            assert client.ask("/x/secret?a=b").status == status
            assert client.ask("/").status == 200
    lines = [line for line in capfd.readouterr().err.splitlines() if "403 to 127.0.0.1 for GET" in line]
    assert len(lines) == (status == 403)  # once a second
    assert not any("a=b" in line for line in lines)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/x", 403),
        ("/%78/a", 403),
        ("/x%2fa", 403),
        ("/x/../b", 403),
        ("//x", 404),
        ("/./x", 404),
        ("/b/../x/a", 404),
        ("/b/%2e%2e/x", 404),
        ("/../x", 404),
        ("/.//x?y", 404),
        ("http://a//x", 404),
        ("/b//x", 200),
        ("/b/../c", 200),
        ("/..x", 200),
        ("//", 200),
    ],
)
def test_no_other_way_to_write_a_path_leads_past_the_rules(path, status):
    """The application that has all other paths may take two slashes for one, or resolve dots."""
    with Stage(routes=(replace(app("/x"), allow=("10.0.0.0/8",)), app("/c"), app(""))) as stage:
        stage.hand(answers=True)
        stage.handler = echo
        client = stage.client()
        for _ in range(2):
            assert client.ask(path).status == status


@pytest.mark.parametrize(
    ("trusted", "named", "status"),
    [
        (["127.0.0.1"], "10.0.0.1", 200),
        (["127.0.0.1"], "192.0.2.1, 10.0.0.1", 200),
        (["127.0.0.1"], "10.0.0.1, 192.0.2.1", 403),
        (["127.0.0.1"], "nonsense", 403),
        (["192.0.2.9"], "10.0.0.1", 403),
        ([], "10.0.0.1", 403),
    ],
)
def test_whom_a_trusted_proxy_names_counts(trusted, named, status):
    routes = (replace(app(""), allow=("10.0.0.0/8",)),)
    with Stage(routes=routes, forwarded_allow_ips=trusted) as stage:
        stage.hand(answers=True)
        stage.handler = echo
        assert stage.client().ask(get("/", f"X-Forwarded-For: {named}")).status == status


def test_on_a_unix_socket_nobody_has_an_address():
    routes = (replace(app("/a"), allow=("0.0.0.0/0", "::/0")), replace(app(""), deny=("0.0.0.0/0",)))
    with Stage(routes=routes, unix=True) as stage:
        stage.hand(answers=True)
        stage.handler = echo
        assert stage.client().ask("/a").status == 403
        assert stage.client().ask("/").status == 200
        assert stage.client().ask(get("/a", "X-Forwarded-For: 10.0.0.1")).status == 200


def test_a_body_is_not_waited_for_where_nobody_may_send_one():
    with Stage(routes=(replace(app(""), allow=("10.0.0.0/8",)),)) as stage:
        client = stage.client()
        client.send(get("/", "Content-Length: 1000000", method="POST") + b"x")
        assert client.answer().status == 403


def test_what_is_not_for_everybody_is_not_leased():
    routes = (replace(app(""), allow=("10.0.0.0/8",)),)
    with Stage(routes=routes) as stage:
        hand = stage.hand()
        for _ in range(3):
            client = stage.client()
            client.send(get("/", "X-Forwarded-For: 10.0.0.1"))
            hand.reply(hand.take(), b"secret", lease=Lease(60.0, ()))
            assert client.answer().body == b"secret"
            assert stage.client().ask("/").status == 403
