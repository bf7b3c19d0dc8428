"""A small Django application in one file: sessions in a signed cookie, a form with its CSRF token, an
upload, a streamed response, a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import FileResponse, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.middleware.csrf import get_token
from django.urls import path

settings.configure(
    SECRET_KEY="the story's",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
    ],
)
django.setup()


def sign(request: Any) -> Any:
    if request.method == "POST":
        request.session["name"] = request.POST["name"]
        return HttpResponseRedirect(request.path)
    return HttpResponse(f"signed by {request.session.get('name', 'nobody')}; token {get_token(request)}")


def upload(request: Any) -> Any:
    file = request.FILES["file"]
    found = hashlib.sha256()
    for chunk in file.chunks():
        found.update(chunk)
    return HttpResponse(f"{file.name} {file.size} {found.hexdigest()}")


def count(request: Any) -> Any:
    def numbers() -> Iterator[str]:
        for number in range(int(request.GET["to"])):
            yield f"{number}\n"

    return StreamingHttpResponse(numbers(), content_type="text/plain")


def file(_request: Any) -> Any:
    return FileResponse(open(__file__, "rb"), content_type="text/x-python")


urlpatterns = [
    path("sign", sign),
    path("upload", upload),
    path("count", count),
    path("file", file),
]

app = WSGIHandler()
