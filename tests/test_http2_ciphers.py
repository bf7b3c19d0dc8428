"""Cipher suites with which HTTP/2 must not be spoken (RFC 9113 9.2.2 and appendix A)."""

from __future__ import annotations

import ssl

import pytest

from halfsync.tls.certificates import INTERMEDIATE
from halfsync.tls.http2_ciphers import may_speak_newest, prohibited_in, suits_http2

PROHIBITED = """
    AES128-GCM-SHA256 AES256-GCM-SHA384 AES128-CCM AES128-SHA AES256-SHA256 CAMELLIA128-SHA DES-CBC3-SHA
    RC4-SHA NULL-SHA256 IDEA-CBC-SHA SEED-SHA ECDHE-RSA-AES128-SHA ECDHE-RSA-AES128-SHA256
    ECDHE-ECDSA-AES256-SHA384 ECDHE-ECDSA-CAMELLIA128-SHA256 ECDHE-RSA-NULL-SHA DHE-RSA-AES128-SHA
    DHE-RSA-AES256-SHA256 DHE-DSS-AES128-SHA256 EDH-RSA-DES-CBC3-SHA ADH-AES128-GCM-SHA256 AECDH-AES128-SHA
    ECDH-RSA-AES128-GCM-SHA256 PSK-AES128-GCM-SHA256 RSA-PSK-AES128-GCM-SHA256 PSK-CHACHA20-POLY1305
    SRP-AES-128-CBC-SHA
"""
GOOD = (
    *INTERMEDIATE.split(":"),
    *("ECDHE-ECDSA-AES128-CCM", "ECDHE-ECDSA-AES128-CCM8", "DHE-RSA-AES128-CCM", "ECDHE-ARIA128-GCM-SHA256"),
    *("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"),
)


@pytest.mark.parametrize("cipher", PROHIBITED.split())
def test_prohibited(cipher: str):
    assert not suits_http2(cipher)


@pytest.mark.parametrize("cipher", GOOD)
def test_good(cipher: str):
    assert suits_http2(cipher)


def test_the_names_tell_what_openssl_says_of_its_suites():
    for one in context("ALL:COMPLEMENTOFALL:@SECLEVEL=0").get_ciphers():
        ephemeral = one["kea"] in ("kx-ecdhe", "kx-dhe", "kx-dhe-psk", "kx-ecdhe-psk", "kx-any")
        good = ephemeral and one["aead"] and one["auth"] != "auth-null"
        assert suits_http2(one["name"]) == good, one


def context(ciphers: str) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.set_ciphers(ciphers)
    return made


def test_those_of_a_context():
    assert prohibited_in(context(INTERMEDIATE)) == []
    mixed = context("ECDHE-RSA-AES128-GCM-SHA256:AES128-SHA")
    assert prohibited_in(mixed) == ["AES128-SHA"]
    mixed.minimum_version = ssl.TLSVersion.TLSv1_3
    assert prohibited_in(mixed) == []


def test_tls_1_3_may_be_turned_off_for_the_whole_system():
    made = context(INTERMEDIATE)
    assert may_speak_newest(made)
    made.maximum_version = ssl.TLSVersion.TLSv1_3
    assert may_speak_newest(made)
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    assert not may_speak_newest(made)
