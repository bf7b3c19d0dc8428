"""Targets as people write them, and what is said of those that are no WSGI application."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from halfsync.plan.layout import target_of, work_out
from halfsync.plan.plan import Kind
from halfsync.settings.errors import SettingError
from halfsync.settings.table import Settings
from halfsync.worker.importing import CannotImport, load

SITE = '''
import asyncio, functools, os
from functools import wraps
from site_parts_of_test import Client, view

some = 1
nothing = None

def app(environ, start_response):
    start_response("200 OK", [])
    return [b"app"]

async def asgi(scope, receive, send): ...
async def asgi_of_two(scope, receive): ...
async def make_asgi(): ...

class ASGI:
    async def __call__(self, scope, receive, send): ...

class ASGI2:
    def __init__(self, scope): ...
    async def __call__(self, receive, send): ...

class Site:
    def __call__(self, environ, start_response):
        return app(environ, start_response)

class Needy(Site):
    def __init__(self, settings): ...

class Responses:
    """PEP 3333's class that is an application."""
    def __init__(self, environ, start_response):
        start_response("200 OK", [])
    def __iter__(self):
        yield b"responses"

asgi_instance = ASGI()
asgi_partial = functools.partial(ASGI(), more=1)
instance = Site()

def make(): return Site()
def create_app(config=None, debug=False): return Site()
def forgets_to_return(): create_app()
def gives_a_function(): return lambda: None
def index(request): ...
def three(a, b, c): ...
anything = lambda *args, **kwargs: app(*args)
part = functools.partial(lambda site, environ, start: app(environ, start), "x")

@wraps(index)
def wrapped(environ, start_response): return app(environ, start_response)

def app_with_more(environ, start_response, debug=False): return app(environ, start_response)
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in [name for name in sys.modules if name.endswith("_of_test")]:
        del sys.modules[name]
    (tmp_path / "site_parts_of_test.py").write_text("class Client: ...\ndef view(request): ...\n")
    (tmp_path / "site_of_test.py").write_text(SITE)
    return tmp_path


def sentence_of(target: str) -> str:
    with pytest.raises(CannotImport) as caught:
        load(target)
    assert caught.value.traceback == ""
    sentence = caught.value.sentence
    assert sentence.startswith(f"Target {target!r}: ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "name",
    [
        *("app", "instance", "Responses", "anything", "part", "wrapped", "app_with_more"),
        *("make()", "create_app()", "create_app('x', debug=True)", "instance.__call__"),
        *("asgi", "asgi_instance", "asgi_partial", "ASGI()"),
    ],
)
def test_what_can_be_called_as_an_application_is_one(name):
    assert callable(load(f"site_of_test:{name}"))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ASGI", "is a class; an instance of it is meant: site_of_test:ASGI()."),
        ("ASGI2", "is an application of ASGI 2, which is called in two steps; wrap it in asgiref"),
        ("asgi_of_two", "takes (scope, receive); an ASGI application is called with (scope, receive, send)."),
        ("make_asgi", "is a factory; to have it called, write site_of_test:make_asgi()."),
        ("make", "is a factory; to have it called, write site_of_test:make()."),
        ("create_app", "is a factory; to have it called, write site_of_test:create_app()."),
        ("Site", "is a class; an instance of it is meant: site_of_test:Site()."),
        ("Needy", "is a class; make an instance of it in site_of_test, and name that."),
        ("index", "takes (request); a WSGI application is called with (environ, start_response)."),
        ("three", "takes (a, b, c); a WSGI application is called with (environ, start_response)."),
        ("asyncio", "is a module; name the application in it, such as asyncio:app."),
        ("nothing", "is None: perhaps it is set only later, or under another name."),
        ("forgets_to_return()", "gave None: perhaps the function does not return what it made."),
        ("gives_a_function()", "gave a function that takes no arguments"),
        ("some", "is of type int, which can't be called"),
    ],
)
def test_what_is_none_is_reported_with_what_was_meant(name, said):
    assert f"{name!r} in module 'site_of_test' {said}" in sentence_of(f"site_of_test:{name}")


@pytest.mark.usefixtures("folder")
def test_a_missing_name_lists_those_that_are_there_callables_first():
    sentence = sentence_of("site_of_test:aplication")
    assert "has no 'aplication'; it has app, anything, app_with_more, asgi, " in sentence
    assert " more." in sentence
    for name in ("asyncio", "os", "some,"):
        assert name not in sentence.partition("it has")[2]


def test_a_folder_that_is_no_package_is_reported_as_that(folder):
    (folder / "site_folder_of_test").mkdir()
    where = rf"({folder}/site_folder_of_test, a folder without __init__.py)"
    assert f"module 'site_folder_of_test' {where} has no 'app';" in sentence_of("site_folder_of_test:app")


def test_a_module_with_nothing_in_it_has_no_names(folder):
    (folder / "empty_of_test.py").write_text("import os\n_hidden = 1\n")
    assert "has no 'app'; it has no public names." in sentence_of("empty_of_test:app")


# --- a module alone ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("application = lambda e, s: 'application'\napp = None", "application"),
        ("app = lambda e, s: 'app'", "app"),
    ],
)
def test_a_module_alone_has_its_application_or_app(folder, code, answer):
    (folder / "pack_of_test").mkdir()
    (folder / "pack_of_test/wsgi.py").write_text(code)
    sys.modules.pop("pack_of_test.wsgi", None)
    assert load("pack_of_test.wsgi")({}, None) == answer


def test_a_module_alone_without_either_says_what_it_has(folder):
    (folder / "other_of_test.py").write_text("def server(environ, start): ...\n")
    said = sentence_of("other_of_test")
    assert "has neither 'application' nor 'app'; it has server." in said
    assert "such as other_of_test:name." in said


@pytest.mark.usefixtures("folder")
def test_a_word_that_is_neither_folder_nor_module_is_reported_as_that():
    assert "there is no folder and no module 'pubic'" in sentence_of("pubic")


def kinds(*targets: str) -> list[Kind]:
    return [route.kind for route in work_out(Settings(), [target_of(one) for one in targets]).routes]


def test_a_folder_is_a_folder_and_a_package_is_asked_about(folder):
    (folder / "public").mkdir()
    (folder / "mysite").mkdir()
    (folder / "mysite/__init__.py").write_text("")
    assert kinds("mysite.wsgi") == [Kind.WSGI]
    assert kinds("public") == [Kind.FILES]
    assert kinds("./mysite") == [Kind.FILES]
    with pytest.raises(SettingError, match=r"'mysite' is a Python package.* mysite:app; .* \./mysite\.$"):
        kinds("mysite")


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ("app.py", "app:app"),
        ("./src/site.py", "src.site:app"),
        ("nowhere.py", "nowhere:app"),
        ("a-b.py", "module:app"),
    ],
)
def test_a_python_file_is_reported_with_its_module(folder: Path, target: str, meant: str):
    (folder / "src").mkdir()
    for name in ("app.py", "src/site.py", "a-b.py"):
        (folder / name).write_text("")
    with pytest.raises(SettingError, match=rf"without \.py, such as {meant}\.$"):
        kinds(target)
