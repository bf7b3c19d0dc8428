"""All that is wrong with a configuration is told in one run, with file and line."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.certificates import RSA, chain_of, issued, key_of, write

FILE = """\
workers = 0
bind = ["127.0.0.1:0", "nowhere"]
wokers = 3
access_logformat = "%Z"
allow = ["x", "10.0.0.1/33"]

[routes]
"/" = "app:app"
"/static" = { folder = "./static", immutable = "yes", leese = 3 }
"/a" = "./missing"
"/a/" = "app:app"
"/b" = { redirect = "/b/c" }
"/c?" = { respond = 204 }
"/d" = { app = "app:app", lease = 3,  headers = { set = { "Date" = "x" }, remove = ["a b", ""] } }

[sites.one]
hosts = ["one.example", "bad host", "one.example:80"]
bind = "127.0.0.1:x"
port = 3
[sites.two]
hosts = ["same.example"]
[sites.three]
hosts = ["same.example"]
[sites.three.routes]
"/" = { file = "none", threads = 1 }
"/x" = 3
"""

EXAMPLE = 'or a table such as { app = "app:app", threads = 2 }.'

NAME_IT, SUCH_AS = "for it has no routes: name what it serves in", 'such as "/" = "app:app".'

TOLD = """\
site.toml:1: workers must be a whole number from 1 to 1000 or auto, not 0.
site.toml:3: there is no setting wokers; did you mean workers?
site.toml:9: routes.'/static' has no setting leese; did you mean lease?
site.toml:9: routes.'/static': immutable must be true or false, not 'yes'.
site.toml:14: routes.'/d': headers: Date is the server's own; it can't be changed.
site.toml:14: routes.'/d': headers: 'a b' can't be the name of a header field.
site.toml:14: routes.'/d': headers: '' can't be the name of a header field.
site.toml:19: sites."one" has no setting port.
site.toml:17: sites."one": hosts: 'bad host' is neither a host's name nor of the form *.name.
site.toml:17: sites."one": hosts: 'one.example:80' must not have a port; `bind` says where it is served.
site.toml:26: sites."three".routes.'/x' must be a target such as "app:app" or "./static", {example}
site.toml:16: sites."one" serves nothing, {name_it} [sites."one".routes], {such_as}
site.toml:20: sites."two" serves nothing, {name_it} [sites."two".routes], {such_as}
Environment variable HALFSYNC_THREDS names no setting; did you mean HALFSYNC_THREADS?
--keep-alive must be a number of seconds, 0 or more, not 'x'.
site.toml:5: allow: '10.0.0.1/33' is neither an address such as 10.0.0.7 nor a network such as 10.0.0.0/8.
site.toml:5: allow: 'x' is neither an address such as 10.0.0.7 nor a network such as 10.0.0.0/8.
site.toml:23: sites."three": the host same.example belongs to the site 'two' already.
site.toml:9: routes.'/static': there is no folder or file './static' in {here}.
site.toml:10: routes.'/a': there is no folder or file './missing' in {here}.
site.toml:11: routes.'/a/' is the same path as '/a', which is a route already: give one of them another \
path, or take it away.
site.toml:13: routes.'/c?': no request has a path that begins with '/c?'.
site.toml:14: routes.'/d': lease is for files; an application says its own.
site.toml:12: routes.'/b': the redirect to '/b/c' leads to this route again.
site.toml:25: sites."three".routes.'/': there is no folder or file 'none' in {here}.
site.toml:4: access_logformat: The log format has '%Z', which is not known.
site.toml:2: bind 'nowhere' must be host:port, [address]:port, a port, or unix:/path.
site.toml:18: sites."one": bind '127.0.0.1:x' must be host:port, [address]:port, a port, or unix:/path.
"""


def halfsync(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "halfsync", *arguments],
        cwd=folder,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("how", [("--check-config",), ()], ids=["check", "start"])
def test_all_of_it_is_told(tmp_path, how):
    (tmp_path / "app.py").write_text("def app(environ, start_response): ...\n", "utf-8")
    (tmp_path / "site.toml").write_text(FILE, "utf-8")
    found = halfsync(tmp_path, "-c", "site.toml", "--keep-alive", "x", *how, HALFSYNC_THREDS="3")
    assert (found.returncode, found.stdout) == (2, "")
    told = [line.removeprefix("halfsync: ") for line in found.stderr.splitlines()]
    expected = TOLD.replace("{here}", str(tmp_path)).replace("{example}", EXAMPLE)
    expected = expected.replace("{name_it}", NAME_IT).replace("{such_as}", SUCH_AS)
    assert sorted(told) == sorted(expected.splitlines())


def test_a_file_that_is_not_toml_says_where(tmp_path):
    (tmp_path / "site.toml").write_text("workers = 3\nthreads = = 4\n", "utf-8")
    found = halfsync(tmp_path, "-c", "site.toml", "--check-config")
    assert found.stderr.count("\n") == 1
    assert "site.toml is not TOML: Invalid value (at line 2, column 11)" in found.stderr


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


IMPORTS = """\
workers = 3
wokers = 3
spool_dir = "./none"

[routes]
"/one" = "one:app"
"/" = "fine:app"
"/again" = { app = "one:app", threads = 2 }
"/two" = { app = "two:app" }
"/two/" = "three:app"
"/pong" = { respond = "one:app" }
[sites.x.routes]
"/" = "fine:nothing"
"""

OF_IMPORTS = """\
site.toml:2: there is no setting wokers; did you mean workers?
site.toml:3: spool_dir: no temporary file can be made in the folder './none': No such file or directory.
site.toml:6: routes.'/one' = 'one:app': its import failed with ModuleNotFoundError: No module named 'nowhere'
site.toml:9: routes.'/two' = 'two:app': its import failed with ZeroDivisionError: division by zero
site.toml:10: routes.'/two/' is the same path as '/two', which is a route already: give one of them another \
path, or take it away.
site.toml:13: sites."x".routes.'/' = 'fine:nothing': module 'fine' ({here}/fine.py) has no \
'nothing'; it has app.
Target '/four=four:app': there is no module 'four' in {here} or on Python's path.
"""


@pytest.fixture
def applications(tmp_path):
    (tmp_path / "one.py").write_text("import nowhere\n", "utf-8")
    (tmp_path / "two.py").write_text("value = 1 / 0\n", "utf-8")
    (tmp_path / "fine.py").write_text("def app(environ, start_response): ...\n", "utf-8")
    return tmp_path


def test_every_application_that_can_not_be_imported_is_told(applications):
    """With its route, and with all that is wrong elsewhere."""
    (applications / "site.toml").write_text(IMPORTS, "utf-8")
    found = halfsync(applications, "/four=four:app", "-c", "site.toml", "--check-config")
    assert (found.returncode, found.stdout) == (2, "")
    told = [line for line in found.stderr.splitlines() if line.startswith("halfsync: ")]
    expected = OF_IMPORTS.replace("{here}", str(applications)).splitlines()
    assert sorted(line.removeprefix("halfsync: ") for line in told) == sorted(expected)
    assert found.stderr.count("Traceback") == 2
    assert found.stderr.endswith("\n".join(told) + "\n")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("workers = = 3", "The settings file site.toml is not TOML: Invalid value (at line 1, column 11)."),
        ('umask = "9"', "site.toml:1: umask must be an octal number from 0 to 777, such as 027, not '9'."),
        ('chdir = "none"', "site.toml:1: chdir: can't go to the folder 'none': No such file or directory."),
        ('group = "no one"', "site.toml:1: group 'no one': this machine has no such group."),
    ],
)
def test_where_it_is_not_known_how_to_import_it_nothing_is_said_of_an_application(
    applications, text, sentence
):
    (applications / "site.toml").write_text(text + "\n", "utf-8")
    found = halfsync(applications, "one:app", "-c", "site.toml", "--check-config")
    assert (found.returncode, found.stderr) == (2, f"halfsync: {sentence}\n")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ('control_socket = "none/x"', "1: control_socket 'none/x': there is no folder 'none'."),
        (
            'control_socket = "."',
            "1: control_socket '.': there is a file of that name which is not a socket.",
        ),
        ('bind = "unix:none/x"', "1: bind 'unix:none/x': there is no folder 'none'."),
        (
            f'bind = "unix:{"x" * 108}"',
            f"1: bind 'unix:{'x' * 108}': a socket's path may have 107 bytes, and this has 108.",
        ),
        ('pid = "."', "1: pid: the file . can't be written."),
        (
            'proxy_protocol = "x"',
            "1: proxy_protocol 'x' must be host:port, [address]:port, a port, or unix:/path.",
        ),
        (
            'traces_endpoint = "http://"',
            "1: traces_endpoint: 'http://' has to begin with http:// or https://, and to name a host.",
        ),
    ],
)
def test_what_the_start_would_find_is_found_by_the_check(tmp_path, settings, sentence):
    (tmp_path / "site.toml").write_text(f'{settings}\n[routes]\n"/" = {{ respond = "" }}\n', "utf-8")
    found = halfsync(tmp_path, "-c", "site.toml", "--check-config")
    assert (found.returncode, found.stderr) == (2, f"halfsync: site.toml:{sentence}\n")


def test_a_variable_without_a_name_is_told(tmp_path):
    found = halfsync(tmp_path, "./", "--env", "=x", "--check-config")
    assert found.stderr == "halfsync: env '=x' must have the form NAME=VALUE.\n"


def test_an_application_that_closes_all_descriptors_and_stays_does_not_hold_up_the_check(tmp_path):
    (tmp_path / "closes.py").write_text(
        "import os, time\nos.closerange(3, 1000)\ntime.sleep(1000)\n", "utf-8"
    )
    found = halfsync(tmp_path, "closes:app", "--check-config")
    assert found.returncode == 2
    assert found.stderr == (
        "halfsync: Target 'closes:app': its worker closed its channel to the parent and did not exit while "
        "starting.\n"
    )


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
site.toml:3: sites."one": bind '127.0.0.1:81': http://127.0.0.1:81 is the same address.
site.toml:6: sites."two": bind 'https://127.0.0.2:82': {uncertified}
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
