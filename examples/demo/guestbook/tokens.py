"""Forms that only our own pages can send: a token in the session must come back with each."""

from __future__ import annotations

import hmac
import secrets

from flask import Flask, abort, request, session


def init_app(app: Flask) -> None:
    app.before_request(_check)
    app.jinja_env.globals["form_token"] = form_token


def form_token() -> str:
    """The visitor's token, made at first use."""
    token: str = session.setdefault("token", secrets.token_urlsafe(24))
    return token


def _check() -> None:
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    expected = session.get("token", "")
    given = request.form.get("token", "")
    if not expected or not hmac.compare_digest(expected.encode(), given.encode()):
        abort(400, "This form did not come from our own page, or its session has ended. Go back and reload.")
