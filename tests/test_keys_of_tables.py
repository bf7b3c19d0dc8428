"""A key that is none, or that stands in the wrong table, is told with its line and with what was meant."""

from __future__ import annotations

import pytest

from halfsync.plan.layout import work_out
from halfsync.settings.errors import SettingError
from halfsync.settings.sources import load

PROXYING = "proxying to other servers is not supported; halfsync serves applications and files, or redirects."
NOT_FOR_A_ROUTE = "is not for a single route; it stands in a site or at the top of the file."
AT_THE_TOP = "is for the whole server; it stands at the top of the file."
FOR_A_ROUTE = 'redirect is for a route: it stands in the table of one, such as "/" = { redirect = "/new" }.'
NOTHING = "serves nothing, for it has no routes: name what it serves in"
NO_ROUTES = f'{NOTHING} [sites."x".routes], such as "/" = "app:app".'
A_REDIRECT = "a path such as /new$path, or an address such as https://$host$path$query, in ASCII, not 'y'."
A_STATUS = "must be an error such as 404, or 4xx or 5xx for all others."

ONLY_OF_SITES = (
    "certfile", "keyfile", "keyfile_password", "ca_certs", "cert_reqs", "minimum_version", "ciphers", "acme",
    "bind",
)  # fmt: skip

WRONG_IN_A_ROUTE = [
    ('{ redirct = "/y" }', "2: routes.'/x' has no setting redirct; did you mean redirect?"),
    ('{ foldr = "./x" }', "2: routes.'/x' has no setting foldr; did you mean folder?"),
    ('{ root = "./x" }', "2: routes.'/x' has no setting root; did you mean folder?"),
    ('{ proxy = "http://a:1" }', f"2: routes.'/x' has no setting proxy: {PROXYING}"),
    ('{ proxy_pass = "http://a:1" }', f"2: routes.'/x' has no setting proxy_pass: {PROXYING}"),
    ('"http://a:1"', f"2: routes.'/x': 'http://a:1' can't be served: {PROXYING}"),
    *(
        (
            f'{{ app = "app:app", {name} = 3 }}',
            f"2: routes.'/x': {name} {NOT_FOR_A_ROUTE}",
        )
        for name in ONLY_OF_SITES
    ),
    (
        '{ app = "app:app", hosts = 3 }',
        "2: routes.'/x': hosts is for a site: it stands in the table of one, [sites.\"name\"].",
    ),
    ('{ app = "app:app", chdir = "x" }', f"2: routes.'/x': chdir {AT_THE_TOP}"),
]

SITE = '[routes]\n"/" = "a:a"\n[sites.x]\nroutes = { "/" = "a:a" }\n'
PAGES = '[routes]\n"/" = "a:a"\n[error_pages]\n404 = "a"\n'

WRONG = [
    *((f'[routes]\n"/x" = {route}', sentence) for route, sentence in WRONG_IN_A_ROUTE),
    ('[routes."/x"]\nlease = 3\nfoldr = "x"', "3: routes.'/x' has no setting foldr; did you mean folder?"),
    ('[routes."/x"]\nredirect = "y"', f"2: routes.'/x': redirect must be {A_REDIRECT}"),
    (
        '[routes."/x"]\nrespond = ""\ntype = "ä"',
        "3: routes.'/x': type must be a media type such as application/json, not 'ä'.",
    ),
    ('redirect = "/"', f"1: {FOR_A_ROUTE}"),
    (SITE + 'redirect = "/"', f'5: sites."x": {FOR_A_ROUTE}'),
    (SITE + 'chdir = "x"', f'5: sites."x": chdir {AT_THE_TOP}'),
    (
        SITE + 'acme_hosts = "x"',
        '5: sites."x": acme_hosts is for the default site; the certificate of this one is for its hosts.',
    ),
    (SITE + "headrs = {}", '5: sites."x" has no setting headrs; did you mean headers?'),
    ('[routes]\n"/" = "a:a"\n[sites.x]\nhosts = "x"', f'3: sites."x" {NO_ROUTES}'),
    ('[routes]\n"/" = "a:a"\n[sites.x]\nroutes = {}', f'3: sites."x" {NO_ROUTES}'),
    ("[sites.x]\nroute = {}", '2: sites."x" has no setting route; did you mean routes?'),
    ('[sites.x]\nredirect = "/"', f'2: sites."x": {FOR_A_ROUTE}'),
    ('[headers]\nset = {}\nsett = { X = "y" }', "3: headers has no key sett; did you mean set?"),
    ("[headers]\nappend = {}", "2: headers has no key append: it may be set, add or remove."),
    ("[headers]\nset = {}\nremove = 3", "3: headers: remove must be a list of names, not 3."),
    ('[headers]\nset = {}\nadd = "x"', "3: headers: add must be a table of names and values, not 'x'."),
    ('[headers]\nremove = "a"\n[headers.set]\na = "x"', "4: headers: a is there twice."),
    (
        '[routes."/"]\napp = "a:a"\nheaders = { sett = {} }',
        "3: routes.'/': headers has no key sett; did you mean set?",
    ),
    (PAGES + '50x = "b"', f"5: error_pages: '50x' {A_STATUS}"),
    (PAGES + '200 = "b"', f"5: error_pages: '200' {A_STATUS}"),
]


@pytest.mark.parametrize(("text", "sentence"), WRONG)
def test_one_sentence_tells_what_is_wrong(tmp_path, monkeypatch, text, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.toml").write_text(text, "utf-8")

    def read() -> None:
        found = load({}, {}, "site.toml")
        work_out(found.settings, found.targets)

    with pytest.raises(SettingError) as wrong:
        read()
    assert wrong.value.sentences == [f"site.toml:{sentence}"]
