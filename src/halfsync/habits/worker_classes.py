"""gunicorn's -k: which kinds of workers there are elsewhere, and what each means here."""

from __future__ import annotations

from halfsync.settings.errors import SettingError

_ONE_KIND = (
    "halfsync has one kind of worker for WSGI, threads in processes, and holds idle and slow clients "
    "outside them"
)
_ASYNC = f"{_ONE_KIND}; leave it out, and let --threads be as many requests as should be worked on at once."
_TRIO = "ASGI applications run on asyncio here."

_REFUSED = {
    "gevent": _ASYNC,
    "gevent_wsgi": _ASYNC,
    "gevent_pywsgi": _ASYNC,
    "eventlet": _ASYNC,
    "meinheld": _ASYNC,
    "egg:meinheld#gunicorn_worker": _ASYNC,
    "meinheld.gmeinheld.MeinheldWorker": _ASYNC,
    "tornado": "a Tornado application runs its own loop; start it with python, and halfsync is not needed.",
    "aiohttp.GunicornWebWorker": "aiohttp has a server of its own; start it with aiohttp.web.run_app.",
    "trio": _TRIO,
}
_ASGI = frozenset(
    (
        "asgi",
        "uvicorn.workers.UvicornWorker",
        "uvicorn.workers.UvicornH11Worker",
        "uvicorn_worker.UvicornWorker",
        "uvicorn_worker.UvicornH11Worker",
        "asyncio",
        "uvloop",
    )
)
"""Those for ASGI applications, which are found out (the setting `interface`)."""
_ENDINGS = {"sync": "sync", "gthread": "gthread", "SyncWorker": "sync", "ThreadWorker": "gthread"}


def threads_of(name: str, where: str) -> str:
    """How many threads the kind implies: "1" for sync, "" if nothing. Raises SettingError for a kind that
    is not to be had, with what to do."""
    name = name.strip()
    kind = (
        _ENDINGS.get(name.rpartition(".")[2], "") if "." not in name or name.startswith("gunicorn.") else ""
    )
    if kind:
        return "1" if kind == "sync" else ""
    if name in _ASGI:
        return ""
    reason = _REFUSED.get(name, f"{_ONE_KIND}; leave it out.")
    raise SettingError(f"{where} {name}: {reason}")
