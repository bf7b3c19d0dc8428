"""A page as Flask applications make them: a route, a template, an escaped list."""

from __future__ import annotations

from flask import Flask, render_template
from jinja2 import DictLoader

TEMPLATE = """<!doctype html>
<title>{{ title }}</title>
<h1>{{ title }}</h1>
<ul>
{% for item in items %}<li>{{ loop.index }}: {{ item }}</li>
{% endfor %}</ul>
"""
ITEMS = [f"<item {number}>" for number in range(20)]

app = Flask(__name__)
app.jinja_loader = DictLoader({"page.html": TEMPLATE})


@app.get("/")
def page() -> str:
    return render_template("page.html", title="Twenty items", items=ITEMS)
