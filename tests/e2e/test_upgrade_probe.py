"""`upgrade_probe`: a new version that does not serve what it should does not take over."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.certificates import issued, write
from tests.e2e.harness import Crowd, Server
from tests.e2e.harness import serving_by_command as serving
from tests.e2e.test_control import ctl
from tests.e2e.test_upgrade import configure, next_process, process_of, served_by, server_process, upgrade

pytestmark = pytest.mark.skipif(
    "HALFSYNC_TEST_TRANSPORT" in os.environ, reason="what such a transport has read can't be handed over"
)

PROBED = 'upgrade_probe = ["/probe"]'


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("probed")
    configure(folder, first=PROBED)
    with serving(folder, bind=False) as server:
        yield server


@pytest.mark.parametrize(
    ("does", "told"),
    [
        ("503 Service Unavailable", "GET /probe of localhost got 503 Service Unavailable"),
        (
            "404 Not Found",
            "GET /probe of localhost got 404 Not Found; 200 to 399 would be right (upgrade_probe).",
        ),
        ("crash", "GET /probe of localhost got 502 Bad Gateway"),
    ],
)
def test_one_that_does_not_serve_its_probe_changes_nothing(probed, does, told):
    folder, process = probed.folder, server_process(probed)
    with Crowd(probed, ["/"] * 2, process_of) as crowd:
        (folder / "probe").write_text(does)
        try:
            done = ctl(probed, "upgrade")
        finally:
            (folder / "probe").unlink()
        assert done.returncode == 1
        assert told in done.stderr, done.stderr
        assert server_process(probed) == process
        crowd.until_seen(5)
    assert crowd.broken == crowd.wrong == []
    assert set(crowd.seen) == {str(process)}


def test_one_that_serves_its_probe_takes_over_and_has_no_other_request_before(probed):
    (probed.folder / "probes").unlink(missing_ok=True)
    (probed.folder / "probe").write_text("302 Found")
    try:
        new = upgrade(probed)
    finally:
        (probed.folder / "probe").unlink()
    assert (probed.folder / "probes").read_text().splitlines() == [
        f"{new} http localhost 127.0.0.1 302 Found"
    ]
    assert served_by(probed.get("/")) == new


def test_all_applications_and_sites_are_probed_also_where_tls_is_spoken(tmp_path):
    """By the rules of an address where clients come for that host. Who speaks without TLS is redirected, and
    health checks are another thing."""
    certificate, key = write(tmp_path, issued("127.0.0.1"))
    configure(
        tmp_path,
        bind=["127.0.0.1:0", "https://127.0.0.1:0"],
        first="\n".join(
            [
                'upgrade_probe = ["/probe", "blog.example/under/probe", "shop.example/probe", "/loop/x"]',
                f'certfile = "{certificate}"',
                f'keyfile = "{key}"',
                "redirect_http = true",
                'health_bind = ["unix:health"]',
            ]
        ),
        more="\n".join(
            [
                '"/loop" = "probed_asgi:app"',
                '[sites."blog.example"]',
                '[sites."blog.example".routes]',
                '"/under" = "upgraded:app"',
                '[sites."shop.example"]',
                'bind = ["unix:shop"]',
                '[sites."shop.example".routes]',
                '"/" = "upgraded:app"',
            ]
        ),
    )
    with serving(tmp_path, bind=False) as server:
        before = server_process(server)
        done = ctl(server, "upgrade")
        assert done.returncode == 0, done.stderr
        new = next_process(server, before)
        expected = {
            f"{new} https localhost 127.0.0.1 200 OK",
            f"{new} https blog.example 127.0.0.1 200 OK",
            f"{new} http shop.example 127.0.0.1 200 OK",
            f"{new} https localhost 127.0.0.1 asgi",
        }
        assert set((tmp_path / "probes").read_text().splitlines()) == expected
