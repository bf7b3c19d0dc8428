"""What `limit_store` may say."""

from __future__ import annotations

import re

import pytest

from halfsync.settings.store_url import StoreUrl, parse_store_url


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://10.0.0.5", StoreUrl("10.0.0.5", 6379, "", "", "", 0)),
        ("redis://store.example:7000/2", StoreUrl("store.example", 7000, "", "", "", 2)),
        ("redis://:p%40ss@[2001:db8::1]:1/", StoreUrl("2001:db8::1", 1, "", "", "p@ss", 0)),
        ("redis://me:secret@h", StoreUrl("h", 6379, "", "me", "secret", 0)),
        ("unix:///run/redis.sock", StoreUrl("", 0, "/run/redis.sock", "", "", 0)),
        ("unix://:secret@/run/redis.sock", StoreUrl("", 0, "/run/redis.sock", "", "secret", 0)),
    ],
)
def test_what_it_means(text: str, expected: StoreUrl):
    found = parse_store_url(text)
    assert found == expected
    assert "secret" not in found.named


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0.5:6379", "redis://", "redis:///2", "redis://h/x", "redis://h:x", "redis://h:70000", "unix://",
     "unix://h/run/x", "http://h", "redis://h?db=2", "redis://[::1"],
)  # fmt: skip
def test_what_is_wrong(text: str):
    with pytest.raises(ValueError, match=r"^must be of the form redis://"):
        parse_store_url(text)


def test_tls():
    usual = StoreUrl("h", 6380, "", "", "secret", 1, tls=True)
    assert parse_store_url("rediss://:secret@h:6380/1") == usual
    assert usual.named == "rediss://h:6380"
    found = parse_store_url("rediss://h?ssl_ca_certs=/a%20b/ca.pem&ssl_certfile=c.pem&ssl_keyfile=c.key")
    assert (found.ca_certs, found.certfile, found.keyfile) == ("/a b/ca.pem", "c.pem", "c.key")
    assert found.verifies
    assert not parse_store_url("rediss://h?ssl_cert_reqs=none").verifies


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("ssl_cert_reqs=perhaps", "has an option ssl_cert_reqs='perhaps' behind '?'; there are ssl_ca"),
        ("ssl_ca_certs=", "has an option ssl_ca_certs='' behind"),
        ("db=2", "has an option db='2' behind"),
        ("ssl_keyfile=x", "has ssl_keyfile, and no ssl_certfile."),
    ],
)  # fmt: skip
def test_what_is_wrong_with_options_of_tls(query: str, words: str):
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_store_url(f"rediss://h?{query}")
