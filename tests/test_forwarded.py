"""X-Forwarded fields: from whom they are believed, and what they then change."""

from __future__ import annotations

import re

import pytest

from halfsync.handlers.forwarded_fields import (
    apply_forwarded_fields,
    has_forwarded_fields,
    remove_forwarded_fields,
)
from halfsync.http.forwarded import FIELDS, Trust, named_clients
from halfsync.logs.formats import compile_format
from halfsync.settings.table import Settings
from halfsync.wire.messages import LogRecord

DEFAULT = Settings()
PROXIES = ["127.0.0.1", "::1", "10.0.0.0/8"]


def trust(*allow: str, fields: tuple[str, ...] = FIELDS) -> Trust:
    return Trust(list(allow) or PROXIES, fields)


@pytest.mark.parametrize(
    ("peer", "believed"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("10.200.3.4", True),
        ("::ffff:10.200.3.4", True),
        ("", True),  # a unix socket's
        ("192.0.2.1", False),
        ("::2", False),
    ],
)
def test_who_is_believed(peer, believed):
    assert trust().believes_peer(peer) is believed


def test_nobody_and_anybody():
    nobody, anybody = Trust([], FIELDS), trust("*")
    assert not nobody.believes_peer("")
    assert not nobody.believes_peer("127.0.0.1")
    assert anybody.believes_peer("192.0.2.1")
    assert anybody.believes_peer("")


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("6.6.6.6, 192.0.2.7", "192.0.2.7"),  # the first is what the client made up
        ("6.6.6.6, 192.0.2.7, 10.0.0.3", "192.0.2.7"),  # by way of two proxies
        ("10.0.0.4,10.0.0.3", "10.0.0.4"),  # all of them are proxies: the farthest
        ("192.0.2.7:1234", "192.0.2.7"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("192.0.2.7, unknown", "127.0.0.1"),
        ("192.0.2.7, unknown, 10.0.0.3", "10.0.0.3"),
        ("", "127.0.0.1"),
        ('fe80::1%" "', "127.0.0.1"),
    ],
)
def test_the_client_is_the_last_address_that_is_no_proxy(value, client):
    assert trust().client("127.0.0.1", value) == client
    assert trust().client("192.0.2.99", value) == "192.0.2.99"


def test_with_anybody_trusted_the_client_is_the_last_address():
    assert trust("*").client("172.17.0.1", "6.6.6.6, 192.0.2.7") == "192.0.2.7"
    assert trust("*", "10.0.0.0/8").client("172.17.0.1", "192.0.2.7, 10.0.0.3") == "192.0.2.7"


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("for=192.0.2.7", "192.0.2.7"),
        ("For=192.0.2.7;Proto=http;by=203.0.113.43", "192.0.2.7"),
        ("for=6.6.6.6, for=192.0.2.7", "192.0.2.7"),
        ("for=6.6.6.6,for=192.0.2.7,for=10.0.0.3", "192.0.2.7"),
        ("for=10.0.0.4, for=10.0.0.3", "10.0.0.4"),
        ('for="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17"),
        ('for="192.0.2.7:4711";host="a,b"', "192.0.2.7"),
        ("for=192.0.2.7, for=_hidden", "127.0.0.1"),
        ("for=192.0.2.7, proto=https", "127.0.0.1"),
        ("for=192.0.2.7, for=unknown, for=10.0.0.3", "10.0.0.3"),
        ("for=192.0.2.7,", "192.0.2.7"),
        (" , for=192.0.2.7 , ,", "192.0.2.7"),
        # What the client has sent can't hide what the proxy adds behind it.
        ('for="6.6.6.6, for=192.0.2.7', "192.0.2.7"),
        ('for="6.6.6.6\\, for=192.0.2.7', "192.0.2.7"),
        ('for=6.6.6.6;host="x, for=192.0.2.7', "192.0.2.7"),
        ("for=6.6.6.6;, for=192.0.2.7", "192.0.2.7"),
        ('for=192.0.2.7;host="x, for=7.7.7.7"', "192.0.2.7"),
        ('for=192.0.2.7;host="\\", for=7.7.7.7"', "192.0.2.7"),
        # Malformed by the proxy itself: nobody knows.
        ("for=192.0.2.7;", "127.0.0.1"),
        ("for=192.0.2.7;for=192.0.2.8", "127.0.0.1"),
        ('for="192.0.2.7', "127.0.0.1"),
        ("for = 192.0.2.7", "127.0.0.1"),
        ("192.0.2.7", "127.0.0.1"),
        (",".join(["for=10.0.0.3"] * 1000), "10.0.0.3"),
        ("", "127.0.0.1"),
    ],
)
def test_the_same_of_forwarded(value, client):
    named = named_clients({"forwarded": value})
    assert trust().client("127.0.0.1", named) == client
    assert trust().client("192.0.2.99", named) == "192.0.2.99"
    assert trust(fields=("x-forwarded-for",)).client("127.0.0.1", named) == "127.0.0.1"


def test_forwarded_goes_before_the_others():
    named = named_clients({"x-forwarded-for": "192.0.2.1", "forwarded": "for=192.0.2.2"})
    assert trust().client("127.0.0.1", named) == "192.0.2.2"
    assert trust(fields=("x-forwarded-for",)).client("127.0.0.1", named) == "192.0.2.1"


HTTPS = {"wsgi.url_scheme": "https", "HTTPS": "on"}


def applied(
    fields: dict[str, str], *, host: str = "inside:8000", believe: Trust | None = None
) -> dict[str, object]:
    environ: dict[str, object] = {
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "5",
        "HTTP_HOST": host,
        "SERVER_PORT": "8000",
        "wsgi.url_scheme": "http",
    }
    environ |= {
        "HTTP_FORWARDED" if name == "forwarded" else "HTTP_X_FORWARDED_" + name.upper(): value
        for name, value in fields.items()
    }
    apply_forwarded_fields(believe or trust(), environ, "127.0.0.1")
    return {name: value for name, value in environ.items() if "FORWARDED" not in name}


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        ({"for": "192.0.2.7"}, {"REMOTE_ADDR": "192.0.2.7", "REMOTE_PORT": "0"}),
        ({"proto": "https"}, {**HTTPS, "SERVER_PORT": "8000"}),
        (
            {"proto": "HTTPS", "host": "shop.example"},
            {**HTTPS, "SERVER_PORT": "443", "HTTP_HOST": "shop.example"},
        ),
        (
            {"proto": "http, https", "host": "a.example, b.example:81"},
            {**HTTPS, "SERVER_PORT": "81", "HTTP_HOST": "b.example:81"},
        ),
        ({"port": "8443"}, {"SERVER_PORT": "8443"}),
        (
            {"proto": "https", "host": "[::1]", "port": "444"},
            {**HTTPS, "SERVER_PORT": "444", "HTTP_HOST": "[::1]"},
        ),
        ({"prefix": "/shop"}, {"SCRIPT_NAME": "/shop"}),
        ({"prefix": "/a, /shop/b/"}, {"SCRIPT_NAME": "/shop/b"}),
        *(
            ({"prefix": bad}, {})
            for bad in ("", "/", "shop", "//evil.example", "/a//b", "/a b", "/a?b", "/%2")
        ),
        (
            {"forwarded": "for=6.6.6.6;host=evil.example, for=192.0.2.7;proto=https;host=shop.example"},
            {
                **HTTPS,
                "REMOTE_ADDR": "192.0.2.7",
                "REMOTE_PORT": "0",
                "SERVER_PORT": "443",
                "HTTP_HOST": "shop.example",
            },
        ),
        (  # of the element that names the client: its own proxy's
            {"forwarded": "for=192.0.2.7;proto=https;host=shop.example, for=10.0.0.3;proto=http;host=inner"},
            {
                **HTTPS,
                "REMOTE_ADDR": "192.0.2.7",
                "REMOTE_PORT": "0",
                "SERVER_PORT": "443",
                "HTTP_HOST": "shop.example",
            },
        ),
        ({"proto": "gopher", "host": "a b", "port": "x", "for": "x"}, {}),
        ({"host": "a/b", "port": "99999"}, {}),
        ({"host": "", "port": "", "proto": ""}, {}),
    ],
)
def test_what_is_changed(fields, changed):
    assert applied(fields) == applied({}) | changed


def test_what_an_untrusted_peer_sends_is_removed(capfd):
    environ: dict[str, object] = {"HTTP_" + name.upper().replace("-", "_"): "x" for name in FIELDS}
    believed = trust()
    for _ in range(2):
        changed = {**environ, "HTTP_HOST": "a"}
        assert has_forwarded_fields(changed)
        remove_forwarded_fields(believed, changed, "192.0.2.99")
        assert changed == {"HTTP_HOST": "a"}
        assert not has_forwarded_fields(changed)
    (line,) = capfd.readouterr().err.splitlines()
    assert "x-forwarded-for came from 192.0.2.99, which is not in forwarded_allow_ips" in line


def test_only_what_is_named_is_believed():
    """By default neither the host nor the port: a proxy that does not set them passes its clients' on."""
    default = Trust(DEFAULT.forwarded_allow_ips, DEFAULT.forwarded_headers)
    found = applied(
        {"for": "192.0.2.7", "proto": "https", "host": "evil.example", "port": "1"}, believe=default
    )
    assert found["HTTP_HOST"] == "inside:8000"
    assert found["SERVER_PORT"] == "8000"
    assert (found["REMOTE_ADDR"], found["wsgi.url_scheme"]) == ("192.0.2.7", "https")


@pytest.mark.parametrize(
    ("allow", "fields", "said"),
    [
        (["localhost"], FIELDS, "forwarded_allow_ips: 'localhost' is neither an address such as 10.0.0.7"),
        (["10.0.0.0/99"], FIELDS, "forwarded_allow_ips: '10.0.0.0/99' is neither"),
        (["*"], ["x-real-ip"], "forwarded_headers: 'x-real-ip' is none of x-forwarded-for, "),
    ],
)
def test_what_is_wrong_is_a_sentence(allow, fields, said):
    with pytest.raises(ValueError, match="^" + re.escape(said)):
        Trust(allow, fields)


# --- the access log -------------------------------------------------------------------------------


def logged(form: str, peer: str, *fields: str) -> str:
    head = "\r\n".join(["GET / HTTP/1.1", "Host: a", *fields, "", ""]).encode()
    record = LogRecord(0.0, peer, head, 200, 0, 0, 0, 0, 0, 0, 0)
    return compile_format(form, trust())([record, record]).decode().splitlines()[1]


@pytest.mark.parametrize("form", ["%h", "%a", "%(h)s"])
def test_the_log_has_the_client_that_a_trusted_peer_names(form):
    assert logged(form, "127.0.0.1", "X-Forwarded-For: 192.0.2.7") == "192.0.2.7"
    assert logged(form, "", "x-forwarded-for: 6.6.6.6", "X-Forwarded-For: 192.0.2.7") == "192.0.2.7"
    assert logged(form, "192.0.2.99", "X-Forwarded-For: 192.0.2.7") == "192.0.2.99"
    assert logged(form, "127.0.0.1") == "127.0.0.1"
    assert logged(form, "") == "-"


def test_the_peer_itself_can_be_logged():
    assert logged("%a %{c}a", "127.0.0.1", "X-Forwarded-For: 192.0.2.7") == "192.0.2.7 127.0.0.1"


def test_json_has_it_too():
    assert '"client":"192.0.2.7"' in logged("json", "", "X-Forwarded-For: 192.0.2.7")
    assert '"client":"192.0.2.99"' in logged("json", "192.0.2.99", "X-Forwarded-For: 192.0.2.7")


def test_without_trust_nothing_is_believed():
    head = b"GET / HTTP/1.1\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n"
    record = LogRecord(0.0, "127.0.0.1", head, 200, 0, 0, 0, 0, 0, 0, 0)
    for nobody in (None, Trust([], FIELDS), Trust(["*"], ["x-forwarded-proto"])):
        assert compile_format("%h", nobody)([record]) == b"127.0.0.1\n"


def test_a_proxy_that_speaks_tls_to_us_may_say_that_its_client_does_not():
    environ: dict[str, object] = {
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.url_scheme": "https",
        "HTTPS": "on",
        "HTTP_X_FORWARDED_PROTO": "http",
    }
    apply_forwarded_fields(trust(), environ, "127.0.0.1")
    assert environ["wsgi.url_scheme"] == "http"
    assert "HTTPS" not in environ
