"""Files that change while 64 clients get them: what comes is one version, whole, or seen to be cut; and
the new one within the lease's second.

A version is told by its content: the same eight digits again and again. So any part of a body tells which
version it is of, and a mixture is found wherever it begins.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from halfsync.system.stamps import REST
from tests.e2e.harness import LONG, Answer, Client, Server, request, serving

SIZES = {"small": 1024, "memory": 60 * 1024, "copied": 100 * 1024, "large": 5 * 1024 * 1024}
CLIENTS = {"small": 24, "memory": 16, "copied": 16, "large": 8}
ROUNDS = 4
SEEN_WITHIN = 1.3
"""Seconds: a lease, and what a busy machine needs."""
UNSEEN = REST / 2
"""Seconds that a write may take. The kernel tells of it at its begin alone, so a writer that does not run for
REST in the midst of one leaves a file that looks as if nobody wrote to it, and is a mixture itself."""
MAX_MIXTURES = 20
LATE = 1.0
"""Seconds that a client's thread, or a worker between its look at the file and its response, may not have run
at all: this machine's fault, not the server's. A very busy one adds what the slowest response took."""


def content(version: int, size: int) -> bytes:
    token = b"%08d" % version
    return (token * (size // 8 + 1))[:size]


def is_half_written(body: bytes, version: int) -> bool:
    """It is of this version up to somewhere, and from there on of the one before."""
    now, before = content(version, len(body)), content(version - 1, len(body))
    low, high = 0, len(body)
    while low < high:  # how much of it is new
        middle = (low + high + 1) // 2
        low, high = (middle, high) if body.startswith(now[:middle]) else (low, middle - 1)
    return body[low:] == before[low:]


Change = Callable[[Path, bytes], None]


def rewrite(path: Path, data: bytes) -> None:
    """In place, by one write."""
    with path.open("r+b", buffering=0) as file:
        file.write(data)


def rewrite_and_cut(path: Path, data: bytes) -> None:
    with path.open("r+b", buffering=0) as file:
        file.write(data)
        file.truncate(len(data))


def cut_and_write(path: Path, data: bytes) -> None:
    """As editors and `cp` do."""
    with path.open("wb", buffering=0) as file:
        file.write(data)


def rewrite_and_set_back(path: Path, data: bytes) -> None:
    """As `cp -p` of a file with the same time does."""
    before = path.stat()
    rewrite(path, data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def rename_over(path: Path, data: bytes) -> None:
    path.with_name(path.name + ".new").write_bytes(data)
    path.with_name(path.name + ".new").rename(path)


def unlink_and_write(path: Path, data: bytes) -> None:
    path.unlink()
    path.with_name(path.name + ".new").write_bytes(data)
    path.with_name(path.name + ".new").rename(path)


def turn_link(path: Path, data: bytes) -> None:
    """The name is a link, which is turned to a new file."""
    release = path.with_name(f"{path.name}-{data[:8].decode()}")
    release.write_bytes(data)
    link = path.with_name(path.name + ".link")
    link.symlink_to(release.name)
    link.rename(path)


def same(size: int, _version: int) -> int:
    return size


def other(size: int, version: int) -> int:
    """Longer and shorter in turn."""
    return size + (version % 3 - 1) * 8 * (version % 50 + 1)


@pytest.mark.parametrize(
    ("change", "size_of"),
    [
        (rewrite, same),
        (rewrite_and_set_back, same),
        (rewrite_and_cut, other),
        (cut_and_write, other),
        (rename_over, same),
        (rename_over, other),
        (unlink_and_write, other),
        (turn_link, other),
    ],
)
def test_never_a_mixture_and_the_new_version_soon(
    tmp_path: Path, change: Change, size_of: Callable[[int, int], int]
):
    public = tmp_path / "public"
    public.mkdir()
    with serving(tmp_path, "./public") as server:
        # A tag is made of mtime and size, so that several servers agree on it: who sets the mtime back
        # keeps the tag.
        tags = change is not rewrite_and_set_back
        town = Town(server, missing_is_fine=change is unlink_and_write, tags=tags)
        for name, size in SIZES.items():
            (public / name).write_bytes(content(0, size))
        with town:
            for version in range(1, ROUNDS):
                for name, size in SIZES.items():
                    with town.changing(name, version):
                        change(public / name, content(version, size_of(size, version)))
                town.until_seen(version)
    town.check()


@pytest.mark.parametrize(
    ("change", "size_of"), [(rewrite, same), (cut_and_write, other), (rename_over, other)]
)
def test_never_a_mixture_when_changes_never_stop(
    tmp_path: Path, change: Change, size_of: Callable[[int, int], int]
):
    """Each some requests after the one before, so that they fall into every moment of a response."""
    public = tmp_path / "public"
    public.mkdir()
    with serving(tmp_path, "./public") as server:
        town = Town(server, changes_never_stop=True)
        for name, size in SIZES.items():
            (public / name).write_bytes(content(0, size))
        with town:
            for version in range(1, 60):
                for name, size in SIZES.items():
                    with town.changing(name, version):
                        change(public / name, content(version, size_of(size, version)))
                town.until_asked(10 + version % 7 * 8)
            town.until_seen(version)
    town.check()


def test_content_that_grows_is_whole_or_cut(tmp_path: Path):
    """Each part that is appended is of the version before, too: what came is a beginning of what is there."""
    public = tmp_path / "public"
    public.mkdir()
    with serving(tmp_path, "./public") as server:
        town = Town(server, same_content=True)
        for name, size in SIZES.items():
            (public / name).write_bytes(content(0, size))
        with town:
            for _ in range(ROUNDS):
                for name in SIZES:
                    with (public / name).open("ab", buffering=0) as file:
                        file.write(content(0, 800))
                town.until_asked(200)
    town.check()


def test_a_folder_that_is_turned_or_swapped_is_seen_within_the_lease(tmp_path: Path):
    """The served folder is a link, and is turned to another release; then its folders change places."""
    for release in range(8):
        (tmp_path / f"release-{release}").mkdir()
        for name, size in SIZES.items():
            (tmp_path / f"release-{release}" / name).write_bytes(content(release, size + release * 8))
    (tmp_path / "public").symlink_to("release-0")
    with serving(tmp_path, "./public") as server:
        town = Town(server)
        with town:
            for version in range(1, 8):
                if version < 5:
                    (tmp_path / "next").symlink_to(f"release-{version}")
                    (tmp_path / "next").rename(tmp_path / "public")
                else:  # what the link leads to is moved away, and another put in its place
                    (tmp_path / "release-4").rename(tmp_path / f"old-{version}")
                    (tmp_path / f"release-{version}").rename(tmp_path / "release-4")
                for name in SIZES:
                    town.changed(name, version)
                town.until_seen(version)
    town.check()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_any_more_is_gone_within_the_lease(tmp_path: Path):
    gone_within_the_lease(tmp_path, lambda path: path.chmod(0))


@pytest.mark.parametrize("how", ["unlink", "away", "out"])
def test_a_file_that_is_gone_is_gone_within_the_lease(tmp_path: Path, how: str):
    def out(path: Path) -> None:
        (tmp_path / "secret").write_bytes(b"secret")
        path.unlink()
        path.symlink_to(tmp_path / "secret")

    ways: dict[str, Callable[[Path], object]] = {
        "unlink": Path.unlink,
        "away": lambda path: path.rename(path.with_name(".hidden")),
        "out": out,
    }
    gone_within_the_lease(tmp_path, ways[how])


def gone_within_the_lease(tmp_path: Path, go: Callable[[Path], object]) -> None:
    public = tmp_path / "public"
    public.mkdir()
    for name, size in SIZES.items():
        (public / name).write_bytes(content(1, size))
    with serving(tmp_path, "./public") as server, server.client() as client:
        for name, size in SIZES.items():
            for _ in range(4):
                assert client.ask("/" + name).body == content(1, size)
            go(public / name)
            gone, slowest = time.monotonic(), 0.0
            while True:
                asked = time.monotonic()
                if (answer := client.ask("/" + name)).status == 404:
                    break
                slowest = max(slowest, time.monotonic() - asked)
                assert answer.body == content(1, size)
                assert asked - gone < SEEN_WITHIN + LATE + slowest


class Town:
    """64 kept connections that ask again and again."""

    def __init__(
        self,
        server: Server,
        *,
        missing_is_fine: bool = False,
        same_content: bool = False,
        tags: bool = True,
        changes_never_stop: bool = False,
    ) -> None:
        self._server = server
        self._tags = tags
        self._changes_never_stop = changes_never_stop
        self._missing_is_fine = missing_is_fine
        self._same_content = same_content
        self._over = threading.Event()
        self._changes: dict[str, list[tuple[int, float]]] = {name: [(0, 0.0)] for name in SIZES}
        self._by_tag: dict[tuple[str, str], tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._known: dict[tuple[int, int], bytes] = {}
        self.whole = self.cut = self.missing = self.busy = 0
        self._unseen: set[tuple[str, int]] = set()  # changes that took too long
        self._mixtures: list[tuple[str, int, bytes]] = []
        self._latest = dict.fromkeys(SIZES, 0)
        self.wrong: list[str] = []
        self._slowest = 0.0
        self._threads = [
            threading.Thread(target=self._ask_on, args=[name])
            for name, count in CLIENTS.items()
            for _ in range(count)
        ]

    def __enter__(self) -> Town:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(2 * LONG)
        assert not any(thread.is_alive() for thread in self._threads)

    @contextmanager
    def changing(self, name: str, version: int) -> Iterator[None]:
        """A file is changed meanwhile."""
        began = time.monotonic()
        yield
        self.changed(name, version)
        if time.monotonic() - began > UNSEEN:
            self._unseen.add((name, version))

    def changed(self, name: str, version: int) -> None:
        self._changes[name].append((version, time.monotonic()))

    def until_seen(self, version: int) -> None:
        """Until every file was got in this version."""
        self._server.until(lambda: self.wrong or all(one >= version for one in self._latest.values()))

    def until_asked(self, more: int) -> None:
        aim = self.answered + more
        self._server.until(lambda: self.wrong or self.answered >= aim)

    @property
    def answered(self) -> int:
        return self.whole + self.cut + self.busy

    def check(self) -> None:
        assert not self.wrong, self.wrong[:5]
        for name, version, body in self._mixtures:
            long = (name, version) in self._unseen and is_half_written(body, version)
            assert long, f"{name}: a mixture that begins with {version}"
        assert self.whole > 64
        assert self.cut < self.whole or self._changes_never_stop, "mostly aborts"
        assert self._missing_is_fine or not self.missing

    def _ask_on(self, name: str) -> None:
        client: Client | None = None
        while not self._over.is_set() and not self.wrong:
            asked = time.monotonic()
            try:
                client = client or self._server.client()
                client.send(request("/" + name))
                answer = client.answer()
                self._slowest = max(self._slowest, time.monotonic() - asked)
            except (OSError, AssertionError):
                answer = None
            if answer is None or not answer.whole:
                self.cut += 1
                if client is not None:
                    client.close()
                client = None
                continue
            try:
                self._judge(name, asked, answer)
            except AssertionError as error:
                self.wrong.append(f"{name}: {error}")
        if client is not None:
            client.close()

    def _judge(self, name: str, asked: float, answer: Answer) -> None:
        if answer.status in (404, 503):
            self.missing += answer.status == 404
            self.busy += answer.status == 503
            return
        assert answer.status == 200, f"{answer.line}"
        if not answer.body:
            return  # cut, and not yet written: it was so
        version, size = int(answer.body[:8]), len(answer.body)
        if self._same_content:
            assert answer.body == content(0, size), "a mixture"
        elif answer.body != self._content(version, size):
            # How long that write has taken is known when it is over, so this is judged at the end.
            assert len(self._mixtures) < MAX_MIXTURES, f"a mixture that begins with {version}, and more"
            self._mixtures.append((name, version, answer.body))
            return
        with self._lock:
            known = self._by_tag.setdefault((name, answer["ETag"]), (version, size))
        assert known == (version, size) or not self._tags, f"one tag for {known} and for {(version, size)}"
        limit = asked - SEEN_WITHIN - LATE - self._slowest
        must = max(one for one, when in self._changes[name] if when <= limit or not one)
        assert version >= must or self._same_content, f"{version} is old: {must} is long there"
        self._latest[name] = max(self._latest[name], version)
        self.whole += 1

    def _content(self, version: int, size: int) -> bytes:
        found = self._known.get((version, size))
        if found is None:
            if len(self._known) > 16:
                self._known.clear()
            self._known[version, size] = found = content(version, size)
        return found
