"""The servers: how each is started, and what is said of it when it is missing.

A `Server` is started with `start()`, which returns once it gives the right bytes, and stopped with
`stop()`. Its whole process tree is one process group, bound to the cores it is given, and dies with
the harness.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from halfsync.tls.certificates import INTERMEDIATE

ROOT = Path(__file__).resolve().parent.parent
START_LIMIT = 20.0  # seconds until a server must answer
STOP_LIMIT = 5.0  # seconds that it has to end by itself
PR_SET_PDEATHSIG = 1


class CannotStart(Exception):
    """A server did not come up. The text says which, and shows the end of its log."""


@dataclass
class Server:
    """One server in one setting. `command` has neither `taskset` nor the interpreter's path."""

    name: str
    port: int
    command: list[str]
    folder: Path
    """Its own folder: configuration, access log, error log."""
    notes: list[str] = field(default_factory=list)
    cores: set[int] = field(default_factory=set)
    """The cores it may use; empty: all."""
    process: subprocess.Popen[bytes] | None = None
    scheme: str = "http"
    http2: bool = False
    """It is loaded by HTTP/2, and may know nothing else."""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def argv(self) -> list[str]:
        pinned = ["taskset", "--cpu-list", ",".join(map(str, sorted(self.cores)))] if self.cores else []
        return pinned + self.command

    def url(self, path: str = "/") -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}{path}"

    def start(self, path: str, expect: bytes) -> None:
        """Start, and wait until `path` gives exactly the bytes `expect`."""
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT / "src"), str(ROOT)]))
        for name in ("PORT", "WEB_CONCURRENCY"):  # would override the command line's meaning
            environment.pop(name, None)
        with open(self.folder / "output.log", "ab") as output:
            self.process = subprocess.Popen(
                self.argv,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - no thread runs while servers start
            )
        try:
            self._wait(path, expect)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the whole process group: politely first, then by force."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.process = None

    def empty_logs(self) -> None:
        """All of them append, so an emptied file simply grows again."""
        for log in self.folder.glob("*.log"):
            os.truncate(log, 0)

    def _wait(self, path: str, expect: bytes) -> None:
        assert self.process is not None
        end = time.monotonic() + START_LIMIT
        trouble = "no answer"
        while time.monotonic() < end and self.process.poll() is None:
            try:
                body = self._read(path)
                if body == expect:
                    return
                trouble = f"{path} gave {len(body)} bytes that are not the ones expected"
            except (URLError, OSError) as error:
                trouble = str(error)
            time.sleep(0.05)
        status = self.process.poll()
        if status is not None:
            trouble = f"it ended with status {status}"
        raise CannotStart(f"{self.name} does not start: {trouble}\n{self._last_output()}")

    def _read(self, path: str) -> bytes:
        if self.http2:
            argv = ["curl", "--silent", "--insecure", "--http2-prior-knowledge", self.url(path)]
            return subprocess.run(argv, capture_output=True, timeout=10, check=False).stdout
        with urlopen(self.url(path), timeout=10, context=unverified()) as answer:
            body: bytes = answer.read()
            return body

    def _last_output(self) -> str:
        text = (self.folder / "output.log").read_text(errors="replace")
        return "\n".join("    " + line for line in text.splitlines()[-12:])


def unverified() -> ssl.SSLContext:
    """Of a client that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _die_with_parent() -> None:
    """TERM, not KILL: nginx's workers outlive a master that had no time to end them."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def printable(argv: list[str]) -> str:
    """A command line that can be pasted, with our own interpreter called python."""
    words = ["python" if word == sys.executable else word for word in argv]
    return shlex.join(words)


# --- who is here -------------------------------------------------------------------------------


def version(name: str) -> str | None:
    """The version of a server that is installed, else None."""
    if name == "nginx":
        path = nginx_path()
        if path is None:
            return None
        said = subprocess.run([path, "-v"], capture_output=True, text=True, check=False)
        return said.stderr.strip().rpartition("/")[2] or "?"
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if name == "halfsync":
            return "of this folder"
        return None


def nginx_path() -> str | None:
    """Debian puts it where an ordinary user's PATH does not look."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


HOW_TO_INSTALL = {
    "nginx": "apt-get install nginx-light",
    "gunicorn": "pip install gunicorn",
    "granian": "pip install granian",
    "uvicorn": "pip install 'uvicorn[standard]'",
    "waitress": "pip install waitress",
}

# --- how each is set up ------------------------------------------------------------------------

NGINX = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 15000; }}
http {{
    sendfile {sendfile};
    tcp_nopush on;
    open_file_cache max=1000;
    keepalive_requests 1000000000;
    access_log {folder}/access.log combined;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=2048{http2}{tls};
        root {public};
    }}
}}
"""


NGINX_TLS = """ ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_ciphers {ciphers};
        ssl_session_tickets on"""


def nginx(folder: Path, public: Path, certificate: Path | None = None, *, http2: bool = False) -> Server:
    """One worker process; serves the folder `public`. `certificate`: with its key, for TLS with the same
    ciphers as ours."""
    path = nginx_path()
    assert path is not None
    port = free_port()
    tls = ""
    if certificate is not None:
        tls = NGINX_TLS.format(certificate=certificate, ciphers=INTERMEDIATE)
    spoken = " http2" if http2 else ""
    sendfile = "off" if http2 else "on"  # on, each HTTP/2 response waits 40 ms for an acknowledgement
    text = NGINX.format(folder=folder, port=port, public=public, tls=tls, http2=spoken, sendfile=sendfile)
    (folder / "nginx.conf").write_text(text)
    command = [path, "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    scheme = "http" if certificate is None else "https"
    return Server(
        "nginx", port, command, folder, ["nginx.conf:", *text.splitlines()], scheme=scheme, http2=http2
    )


def halfsync(
    folder: Path,
    *targets: str,
    threads: int = 8,
    log: bool = True,
    options: tuple[str, ...] = (),
    http2: bool = False,
) -> Server:
    """One worker process of `threads` threads for each application among `targets`."""
    port = free_port()
    command = [sys.executable, "-m", "halfsync", "--bind", f"127.0.0.1:{port}"]
    command += ["--workers", "1", "--threads", str(threads)]
    if log:
        command += ["--access-logfile", str(folder / "access.log")]
    command += [*options, *targets]
    scheme = "https" if "--certfile" in options else "http"
    return Server("halfsync", port, command, folder, scheme=scheme, http2=http2)


def gunicorn(folder: Path, app: str) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--worker-class", "gthread", "--workers", "1"]
    command += ["--threads", "8", "--bind", f"127.0.0.1:{port}", "--keep-alive", "75"]
    command += ["--access-logfile", str(folder / "access.log"), app]
    return Server("gunicorn", port, command, folder)


def uvicorn(folder: Path, app: str, *options: str) -> Server:
    """With httptools and uvloop, if they are installed."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--lifespan", "off", *options, app]
    return Server("uvicorn", port, command, folder)


def granian(
    folder: Path,
    app: str,
    blocking_threads: int | None,
    *,
    log: bool = True,
    interface: str = "wsgi",
    http2: bool = False,
    certificate: Path | None = None,
) -> Server:
    """`blocking_threads` None leaves the number to granian. `certificate`: with its key, for TLS."""
    port = free_port()
    command = [sys.executable, "-m", "granian", "--interface", interface, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    if log:
        command.append("--access-log")
    if blocking_threads is not None:
        command += ["--blocking-threads", str(blocking_threads)]
    if http2:
        command += ["--http", "2"]
    if certificate is not None:
        command += ["--ssl-certificate", str(certificate), "--ssl-keyfile", str(certificate)]
    name = "granian" if blocking_threads is None else f"granian-{blocking_threads}"
    scheme = "http" if certificate is None else "https"
    return Server(name, port, [*command, app], folder, scheme=scheme, http2=http2)


def waitress(folder: Path, app: str) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "waitress", f"--listen=127.0.0.1:{port}", "--threads=8", app]
    return Server("waitress", port, command, folder, notes=["(it has no access log)"])
