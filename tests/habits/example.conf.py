"""Settings as gunicorn's own example has them: most at their default, some hooks that log."""

import multiprocessing

bind = "127.0.0.1:8000"
backlog = 2048

workers = multiprocessing.cpu_count() * 0 + 3
worker_class = "sync"
worker_connections = 1000
timeout = 30
keepalive = 2

spew = False

daemon = False
raw_env = ["SHOP=open,all day"]
pidfile = None
umask = 0o27
control_socket = "control"
control_socket_mode = 0o660
user = None
group = None
tmp_upload_dir = None

errorlog = "-"
loglevel = "info"
accesslog = "-"
access_log_format = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'

proc_name = None


def post_fork(server, worker):
    server.log.info("a worker is there: %s", worker.pid)


def pre_fork(server, worker):
    pass


def pre_exec(server):
    server.log.info("executing again")


def when_ready(server):
    server.log.info("ready")


def worker_int(worker):
    worker.log.info("interrupted")


def worker_abort(worker):
    worker.log.info("aborted")


def ssl_context(conf, default_ssl_context_factory):
    return default_ssl_context_factory()
