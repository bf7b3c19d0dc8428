"""Settings that have no effect are told of: each with the reason, and only then."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from halfsync.plan.layout import target_of, work_out
from halfsync.plan.without_effect import NEEDS, without_effect
from halfsync.settings.rows import BY_NAME
from halfsync.settings.sources import load
from tests.command_line import command
from tests.e2e.harness import serving

APP = '[routes]\n"/" = "app:app"\n'
FILES = '[routes]\n"/" = "./public"\n'
WSGI = '[routes]\n"/" = { app = "app:app", interface = "wsgi" }\n'
ASGI = '[routes]\n"/" = { app = "app:app", interface = "asgi" }\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "public").mkdir()
    (tmp_path / "app.py").write_text("def app(environ, start):\n    start('200 OK', [])\n    return []\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(
    text: str,
    *targets: str,
    options: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    has_tls: bool = False,
) -> list[str]:
    Path("halfsync.toml").write_text(text)
    loaded = load(options or {}, environment or {}, "halfsync.toml")
    named = [*loaded.targets, *map(target_of, targets)]
    layout = work_out(loaded.settings, named, loaded.sites, loaded.headers, loaded.error_pages)
    return without_effect(loaded, loaded.settings, named, layout, has_tls)


NO_APPLICATION = "no application is served"
NO_FILES = "no folder or file is served"
NO_ASGI = "no ASGI application is served"
NO_TLS = "TLS is spoken at none of the addresses"
NO_ACME = "acme is not on"
NO_LIMITS = "neither client_rate nor client_connections is set"
NO_TIMEOUT = " has no effect: neither handler_timeout nor stream_timeout is set."
CERTIFIED = 'certfile = "a.pem"'

CASES = [
    # setting, what is served, why it has no effect, and what gives it one
    ("redirect_http_port = 443", APP, "redirect_http is not on", "redirect_http = true"),
    ("client_burst = 5", APP, "client_rate is not set", "client_rate = 2"),
    ('limit_store = "redis://store"', APP, NO_LIMITS, "client_rate = 2"),
    ('limit_store = "redis://store"', APP, NO_LIMITS, "client_connections = 2"),
    ("client_prefix_ipv4 = 24", APP, NO_LIMITS, "client_connections = 2"),
    ("client_prefix_ipv6 = 48", APP, NO_LIMITS, "client_rate = 2"),
    ("max_requests_jitter = 5", APP, "max_requests is not set", "max_requests = 100"),
    ("min_spare = 5", APP, "the number of workers is fixed", "max_workers = 9"),
    ("max_spare = 9", APP, "the number of workers is fixed", "min_workers = 1\nmax_workers = 9"),
    ("rate_grace = 5", "min_rate = 0\n" + APP, "min_rate is 0", ""),
    ("handler_grace = 2", APP, "neither handler_timeout nor stream_timeout is set", "handler_timeout = 3"),
    ("handler_grace = 2", APP, "neither handler_timeout nor stream_timeout is set", "stream_timeout = 3"),
    ("queue_target = 40", APP, "no request waits longer than queue_timeout", "queue_timeout = 60"),
    ('access_logformat = "json"', APP, "access_logfile is not set", 'access_logfile = "-"'),
    ('hostname_lookups = "on"', APP, "access_logfile is not set", 'access_logfile = "-"'),
    ('traces_endpoint = "http://a"', APP, "traces is not on", "traces = true"),
    ("traces_ratio = 0.5", APP, "traces is not on", "traces = true"),
    ('reload_dir = ["src"]', APP, "reload is not on", "reload = true"),
    ('reload_include = ["*.html"]', APP, "reload is not on", "reload = true"),
    ('reload_exclude = ["tests"]', APP, "reload is not on", "reload = true"),
    ('control_socket_mode = "660"', APP, "control_socket is not set", 'control_socket = "c"'),
    ('unix_mode = "600"', APP, "no address is a unix socket", 'bind = ["unix:s"]'),
    ('unix_mode = "600"', APP, "no address is a unix socket", 'health_bind = ["unix:s"]'),
    ("no_new_privs = false", APP, "neither user nor group is set", 'user = "www-data"'),
    ("no_new_privs = false", APP, "neither user nor group is set", 'group = "www-data"'),
    ('forwarded_headers = ["forwarded"]', "forwarded_allow_ips = []\n" + APP, "forwarded_allow_ips is", ""),
    ("ws_ping_timeout = 5", "ws_ping_interval = 0\n" + APP, "ws_ping_interval is 0", ""),
    ("http2_max_concurrent_streams = 5", "http2 = false\n" + APP, "http2 is off", ""),
    ("http2_max_resets = 5", "http2 = false\n" + APP, "http2 is off", ""),
    ("http2_max_idle_frames = 50", "http2 = false\n" + APP, "http2 is off", ""),
    ("intercept_errors = true", APP, "no application has error_pages", "error_pages = { 404 = '404.html' }"),
    ('keyfile_password = "x"', APP, "certfile is not set", CERTIFIED),
    ('acme_hosts = ["a.example"]', APP, NO_ACME, "acme = true"),
    ('acme_email = "a@b.example"', APP, NO_ACME, 'acme = true\nacme_hosts = ["a.example"]'),
    ('acme_eab_kid = "x"', APP, NO_ACME, 'acme = true\nacme_hosts = ["a.example"]'),
    ('acme_eab_hmac_key = "x"', APP, NO_ACME, 'acme = true\nacme_hosts = ["a.example"]'),
    ('acme_directory = "https://a"', APP, NO_ACME, 'acme = true\nacme_hosts = ["a.example"]'),
    ('acme_challenge = "http-01"', APP, NO_ACME, 'acme = true\nacme_hosts = ["a.example"]'),
    ('acme_folder = "kept"', APP, NO_ACME, 'acme = true\nacme_hosts = ["a.example"]'),
    ("threads = 5", ASGI, "it is for WSGI applications, and none is served", ""),
    ("stream_body = true", ASGI, "it is for WSGI applications, and none is served", ""),
    *[
        (setting, WSGI, NO_ASGI, "")
        for setting in (
            "limit_concurrency = 5", 'lifespan = "on"', 'loop = "asyncio"', "ws_max_size = 5",
            "ws_ping_interval = 5", "ws_ping_timeout = 5", "ws_per_message_deflate = true",
        )
    ],
    *[
        (setting, FILES, NO_APPLICATION, "")
        for setting in (
            "workers = 5", "threads = 5", "min_workers = 2", "max_workers = 2", "min_spare = 7",
            "max_spare = 9",
            "max_requests = 5", "max_requests_jitter = 5", "max_worker_age = 5", "max_worker_memory = 5",
            "preload = true", "retry = false", "startup_timeout = 5", 'pythonpath = ["src"]',
            "queue_limit = 5", "queue_timeout = 5", "queue_target = 0", "stream_body = true",
            'root_path = "/x"',
        )
    ],
    *[
        (setting, APP, NO_FILES, "")
        for setting in (
            'cache_control = "no-cache"', "immutable = true", "precompressed = true", 'fallback = "a"',
            "lease = 5", "lease_file_memory = 5", "listing = true",
        )
    ],
]  # fmt: skip
NEEDS_TLS = (
    'minimum_version = "1.3"',
    'ciphers = "ECDHE"',
    'cert_reqs = "optional"',
    "handshake_timeout = 5",
    "max_handshakes = 5",
)


def name_of(setting: str) -> str:
    return setting.partition(" ")[0]


@pytest.mark.parametrize(("setting", "served", "why", "cure"), CASES)
def test_it_is_said_of_each_and_why(folder, setting, served, why, cure):
    [sentence] = [one for one in told(f"{setting}\n{served}") if name_of(setting) in one]
    assert sentence.startswith(f"halfsync.toml:1: {name_of(setting)} has no effect: {why}")
    assert sentence.endswith(".")
    if cure and not cure.startswith("error_pages"):
        assert told(f"{setting}\n{cure}\n{served}") == []


@pytest.mark.parametrize("setting", NEEDS_TLS)
def test_what_is_for_tls_is_said_of_where_there_is_none(folder, setting):
    text = f'{setting}\nca_certs = "ca.pem"\n{APP}'
    assert f"halfsync.toml:1: {name_of(setting)} has no effect: {NO_TLS}." in told(text)
    assert not any(name_of(setting) in one for one in told(text, has_tls=True))


def test_what_one_setting_of_tls_makes_of_another(folder):
    assert told(f'ca_certs = "ca.pem"\n{APP}', has_tls=True) == [
        "halfsync.toml:1: ca_certs has no effect: cert_reqs is none."
    ]
    assert told(f'minimum_version = "1.3"\nciphers = "ECDHE"\n{APP}', has_tls=True) == [
        "halfsync.toml:2: ciphers has no effect: it is for TLS 1.2, and minimum_version is 1.3."
    ]


def test_every_setting_that_needs_another_is_among_these_cases():
    tried = {name_of(setting) for setting, *_ in CASES} | {name_of(one) for one in NEEDS_TLS} | {"ca_certs"}
    known = {name for need in NEEDS for name in need.names}
    assert known - tried == set()
    assert known <= set(BY_NAME)


def test_a_configuration_of_defaults_and_one_where_all_is_in_use_say_nothing(folder):
    assert told(APP) == told(FILES) == told("", "app:app", "/f=./public") == []
    settings = """
client_rate = 5
client_burst = 9
limit_store = "redis://store"
max_requests = 5
max_requests_jitter = 5
handler_timeout = 5
handler_grace = 3
max_workers = 9
min_spare = 2
access_logfile = "-"
access_logformat = "json"
cache_control = "no-cache"
"""
    assert told(settings, "app:app", "/f=./public") == []


def test_what_stands_at_the_top_counts_where_a_site_or_a_route_can_use_it(folder):
    burst = "client_burst = 5\n"
    route = '[routes]\n"/" = { app = "app:app", client_rate = 3 }\n'
    site = APP + '[sites."x.example"]\nclient_rate = 3\nroutes = { "/" = "app:app" }\n'
    below = APP + '[sites."x.example".routes]\n"/" = { app = "app:app", client_rate = 3 }\n'
    for text in (route, site, below):
        assert told(burst + text) == []
    acme = APP + '[sites."x.example"]\nacme = true\nroutes = { "/" = "app:app" }\n'
    assert told('acme_email = "a@b.example"\n' + acme) == []


def test_sites_and_routes_are_named_and_what_stands_above_them_counts(folder):
    text = """
[routes]
"/" = { app = "app:app", client_burst = 3 }
[sites."x.example"]
client_burst = 3
[sites."x.example".routes]
"/" = { app = "app:app", handler_grace = 3 }
"""
    assert told(text) == [
        "halfsync.toml:3: routes.'/': client_burst has no effect: client_rate is not set.",
        'halfsync.toml:5: sites."x.example": client_burst has no effect: client_rate is not set.',
        "halfsync.toml:7: sites.\"x.example\".routes.'/': handler_grace" + NO_TIMEOUT,
    ]
    assert told("client_rate = 3\nhandler_timeout = 4\n" + text) == []


def test_nothing_is_said_of_defaults_and_of_variables_that_several_servers_read(folder):
    assert told("client_burst = 0\nmax_requests_jitter = 0\npreload = false\n" + FILES) == []
    assert told(FILES, environment={"WEB_CONCURRENCY": "4"}) == []
    expected = ["workers has no effect: no application is served."]
    assert told(FILES, environment={"HALFSYNC_WORKERS": "4"}) == expected
    assert told(FILES, options={"workers": "4"}) == expected


def test_the_command_says_it_when_it_checks(folder):
    found = command(folder, "--check-config", "app:app", "--client-burst", "5", environment=dict(os.environ))
    assert "client_burst has no effect: client_rate is not set.\n" in found.stdout
    assert found.returncode == 0


def test_a_server_says_it_when_it_starts_and_a_reload_what_is_new(folder):
    file = folder / "halfsync.toml"
    file.write_text(f"client_burst = 5\n{FILES}")
    with serving(folder) as server:
        first = "client_burst has no effect: client_rate is not set."
        server.until(lambda: first in server.errors.read_text())
        file.write_text(f"client_burst = 5\nclient_prefix_ipv4 = 24\n{FILES}")
        os.kill(server.process.pid, signal.SIGHUP)
        second = "client_prefix_ipv4 has no effect: neither client_rate nor client_connections is set."
        server.until(lambda: second in server.errors.read_text())
        assert server.errors.read_text().count(first) == 1
