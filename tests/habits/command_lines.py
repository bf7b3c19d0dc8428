# ruff: noqa: E501 - a command line is one line
"""Command lines as they are found in public Dockerfiles, Procfiles and start scripts, by kind.

Each with what becomes of it here: settings that it must lead to, as `--print-config` shows them, or the
sentence that tells what to do. Names of applications are replaced by those of the test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Line:
    command: str
    means: dict[str, Any] = field(default_factory=dict)
    target: str = "shop:app"
    told: str = ""  # the sentence has these words, and nothing starts
    environment: dict[str, str] = field(default_factory=dict)


LINES = (
    # --- Heroku and its like
    Line("gunicorn shop:app"),
    Line("gunicorn shop:app --log-file -", {"error_logfile": "-"}),
    Line("gunicorn shop:app --log-file=- --timeout 10", {"handler_timeout": 10}),
    Line("gunicorn site_of.wsgi", target="site_of.wsgi"),
    Line("gunicorn shop:app --error-logfile - --log-syslog", {"error_logfile": "syslog:"}),
    Line("gunicorn shop:app --log-syslog-prefix shop --log-syslog --log-syslog-to udp://127.0.0.1:514", {"error_logfile": "syslog:tag=shop,server=127.0.0.1:514"}),
    Line("gunicorn shop:app --log-syslog-to unix:///dev/log#dgram --log-syslog-facility DAEMON", {"error_logfile": "syslog:server=unix:/dev/log,facility=daemon"}),
    Line("gunicorn shop:app --log-syslog --log-syslog-to tcp://127.0.0.1:514", {"error_logfile": "syslog:server=tcp://127.0.0.1:514"}),
    Line("gunicorn shop:app --log-syslog-to unix:///dev/log#stream", told="to unix:///dev/log (datagrams), udp://HOST:PORT and tcp://HOST:PORT"),
    Line("gunicorn site_of.wsgi:application --preload --workers 2 -b 0.0.0.0:$PORT", {"preload": True, "workers": 2, "bind": ["0.0.0.0:5000"]}, "site_of.wsgi:application"),
    Line("gunicorn -w 4 'shop:create_app()'", {"workers": 4}, "shop:create_app()"),
    Line('gunicorn "shop:create_app(\'production\')"', target="shop:create_app('production')"),
    Line("gunicorn shop:app", {"workers": 3, "bind": ["0.0.0.0:5000"]}, environment={"WEB_CONCURRENCY": "3", "PORT": "5000"}),
    # --- Cloud Run
    Line("gunicorn --bind :$PORT --workers 1 --threads 8 --timeout 0 shop:app", {"bind": [":5000"], "threads": 8, "handler_timeout": 0}),
    Line("gunicorn -b :5000 -w 1 --threads 2 -t 120 shop:app", {"handler_timeout": 120}),
    # --- containers
    Line("gunicorn --bind=0.0.0.0:8000 --worker-tmp-dir /dev/shm --workers=2 --threads=4 --worker-class=gthread shop:app", {"workers": 2, "threads": 4}),
    Line("gunicorn --bind 0.0.0.0:5000 --timeout 0 --worker-tmp-dir /dev/shm --workers=4 --threads=4 --worker-class=gthread --log-file=- shop:app"),
    Line("gunicorn shop:app -w 2 -t 120 -b 0.0.0.0:8000 --max-requests 1000 --log-level=debug", {"max_requests": 1000, "log_level": "debug"}),
    Line("gunicorn -k sync -w 3 shop:app", {"threads": 1, "workers": 3}),
    Line("gunicorn -k sync -w 3 --threads 4 shop:app", {"threads": 4}),
    Line("gunicorn --access-logfile - --error-logfile - --capture-output --log-level INFO shop:app", {"access_logfile": "-", "log_level": "info"}),
    Line("gunicorn --error-logfile errors --access-logfile access shop:app", {"error_logfile": "errors"}),
    Line("gunicorn -u nobody -g nogroup -w 4 --access-logfile - --access-logformat '%({x-forwarded-for}i)s %(h)s %(l)s %(u)s %(t)s \"%(r)s\" %(s)s %(b)s \"%(f)s\" \"%(a)s\"' --forwarded-allow-ips=10.9.9.50,10.9.9.52 'shop:create_app()'", {"user": "nobody", "group": "nogroup", "forwarded_allow_ips": ["10.9.9.50", "10.9.9.52"]}, "shop:create_app()"),
    Line("gunicorn --workers 3 --max-requests 1200 --max-requests-jitter 100 --keep-alive 5 --graceful-timeout 30 site_of.wsgi:application", {"max_requests_jitter": 100, "keep_alive": 5, "graceful_timeout": 30}, "site_of.wsgi:application"),
    Line("gunicorn shop:app --forwarded-allow-ips='*' --proxy-allow-from='*'", {"forwarded_allow_ips": ["*"]}),
    Line("gunicorn --name shop --chdir . --pythonpath . --umask 027 --pid shop.pid --backlog 512 shop:app", {"name": "shop", "pythonpath": ["."], "umask": "027", "backlog": 512}),
    Line("gunicorn --bind unix:shop.sock -m 007 shop:app", {"bind": ["unix:shop.sock"], "umask": "007"}),
    Line("gunicorn -n shop --reuse-port -R --no-sendfile --log-level WARNING shop:app", {"reuse_port": True, "log_level": "warning"}),
    Line("gunicorn -e FLASK_ENV=production --limit-request-line 0 --limit-request-field_size 16380 shop:app", {"env": ["FLASK_ENV=production"], "limit_request_line": 65536, "limit_request_field_size": 16380}),
    Line("gunicorn shop:app", {"bind": ["0.0.0.0:9001"], "threads": 2}, environment={"GUNICORN_CMD_ARGS": "--bind=0.0.0.0:9001 --chdir=./ --worker-tmp-dir /dev/shm --workers=2 --threads=2 --worker-class=gthread"}),
    Line("gunicorn --workers 5 shop:app", {"workers": 5, "bind": ["0.0.0.0:9001"]}, environment={"PORT": "80", "GUNICORN_CMD_ARGS": "--bind 0.0.0.0:9001 --workers 2"}),
    Line("gunicorn -c conf/gunicorn.conf.py shop:app", {"workers": 7}),
    Line("gunicorn --config file:conf/gunicorn.conf.py --workers 2", {"workers": 2}),
    Line("gunicorn -c python:gunicorn_settings shop:app", {"workers": 6}),
    Line("gunicorn --bind=0.0.0.0 --timeout 600 shop:app", {"bind": ["0.0.0.0"], "handler_timeout": 600}),
    Line("gunicorn -b tcp://0.0.0.0:8000 -b [::]:8000 shop:app", {"bind": ["tcp://0.0.0.0:8000", "[::]:8000"]}),
    Line("gunicorn site_of.wsgi:application --bind 0.0.0.0:$PORT --timeout 300 --limit-request-line 8190 --limit-request-fields 32768 --limit-request-field_size 1048576 --worker-class sync --workers 2 --log-file -", {"limit_request_fields": 10000, "limit_request_field_size": 65536, "workers": 2}, "site_of.wsgi:application"),
    Line("gunicorn --limit-request-line 0 --limit-request-field_size 0 shop:app", {"limit_request_line": 65536, "limit_request_field_size": 65536}),
    Line("gunicorn -c gunicorn.conf shop:app", {"workers": 5, "handler_timeout": 9}),
    Line("gunicorn -c conf/shop.conf shop:app --log-file -", {"workers": 4}),
    Line("gunicorn --timeout 300 --reload -b 0.0.0.0:8080 --reload-extra-file templates -w 2 'shop:create_app()'", {"reload_include": ["templates"], "reload": True}, "shop:create_app()"),
    Line("gunicorn --bind 0.0.0.0:5000 --worker-tmp-dir /dev/shm --no-control-socket --access-logfile - shop:app", {"access_logfile": "-"}),
    Line("gunicorn --env DJANGO_SETTINGS_MODULE=site_of.deploy site_of.wsgi -b 0:10000 --pid gunicorn.pid", {"env": ["DJANGO_SETTINGS_MODULE=site_of.deploy"], "bind": ["0:10000"], "pid": "gunicorn.pid"}, "site_of.wsgi"),
    Line("gunicorn shop:app -t120 -w2 -b:8000", {"handler_timeout": 120, "workers": 2, "bind": [":8000"]}),
    Line("gunicorn --workers 5 --bind 0.0.0.0:$PORT --statsd-host telegraf.web:8125 --statsd-prefix shop site_of.wsgi", {"workers": 5}, "site_of.wsgi"),
    # --- what can't be had is told
    Line("gunicorn -b fd://3 shop:app", told="bind 'fd://3': a socket is not taken over by its number"),
    Line("gunicorn -k eventlet --certfile=cert.pem --keyfile=key.pem --bind 0.0.0.0:5000 shop:app", told="--worker-class eventlet: "),
    Line("gunicorn --paste development.ini#admin -b :8080 --chdir .", told="--paste: write a module that calls paste.deploy.loadapp"),
    Line("hypercorn --bind=0.0.0.0:5000 src/shop:app", told="such as src.shop:app."),
    Line("gunicorn -k gevent --worker-connections 1000 shop:app", told="--worker-class gevent: halfsync has one kind of worker for WSGI"),
    Line("gunicorn --worker-class eventlet -w 1 shop:app", told="--worker-class eventlet: "),
    Line("gunicorn -k tornado shop:app", told="--worker-class tornado: "),
    Line("gunicorn -k geventwebsocket.gunicorn.workers.GeventWebSocketWorker -w 1 shop:app", told="halfsync has one kind of worker"),
    Line("gunicorn -D shop:app", told="--daemon: halfsync stays in the foreground"),
    Line("gunicorn --certfile=./a.pem --keyfile=/certs/a.key shop:app", told="keyfile: the file /certs/a.key can't be read"),
    Line("gunicorn --paste production.ini", told="--paste: write a module that calls paste.deploy.loadapp"),
    # --- ASGI
    Line("gunicorn -w 4 -k uvicorn.workers.UvicornWorker shop:asgi", {"workers": 4, "threads": 8}, "shop:asgi"),
    Line("gunicorn -k asgi --asgi-loop uvloop --asgi-lifespan on --root-path /api shop:asgi", {"loop": "uvloop", "lifespan": "on", "root_path": "/api"}, "shop:asgi"),
    Line("uvicorn shop:asgi --host 0.0.0.0 --port 80 --interface asgi3 --loop asyncio --lifespan off --limit-concurrency 100", {"bind": ["0.0.0.0:80"], "interface": "asgi3", "loop": "asyncio", "lifespan": "off", "limit_concurrency": 100}, "shop:asgi"),
    Line("hypercorn shop:asgi --bind 0.0.0.0:8000 --workers 2 --worker-class asyncio", {"workers": 2}, "shop:asgi"),
    Line("hypercorn shop:asgi --worker-class trio", told="ASGI applications run on asyncio here"),
    # --- uvicorn, hypercorn and waitress, serving WSGI
    Line("uvicorn shop:app --interface wsgi --host 0.0.0.0 --port 80 --workers 4", {"bind": ["0.0.0.0:80"], "workers": 4}),
    Line("uvicorn shop:create_app --factory --interface=wsgi --port 8080 --no-access-log", {"bind": ["127.0.0.1:8080"]}, "shop:create_app()"),
    Line("uvicorn shop:app --interface wsgi --uds shop.sock --proxy-headers --timeout-keep-alive 5 --limit-max-requests 10000 --app-dir . --log-level trace --access-log", {"bind": ["unix:shop.sock"], "keep_alive": 5, "max_requests": 10000, "pythonpath": ["."], "log_level": "debug", "access_logfile": "-"}),
    Line("uvicorn shop:app --host :: --port 80", {"bind": ["[::]:80"]}),
    Line("uvicorn shop:app --ssl-keyfile a.key --ssl-certfile a.pem", told="keyfile: the file a.key can't be read"),
    Line("uvicorn shop:app --root-path /api --host 0.0.0.0", {"root_path": "/api"}),
    Line("waitress-serve --listen=*:8080 --threads=6 shop:app", {"bind": ["0.0.0.0:8080"], "threads": 6}),
    Line("waitress-serve --host 127.0.0.1 --port=5000 --call shop:create_app", {"bind": ["127.0.0.1:5000"]}, "shop:create_app()"),
    Line("waitress-serve --unix-socket=shop.sock --unix-socket-perms=660 --max-request-body-size=1000 --connection-limit=500 shop:app", {"unix_mode": "660", "limit_request_body": 1000}),
    Line("waitress-serve --trusted-proxy=127.0.0.1 --trusted-proxy-headers='x-forwarded-for x-forwarded-host' shop:app", {"forwarded_headers": ["x-forwarded-for", "x-forwarded-host"]}),
    Line("waitress-serve --url-scheme=https shop:app", told="--url-scheme: let the proxy send X-Forwarded-Proto"),
)  # fmt: skip
