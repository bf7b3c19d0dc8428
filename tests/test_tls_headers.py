"""Header fields for responses over TLS alone: each site and route may have its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from halfsync.http.header_rules import HeaderRule
from halfsync.parent import listeners
from halfsync.plan.layout import Layout, work_out
from halfsync.settings.errors import SettingError
from halfsync.settings.sources import Loaded, load

TOML = """
hsts = "max-age=10"
[headers]
set = { "X-Top" = "yes" }
[routes]
"/" = { respond = "top" }
"/own" = { respond = "own", hsts = "max-age=20", alt_svc = 'h3=":443"' }
[routes."/said"]
respond = "said"
hsts = "max-age=21"
headers = { set = { "Strict-Transport-Security" = "max-age=22" } }
[sites."quiet.example"]
hsts = ""
[sites."quiet.example".routes]
"/" = { respond = "quiet" }
[sites."long.example"]
hsts = "max-age=30; preload"
[sites."long.example".routes]
"/" = { respond = "long" }
"/short" = { respond = "short", hsts = "max-age=31" }
"""


def loaded(folder: Path, text: str) -> Loaded:
    file = folder / "halfsync.toml"
    file.write_text(text)
    return load({}, {}, str(file))


def laid_out(found: Loaded) -> Layout:
    return work_out(found.settings, found.targets, found.sites, found.headers, found.error_pages)


def test_the_nearest_counts(tmp_path):
    layout = laid_out(loaded(tmp_path, TOML))

    def fields(rules: Sequence[HeaderRule]) -> dict[str, tuple[str, ...]]:
        return {rule.name: rule.values for rule in rules}

    said = {(route.site, route.prefix): fields(route.headers) for route in layout.routes}
    hsts = {key: value.get("Strict-Transport-Security") for key, value in said.items()}
    assert hsts == {
        (0, ""): ("max-age=10",),
        (0, "/own"): ("max-age=20",),
        (0, "/said"): ("max-age=22",),
        (1, ""): None,
        (2, ""): ("max-age=30; preload",),
        (2, "/short"): ("max-age=31",),
    }
    assert all(value["X-Top"] == ("yes",) for value in said.values())
    assert [key for key, value in said.items() if "Alt-Svc" in value] == [(0, "/own")]
    of_sites = [fields(site.headers).get("Strict-Transport-Security") for site in layout.sites]
    assert of_sites == [("max-age=10",), None, ("max-age=30; preload",)]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ('hsts = "max-age=1"\n[routes]\n"/" = { respond = "" }', "hsts: it must not be sent without TLS"),
        (
            '[routes]\n"/" = { respond = "", hsts = "max-age=1" }',
            "{folder}/halfsync.toml:2: routes.'/': hsts: it must not be sent without TLS",
        ),
        (
            '[sites.a]\nalt_svc = "clear"\n[sites.a.routes]\n"/" = { respond = "" }',
            '{folder}/halfsync.toml:1: sites."a": alt_svc: it must not be sent without TLS',
        ),
        (
            '[sites.a.routes]\n"/" = { respond = "", hsts = "max-age=1" }',
            "{folder}/halfsync.toml:2: sites.\"a\".routes.'/': hsts: it must not be sent without TLS",
        ),
    ],
)
def test_they_are_wrong_where_it_can_be_had_without_tls(tmp_path, text, start):
    found = loaded(tmp_path, text)
    layout = laid_out(found)
    with pytest.raises(SettingError) as told:
        listeners.check(
            found.settings, ["http://127.0.0.1:80", "https://127.0.0.1:443"], layout.only_with_tls, ()
        )
    assert str(told.value).startswith(start.replace("{folder}", str(tmp_path)))
    listeners.check(found.settings, ["https://:443", "unix:/run/x"], layout.only_with_tls, ())


@pytest.mark.parametrize(
    ("key", "value"), [("hsts", "forever"), ("hsts", "max-age=1\\r\\nX: y"), ("alt_svc", "h3")]
)
def test_a_wrong_value_in_a_route_is_told_with_its_place(tmp_path, key, value):
    text = f'[routes]\n"/" = {{ respond = "", {key} = "{value}" }}'
    with pytest.raises(SettingError, match=rf"halfsync\.toml:2: routes\.'/': {key} must be like '"):
        loaded(tmp_path, text)


TOP = 'cert_reqs = "required"\nca_certs = "ca.pem"\n'
SITE = '[sites.a]\n{}[sites.a.routes]\n"/" = {{ respond = "" }}'


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (f'bind = "https://:443"\n{TOP}[routes]\n"/" = {{ respond = "" }}', None),
        (f'bind = ["https://:443", "unix:/run/x"]\n{TOP}[routes]\n"/" = {{ respond = "" }}', None),
        (f'bind = ["https://:443", "http://:80"]\n{TOP}[routes]\n"/" = {{ respond = "" }}', ""),
        (f'bind = ":80"\n{TOP}[routes]\n"/" = {{ respond = "" }}', ""),
        # Nothing is served but the site's, which asks for none.
        (f'bind = ["https://:443", "http://:80"]\n{TOP}' + SITE.format('cert_reqs = "none"\n'), None),
        ('bind = ["https://:443", "http://:80"]\n' + SITE.format(TOP), '{folder}:3: sites."a": '),
        ('bind = "http://:80"\n' + SITE.format('bind = "https://:443"\n' + TOP), None),
        ('bind = "https://:443"\n' + SITE.format('bind = "http://:80"\n' + TOP), '{folder}:4: sites."a": '),
        (f'bind = "https://:443"\n{TOP}' + SITE.format('bind = "http://:80"\n'), '{folder}:4: sites."a": '),
    ],
)
def test_a_site_that_requires_certificates_is_not_served_in_clear(tmp_path, text, where):
    found = loaded(tmp_path, text)
    layout = laid_out(found)
    addresses = layout.addresses(found.settings)
    if where is None:
        listeners.check(found.settings, addresses, (), layout.demanding)
        return
    with pytest.raises(SettingError) as told:
        listeners.check(found.settings, addresses, (), layout.demanding)
    start = where.format(folder=tmp_path / "halfsync.toml") + "cert_reqs is 'required', but "
    assert str(told.value).startswith(start)
    redirecting = msgspec.structs.replace(found.settings, redirect_http=True)
    if "https" in text:
        listeners.check(redirecting, addresses, (), layout.demanding)
