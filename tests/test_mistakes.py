"""All that is wrong with a configuration is told in one run, with file and line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
site.toml:25: sites."three".routes.'/': threads is for applications, not for files.
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


ROUTES = """\
[routes]
"/a" = { folder = "none", threads = 2, queue_timeout = 3, status = 404 }
"/b" = { redirect = "x", status = 200, type = "a/b", lease = 3 }
"/c" = { app = "app:app", lease = 3, listing = true, type = "a/b" }
"/d" = { file = "site.toml", listing = true, fallback = "x" }
"/e" = { app = "app:app", workers = 3, root_path = "e" }
"""

OF_ROUTES = """\
2: routes.'/a': queue_timeout is for applications, not for files.
2: routes.'/a': status is not for folder.
2: routes.'/a': there is no folder or file 'none' in {here}.
2: routes.'/a': threads is for applications, not for files.
3: routes.'/b': redirect must be a path such as /new$path, or an address such as https://$host$path$query, \
in ASCII, not 'x'.
3: routes.'/b': status must be one of 301, 302, 303, 307 and 308, not 200.
3: routes.'/b': type is for respond.
4: routes.'/c': lease is for files; an application says its own.
4: routes.'/c': listing is for files; an application says its own.
4: routes.'/c': type is not for app.
5: routes.'/d': fallback is for folders, and 'site.toml' is one file.
5: routes.'/d': listing is for folders, and 'site.toml' is one file.
6: routes.'/e': root_path must begin with '/', unlike 'e'.
"""


def test_all_that_is_wrong_with_one_route_is_told(tmp_path):
    (tmp_path / "site.toml").write_text(ROUTES, "utf-8")
    found = halfsync(tmp_path, "-c", "site.toml", "--check-config")
    told = sorted(line.removeprefix("halfsync: site.toml:") for line in found.stderr.splitlines())
    assert told == OF_ROUTES.replace("{here}", str(tmp_path)).splitlines()


def test_a_file_that_is_not_toml_says_where(tmp_path):
    (tmp_path / "site.toml").write_text("workers = 3\nthreads = = 4\n", "utf-8")
    found = halfsync(tmp_path, "-c", "site.toml", "--check-config")
    assert found.stderr.count("\n") == 1
    assert "site.toml is not TOML: Invalid value (at line 2, column 11)" in found.stderr


IMPORTS = """\
workers = 3
wokers = 3
spool_dir = "./none"

[routes]
"/one" = "one:app"
"/" = "fine:app"
"/again" = { app = "one:app", threads = 2 }
"/asgi" = { app = "fine:app", interface = "asgi" }
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
site.toml:9: routes.'/asgi' = 'fine:app': 'app' in module 'fine' takes (environ, start_response); an \
ASGI application is called with (scope, receive, send).
site.toml:10: routes.'/two' = 'two:app': its import failed with ZeroDivisionError: division by zero
site.toml:11: routes.'/two/' is the same path as '/two', which is a route already: give one of them another \
path, or take it away.
site.toml:14: sites."x".routes.'/' = 'fine:nothing': module 'fine' ({here}/fine.py) has no \
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


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ('bind = "192.0.2.1:80"', "1: bind '192.0.2.1:80': this machine has no such address."),
        (
            'bind = "127.0.0.1:0"\n[sites.x]\nbind = "192.0.2.1:80"\nroutes = { "/" = { respond = "" } }',
            "3: sites.\"x\": bind '192.0.2.1:80': this machine has no such address.",
        ),
        (
            'bind = "127.0.0.1:0"\ncontrol_socket = "none/x"',
            "2: control_socket 'none/x': there is no folder 'none'.",
        ),
        ('group = "no one"', "1: group 'no one': this machine has no such group."),
    ],
)
def test_what_the_start_alone_finds_has_its_line(tmp_path, settings, sentence):
    (tmp_path / "site.toml").write_text(f'{settings}\n[routes]\n"/" = {{ respond = "" }}\n', "utf-8")
    found = halfsync(tmp_path, "-c", "site.toml")
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


def test_a_file_that_is_nested_too_deeply_is_not_toml(tmp_path):
    (tmp_path / "site.toml").write_text(f"a = {'[' * 5000}\n", "utf-8")
    found = halfsync(tmp_path, "-c", "site.toml", "--check-config")
    assert found.returncode == 2
    assert found.stderr.startswith("halfsync: The settings file site.toml is not TOML: ")
    assert len(found.stderr.splitlines()) == 1


def test_an_exception_that_can_not_be_shown_is_told_by_its_type(tmp_path):
    (tmp_path / "app.py").write_text(
        "class Odd(Exception):\n    def __str__(self):\n        raise KeyError\nraise Odd\n", "utf-8"
    )
    found = halfsync(tmp_path, "app:app", "--check-config")
    assert found.returncode == 2
    assert found.stderr.splitlines()[-1] == "halfsync: Target 'app:app': its import failed with Odd"
