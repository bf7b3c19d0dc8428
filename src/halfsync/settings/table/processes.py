"""Processes, threads and their users."""

from typing import Annotated, Literal

from msgspec import Meta

from halfsync.settings.table.about import about
from halfsync.settings.table.access import ClientAccess


class Processes(ClientAccess, frozen=True, kw_only=True):
    workers: Annotated[
        Annotated[int, Meta(ge=1, le=1000)] | Literal["auto"],
        about(
            "Processes",
            "Worker processes of each application; auto: as many as there are processors that halfsync may "
            "use (its CPU set, and the quota of its container).",
            short="-w",
            env="WEB_CONCURRENCY",
            of_routes="applications",
        ),
    ] = 1
    threads: Annotated[
        int,
        about(
            "Processes",
            "Threads of each worker process. 1 for applications that are not thread-safe.",
            least=1,
            most=128,
            of_routes="applications",
        ),
    ] = 8
    min_workers: Annotated[
        int,
        about(
            "Processes",
            "Fewest worker processes of an application whose number changes with the load. 0: `workers`.",
            least=0,
            most=1000,
            of_routes="applications",
        ),
    ] = 0
    max_workers: Annotated[
        int,
        about(
            "Processes",
            "Start more worker processes, up to so many, while fewer than `min_spare` threads are idle, and "
            "end them one by one while more than `max_spare` are. 0: as many as `workers`, a fixed number.",
            least=0,
            most=1000,
            of_routes="applications",
        ),
    ] = 0
    min_spare: Annotated[
        int,
        about(
            "Processes",
            "Idle threads that an application should have, with `max_workers`: for requests that come while "
            "a worker starts.",
            unit="threads",
            least=1,
            most=1000,
            of_routes="applications",
        ),
    ] = 2
    max_spare: Annotated[
        int,
        about(
            "Processes",
            "Idle threads of which an application has too many, with `max_workers`. Less than `min_spare` "
            "and one worker's threads means that. 0: `min_spare` and two workers' threads.",
            unit="threads",
            least=0,
            most=100_000,
            of_routes="applications",
        ),
    ] = 0
    limit_concurrency: Annotated[
        int,
        about(
            "Processes",
            "Requests that a worker of an ASGI application handles at a time; more of them wait in the queue "
            "(`queue_limit`).",
            unit="requests",
            least=1,
            most=65536,
            of_routes="applications",
        ),
    ] = 10000
    max_requests: Annotated[
        int,
        about(
            "Processes",
            "Replace a worker process after so many requests, with no request lost: its successor is ready "
            "first. For applications that leak memory. 0: never.",
            unit="requests",
            least=0,
        ),
    ] = 0
    max_requests_jitter: Annotated[
        int,
        about(
            "Processes",
            "Up to so many requests more, at random for each worker, so that not all are replaced at once.",
            unit="requests",
            least=0,
        ),
    ] = 0
    max_worker_age: Annotated[
        float,
        about(
            "Processes",
            "Replace a worker process that is so old, or up to a tenth older, at random for each. One at a "
            "time, and its successor is ready first. 0: never.",
            unit="seconds",
            least=0,
            of_routes="applications",
        ),
    ] = 0.0
    max_worker_memory: Annotated[
        int,
        about(
            "Processes",
            "Replace a worker process with so much resident memory (RSS, as ps shows it), or up to a tenth "
            "more, in the same way. 0: never.",
            unit="bytes",
            least=0,
            of_routes="applications",
        ),
    ] = 0
    builtin_threads: Annotated[
        int,
        about(
            "Processes",
            "Threads of the built-in worker, which opens files and writes the access log.",
            least=1,
            most=128,
        ),
    ] = 4
    preload: Annotated[
        bool,
        about(
            "Processes",
            "Import each application once, in a process from which its workers are then forked; "
            "they share its memory.",
        ),
    ] = False
    retry: Annotated[
        bool,
        about(
            "Processes",
            "A request whose worker was killed is given to another one, once, if its method says that this "
            "is harmless (GET, HEAD, OPTIONS, TRACE, PUT, DELETE). Not after a crash (SIGSEGV and its like) "
            "or an exit of the worker's own accord, which are likely to be the request's work.",
        ),
    ] = True
    user: Annotated[
        str | None,
        about(
            "Processes",
            "Run the pump and the workers as this user (name or number); needs root.",
            metavar="USER",
        ),
    ] = None
    group: Annotated[
        str | None,
        about(
            "Processes",
            "Run the pump and the workers as this group (name or number). The default is the user's group.",
            metavar="GROUP",
        ),
    ] = None
    no_new_privs: Annotated[
        bool,
        about(
            "Processes",
            "When `user` or `group` gives root's rights up, they can't be had again: programs that "
            "applications start gain nothing from being setuid (PR_SET_NO_NEW_PRIVS). Turn it off for an "
            "application that runs sudo, ping or a setgid sendmail.",
        ),
    ] = True
    umask: Annotated[
        str | None,
        about(
            "Processes",
            "Permissions that files and folders made by applications do not get, as an octal number such as "
            "027. The default is what the server was started with.",
            metavar="MASK",
        ),
    ] = None
    name: Annotated[
        str,
        about("Processes", "What ps and top show before the role of each process.", metavar="NAME"),
    ] = "halfsync"
    pid: Annotated[
        str | None,
        about("Processes", "Write the parent's process id to this file.", short="-p", metavar="FILE"),
    ] = None
    control_socket: Annotated[
        str | None,
        about(
            "Processes",
            "Listen at this unix socket for the commands of halfsyncctl. Whoever may connect controls the "
            "server: `control_socket_mode`, and the permissions of its folder.",
            metavar="FILE",
        ),
    ] = None
    control_socket_mode: Annotated[
        str,
        about("Processes", "Permissions of the control socket, as an octal number.", metavar="MODE"),
    ] = "600"
    graceful_timeout: Annotated[
        float,
        about(
            "Processes",
            "How long requests in flight may take to finish at a stop, at a reload, or when a worker is "
            "replaced. After that they are cut off.",
            unit="seconds",
            least=0,
            most=86400,
        ),
    ] = 30.0

    startup_timeout: Annotated[
        float,
        about(
            "Processes",
            "A worker must have imported its application within this time, or it is killed. At the first "
            "start that ends the server, at a reload the old workers keep serving. 0: no limit.",
            unit="seconds",
            least=0,
            most=86400,
        ),
    ] = 60.0
    upgrade_probe: Annotated[
        list[str],
        about(
            "Processes",
            "Before a new version takes over at an upgrade, it must respond to a GET of this path, such as "
            "/healthz or shop.example/healthz, with a status from 200 to 399. Else the running version "
            "goes on.",
            metavar="PATH",
        ),
    ] = []
