"""What `limit_store` may say."""

from __future__ import annotations

import pytest

from halfsync.store_url import StoreUrl, parse_store_url


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


def test_tls_is_not_spoken():
    with pytest.raises(ValueError, match="TLS"):
        parse_store_url("rediss://h")
