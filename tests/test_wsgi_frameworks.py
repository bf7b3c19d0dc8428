"""Real frameworks on a worker: a small Flask and a small Django application."""

from __future__ import annotations

import logging
import sys
import types
from typing import Any

import flask
import pytest

from halfsync.wire.messages import Ending
from tests.worker_stage import Stage

FORM = "Content-Type: application/x-www-form-urlencoded"
MULTIPART = "Content-Type: multipart/form-data; boundary=B"


@pytest.fixture
def flask_app(tmp_path):
    app = flask.Flask(__name__, static_folder=str(tmp_path), static_url_path="/static")
    app.secret_key = "a key of this test"
    (tmp_path / "s.css").write_bytes(b"body {}" * 10_000)

    @app.get("/hello/<name>")
    def hello(name):
        flask.session["name"] = name
        return f"Hello, {name} at {flask.request.url}"

    @app.post("/form")
    def form():
        return {"form": flask.request.form.to_dict(), "size": flask.request.content_length}

    @app.post("/upload")
    def upload():
        return str(len(flask.request.files["file"].read()))

    @app.get("/stream")
    def stream():
        return flask.Response((f"{n}\n" for n in range(5)), mimetype="text/plain")

    @app.get("/fail")
    def fail():
        raise ValueError("in a view")

    @app.get("/fail-late")
    def fail_late():
        def body() -> Any:
            yield "begun"
            raise ValueError("in a body")

        return flask.Response(body())

    return app


def test_flask(flask_app, capfd):
    with Stage(flask_app) as stage:
        answer = stage.get("/hello/J%C3%BCrgen?x=y")
        assert answer.body.decode() == "Hello, Jürgen at http://example.org/hello/Jürgen?x=y"
        assert answer.length == len(answer.body)
        assert answer.messages == 1
        assert "session=" in answer.fields["set-cookie"]
        posted = stage.ask(f"POST /form HTTP/1.1\nHost: a\n{FORM}\nContent-Length: 7", b"a=1&b=2")
        assert posted.body.replace(b" ", b"").strip() == b'{"form":{"a":"1","b":"2"},"size":7}'
        streamed = stage.get("/stream")
        assert (streamed.body, streamed.length, streamed.ending) == (b"0\n1\n2\n3\n4\n", -1, Ending.DONE)
        assert stage.get("/fail").status == 500
        assert stage.get("/missing").status == 404
        assert stage.get("/fail-late").ending is Ending.ABORTED
    said = capfd.readouterr().err
    assert "ValueError: in a body" in said


def test_flask_under_a_mount(flask_app):
    with Stage(flask_app, prefix="/shop") as stage:
        assert stage.get("/shop/hello/x").body == b"Hello, x at http://example.org/shop/hello/x"


@pytest.mark.parametrize("spooled", [False, True])
def test_flask_upload(flask_app, spooled):
    body = (
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        + b"x" * 30_000
        + b"\r\n--B--\r\n"
    )
    head = f"POST /upload HTTP/1.1\nHost: a\n{MULTIPART}\nTransfer-Encoding: chunked"
    with Stage(flask_app) as stage:
        assert stage.ask(head, body, spooled=spooled).body == b"30000"


def test_flask_static_files_go_by_descriptor(flask_app):
    with Stage(flask_app) as stage:
        answer = stage.get("/static/s.css")
        assert (answer.kinds, answer.body) == (["File"], b"body {}" * 10_000)
        part = stage.get("/static/s.css", "Range: bytes=10-19")
        assert (part.status, part.body) == (206, (b"body {}" * 10)[10:20])
        again = stage.get("/static/s.css", f"If-None-Match: {answer.fields['etag']}")
        assert (again.status, again.body) == (304, b"")


@pytest.fixture(scope="module")
def django_app() -> Any:
    django = pytest.importorskip("django")
    from django.conf import settings

    urls = types.ModuleType("urls_of_test")
    sys.modules["urls_of_test"] = urls
    settings.configure(
        ROOT_URLCONF="urls_of_test",
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="a key of this test",
        MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
        LOGGING_CONFIG=None,
    )
    django.setup()
    from django.core.wsgi import get_wsgi_application
    from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
    from django.urls import path

    def hello(request: Any, name: str) -> Any:
        return HttpResponse(f"Hello, {name} at {request.build_absolute_uri()}")

    def form(request: Any) -> Any:
        return JsonResponse(request.POST.dict())

    def fail(request: Any) -> Any:
        raise ValueError("in a view")

    urls.urlpatterns = [  # type: ignore[attr-defined]
        path("hello/<name>", hello),
        path("form", form),
        path("stream", lambda request: StreamingHttpResponse(f"{n}\n" for n in range(5))),
        path("file", lambda request: FileResponse(open(__file__, "rb"))),  # noqa: SIM115 - Django closes it
        path("fail", fail),
    ]
    yield get_wsgi_application()
    logging.getLogger("django").handlers.clear()


def test_django(django_app):
    with Stage(django_app) as stage:
        answer = stage.get("/hello/J%C3%BCrgen")
        assert answer.body.decode() == "Hello, Jürgen at http://example.org/hello/J%C3%BCrgen"
        assert (answer.length, answer.messages) == (len(answer.body), 1)
        posted = stage.ask(f"POST /form HTTP/1.1\nHost: a\n{FORM}\nContent-Length: 7", b"a=1&b=2")
        assert posted.body == b'{"a": "1", "b": "2"}'
        assert stage.get("/stream").body == b"0\n1\n2\n3\n4\n"
        assert stage.get("/fail").status == 500
        assert stage.get("/missing").status == 404


def test_django_files_go_by_descriptor(django_app):
    with Stage(django_app) as stage:
        answer = stage.get("/file")
    with open(__file__, "rb") as file:
        assert (answer.kinds, answer.body) == (["File"], file.read())


def test_django_under_a_mount(django_app):
    with Stage(django_app, prefix="/shop") as stage:
        assert stage.get("/shop/hello/x").body == b"Hello, x at http://example.org/shop/hello/x"
