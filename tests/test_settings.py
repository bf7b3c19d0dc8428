"""Settings: where they come from, which wins, and what is said of a wrong one."""

from __future__ import annotations

import runpy
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from halfsync.plan.layout import target_of, work_out
from halfsync.plan.plan import FileRules, Kind
from halfsync.settings.errors import SettingError
from halfsync.settings.rows import BY_NAME, ROWS
from halfsync.settings.sources import Loaded, load
from halfsync.settings.table import SECTIONS, Settings
from halfsync.settings.values import octal
from tests.command_line import command

DOCS = Path(__file__).parent.parent / "docs"


def from_file(folder: Path, text: str, environment: dict[str, str] | None = None, **given: Any) -> Loaded:
    path = folder / "halfsync.toml"
    path.write_text(text, "utf-8")
    return load(given, environment or {}, str(path))


# --- where they come from


def test_the_later_place_wins_and_is_named(tmp_path):
    """default < file < environment < command line."""
    found = from_file(
        tmp_path,
        "threads = 2\nkeep_alive = 2\nlease = 2",
        {"HALFSYNC_KEEP_ALIVE": "3", "HALFSYNC_LEASE": "3"},
        lease="4",
    )
    settings = found.settings
    assert (settings.workers, settings.threads, settings.keep_alive, settings.lease) == (1, 2, 3.0, 4.0)
    assert found.origins["workers"] == "default"
    assert found.origins["threads"].endswith("halfsync.toml")
    assert found.origins["keep_alive"] == "environment variable HALFSYNC_KEEP_ALIVE"
    assert found.origins["lease"] == "command line"


def test_the_platforms_variables_are_below_our_own():
    found = load({}, {"PORT": "80", "WEB_CONCURRENCY": "3", "HALFSYNC_WORKERS": "5"}, None)
    assert found.settings.bind == ["0.0.0.0:80"]
    assert found.origins["bind"] == "environment variable PORT"
    assert found.settings.workers == 5


@pytest.mark.parametrize(
    ("text", "size"),
    [("10", 10), ("64K", 65536), ("2M", 2 << 20), ("1G", 1 << 30), ("1 MiB", 1 << 20), ("3kb", 3072)],
)
def test_sizes_have_suffixes(tmp_path, text, size):
    assert load({"limit_request_body": text}, {}, None).settings.limit_request_body == size
    assert from_file(tmp_path, f'limit_request_body = "{text}"').settings.limit_request_body == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10), ("2.5s", 2.5), ("30 s", 30), ("500 ms", 0.5), ("5min", 300), ("2 h", 7200), ("0", 0)],
)
def test_durations_have_suffixes(tmp_path, text, seconds):
    assert load({"handler_timeout": text}, {}, None).settings.handler_timeout == seconds
    assert load({}, {"HALFSYNC_HANDLER_TIMEOUT": text}, None).settings.handler_timeout == seconds
    assert from_file(tmp_path, f'handler_timeout = "{text}"').settings.handler_timeout == seconds


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("handler_timeout", "10 K"), ("handler_timeout", "10 m"), ("handler_timeout", "s"),
        ("limit_request_body", "10 s"), ("limit_request_body", "1.5 K"), ("workers", "2 s"),
        ("workers", "2B"),
    ],
)  # fmt: skip
def test_a_suffix_of_another_kind_is_wrong(name, text):
    with pytest.raises(SettingError, match=f"must be .*, not '{text}'"):
        load({name: text}, {}, None)


def test_lists_switches_and_none_as_texts(tmp_path):
    environment = {"HALFSYNC_BIND": "1.2.3.4:5, unix:/x", "HALFSYNC_PRELOAD": "yes", "HALFSYNC_USER": ""}
    settings = load({}, environment, None).settings
    assert settings.bind == ["1.2.3.4:5", "unix:/x"]
    assert settings.preload is True
    assert settings.user is None
    assert from_file(tmp_path, 'bind = "unix:/x"').settings.bind == ["unix:/x"]


def test_kubernetes_may_have_a_service_of_our_name():
    assert load({}, {"HALFSYNC_PORT": "tcp://10.0.0.1:80", "HALFSYNC_SERVICE_HOST": "10.0.0.1"}, None)


# --- what is said of wrong ones


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"workers": "many"}, "--workers must be a whole number from 1 to 1000 or auto, not 'many'."),
        ({"workers": "0"}, "--workers must be a whole number from 1 to 1000 or auto, not 0."),
        ({"workers": "1.5"}, "--workers must be a whole number from 1 to 1000 or auto, not '1.5'."),
        ({"keep_alive": "inf"}, "--keep-alive must be a number of seconds, 0 or more, not inf."),
        ({"keep_alive": "nan"}, "--keep-alive must be a number of seconds, 0 or more, not nan."),
        (
            {"limit_request_body": "10Q"},
            "--limit-request-body must be a whole number of bytes, 0 or more, not '10Q'.",
        ),
        (
            {"log_level": "loud"},
            "--log-level must be one of debug, info, warning, error, critical, not 'loud'.",
        ),
        ({"env": ("A",)}, "env 'A' must have the form NAME=VALUE."),
        ({"env": ("=A",)}, "env '=A' must have the form NAME=VALUE."),
        ({"pid": "a\0b"}, "--pid must be a text, not 'a\\x00b'."),
    ],
)
def test_wrong_on_the_command_line(given, sentence):
    with pytest.raises(SettingError) as refused:
        load(given, {}, None)
    assert str(refused.value) == sentence


def route(table: str) -> str:
    return f'[routes]\n"/x" = {table}\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("wokers = 3", "there is no setting wokers; did you mean workers?"),
        ("keep-alive = 3", "there is no setting keep-alive; did you mean keep_alive?"),
        ("zzz = 3", "there is no setting zzz."),
        ('workers = "3"', "workers must be a whole number from 1 to 1000 or auto, not '3'."),
        ("workers = true", "workers must be a whole number from 1 to 1000 or auto, not true."),
        ("preload = 1", "preload must be true or false, not 1."),
        ("bind = [1]", "bind must be a list of texts, not [1]."),
        ("bind = []", "bind is empty: there is nowhere to listen."),
        ("workers = ", "is not TOML: Invalid value (at end of document)."),
        ("routes = 3", 'routes must be a table, such as [routes] with "/" = "app:app" in it.'),
        (
            'routes = {"/" = 3}',
            'or a table such as { app = "app:app", threads = 2 }.',
        ),
        (
            'routes = {"/" = {app="a:a", worker=3}}',
            "routes.'/' has no setting worker; did you mean workers?",
        ),
        (
            'routes = {"/" = {app="a:a", workers=0}}',
            "routes.'/': workers must be a whole number from 1 to 1000 or auto, not 0.",
        ),
        ("mounts = {}", "[mounts] is now called [routes]."),
        ("sites = 3", 'sites must be tables, such as [sites."blog.example"].'),
        ("[sites]\na = 3", 'sites."a" must be a table, such as [sites."a"].'),
        ("[sites.a]\nroute = {}", 'sites."a" has no setting route; did you mean routes?'),
        ("[sites.a]\nthreads = 0", 'sites."a": threads must be a whole number from 1 to 128, not 0.'),
        (
            "[sites.a]\nkeep_alive = 3",
            'sites."a": keep_alive is for the whole server; it stands at the top of the file.',
        ),
        (
            route('{app = "a:a", certfile = "a.pem"}'),
            "certfile is not for a single route; it stands in a site or at the top of the file.",
        ),
        ("[sites.a]\nhosts = []", 'hosts must be a list of names, such as ["a", "*.a"].'),
        ('[sites.a]\nhosts = "*"', "requests for all other hosts go to the [routes] at the top."),
        ('[sites.a]\nhosts = "b:80"', "'b:80' must not have a port; `bind` says where it is served."),
        ('[sites.a]\nhosts = "a b"', "hosts: 'a b' is neither a host's name nor of the form *.name."),
        ('[sites.a]\nhosts = "bücher.de"', "'bücher.de' is 'xn--bcher-kva.de' in a request; write it so."),
        (route('{redirect = "/a", respond = 204}'), "has both redirect and respond: a route does one thing."),
        (route('{target = "a:a"}'), "target is now called app, folder or file."),
        (route("{threads = 2}"), "status_page; or status = 404 for an error."),
        (route('{redirect = "/a", status = 200}'), "one of 301, 302, 303, 307 and 308, not 200."),
        (route('{redirect = "/$paht"}'), "$paht is none of $host, $path, $query - did you mean $path?"),
        (route('{redirect = "//a"}'), "such as https://$host$path$query, in ASCII, not '//a'."),
        (route('{redirect = "/$path$query"}'), "write '$path$query', not '/$path$query'."),
        (route('{redirect = "/a b"}'), "such as https://$host$path$query, in ASCII, not '/a b'."),
        (route("{status = 200}"), "the number of an error, such as 404, 410 or 403, not 200."),
        (route("{respond = 99}"), "respond must be a text or a status, not 99."),
        (route("{respond = 204, type = 'a/b'}"), "must be a text where status or type is given, not 204."),
        (route("{respond = 'x', status = 204}"), "a response with status 204 has no text."),
        (route("{respond = 'x', status = 205}"), "a response with status 205 has no text."),
        (route("{respond = 'x', type = 3}"), "type must be a text, not 3."),
        (route("{folder = 'x', status = 404}"), "status is not for folder."),
        (route("{status = 404, type = 'a/b'}"), "type is for respond."),
        (
            'allow = "10.0.0.1/33"',
            "allow: '10.0.0.1/33' is neither an address such as 10.0.0.7 nor a network",
        ),
        (
            route("{status = 404, deny = ['x']}"),
            "deny: 'x' is neither an address such as 10.0.0.7 nor a network",
        ),
        ("headers = 3", 'such as { set = { "X-Frame-Options" = "DENY" }, remove = ["Server"] }.'),
        ("headers = {set = []}", "headers: set must be a table of names and values, not []."),
        ("headers = {remove = 1}", "headers: remove must be a list of names, not 1."),
        ("headers = {remove = ['a b']}", "headers: 'a b' can't be the name of a header field."),
        ("headers = {set = {Date = 'a'}}", "headers: Date is the server's own; it can't be changed."),
        ("headers = {set = {a = 1}}", "headers: a must be a text of ASCII characters, not 1."),
        ('headers = {set = {a = "b\\nc"}}', "text of ASCII characters, not 'b\\nc'."),
        ("headers = {set = {a = 'b'}, remove = ['A']}", "headers: a is there twice."),
        ("[sites.a.headers]\nset = 3", 'sites."a": headers: set must be a table of names and values, not 3.'),
        (
            "limit_request_head = 1000",
            "limit_request_line (8190) must not be larger than limit_request_head (1000).",
        ),
    ],
)
def test_wrong_in_the_file(tmp_path, text, sentence):
    with pytest.raises(SettingError) as refused:
        from_file(tmp_path, text)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "text", "sentence"),
    [
        ("PORT", "http", "Environment variable PORT must be a port number, not 'http'."),
        ("PORT", "65536", "Environment variable PORT must be a port number, not '65536'."),
        (
            "HALFSYNC_PRELOAD",
            "maybe",
            "Environment variable HALFSYNC_PRELOAD must be true or false, not 'maybe'.",
        ),
        (
            "HALFSYNC_WORKRS",
            "3",
            "Environment variable HALFSYNC_WORKRS names no setting; did you mean HALFSYNC_WORKERS?",
        ),
    ],
)
def test_wrong_in_the_environment(variable, text, sentence):
    with pytest.raises(SettingError) as refused:
        load({}, {variable: text}, None)
    assert str(refused.value) == sentence


def test_a_file_that_is_not_there():
    with pytest.raises(
        SettingError, match=r"^The settings file no.toml can't be read: No such file or directory\.$"
    ):
        load({}, {}, "no.toml")


# --- each one once


def test_every_setting_has_a_section_and_a_sentence():
    for row in ROWS:
        assert row.section in SECTIONS, row.name
        assert row.description.endswith("."), row.name
    assert set(BY_NAME) == set(Settings.__struct_fields__)


def test_defaults_keep_their_own_rules():
    defaults = Settings()
    assert load({}, {}, None).settings == defaults
    for row in ROWS:
        if row.type in (int, float):
            least, most = row.meta.ge, row.meta.le
            value = getattr(defaults, row.name)
            if value in row.words:
                continue
            assert least is None or value >= least, row.name
            assert most is None or value <= most, row.name


def test_settings_do_not_change():
    with pytest.raises(AttributeError):
        Settings().workers = 3  # type: ignore[misc]


def test_the_page_is_current():
    made = runpy.run_path(str(DOCS / "make_settings_page.py"))
    assert made["PAGE"].read_text("utf-8") == made["page"](), "make docs"


# --- targets


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("public", "up", "with:colon"):
        (tmp_path / folder).mkdir()
    (tmp_path / "app.py").write_text("")
    return tmp_path


def mounted(*arguments: str) -> list[tuple[str, str, str, int]]:
    routes = work_out(Settings(), [target_of(argument) for argument in arguments]).routes
    return [(route.prefix, route.target, route.kind.value, route.pool) for route in routes]


@pytest.mark.usefixtures("here")
class TestTargets:
    def test_applications_and_folders(self):
        assert mounted("app:app") == [("", "app:app", "wsgi", 1)]
        assert mounted("a.b:c.d") == [("", "a.b:c.d", "wsgi", 1)]
        assert mounted('app:create("x=1/2")') == [("", 'app:create("x=1/2")', "wsgi", 1)]
        assert mounted("public") == [("", "public", "files", 0)]
        assert mounted("./with:colon") == [("", "./with:colon", "files", 0)]
        assert mounted(".") == [("", ".", "files", 0)]

    def test_the_longest_prefix_is_first(self):
        assert [prefix for prefix, *_ in mounted("app:app", "/a=public", "/a/b/=./up")] == ["/a/b", "/a", ""]

    def test_prefixes_are_decoded(self):
        assert mounted("/%C3%A9%20t=public")[0][0] == "/é t"

    def test_an_application_on_two_mounts_has_one_pool(self):
        assert [pool for *_, pool in mounted("app:app", "/b=app:app", "/c=other:app")] == [1, 2, 1]

    def test_unless_it_asks_for_sizes_of_its_own(self, here):
        text = (
            '[routes]\n"/" = "app:app"\n"/b" = {app = "app:app", threads = 1}\n'
            '"/s" = {folder = "up", lease = 9}'
        )
        loaded = from_file(here, text)
        layout = work_out(loaded.settings, loaded.targets)
        routes, pools = layout.routes, layout.pools
        assert [(pool.name, pool.processes, pool.threads) for pool in pools] == [
            ("built-in", 1, 4),
            ("app:app", 1, 8),
            ("app:app at /b", 1, 1),
        ]
        leases = {route.prefix: route.files.lease for route in routes if route.kind is Kind.FILES}
        assert leases == {"/s": 9.0}

    def test_rules_of_files_are_the_mounts_own_or_those_of_all(self, here):
        (here / "up/index.html").touch()
        (here / "one.ico").touch()
        text = (
            'cache_control = "max-age=60"\nimmutable = true\nfallback = "index.html"\n'
            '[routes]\n"/" = "app:app"\n'
            '"/a" = "up"\n"/b" = {folder = "up", cache_control = "", immutable = false, fallback = ""}\n'
            '"/c" = {folder = "up", precompressed = true, fallback = "/index.html"}\n"/d.ico" = "one.ico"\n'
            '"/e" = {folder = "up", cache_control = {"*.js" = "max-age=1", "a/*" = ""}, fallback = ""}\n'
        )
        loaded = from_file(here, text)
        routes = work_out(loaded.settings, loaded.targets).routes
        assert {route.prefix: route.files for route in routes} == {
            "": FileRules(),
            "/a": FileRules(1.0, "max-age=60", True, False, "index.html"),
            "/b": FileRules(1.0),
            "/c": FileRules(1.0, "max-age=60", True, True, "index.html"),
            "/d.ico": FileRules(1.0, "max-age=60", True, is_file=True),
            "/e": FileRules(1.0, {"*.js": "max-age=1", "a/*": ""}, True),
        }

    @pytest.mark.parametrize(
        ("table", "sentence"),
        [
            ('{app = "a:a", immutable = true}', "immutable is for files; an application says its own."),
            ("{respond = 204, lease = 2}", "lease has no effect beside respond."),
            ('{app = "./a"}', "app must be of the form module:name or module:factory(), not './a'."),
            ('{folder = "app.txt"}', "'app.txt' is a file; say so: file = 'app.txt'."),
            ('{file = "up"}', "'up' is a folder; say so: folder = 'up'."),
            ('{folder = "no"}', "there is no folder or file 'no' in {here}."),
            ('{redirect = "/x/y$path"}', "the redirect to '/x/y$path' leads to this route again."),
            ('{redirect = "/x?a"}', "the redirect to '/x?a' leads to this route again."),
            ('{app = "a:a", lease = 2}', "lease is for files; an application says its own."),
            ('{folder = "up", threads = 2}', "threads is for applications, not for files."),
            ('{folder = "up", stream_body = true}', "stream_body is for applications, not for files."),
            ('{folder = "up", fallback = "no.html"}', "fallback: there is no file 'no.html' in that folder."),
            ('{folder = "up", fallback = "../x"}', "fallback must be a file within the folder, not '../x'."),
            ('{folder = "up", fallback = ".x"}', "fallback must be a file within the folder, not '.x'."),
            ('{file = "app.txt", fallback = "x"}', "fallback is for folders, and 'app.txt' is one file."),
            ('{file = "app.txt", listing = true}', "listing is for folders, and 'app.txt' is one file."),
            ('{folder = "up", cache_control = "a\\nb"}', "cache_control must be plain ASCII, not 'a\\nb'."),
            ('{folder = "up", cache_control = {"*" = "a\\nb"}}', "must be plain ASCII, not 'a\\nb'."),
            (
                '{folder = "up", cache_control = {"/a*" = "a"}}',
                "or for paths within the folder such as 'assets/*', not '/a*'.",
            ),
            (
                '{folder = "up", cache_control = {"*" = 1}}',
                "must be a text, or a table of patterns and texts, not {'*': 1}.",
            ),
            ('{folder = "up", queue_timeout = 2}', "queue_timeout is for applications, not for files."),
            (
                '{folder = "up", cache_controll = "a"}',
                "has no setting cache_controll; did you mean cache_control?",
            ),
            ('{folder = "up", immutable = "yes"}', "immutable must be true or false, not 'yes'."),
            ('{file = "/dev/null"}', "'/dev/null' is neither a folder nor a regular file."),
        ],
    )
    def test_rules_that_do_not_fit_their_mount(self, here, table, sentence):
        (here / "app.txt").touch()

        def load_it() -> None:
            loaded = from_file(here, f'[routes]\n"/x" = {table}\n')
            work_out(loaded.settings, loaded.targets)

        with pytest.raises(SettingError) as refused:
            load_it()
        assert "routes.'/x'" in str(refused.value)
        assert str(refused.value).endswith(sentence.replace("{here}", str(here)))

    def test_the_nearest_value_counts(self, here):
        text = (
            "limit_request_body = 5\nhandler_timeout = 7\nworkers = 2\nlease = 3\n"
            '[routes]\n"/" = "app:app"\n"/b" = {app = "app:app", limit_request_body = "1K"}\n'
            '[sites.a]\nhandler_timeout = 8\nworkers = 3\nlease = 4\n[sites.a.routes]\n"/" = "app:app"\n'
            '"/b" = {app = "b:app", handler_timeout = 9, workers = 4}\n"/c" = "up"\n'
            '"/d" = {folder = "up", lease = 5}\n"/e" = {respond = 204, send_timeout = 1}\n'
        )
        loaded = from_file(here, text)
        layout = work_out(loaded.settings, loaded.targets, loaded.sites)
        found = {
            (route.site, route.prefix): (
                route.limits and (route.limits.limit_request_body, route.limits.handler_timeout),
                route.pool > 0 and layout.pools[route.pool].processes,
                route.files.lease,
            )
            for route in layout.routes
        }
        assert found == {
            (0, ""): (None, 2, 0.0),
            (0, "/b"): ((1024, 7.0), 2, 0.0),
            (1, ""): ((5, 8.0), 3, 0.0),
            (1, "/b"): ((5, 9.0), 4, 0.0),
            (1, "/c"): ((5, 8.0), False, 4.0),
            (1, "/d"): ((5, 8.0), False, 5.0),
            (1, "/e"): ((5, 8.0), False, 0.0),
        }

    def test_redirects_that_lead_elsewhere(self, here):
        text = """[routes]
            "/" = { redirect = "/app/" }
            "/app" = "app:app"
            "/a" = { redirect = "https://example/a" }
            "/b" = { redirect = "/bb" }
            "/c" = { redirect = "$path" }
            """
        loaded = from_file(here, text)
        assert len(work_out(loaded.settings, loaded.targets).routes) == 5

    def test_a_host_has_one_site(self, here):
        text = """
            [sites.a]
            hosts = ["x", "y"]
            routes = { "/" = "app:app" }
            bind = "127.0.0.1:1"
            [sites.b]
            hosts = ["Y.", "z"]
            routes = { "/" = "app:app" }
            """
        loaded = from_file(here, text)
        work_out(loaded.settings, [target_of("app:app")], loaded.sites)
        loaded = from_file(here, text.replace('bind = "127.0.0.1:1"', ""))
        with pytest.raises(SettingError, match=r"""sites."b": the host y belongs to the site 'a' already."""):
            work_out(loaded.settings, [target_of("app:app")], loaded.sites)
        loaded = from_file(here, 'bind = "127.0.0.1:1"\n' + text)
        with pytest.raises(SettingError, match=r"""sites."b": the host y belongs to the site 'a' already."""):
            work_out(loaded.settings, [target_of("app:app")], loaded.sites)

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (
                (),
                "There is nothing to serve: name an application such as app:app, or a folder",
            ),
            (
                ("app.py",),
                "Target 'app.py': an application is named with its module and without .py, such as app:app.",
            ),
            (("no-pe",), "Target 'no-pe': 'no-pe' is neither a folder or file in "),
            (("./nope",), "Target './nope': there is no folder or file './nope' in "),
            (("a b:c",), "nor of the form module:name or module:factory()."),
            (("s=./up",), "Target 's=./up': the path of a route starts with '/', such as '/s=./up'."),
            (("/x=",), "Target '/x=' is empty: name an application"),
            (("/a//b=up",), "Target '/a//b=up': no request has a path that begins with '/a//b'."),
            (("/a/../b=up",), "no request has a path that begins with '/a/../b'."),
            (("/a?b=up",), "no request has a path that begins with '/a?b'."),
            (("a:a", "/=up"), "Target '/=up': 'a:a' is served at '/' already; to have both, "),
            (("/x=http://a:1",), "Target '/x=http://a:1': 'http://a:1' can't be served: proxying to other"),
            (("/u=up", "/u/=up"), "Target '/u/=up': 'up' is served at '/u' already; to have both, "),
        ],
    )
    def test_wrong_ones(self, arguments, sentence):
        with pytest.raises(SettingError) as refused:
            mounted(*arguments)
        assert sentence in str(refused.value)


# --- the command


def halfsync(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return command(folder, *arguments, environment={"PATH": "/usr/bin:/bin", **environment})


def test_print_config_can_be_read_back(here):
    """It prints a TOML file that means the same, with each value's origin as a comment."""
    printed = halfsync(
        here, "app:app", "/é=./up", "-w", "3", "-e", 'A="b"', "--lease=2.5", "--print-config", PORT="80"
    ).stdout
    table = tomllib.loads(printed)
    assert table.pop("routes") == {"/": "app:app", "/é": "./up"}
    given = {"workers": 3, "env": ['A="b"'], "lease": 2.5, "bind": ["0.0.0.0:80"]}
    again = from_file(here, printed).settings
    assert again == msgspec.structs.replace(Settings(), **given)
    assert "\nworkers = 3" in printed
    assert "# environment variable PORT" in printed
    assert "# command line" in printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--workerz", "3"], "halfsync: No such option '--workerz'."),
        (
            ["-w", "x", "app:app"],
            "halfsync: --workers must be a whole number from 1 to 1000 or auto, not 'x'.",
        ),
        ([], "halfsync: There is nothing to serve"),
        (
            ["--chdir", "nope", "app:app"],
            "halfsync: chdir: can't go to the folder 'nope': No such file or directory.",
        ),
        (
            ["--user", "nobody-at-all", "app:app"],
            "halfsync: user 'nobody-at-all': this machine has no such user.",
        ),
        (
            ["--group", "none-at-all", "app:app"],
            "halfsync: group 'none-at-all': this machine has no such group.",
        ),
        (
            ["-b", "nonsense", "app:app"],
            "halfsync: bind 'nonsense' must be host:port, [address]:port, a port, or unix:/path.",
        ),
        (["-b", "1.2.3.4:0", "app:app"], "halfsync: bind '1.2.3.4:0': this machine has no such address."),
        (
            ["--pid", "no/where", "app:app"],
            "halfsync: pid: the file no/where can't be written: No such file or directory.",
        ),
        (
            ["--access-logfile", ".", "up"],
            "halfsync: access_logfile: the file . can't be written: Is a directory.",
        ),
        (["--access-logformat", "%q%Z%", "up"], "halfsync: access_logformat: "),
        (
            ["--spool-dir", "nope", "up"],
            "halfsync: spool_dir: no temporary file can be made in the folder 'nope': No such file",
        ),
    ],
)
def test_wrong_is_one_sentence_and_2(here, arguments, sentence):
    done = halfsync(here, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


def test_help_and_version(here):
    helped = halfsync(here, "--help").stdout
    for row in ROWS:
        assert row.flags[-1] in helped
    for section in SECTIONS:
        assert f"{section}:\n" in helped
    assert halfsync(here, "--version").stdout.startswith("halfsync 0.")


def test_check_config(here):
    (here / "good.py").write_text("def app(environ, start_response): ...")
    (here / "bad.py").write_text("import nothing_of_that_name")
    fine = halfsync(here, "good:app", "--check-config")
    assert (fine.returncode, fine.stdout, fine.stderr) == (0, "The configuration is fine.\n", "")
    bad = halfsync(here, "good:app", "/bad=bad:app", "--check-config")
    assert bad.returncode == 2
    assert "No module named 'nothing_of_that_name'" in bad.stderr
    assert bad.stderr.splitlines()[-1].startswith("halfsync: Target '/bad=bad:app': its import failed")
    missing = halfsync(here, "missing:app", "--check-config")
    assert missing.returncode == 2
    assert missing.stderr.count("\n") == 1


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_variable_is_not_set(empty):
    """As compose files and platforms make them of variables that they do not have."""
    names = (
        "PORT",
        "WEB_CONCURRENCY",
        "HALFSYNC_THREADS",
        "HALFSYNC_PRELOAD",
        "HALFSYNC_LOG_LEVEL",
        "HALFSYNC_BIND",
    )
    found = load({}, dict.fromkeys(names, empty), None)
    assert found.settings == Settings()
    assert set(found.origins.values()) == {"default"}


@pytest.mark.parametrize("name", ["umask", "unix_mode"])
def test_permissions_are_octal(name):
    for text, means in (("022", 0o22), ("0o27", 0o27), ("0", 0), ("0777", 0o777), ("7", 7)):
        assert octal(name, getattr(load({name: text}, {}, None).settings, name)) == means
    for wrong in ("8", "1000", "rw", "0x1", "-1", "\u0667"):
        with pytest.raises(SettingError, match=rf"^{name} must be an octal number from 0 to 777"):
            load({name: wrong}, {}, None)
