"""Root that serves as another user: what that user can't make it do, and what the processes may do."""

from __future__ import annotations

import os
import pwd
import re
import signal
import stat
import tempfile
from pathlib import Path

import pytest

from tests.e2e.harness import Client
from tests.e2e.harness import serving_by_command as serving
from tests.e2e.test_settings_and_users import OWN, halfsync, identity

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another")
NOBODY = pwd.getpwnam("nobody")


class Place:
    """A folder of root's with `own.py` in it, and in that: `theirs`, which is the service's user's, and
    `precious`, which is root's and which nothing may touch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.theirs = self.make_theirs(folder / "theirs")
        self.precious = folder / "precious"
        self.precious.mkdir()
        (self.precious / "file").write_text("precious\n")
        (self.precious / "file").chmod(0o600)
        (folder / "own.py").write_text(OWN)
        self.before = self.state()

    def make_theirs(self, folder: Path) -> Path:
        folder.mkdir()
        os.chown(folder, NOBODY.pw_uid, NOBODY.pw_gid)
        return folder

    def state(self) -> list[tuple[str, str, int]]:
        return sorted((path.name, path.read_text(), path.stat().st_mode) for path in self.precious.iterdir())

    def assert_untouched(self) -> None:
        assert self.state() == self.before

    def traps(self) -> dict[str, Path]:
        """Paths in `theirs` that lead to something precious."""
        return {
            "a link to a file": self.link("one", self.precious / "file"),
            "a link to what is not there": self.link("two", self.precious / "new"),
            "a link to a folder on the way": self.link("three", self.precious) / "file",
            "a link on the way, to a new file": self.link("four", self.precious) / "new",
            "a hard link": self._hard_link("five"),
            "a link to a link": self.link("six", self.link("seven", self.precious / "new")),
        }

    def link(self, name: str, target: Path) -> Path:
        link = self.theirs / name
        link.symlink_to(target)
        os.chown(link, NOBODY.pw_uid, NOBODY.pw_gid, follow_symlinks=False)
        return link

    def _hard_link(self, name: str) -> Path:
        (self.theirs / name).hardlink_to(self.precious / "file")
        return self.theirs / name


@pytest.fixture
def place():
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Place(Path(name))


TRAPS = [
    "a link to a file",
    "a link to what is not there",
    "a link to a folder on the way",
    "a link on the way, to a new file",
    "a hard link",
    "a link to a link",
]


@pytest.mark.parametrize("setting", ["pid", "access-logfile"])
@pytest.mark.parametrize("trap", TRAPS)
def test_the_users_links_lead_root_nowhere(place, setting, trap):
    path = place.traps()[trap]
    arguments = ("-b", "127.0.0.1:0", "own:app", "--user", "nobody", f"--{setting}", str(path))
    found = halfsync(place.folder, *arguments)
    assert found.returncode == 2, found.stderr
    assert "as the user" in found.stderr
    # (Where Python is root's own, there is a line about that as well.)
    lines = [line for line in found.stderr.splitlines() if "Python's own modules" not in line]
    assert len(lines) == 1, found.stderr
    place.assert_untouched()


@pytest.mark.parametrize("trap", [*TRAPS, "the folder itself"])
def test_the_users_links_lead_root_nowhere_when_the_log_is_reopened(place, trap):
    logs = place.make_theirs(place.theirs / "logs")
    path = logs / "file"
    with serving(place.folder, "own:app", "--user", "nobody", "--access-logfile", str(path)) as server:
        server.get("/user")
        server.until(lambda: "GET /user" in path.read_text())
        if trap == "the folder itself":
            logs.rename(place.theirs / "old")
            logs.symlink_to(place.precious)
        else:
            path.unlink()
            path.symlink_to(place.traps()[trap])
        server.signal(signal.SIGUSR1)
        server.until_logged("the access log can't be reopened: .* as the user")
        assert server.get("/user").status == 200
        place.assert_untouched()


def test_the_users_own_files_are_written_with_his_rights(place):
    """Also by way of links, which are his business then."""
    place.make_theirs(place.theirs / "real")
    (place.theirs / "link").symlink_to("real")
    arguments = ("own:app", "--user", "nobody", "--pid", "theirs/pid", "--access-logfile", "theirs/link/log")
    with serving(place.folder, *arguments) as server:
        assert (place.theirs / "pid").read_text() == f"{server.process.pid}\n"
        server.get("/user")
        server.until(lambda: "GET /user" in (place.theirs / "real/log").read_text())
        assert (place.theirs / "real/log").stat().st_uid == NOBODY.pw_uid
    assert not (place.theirs / "pid").exists()


def test_what_the_user_may_not_read_is_not_listed(place):
    public = place.folder / "public"
    for name, mode in {"open": 0o755, "closed": 0o700, "without x": 0o744, "without r": 0o711}.items():
        (public / name).mkdir(parents=True)
        (public / name / "page").write_text("a page\n")
        (public / name).chmod(mode)
    (public / "own").write_text("root's\n")
    (public / "own").chmod(0o600)
    (public / "open/index").mkdir()
    (public / "open/index/index.html").write_text("root's\n")
    (public / "open/index/index.html").chmod(0o600)
    with serving(place.folder, "./public", "--listing", "--user", "nobody") as server:
        assert re.findall(b'href="([^"]*)"', server.get("/").body) == [b"open/"]
        assert re.findall(b'href="([^"]*)"', server.get("/open/").body) == [b"../", b"index/", b"page"]
        for path in ("closed/", "without%20x/", "without%20r/", "own", "open/index/"):
            assert server.get(f"/{path}").status == 404


def test_a_folder_that_the_user_may_not_read_is_told(place):
    for name, mode in {"open": 0o755, "closed": 0o700}.items():
        (place.folder / name).mkdir()
        (place.folder / name).chmod(mode)
    with serving(place.folder, "/a=./open", "/b=./closed", "--user", "nobody") as server:
        (told,) = [line for line in server.log().splitlines() if "requests for it get a 404" in line]
        assert f"may not read {place.folder}/closed:" in told
        server.signal(signal.SIGHUP)
        server.until_logged(f"may not read {place.folder}/closed: requests for it get a 404", 2)


def with_acme(place: Place) -> tuple[str, str]:
    """Arguments of a server whose keys lie in `theirs`; its authority does not exist."""
    (place.folder / "acme.toml").write_text(
        'bind = "https://127.0.0.1:0"\nuser = "nobody"\nacme = true\nacme_hosts = ["shop.test"]\n'
        'acme_folder = "theirs/acme"\nacme_directory = "https://127.0.0.1:1/dir"\n'
        '[routes]\n"/" = "own:app"\n'
    )
    return "-c", "acme.toml"


@pytest.mark.parametrize("trap", ["shop.test.pem.new", "shop.test.pem", "account.key", "the folder itself"])
def test_the_users_links_lead_root_nowhere_when_keys_are_written_or_read(place, trap):
    if trap == "the folder itself":
        place.link("acme", place.precious)
    else:
        place.make_theirs(place.theirs / "acme")
        place.link(f"acme/{trap}", place.precious / "file")
    arguments = with_acme(place)
    if trap == "account.key":
        with serving(place.folder, *arguments, bind=False) as server:
            server.until_logged("acme.*Permission denied")
    else:
        found = halfsync(place.folder, *arguments)
        assert found.returncode == 2
        assert "Permission denied" in found.stderr
        assert "as the user" in found.stderr
        assert "halfsync: acme.toml:" in found.stderr
    place.assert_untouched()


def test_in_the_users_own_folder_keys_are_his(place):
    place.make_theirs(place.theirs / "acme")
    with serving(place.folder, *with_acme(place), bind=False) as server:
        key = (place.theirs / "acme/shop.test.pem").stat()
        assert (key.st_uid, stat.S_IMODE(key.st_mode)) == (NOBODY.pw_uid, 0o600)
        server.until_logged(r"acme \[\d+\] is started")
        (issuer,) = map(int, re.findall(r"acme \[(\d+)\] is started", server.log())[:1])
        server.until(lambda: identity(issuer)[0] == {NOBODY.pw_uid})
    place.assert_untouched()


def test_an_upgrade_is_roots_and_serves_as_the_user(place):
    """What is made in the user's folder is made with his rights, and removed with them."""
    place.make_theirs(place.theirs / "run")
    options = ("--user", "nobody", "--pid", "theirs/run/pid", "--access-logfile", "theirs/run/log")
    bind = ("-b", "127.0.0.1:0", "-b", "unix:theirs/run/socket")
    with serving(place.folder, *bind, "own:app", *options, bind=False) as server:
        pid = place.theirs / "run/pid"
        before = server.get("/user").body
        server.signal(signal.SIGUSR2)
        server.until(lambda: pid.read_text() != f"{server.process.pid}\n")
        new = int(pid.read_text())
        assert identity(new)[0] == {0}
        assert identity(server.pump)[0] == {NOBODY.pw_uid}
        with Client(str(place.theirs / "run/socket")) as client:
            assert client.ask("/user").body == before
        server.until(lambda: "GET /user" in (place.theirs / "run/log").read_text())
    assert [one.name for one in (place.theirs / "run").iterdir()] == ["log"]


def test_roots_links_in_roots_folders_are_followed(place):
    """An administrator's: to a file that the user could not write."""
    (place.folder / "log").symlink_to(place.precious / "file")
    with serving(place.folder, "own:app", "--user", "nobody", "--access-logfile", "log") as server:
        server.get("/user")
        server.until(lambda: "GET /user" in (place.precious / "file").read_text())


def test_the_pid_file_of_another_folder_is_not_removed(place):
    """At the end the folder is a link to root's, in which there is a file of that name."""
    folder = place.make_theirs(place.theirs / "run")
    with serving(place.folder, "own:app", "--user", "nobody", "--pid", str(folder / "pid")):
        # the very same file, so that looking at its number would not help
        (place.precious / "pid").hardlink_to(folder / "pid")
        place.before = place.state()
        folder.rename(place.theirs / "old")
        folder.symlink_to(place.precious)
    place.assert_untouched()


@pytest.mark.parametrize(("more", "mode"), [((), 0o666), (("--unix-mode", "660"), 0o660)])
def test_a_unix_socket_in_the_users_folder_is_his(place, more, mode):
    at = place.theirs / "at"
    where = ("own:app", "--user", "nobody", "-b", f"unix:{at}", *more)
    with serving(place.folder, *where, bind=False):
        found = at.lstat()
        assert stat.S_IMODE(found.st_mode) == mode
        assert found.st_uid == NOBODY.pw_uid
        with Client(str(at)) as client:
            assert client.ask("/user").status == 200
    assert not at.exists()


def test_a_unix_socket_is_not_made_where_the_users_link_leads(place):
    path = place.link("sockets", place.precious) / "at"
    found = halfsync(place.folder, "-b", f"unix:{path}", "own:app", "--user", "nobody")
    assert found.returncode == 2
    assert "as the user" in found.stderr
    place.assert_untouched()


def no_new_privs(pid: int) -> str:
    rows = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return rows["NoNewPrivs"].strip()


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preloaded"])
def test_rights_that_were_given_up_do_not_come_back(place, preload):
    with serving(place.folder, "own:app", "--user", "nobody", *preload) as server:
        assert server.get("/user").status == 200  # all have begun
        children = [pid for pid in server.processes() if pid != server.process.pid]
        assert {no_new_privs(pid) for pid in children} == {"1"}


def test_setuid_programs_can_be_allowed(place):
    with serving(place.folder, "own:app", "--user", "nobody", "--no-no-new-privs") as server:
        assert server.get("/user").status == 200
        assert no_new_privs(server.workers("own:app")[0]) == "0"
        assert no_new_privs(server.pump) == "1"  # it starts no programs


def test_a_number_without_an_entry_is_a_user(place):
    """Containers: its group is not root's, nor are others."""
    number = 1_234_567
    with pytest.raises(KeyError):
        pwd.getpwuid(number)
    with serving(place.folder, "own:app", "--user", str(number)) as server:
        assert server.get("/user").body == b"%d %d " % (number, number)
        for pid in (server.pump, *server.workers("own:app")):
            assert identity(pid) == ({number}, {number}, {number})
    with serving(place.folder, "own:app", "--user", str(number), "--group", "1234568") as server:
        assert server.get("/user").body == b"%d 1234568 " % number


@pytest.mark.parametrize("number", ["4294967295", "-1", "99999999999", "１"])  # noqa: RUF001
def test_numbers_that_are_no_users(place, number):
    """The first means "no change" to the kernel: root would stay root."""
    for setting in ("--user", "--group"):
        found = halfsync(place.folder, "-b", "127.0.0.1:0", "own:app", f"{setting}={number}")
        assert found.returncode == 2
        assert number in found.stderr
        assert len(found.stderr.strip().splitlines()) == 1


def test_umask_is_for_what_applications_make(place):
    (place.theirs / "makes.py").write_text(
        "import os\n"
        "def app(environ, start):\n"
        "    os.close(os.open('made', os.O_CREAT | os.O_WRONLY, 0o666))\n"
        "    start('200 OK', [])\n"
        "    return [b'made']\n"
    )
    arguments = ("--user", "nobody", "--chdir", "theirs", "makes:app", "--umask", "027", "-b", "unix:at")
    with serving(place.folder, *arguments, bind=False):
        assert stat.S_IMODE((place.theirs / "at").lstat().st_mode) == 0o666
        with Client(str(place.theirs / "at")) as client:
            assert client.ask("/").body == b"made"
        assert stat.S_IMODE((place.theirs / "made").stat().st_mode) == 0o640
