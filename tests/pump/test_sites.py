"""Which route a request is for, by its Host and path; and routes that need no worker."""

from __future__ import annotations

import pytest

from halfsync.hosts import HostTable
from halfsync.plan import NO_POOL, Fixed, Kind, RoutePlan, SitePlan
from halfsync.pump.routes import below_prefix, target_parts
from halfsync.wire.messages import Lease
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
        ("$path", "/old", "/"),
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
