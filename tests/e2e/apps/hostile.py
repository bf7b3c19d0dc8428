"""Applications that do something to their own process: one row of HOSTILE each.

`hostile:make("name")` is the application of that row. A row acts `at_import`, or whenever `/do` is
requested, or both. Everything else is the same in all of them, and must work whatever the row does:

    /hello      a small response
    /pieces     100 KB by a generator, enough for a temporary file
    /echo       what was sent
    /mark?text  writes the text to the error log
    /process    the process id

At its end each process says so in the file `ended-<name>-<process id>`.
"""

from __future__ import annotations

import _thread
import atexit
import builtins
import contextlib
import faulthandler
import gc
import hashlib
import io
import locale
import logging.config
import mmap
import multiprocessing
import os
import pty
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

Environ = dict[str, Any]
Start = Callable[..., Any]
Action = Callable[[], object]

FOLDER = os.environ["HOSTILE_FOLDER"]
FIELDS = [("Content-Type", "application/octet-stream")]
NUMBER, SIZE = 12, 8192

# For what must work although it was damaged: the end's mark.
_open, _write, _close, _getpid, _join = os.open, os.write, os.close, os.getpid, os.path.join


def pieces() -> list[bytes]:
    return [hashlib.sha512(bytes([number])).digest() * (SIZE // 64) for number in range(NUMBER)]


PIECES = pieces()


def nothing() -> None:
    pass


@dataclass(frozen=True)
class Row:
    at_import: Action = nothing
    do: Callable[[Environ, Start], Iterable[bytes]] | None = None  # what `/do` responds with
    status: int = 200  # of /do
    body: bytes | None = None  # of /do
    whole: bool = True  # of /do
    tracebacks: bool = False  # /do leaves one in the error log


def make(name: str) -> Callable[[Environ, Start], Iterable[bytes]]:
    row = HOSTILE[name]
    atexit.register(say_ended, name)
    row.at_import()

    def app(environ: Environ, start: Start) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/do":
            if row.do is not None:
                return row.do(environ, start)
            path = "/hello"
        if path == "/pieces":
            start("200 OK", FIELDS)
            return (piece for piece in PIECES)
        if path == "/echo":
            body = environ["wsgi.input"].read()
        elif path == "/mark":
            environ["wsgi.errors"].write(f"mark {environ['QUERY_STRING']}\n")
            body = b"marked"
        elif path == "/process":
            body = b"%d" % _getpid()
        else:
            body = b"hello\n"
        start("200 OK", FIELDS)
        return [body]

    return app


def say_ended(name: str) -> None:
    _close(_open(_join(FOLDER, f"ended-{name}-{_getpid()}"), os.O_CREAT | os.O_WRONLY, 0o600))


def answered(body: bytes) -> Callable[[Callable[[], object]], Callable[[Environ, Start], Iterable[bytes]]]:
    """A `do` that does this and then responds with `body`."""

    def wrap(act: Callable[[], object]) -> Callable[[Environ, Start], Iterable[bytes]]:
        def do(_environ: Environ, start: Start) -> Iterable[bytes]:
            act()
            start("200 OK", FIELDS)
            return [body]

        return do

    return wrap


done = answered(b"done")


def raising(*_: object, **__: object) -> Any:
    raise RuntimeError("this function was replaced")


# --- what is replaced or switched off ------------------------------------------------------------------


def patch_functions() -> None:
    for module, names in (
        (os, ["read", "write", "pipe2", "preadv", "getpid", "fork", "waitpid"]),
        (socket, ["socket", "send_fds", "recv_fds"]),
        (time, ["time", "monotonic", "monotonic_ns", "sleep", "localtime", "strftime"]),
        (threading, ["Thread", "Lock", "current_thread", "get_ident"]),
    ):
        for name in names:
            setattr(module, name, raising)


def stop_the_clocks() -> None:
    """As test tools do it: in every module that has one of the functions."""
    stopped: dict[Any, Any] = {
        getattr(time, name): lambda: 1.5 for name in ("time", "monotonic", "perf_counter")
    }
    stopped |= {getattr(time, name): lambda: 1 for name in ("time_ns", "monotonic_ns")}
    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()):
            if isinstance(value, type(time.time)) and value in stopped:
                setattr(module, name, stopped[value])


def patch_methods() -> None:
    for name in (
        "recv",
        "recvmsg",
        "recvmsg_into",
        "send",
        "sendmsg",
        "shutdown",
        "close",
        "fileno",
        "setblocking",
    ):
        setattr(socket.socket, name, raising)


def patch_gevent() -> None:
    from gevent import monkey

    monkey.patch_all()


def gevent_calls(_environ: Environ, start: Start) -> Iterable[bytes]:
    import gevent

    found: list[bytes] = []

    def wait() -> None:
        time.sleep(0.01)
        found.append(b"waited")

    gevent.joinall([gevent.spawn(wait) for _ in range(3)])
    ours, theirs = socket.socketpair()
    ours.sendall(b"x")
    found.append(theirs.recv(1))
    start("200 OK", FIELDS)
    return [b" ".join(found)]


def patch_eventlet() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import eventlet

        eventlet.monkey_patch()


def remove_modules() -> None:
    for name in [
        "os",
        "time",
        "socket",
        "threading",
        "traceback",
        "linecache",
        "logging",
        "select",
        "tempfile",
    ]:
        sys.modules.pop(name, None)
    sys.path.clear()


def break_hooks() -> None:
    threading.excepthook = sys.excepthook = sys.unraisablehook = raising
    os.register_at_fork(before=lambda: None, after_in_parent=raising, after_in_child=raising)


def all_signals(handler: Any) -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        try:
            signal.signal(number, handler)
        except (OSError, ValueError):
            pass


def tick(handler: Any) -> None:
    signal.signal(signal.SIGALRM, handler)
    tick_on()


def tick_on() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.05)


def trace() -> None:
    def nothing_to_see(*_: object) -> Any:
        return nothing_to_see

    threading.settrace(nothing_to_see)
    threading.setprofile(nothing_to_see)
    sys.settrace(nothing_to_see)


def ask_for_little_stack() -> None:
    """As little as Python takes: 32 KiB until 3.13, 52 KiB with 3.14."""
    for size in range(32 << 10, 512 << 10, mmap.PAGESIZE):
        with contextlib.suppress(ValueError):
            threading.stack_size(size)
            return
    raise ValueError("no size is little enough for ours to be another")


def lower(limit: int, to: int) -> None:
    resource.setrlimit(limit, (to, resource.getrlimit(limit)[1]))


def attributes(thing: Any, **values: Any) -> Action:
    def act() -> None:
        for name, value in values.items():
            setattr(thing, name, value)

    return act


def each(*actions: Action) -> Action:
    def act() -> None:
        for action in actions:
            action()

    return act


def switch_logging_off() -> None:
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": True})
    logging.disable()


# --- standard streams ----------------------------------------------------------------------------------

_private: list[int] = []


def private_files() -> None:
    """The application's own files get the numbers of the streams that are closed."""
    os.closerange(0, 3)
    for _ in range(3):
        descriptor, _ = tempfile.mkstemp(dir=FOLDER, prefix="private-")
        os.write(descriptor, b"private")
        _private.append(descriptor)


def private_streams() -> None:
    for number in (1, 2):
        descriptor, _ = tempfile.mkstemp(dir=FOLDER, prefix="private-")
        os.write(descriptor, b"private")
        os.dup2(descriptor, number)


def noisy() -> None:
    """Closes the streams and goes on writing to their numbers, whatever these are now."""
    os.closerange(0, 3)


def make_noise(environ: Environ, start: Start) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    start("200 OK", FIELDS)
    for piece in [body, *PIECES]:
        for number in (1, 2):
            try:
                os.write(number, b"noise that belongs to nobody's response")
            except OSError:
                pass
        yield piece


def close_and_open() -> None:
    os.closerange(0, 1000)
    for _ in range(100):
        os.dup(os.open(os.devnull, os.O_RDWR))


def closed_stderr() -> None:
    sys.stderr.close()
    sys.stdout.close()


# --- forks ---------------------------------------------------------------------------------------------


def status_of(pid: int) -> bytes:
    return b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def forks(child: Action) -> Callable[[Environ, Start], Iterable[bytes]]:
    """Responds with the child's exit status."""

    def do(_environ: Environ, start: Start) -> Iterable[bytes]:
        pid = os.fork()
        if not pid:
            child()
            start("200 OK", FIELDS)
            return [b"the child's"]
        start("200 OK", FIELDS)
        return [status_of(pid)]

    return do


def forks_amid_a_body(_environ: Environ, start: Start) -> Iterator[bytes]:
    start("200 OK", FIELDS)
    yield from PIECES[: NUMBER // 2]
    pid = os.fork()
    if not pid:
        yield from [b"the child's"] * 100
        return
    status_of(pid)
    yield from PIECES[NUMBER // 2 :]


class ForksAtItsClose:
    def __iter__(self) -> Iterator[bytes]:
        return iter([b"a", b"b"])

    def close(self) -> None:
        pid = os.fork()
        if pid:
            status_of(pid)


def forks_at_its_close(_environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", FIELDS)
    return ForksAtItsClose()


def forks_and_writes(_environ: Environ, start: Start) -> Iterable[bytes]:
    write = start("200 OK", FIELDS)
    pid = os.fork()
    write(b"the child's" if not pid else status_of(pid))
    return []


def forks_in_a_thread() -> None:
    """A thread of the application forks; the child's only thread returns."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(os.fork()))
    thread.start()
    if thread.is_alive():
        thread.join()
    os.waitpid(found[0], 0)


def until_over() -> None:
    while not os.path.exists(os.path.join(FOLDER, "over")):
        time.sleep(0.02)


def daemonize() -> None:
    """A daemon that outlives the server, and holds all that it inherited."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    until_over()
    os._exit(0)


def live_on() -> None:
    """A child that lives longer than its worker."""
    if not os.fork():
        until_over()
        sys.exit()


_children: list[Any] = []


def multiprocess_and_terminate(_environ: Environ, start: Start) -> Iterable[bytes]:
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(100,))
    child.start()
    child.terminate()
    child.join(20)
    start("200 OK", FIELDS)
    return [str(child.exitcode).encode()]


def multiprocess_daemon() -> None:
    """Ended by multiprocessing's own exit function, with SIGTERM."""
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(100,), daemon=True)
    child.start()
    _children.append(child)


def multiprocess_queue() -> None:
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=queue.put, args=(5,))
    child.start()
    assert queue.get() == 5
    child.join()
    assert child.exitcode == 0


def pool_of_processes() -> None:
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        assert list(pool.map(abs, [-1, -2, 3])) == [1, 2, 3]


def programs() -> None:
    assert subprocess.run(["echo", "a"], capture_output=True, check=True).stdout == b"a\n"
    subprocess.run(["true"], preexec_fn=nothing, check=True)
    assert status_of(os.posix_spawn("/bin/true", ["true"], {})) == b"0"


def terminal() -> None:
    pid, master = pty.fork()
    if not pid:
        os.execv("/bin/echo", ["echo", "hello"])
    found = b""
    try:
        while data := os.read(master, 100):
            found += data
    except OSError:
        pass  # the end of a terminal
    assert b"hello" in found
    os.close(master)
    os.waitpid(pid, 0)


# --- ends ----------------------------------------------------------------------------------------------


def ends(error: BaseException) -> Callable[[Environ, Start], Iterable[bytes]]:
    def do(_environ: Environ, _start: Start) -> Iterable[bytes]:
        raise error

    return do


def quietly_dies(number: int) -> Callable[[Environ, Start], Iterable[bytes]]:
    def do(_environ: Environ, _start: Start) -> Iterable[bytes]:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), number)
        time.sleep(100)
        return []

    return do


def leaves(_environ: Environ, _start: Start) -> Iterable[bytes]:
    os._exit(3)


def says(status: Any, fields: Any = FIELDS) -> Callable[[Environ, Start], Iterable[bytes]]:
    def do(_environ: Environ, start: Start) -> Iterable[bytes]:
        start(status, fields)
        return [b"said"]

    return do


def deep() -> int:
    return deep() + 1


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("this has no text")


FORKED: dict[str, Any] = {"body": b"0"}
FAILS: dict[str, Any] = {"status": 500, "tracebacks": True}
DIES: dict[str, Any] = {"status": 502}

HOSTILE: dict[str, Row] = {
    "harmless": Row(),
    # what is replaced or switched off
    "default_timeout": Row(lambda: socket.setdefaulttimeout(0.05)),
    "gevent": Row(patch_gevent, gevent_calls, body=b"waited waited waited x"),
    "eventlet": Row(patch_eventlet, done(lambda: time.sleep(0.01)), body=b"done"),
    "functions": Row(patch_functions),
    "methods": Row(patch_methods),
    "clocks": Row(stop_the_clocks),
    "open": Row(attributes(builtins, open=raising), ends(ValueError()), **FAILS),
    "print": Row(attributes(builtins, print=None, input=None, sorted=raising)),
    "modules": Row(remove_modules, ends(ValueError()), **FAILS),
    "environ": Row(os.environ.clear),
    "hooks": Row(break_hooks, ends(ValueError()), **FAILS),
    "hooks_fork": Row(break_hooks, forks(sys.exit), **FORKED),
    "recursion": Row(lambda: sys.setrecursionlimit(60), ends(ValueError()), status=500, tracebacks=True),
    "deep": Row(nothing, done(deep), **FAILS),
    "stack_size": Row(ask_for_little_stack),
    "gc": Row(each(gc.disable, gc.freeze)),
    "switching": Row(lambda: sys.setswitchinterval(1e-6)),
    "tracing": Row(trace),
    "warnings": Row(lambda: warnings.simplefilter("error"), forks(sys.exit), **FORKED),
    "logging": Row(switch_logging_off),
    "exits": Row(each(lambda: atexit.unregister(print), attributes(sys, exit=None))),
    "faulthandler": Row(lambda: faulthandler.enable(io.FileIO(os.open(os.devnull, os.O_WRONLY), "w"))),
    # what the kernel keeps for a process
    "chdir": Row(lambda: os.chdir("/")),
    "umask": Row(lambda: os.umask(0o777)),
    "nice": Row(lambda: os.nice(3)),
    "group": Row(lambda: os.setpgid(0, 0)),
    "locale": Row(lambda: locale.setlocale(locale.LC_ALL, "C")),
    "zone": Row(each(lambda: os.environ.update(TZ="Asia/Tokyo"), time.tzset)),
    "descriptors": Row(lambda: lower(resource.RLIMIT_NOFILE, 24)),
    "file_size": Row(lambda: lower(resource.RLIMIT_FSIZE, 1 << 20)),
    # signals
    "child_ignored": Row(lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)),
    "signals_handled": Row(lambda: all_signals(lambda *_: None)),
    "signals_ignored": Row(lambda: all_signals(signal.SIG_IGN)),
    "alarms": Row(lambda: tick(lambda *_: None)),
    "alarms_that_raise": Row(lambda: signal.signal(signal.SIGALRM, raising), done(tick_on), body=b"done"),
    "signals_blocked": Row(
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()), forks(sys.exit), **FORKED
    ),
    "term_to_itself": Row(do=done(lambda: os.kill(os.getpid(), signal.SIGTERM)), body=b"done"),
    # standard streams
    "no_streams": Row(attributes(sys, stdout=None, stderr=None), ends(ValueError()), **FAILS),
    "odd_streams": Row(attributes(sys, stdout=5, stderr="nothing")),
    "closed_streams": Row(closed_stderr, ends(ValueError()), **FAILS),
    "closed_numbers": Row(private_files, ends(ValueError()), **FAILS),
    "other_numbers": Row(private_streams, ends(ValueError()), **FAILS),
    "noisy": Row(noisy, make_noise, body=b"".join(PIECES)),
    # forks
    "fork_exit": Row(do=forks(sys.exit), **FORKED),
    "fork_exit_3": Row(do=forks(lambda: sys.exit(3)), body=b"3"),
    "fork_exit_text": Row(do=forks(lambda: sys.exit("a reason")), body=b"1"),
    "fork_raise": Row(do=forks(lambda: 1 / 0), body=b"1", tracebacks=True),
    "fork_return": Row(do=forks(nothing), **FORKED),
    "fork_amid": Row(do=forks_amid_a_body, body=b"".join(PIECES)),
    "fork_close": Row(do=forks_at_its_close, body=b"ab"),
    "fork_write": Row(do=forks_and_writes, **FORKED),
    "fork_thread": Row(do=done(forks_in_a_thread), body=b"done"),
    "fork_lives": Row(do=done(live_on), body=b"done"),
    "fork_daemon": Row(do=done(daemonize), body=b"done"),
    "fork_at_import": Row(live_on),
    "multiprocess": Row(do=multiprocess_and_terminate, body=b"%d" % -signal.SIGTERM),
    "multiprocess_daemon": Row(do=done(multiprocess_daemon), body=b"done"),
    "multiprocess_at_import": Row(multiprocess_daemon, done(multiprocess_queue), body=b"done"),
    "process_pool": Row(do=done(pool_of_processes), body=b"done"),
    "programs": Row(do=done(programs), body=b"done"),
    "terminal": Row(do=done(terminal), body=b"done"),
    # ends
    "exit": Row(do=ends(SystemExit(0)), **FAILS),
    "interrupt": Row(do=ends(KeyboardInterrupt()), **FAILS),
    "generator_exit": Row(do=ends(GeneratorExit()), **FAILS),
    "unprintable": Row(do=ends(Unprintable()), **FAILS),
    "thread_exit": Row(do=done(_thread.exit), **FAILS),
    "leaves": Row(do=leaves, **DIES),
    "closes_all": Row(do=done(lambda: os.closerange(0, 1000)), **DIES),
    "closes_all_and_opens": Row(do=done(close_and_open), **DIES),
    "killed": Row(do=quietly_dies(signal.SIGKILL), **DIES),
    "aborts": Row(do=quietly_dies(signal.SIGABRT), **DIES),
    "segfaults": Row(do=quietly_dies(signal.SIGSEGV), **DIES),
    # what it says
    "no_reason": Row(do=says("200"), body=b"said"),
    "unknown_status": Row(do=says("599"), status=599, body=b"said"),
    "blank_reason": Row(do=says("299 "), status=299, body=b"said"),
    "split_field": Row(do=says("200 OK", [("X", "a\r\nY: b")]), **FAILS),
    "chunked": Row(do=says("200 OK", [("Transfer-Encoding", "chunked")])),
    "squeezed": Row(do=says("200 OK", [("Transfer-Encoding", "gzip, chunked")]), **FAILS),
}
