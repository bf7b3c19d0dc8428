"""What a server needs and does not find: its folder, a temporary folder, /proc. Missing at the start it is
said in one sentence, by the parent; gone later, the server lives on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from halfsync.parent.machine import file_system_of
from tests.command_line import ended
from tests.e2e.harness import APPS, MIB, SOURCES, Server, kill, serving

FORKED_AND_PRELOADED = pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preloaded"])
IN_A_DELETED_FOLDER = ("sh", "-c", 'mkdir gone; cd gone; rmdir ../gone; exec "$@"', "sh")


def unshared(script: str) -> tuple[str, ...]:
    """A command that runs the script in a mount namespace of its own, and then becomes what follows."""
    return ("unshare", "-m", "--propagation", "private", "sh", "-c", f'{script} && exec "$@"', "sh")


def refused(folder: Path, *arguments: str, through: tuple[str, ...] = (), **environment: str) -> str:
    """The one sentence with which it does not start."""
    inherited = {key: one for key, one in os.environ.items() if not key.startswith("HALFSYNC_")}
    given = {"PYTHONPATH": f"{SOURCES}{os.pathsep}{APPS}", "PWD": str(folder), **environment}
    found = ended(
        folder, "-b", "127.0.0.1:0", *arguments, through=through, environment={**inherited, **given}
    )
    assert found.returncode == 2, found.stderr
    lines = found.stderr.strip().splitlines()
    # (A process that is still starting may have its line behind that.)
    logged = [line for line in lines if "WARNING can't go to" in line or "INFO listening at" in line]
    (sentence,) = [line for line in lines if line not in logged]
    assert sentence.startswith("halfsync: ")
    return sentence


def can_unshare() -> bool:
    try:
        return subprocess.run([*unshared("true"), "true"], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


needs_unshare = pytest.mark.skipif(not can_unshare(), reason="mount namespaces are not permitted here")


def replaced_workers_serve(server: Server) -> None:
    """Each worker is killed, and the pump; what follows them serves."""
    kill(*server.workers("story:app"), *server.workers("built-in"), server.pump)
    server.until_logged("was killed by SIGKILL", 3)
    assert server.get("/hello").body == b"hello\n"
    server.signal(signal.SIGHUP)
    server.until_logged("story:app is reloaded")
    assert server.get("/hello").body == b"hello\n"


# --- the start folder ------------------------------------------------------------------------------


@FORKED_AND_PRELOADED
def test_a_start_in_a_deleted_folder(tmp_path, preload):
    """The application is found on Python's path."""
    with serving(tmp_path, "story:app", *preload, through=IN_A_DELETED_FOLDER) as server:
        assert server.get("/hello").body == b"hello\n"
        replaced_workers_serve(server)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("./public",), "there is no folder or file './public' in the current folder, which was deleted."),
        (("nowhere:app",), "no module 'nowhere' in the current folder, which was deleted"),
        (("story:app", "--pid", "pid"), "pid: the file pid can't be written"),
        (("story:app", "--access-logfile", "log"), "access_logfile: the file log can't be written"),
        (
            ("story:app", "--spool-dir", "spool"),
            "spool_dir: no temporary file can be made in the folder 'spool'",
        ),
        (("nowhere:app", "--check-config"), "no module 'nowhere'"),
    ],
)
def test_what_is_wrong_in_a_deleted_folder_is_said(tmp_path, arguments, words):
    assert words in refused(tmp_path, *arguments, through=IN_A_DELETED_FOLDER)


@FORKED_AND_PRELOADED
def test_the_start_folder_is_deleted_later(tmp_path, preload):
    """Workers are replaced and reloaded all the same; a folder that was in it is not there (404), and is
    again when it is."""
    home = tmp_path / "home"
    (home / "public").mkdir(parents=True)
    (home / "public/file").write_text("a file\n")
    public = ("/public=./public", "--lease", "0")
    with serving(tmp_path, "--chdir", "home", "story:app", *public, *preload) as server:
        assert server.get("/public/file").body == b"a file\n"
        (home / "public").rename(tmp_path / "away")
        home.rmdir()
        assert server.get("/public/file").status == 404
        replaced_workers_serve(server)
        assert server.get("/public/file").status == 404
        assert f"can't go to {home}: No such file or directory" in server.log()
        home.mkdir()
        (tmp_path / "away").rename(home / "public")
        server.until(lambda: server.get("/public/file").status == 200)


SLOW = """
import pathlib, time
while not pathlib.Path("{folder}/go").exists():
    time.sleep(0.01)
from story import app
"""


def test_the_start_folder_is_deleted_while_it_starts(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "slow.py").write_text(SLOW.format(folder=tmp_path))
    path = os.pathsep.join([str(SOURCES), str(APPS), str(tmp_path)])
    arguments = ("-b", "127.0.0.1:0", "--chdir", "home", "slow:app", "-w", "2")
    server = Server(tmp_path, arguments, {"PYTHONPATH": path})
    try:
        server.until_logged(r"worker\(slow:app\) \[\d+\] is started")
        (tmp_path / "home").rmdir()
        (tmp_path / "go").touch()
        server.wait_until_it_serves()
        assert server.get("/hello").body == b"hello\n"
        server.stop()
    finally:
        server.kill()


# --- temporary files -------------------------------------------------------------------------------


def test_tmpdir_names_no_folder(tmp_path):
    """Said, and the next usual one is taken."""
    with serving(tmp_path, "story:app", environment={"TMPDIR": "/nowhere/at/all"}) as server:
        assert "no temporary file can be made in /nowhere/at/all (TMPDIR: No such file" in server.log()
        assert "; they go to /tmp." in server.log()
        assert server.get("/received", method="POST", body=b"x" * MIB).body.startswith(b"%d " % MIB)


IN_MEMORY = r"temporary files go to /dev/shm, which is in memory \(tmpfs\), .* with spool_dir\."
needs_shm = pytest.mark.skipif(file_system_of("/dev/shm") != "tmpfs", reason="/dev/shm is something else")


@needs_shm
def test_a_temporary_folder_in_memory_is_reported(tmp_path):
    """Once, at the start: there large bodies take up the memory that they are meant to spare."""
    with serving(tmp_path, "story:app", "-w", "2", environment={"TMPDIR": "/dev/shm"}) as server:
        assert re.findall(rf"WARNING {IN_MEMORY}", server.log())
        assert server.get("/received", method="POST", body=b"x" * MIB).body.startswith(b"%d " % MIB)
        assert server.log().count("in memory") == 1


@needs_shm
def test_a_temporary_folder_in_memory_may_be_meant(tmp_path):
    """Whoever names it knows it, and gets no warning."""
    with serving(tmp_path, "story:app", "--spool-dir", "/dev/shm", "--log-level", "info") as server:
        assert re.findall(rf"INFO +{IN_MEMORY}", server.log())
        assert server.get("/received", method="POST", body=b"x" * MIB).body.startswith(b"%d " % MIB)


@needs_unshare
@pytest.mark.parametrize("kind", ["tmpfs", "ramfs"])
def test_the_usual_temporary_folder_in_memory_is_reported(tmp_path, kind):
    through = unshared(f"mkdir memory && mount -t {kind} none memory")
    with serving(tmp_path, "story:app", environment={"TMPDIR": "memory"}, through=through) as server:
        assert f"temporary files go to {tmp_path}/memory, which is in memory ({kind})" in server.log()


def test_a_temporary_folder_on_a_disk_is_not_logged(tmp_path):
    if file_system_of(str(tmp_path)) in ("tmpfs", "ramfs"):
        pytest.skip("tests run in memory here")
    assert file_system_of(str(tmp_path))
    with serving(tmp_path, "story:app", environment={"TMPDIR": str(tmp_path)}) as server:
        assert "in memory" not in server.log()


@needs_unshare
@pytest.mark.skipif(
    any(
        Path(one).is_relative_to(place) for one in (sys.executable, SOURCES) for place in ("/tmp", "/var/tmp")
    ),
    reason="hiding the temporary folders would hide this project",
)
def test_no_temporary_folder(tmp_path):
    hide = " && ".join(
        f"mount -t tmpfs -o ro none {place}" for place in ("/tmp", "/var/tmp") if os.path.isdir(place)
    )
    # pytest's own folder may be in /tmp
    folder = "/"
    sentence = refused(Path(folder), "story:app", through=unshared(hide), TMPDIR="/nowhere")
    assert "No temporary file can be made in /nowhere (TMPDIR: No such file or directory), /tmp" in sentence
    assert "name a folder with spool_dir or TMPDIR" in sentence


@pytest.mark.parametrize("more", [(), ("--check-config",)])
def test_a_spool_folder_that_can_not_be_written(tmp_path, more):
    (tmp_path / "file").touch()
    for name in ("nowhere", "file"):
        sentence = refused(tmp_path, "story:app", "--spool-dir", name, *more)
        assert f"spool_dir: no temporary file can be made in the folder '{name}': " in sentence


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another")
def test_a_spool_folder_that_the_user_can_not_write(tmp_path):
    """Root could. But it is the user who will have to."""
    (tmp_path / "spool").mkdir(mode=0o755)
    sentence = refused(tmp_path, "story:app", "--user", "nobody", "--spool-dir", "spool")
    assert sentence.endswith(
        "spool_dir: no temporary file can be made in the folder 'spool': Permission denied."
    )


def test_the_spool_folder_is_deleted_later(tmp_path):
    """What needs it is refused; the rest is served, also by those that start now."""
    spool = tmp_path / "spool"
    spool.mkdir()
    with serving(tmp_path, "story:app", "--spool-dir", "spool") as server:
        spool.rmdir()
        replaced_workers_serve(server)
        assert server.get("/received", method="POST", body=b"x" * MIB).status in (500, 503, 507)
        assert server.get("/hello").status == 200
        server.until_logged(r"\(spool_dir\)")
        spool.mkdir()
        assert server.get("/received", method="POST", body=b"x" * MIB).status == 200


# --- /proc, /dev/shm -------------------------------------------------------------------------------

WITHOUT_PROC = unshared("umount -l /proc")


@needs_unshare
@FORKED_AND_PRELOADED
def test_applications_are_served_without_proc_and_shared_memory_files(tmp_path, preload):
    through = unshared("umount -l /proc; umount -l /dev/shm; true")
    with serving(tmp_path, "story:app", *preload, through=through) as server:
        assert server.get("/hello").body == b"hello\n"
        assert server.get("/received", method="POST", body=b"x" * MIB).body.startswith(b"%d " % MIB)
        replaced_workers_serve(server)


@needs_unshare
def test_a_folder_is_not_served_without_proc(tmp_path):
    (tmp_path / "public").mkdir()
    sentence = refused(tmp_path, "story:app", "/public=./public", through=WITHOUT_PROC)
    assert "'./public': a folder can't be served, because /proc is not mounted here." in sentence
