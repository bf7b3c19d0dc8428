"""docs/how-to/internet.md, step by step: its settings, its checks by curl, and its certificates, from two
authorities of this machine in place of Let's Encrypt's two. Ports and paths are the test's, and in place of
`systemctl reload` is the signal that the page's unit has for it."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.certificates import authority, issued, write
from tests.e2e.harness import LONG, serving
from tests.e2e.test_acme import is_of_authority, pebble, shown
from tests.ports import free_ports
from tests.test_docs import Block, Story, blocks

PAGE = Path(__file__).parents[2] / "docs/how-to/internet.md"
BLOCKS = blocks(PAGE)
[SETTINGS] = [block.text for block in BLOCKS if block.mark == "file: halfsync.toml"]
LOOKS = [block.text for block in BLOCKS if block.mark == "try"]
[BY_HAND] = [block.text for block in BLOCKS if block.mark == "by hand"]
[SWITCH] = [line for block in BLOCKS for line in block.text.splitlines() if line.startswith("sed ")]
TEST_DIRECTORY = "https://acme-staging-v02.api.letsencrypt.org/directory"
HOSTS = ("shop.example", "www.shop.example")
GOT_ONE = r"acme: there is a new certificate for shop\.example, www\.shop\.example"

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


SERVICE_USER = "nobody" if os.geteuid() == 0 else ""
"""Whom the page calls shop. (Only root may become another user.)"""


class Machine:
    """What the page has on its machine, in a folder that the service's user can read."""

    def __init__(self, folder: Path, https: int, http: int) -> None:
        self.folder, self.https, self.http = folder, https, http
        (folder / "shop.py").write_text(
            "import os\n"
            "def app(environ, start_response):\n"
            "    start_response('200 OK', [])\n"
            "    return [str(os.geteuid()).encode()]\n"
        )
        (folder / "static").mkdir()
        self.trusted = folder / "trusted.pem"
        (folder / ".curlrc").write_text(
            f'connect-to = ":443:127.0.0.1:{self.https}"\nconnect-to = ":80:127.0.0.1:{self.http}"\n'
            f'cacert = "{self.trusted}"\n'
        )
        (folder / "looks").mkdir()
        self._story = Story(folder / "looks", {"CURL_HOME": str(folder)})

    def configure(self, settings: str) -> None:
        for theirs, ours in (
            ('"https://0.0.0.0:443", "https://[::]:443"', f'"https://127.0.0.1:{self.https}"'),
            ('"http://0.0.0.0:80", "http://[::]:80"', f'"http://127.0.0.1:{self.http}"'),
            ('user = "shop"', f'user = "{SERVICE_USER}"'),
        ):
            assert theirs in settings
            settings = settings.replace(theirs, ours)
        for path in ("/var/lib/shop", "/etc/shop"):
            settings = settings.replace(path, str(self.folder))
        (self.folder / "halfsync.toml").write_text(settings)

    def switch_to(self, directory: str) -> None:
        """By the page's command. (With the default, it would be Let's Encrypt.)"""
        command = SWITCH.replace("/srv/shop", str(self.folder))
        subprocess.run(["sh", "-c", command], timeout=LONG, check=True)
        file = self.folder / "halfsync.toml"
        left = file.read_text()
        assert "acme_directory" not in left
        assert f'"{self.folder}/acme"' in left
        file.write_text(f'acme_directory = "{directory}"\n{left}')

    def certificate(self) -> x509.Certificate:
        """That its clients are shown."""
        return shown(self.https, HOSTS[0])

    def say(self, *texts: str) -> None:
        """What the page tries."""
        for text in texts:
            self._story.tell(Block("try", "console", text))


MakeMachine = Callable[[int, int], Machine]


@pytest.fixture
def machine_at() -> Iterator[MakeMachine]:
    """Makes one with these ports for https and http."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield lambda https, http: Machine(Path(name), https, http)


def environment_of(folder: Path) -> dict[str, str]:
    return {"REQUESTS_CA_BUNDLE": str(folder / "ca.pem"), "HALFSYNC_REDIRECT_HTTP_PORT": "443"}


def test_from_the_test_authority_to_the_real_one(machine_at: MakeMachine, tmp_path: Path):
    first_look, second_look = LOOKS
    assert SETTINGS.count(TEST_DIRECTORY) == 1
    environment = environment_of(tmp_path)
    (tmp_path / "real").mkdir()
    with pebble(tmp_path) as staging:
        machine = machine_at(staging.tls_port, staging.http_port)
        machine.configure(SETTINGS.replace(TEST_DIRECTORY, staging.directory))
        with serving(machine.folder, "-c", "halfsync.toml", bind=False, environment=environment) as server:
            server.until_logged(GOT_ONE)
            server.until(lambda: is_of_authority(machine.certificate()))
            of_test = machine.certificate().issuer
            ports = {"tlsPort": staging.tls_port, "httpPort": staging.http_port}
            with pebble(tmp_path / "real", ports) as real:
                machine.trusted.write_bytes(real.root())
                machine.say(first_look)
                with pytest.raises(AssertionError):
                    machine.say(second_look)
                machine.switch_to(real.directory)
                server.signal(signal.SIGHUP)
                server.until_logged(GOT_ONE, 2)
                server.until(lambda: is_of_authority(one := machine.certificate()) and one.issuer != of_test)
                machine.say(second_look)


def test_certificates_by_hand(machine_at: MakeMachine):
    """They are root's alone, the application is the user's, and new ones are there after a reload."""
    machine = machine_at(*free_ports(2))
    write(machine.folder, issued(*HOSTS), "first")
    machine.trusted.write_bytes((machine.folder / "ca.pem").read_bytes())

    def renew(name: str) -> None:
        for given, there in (("pem", "fullchain.pem"), ("key", "privkey.pem")):
            (machine.folder / f"{name}.{given}").chmod(0o600)
            os.replace(machine.folder / f"{name}.{given}", machine.folder / there)

    renew("first")
    acme_lines = re.compile(r"(?:^acme.*\n)+", re.MULTILINE)
    [lines] = acme_lines.findall(SETTINGS)
    assert lines.count("\n") == 5
    machine.configure(acme_lines.sub(BY_HAND, SETTINGS))
    environment = environment_of(machine.folder)
    with serving(machine.folder, "-c", "halfsync.toml", bind=False, environment=environment) as server:
        machine.say(*LOOKS)
        if SERVICE_USER:
            uid = pwd.getpwnam(SERVICE_USER).pw_uid
            machine.say(f"$ curl -s https://shop.example/\n{uid}")
        before = machine.certificate().serial_number
        leaf = authority().issue_cert(*HOSTS)
        write(machine.folder, leaf, "second")
        renew("second")
        server.signal(signal.SIGHUP)
        server.until(lambda: machine.certificate().serial_number != before)
        machine.say(*LOOKS)
