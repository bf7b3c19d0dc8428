"""A page as Django projects make them: a URL, the common middleware, a template, an escaped list."""

from __future__ import annotations

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.template import Context, Template
from django.urls import path

TEMPLATE = """<!doctype html>
<title>{{ title }}</title>
<h1>{{ title }}</h1>
<ul>
{% for item in items %}<li>{{ forloop.counter }}: {{ item }}</li>
{% endfor %}</ul>
"""
ITEMS = [f"<item {number}>" for number in range(20)]

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="not a secret: it is a benchmark",
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
)
django.setup()
_template = Template(TEMPLATE)


def page(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(_template.render(Context({"title": "Twenty items", "items": ITEMS})))


urlpatterns = [path("", page)]
app = get_wsgi_application()
