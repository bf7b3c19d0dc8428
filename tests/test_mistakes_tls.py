"""What is wrong with addresses, certificates and TLS is told in one run, with file and line."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from tests.certificates import RSA, chain_of, issued, key_of, write
from tests.test_mistakes import halfsync

TLS = """\
bind = ["https://127.0.0.1:0", "http://127.0.0.1:0"]
redirect_http = true
keyfile = "a.key"
cert_reqs = "required"

[routes]
"/" = { respond = "top" }

[sites.one]
keyfile = "one.key"
cert_reqs = "optional"
routes = { "/" = { respond = "one" } }
[sites.two]
bind = "http://127.0.0.1:1"
acme = true
certfile = "two.pem"
[sites.two.routes]
"/" = { respond = "two" }
"""

OF_TLS = """\
site.toml:3: keyfile is given, but no certfile.
site.toml:10: sites."one": keyfile is given, but no certfile.
site.toml:15: sites."two": acme gets a certificate, and certfile names one: only one of them counts.
site.toml:14: sites."two": bind: nothing of it is served, for redirect_http redirects all that comes at \
http://127.0.0.1:1; give it an https:// address.
"""


BOUND = """\
bind = ["http://127.0.0.1:0"]
wokers = 3
redirect_http = true
health_bind = "127.0.0.1:0"
proxy_protocol = ["127.0.0.1:9"]
forwarded_allow_ips = []
user = "nobody-of-this-name"

[routes]
"/" = "app:app"

[sites.one]
bind = "https://127.0.0.1:1"
[sites.one.routes]
"/" = { respond = "one" }
"""

OF_BOUND = """\
site.toml:2: there is no setting wokers; did you mean workers?
site.toml:4: health_bind: 127.0.0.1:0 is in bind too; health checks have an address of their own.
site.toml:5: proxy_protocol: '127.0.0.1:9' is no address of bind, which has http://127.0.0.1:0, \
https://127.0.0.1:1; * means all.
site.toml:5: proxy_protocol: nobody is believed; name the proxies in forwarded_allow_ips, or * for \
whoever connects.
site.toml:13: sites."one": bind 'https://127.0.0.1:1': there is no certificate: name one with certfile.
"""


def test_what_is_wrong_for_the_addresses_is_told_with_all_else(tmp_path):
    """And what is wrong for this machine."""
    (tmp_path / "site.toml").write_text(BOUND, "utf-8")
    found = halfsync(tmp_path, "-c", "site.toml", "--check-config")
    assert (found.returncode, found.stdout) == (2, "")
    told = [line.removeprefix("halfsync: ") for line in found.stderr.splitlines()]
    [of_user] = [line for line in told if "nobody-of-this-name" in line]
    told.remove(of_user)
    assert sorted(told) == sorted(OF_BOUND.splitlines())


def test_what_is_wrong_with_tls_has_its_line(tmp_path):
    (tmp_path / "site.toml").write_text(TLS, "utf-8")
    found = halfsync(tmp_path, "-c", "site.toml", "--check-config")
    assert found.returncode == 2
    told = [line.removeprefix("halfsync: ") for line in found.stderr.splitlines()]
    assert sorted(told) == sorted(OF_TLS.splitlines())


def test_what_is_wrong_with_certificates_has_its_line(tmp_path):
    """Also what is a warning alone."""
    now = datetime.now(UTC)
    (tmp_path / "app.py").write_text("def app(environ, start_response): ...\n", "utf-8")
    write(tmp_path, issued("one.example", not_before=now - timedelta(3), not_after=now - timedelta(1)), "old")
    write(tmp_path, issued("two.example", not_before=now + timedelta(1), not_after=now + timedelta(3)), "new")
    sites = (
        '[sites.one]\nhosts = ["one.example", "www.one.example"]\ncertfile = "old.pem"\nkeyfile = "old.key"\n'
        '[sites.two]\nhosts = ["two.example"]\ncertfile = "new.pem"\nkeyfile = "{key}.key"\n'
        '[sites.one.routes]\n"/" = "app:app"\n[sites.two.routes]\n"/" = "app:app"\n'
    )
    file = tmp_path / "site.toml"
    file.write_text('bind = "https://127.0.0.1:0"\n[routes]\n"/" = "app:app"\n' + sites.format(key="new"))
    said = halfsync(tmp_path, "-c", "site.toml", "--check-config").stdout
    assert 'site.toml:6: sites."one": certfile: the certificate in old.pem expired on' in said
    assert (
        'site.toml:6: sites."one": certfile: the certificate in old.pem is not for www.one.example: ' in said
    )
    assert 'site.toml:10: sites."two": certfile: the certificate in new.pem is not valid before' in said
    assert "The configuration is fine." in said
    file.write_text('bind = "https://127.0.0.1:0"\n[routes]\n"/" = "app:app"\n' + sites.format(key="old"))
    found = halfsync(tmp_path, "-c", "site.toml", "--check-config")
    assert (
        'site.toml:11: sites."two": keyfile: the key in old.key does not fit the certificate in new.pem.'
        in found.stderr
    )
    assert found.stdout.splitlines() == said.splitlines()[:-1]


def test_all_files_of_a_certificate_are_looked_at(tmp_path):
    write(tmp_path, issued("one.example"), "one")
    write(tmp_path, issued("two.example", key_type=RSA), "two")
    (tmp_path / "site.toml").write_text(
        'bind = "https://127.0.0.1:0"\n'
        'certfile = ["one.pem", "two.pem"]\nkeyfile = ["two.key", "one.key"]\n'
        '[routes]\n"/" = { respond = "" }\n'
        '[sites.a]\nroutes = { "/" = { respond = "" } }\n'
        'certfile = ["no.pem", "one.pem"]\nkeyfile = ["no.key", "none.key"]\nca_certs = "no.ca"\n',
        "utf-8",
    )
    found = halfsync(tmp_path, "-c", "site.toml", "--check-config")
    missing = "can't be read: No such file or directory."
    assert {line.removeprefix("halfsync: ") for line in found.stderr.splitlines()} == {
        "site.toml:3: keyfile: the key in one.key does not fit the certificate in two.pem.",
        "site.toml:3: keyfile: the key in two.key does not fit the certificate in one.pem.",
        f'site.toml:8: sites."a": certfile: the file no.pem {missing}',
        f'site.toml:9: sites."a": keyfile: the file no.key {missing}',
        f'site.toml:9: sites."a": keyfile: the file none.key {missing}',
        f'site.toml:10: sites."a": ca_certs: the file no.ca {missing}',
    }


@pytest.mark.parametrize("given", ["--check-config", None])
def test_an_https_address_whose_sites_have_no_certificate_is_told(tmp_path, given):
    """Though another site has one: all clients there would get an alert, and nothing be logged."""
    leaf = issued("two.test")
    (tmp_path / "two.pem").write_bytes(key_of(leaf) + chain_of(leaf))
    (tmp_path / "site.toml").write_text(
        'bind = ["http://127.0.0.1:0", "https://127.0.0.1:1"]\n[routes]\n"/" = { respond = "one" }\n'
        '[sites."two.test"]\nbind = ["https://127.0.0.1:2"]\ncertfile = "two.pem"\n'
        '[sites."two.test".routes]\n"/" = { respond = "two" }\n',
        "utf-8",
    )
    found = halfsync(tmp_path, "-c", "site.toml", *([given] if given else []))
    assert found.returncode == 2
    assert found.stderr == (
        "halfsync: site.toml:1: bind 'https://127.0.0.1:1': no site that is served there has a certificate: "
        "name one with certfile, at the top or in such a site.\n"
    )


def test_a_certificate_is_for_all_hosts_for_which_it_is_shown(tmp_path):
    """Also for those of sites that have none of their own."""
    (tmp_path / "app.py").write_text("def app(environ, start_response): ...\n", "utf-8")
    write(tmp_path, issued("shop.example", "*.shop.example", "127.0.0.1"))
    (tmp_path / "site.toml").write_text(
        'bind = ["https://127.0.0.1:0", "http://127.0.0.2:0"]\ncertfile = "server.pem"\n'
        'keyfile = "server.key"\n[routes]\n"/" = "app:app"\n'
        '[sites."a.shop.example".routes]\n"/" = "app:app"\n'
        '[sites.one]\nhosts = ["b.shop.example", "127.0.0.1", "one.example"]\n'
        'routes = { "/" = "app:app" }\n[sites."two.example".routes]\n"/" = "app:app"\n'
        '[sites."clear.example"]\nbind = "http://127.0.0.2:0"\nroutes = { "/" = "app:app" }\n',
        "utf-8",
    )
    shown = "the certificate in server.pem, which is shown for all sites without one, is not for "
    assert halfsync(tmp_path, "-c", "site.toml", "--check-config").stdout.splitlines() == [
        f'site.toml:9: sites."one": {shown}one.example: clients will refuse it.',
        f'site.toml:11: sites."two.example": {shown}two.example: clients will refuse it.',
        "The configuration is fine.",
    ]


def test_a_site_for_which_there_is_no_certificate_is_told(tmp_path):
    write(tmp_path, issued("one.example"), "one")
    served = 'routes = { "/" = { respond = "" } }\n'
    (tmp_path / "site.toml").write_text(
        'bind = ["https://127.0.0.1:0", "http://127.0.0.2:0"]\n'
        f'[sites."one.example"]\ncertfile = "one.pem"\nkeyfile = "one.key"\n{served}'
        f'[sites."two.example"]\n{served}'
        f'[sites."clear.example"]\nbind = "http://127.0.0.2:0"\n{served}',
        "utf-8",
    )
    sentence = "there is no certificate for it, so clients are refused at https://127.0.0.1:0: name one with"
    assert halfsync(tmp_path, "-c", "site.toml", "--check-config").stdout.splitlines() == [
        f'site.toml:6: sites."two.example": {sentence} certfile, here or at the top.',
        "The configuration is fine.",
    ]


def test_certificates_are_looked_at_whatever_else_is_wrong(tmp_path):
    (tmp_path / "app.py").write_text("def app(environ, start_response): ...\n", "utf-8")
    write(tmp_path, issued("one.example"), "one")
    write(tmp_path, issued("two.example", key_type=RSA), "two")
    (tmp_path / "site.toml").write_text(
        'bind = "https://127.0.0.1:0"\nwokers = 2\ncertfile = "one.pem"\nkeyfile = "two.key"\n'
        'pid = "no/pid"\n'
        '[routes]\n"/" = "app:app"\n[sites.one]\ncertfile = "two.pem"\nkeyfile = "one.key"\n'
        '[sites.two]\ncertfile = "three.pem"\n'
        '[sites.one.routes]\n"/" = "app:app"\n[sites.two.routes]\n"/" = "app:app"\n',
        "utf-8",
    )
    found = halfsync(tmp_path, "-c", "site.toml", "--check-config")
    assert found.returncode == 2
    assert sorted(line.removeprefix("halfsync: ") for line in found.stderr.splitlines()) == [
        'site.toml:10: sites."one": keyfile: the key in one.key does not fit the certificate in two.pem.',
        'site.toml:12: sites."two": certfile: the file three.pem can\'t be read: No such file or directory.',
        "site.toml:2: there is no setting wokers; did you mean workers?",
        "site.toml:4: keyfile: the key in two.key does not fit the certificate in one.pem.",
        "site.toml:5: pid: the file no/pid can't be written.",
    ]


@pytest.mark.parametrize(
    ("addresses", "sentence"),
    [
        (["http://127.0.0.1:81", "https://127.0.0.1:81"], "http://127.0.0.1:81 is the same address."),
        (["127.0.0.1:81", "127.0.0.1:81"], "127.0.0.1:81 is the same address."),
        (["unix:a.sock", "unix:a.sock"], "it is named twice."),
    ],
)
def test_an_address_that_another_one_takes_away_is_told(tmp_path, addresses, sentence):
    (tmp_path / "site.toml").write_text(
        f'bind = {json.dumps(addresses)}\nproxy_protocol = ["*"]\n[routes]\n"/" = {{ respond = "one" }}\n',
        "utf-8",
    )
    found = halfsync(tmp_path, "-c", "site.toml", "--check-config")
    assert found.returncode == 2
    assert f"halfsync: site.toml:1: bind {addresses[1]!r}: {sentence}" in found.stderr.splitlines()


ADDRESSES = """\
bind = ["http://127.0.0.1:81", "https://127.0.0.1:82"]
health_bind = "unix:two"
[sites.one]
bind = "127.0.0.1:81"
routes = { "/" = { respond = "one" } }
[sites.two]
bind = ["https://127.0.0.2:82", "unix:two"]
routes = { "/" = { respond = "two" } }
[sites.three]
bind = "https://127.0.0.3:82"
certfile = "no.pem"
routes = { "/" = { respond = "three" } }
"""

OF_ADDRESSES = """\
site.toml:1: bind 'https://127.0.0.1:82': {uncertified}
site.toml:2: health_bind: unix:two is in bind of the site 'two', too; health checks have an address \
of their own.
site.toml:4: sites."one": bind '127.0.0.1:81': http://127.0.0.1:81 is the same address.
site.toml:7: sites."two": bind 'https://127.0.0.2:82': {uncertified}
"""

UNCERTIFIED = (
    "no site that is served there has a certificate: name one with certfile, at the top or in such a site."
)


@pytest.mark.parametrize("given", ["--check-config", None])
def test_what_is_wrong_with_an_address_has_the_line_where_it_stands(tmp_path, given):
    (tmp_path / "site.toml").write_text(ADDRESSES, "utf-8")
    found = halfsync(tmp_path, "-c", "site.toml", *([given] if given else []))
    told = [line.removeprefix("halfsync: ") for line in found.stderr.splitlines() if "no.pem" not in line]
    assert sorted(told) == OF_ADDRESSES.format(uncertified=UNCERTIFIED).splitlines()


ACME = 'acme = true\nacme_hosts = ["a.test"]\n'

NO_HTTPS = """\
halfsync: site.toml:1: acme: by tls-alpn-01 the authority connects to an https:// address, and there is \
none: add one to bind, or set acme_challenge = "http-01".
"""

NO_HTTP = """\
site.toml:3: acme_challenge: by http-01 the authority connects to port 80 in clear, and bind has no address \
for that: something in front has to pass it on.
"""

ACME_WRONG = """\
acme_folder = "site.toml/x"
acme_email = "a"
acme_eab_kid = "a"
acme_directory = "ftp://x"
"""

OF_ACME = """\
halfsync: site.toml:6: acme_directory must be the address of an authority's directory, such as \
https://acme.authority.example/directory, not 'ftp://x'.
halfsync: site.toml:4: acme_email must be an address such as admin@shop.example, not 'a'.
halfsync: site.toml:5: acme_eab_kid is of no use alone: an authority gives both of acme_eab_kid and \
acme_eab_hmac_key.
halfsync: site.toml:3: acme_folder: there can be no files in the folder site.toml/x.
"""


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (ACME + 'bind = "http://127.0.0.1:80"\n', NO_HTTPS),
        (ACME + 'bind = "unix:a"\n', NO_HTTPS),
        (ACME + 'acme_challenge = "http-01"\n', NO_HTTP),
        (ACME + 'acme_challenge = "http-01"\nbind = ["https://:443", "http://:80"]\n', ""),
        (ACME + 'acme_challenge = "http-01"\nbind = ["https://:443", "unix:a"]\n', ""),
        (ACME, ""),
        (ACME + ACME_WRONG, OF_ACME),
    ],
)
def test_how_an_authority_can_reach_the_server_is_looked_at(tmp_path, settings, told):
    (tmp_path / "site.toml").write_text(f'{settings}[routes]\n"/" = {{ respond = "" }}\n', "utf-8")
    found = halfsync(tmp_path, "-c", "site.toml", "--check-config")
    fine = [] if "halfsync:" in told else ["The configuration is fine."]
    assert (found.stdout + found.stderr).splitlines() == [*told.splitlines(), *fine]


def test_what_is_no_address_has_the_line_where_it_stands(tmp_path):
    (tmp_path / "site.toml").write_text(
        'bind = "a"\nhealth_bind = "b"\n[sites.one]\nbind = "c"\nroutes = { "/" = { respond = "one" } }\n',
        "utf-8",
    )
    found = halfsync(tmp_path, "-c", "site.toml", "--check-config")
    assert sorted(line.partition(" must be host:port")[0] for line in found.stderr.splitlines()) == [
        "halfsync: site.toml:1: bind 'a'",
        "halfsync: site.toml:2: health_bind 'b'",
        "halfsync: site.toml:4: sites.\"one\": bind 'c'",
    ]


def test_addresses_that_go_together_are_no_mistake(tmp_path):
    addresses = ["0.0.0.0:81", "[::]:81", "127.0.0.9:81", "[::1]:81", "0.0.0.0:82", "127.0.0.1:0"]
    addresses += ["127.0.0.1:0", "unix:a", "unix:b"]
    (tmp_path / "site.toml").write_text(
        f'bind = {json.dumps(addresses)}\n[routes]\n"/" = {{ respond = "one" }}\n', "utf-8"
    )
    found = halfsync(tmp_path, "-c", "site.toml", "--check-config")
    assert (found.returncode, found.stderr) == (0, "")
