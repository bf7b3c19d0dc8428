"""Leases of an application, as its clients and its log see them."""

from __future__ import annotations

import re
import signal

from tests.e2e.harness import Client, Server, frozen, serving


def body(server: Server, target: str, *fields: str, port: int = 0) -> bytes:
    with Client(("127.0.0.1", port or server.port)) as client:
        return client.ask(target, *fields).body


def test_listeners_share_no_lease(tmp_path):
    """The same bytes at another address are another request: the application is told its port."""
    arguments = ("-b", "127.0.0.1:0", "-b", "127.0.0.1:0", "story:app")
    with serving(tmp_path, *arguments, bind=False) as server:
        ports = [int(address.rpartition(":")[2]) for address in server.addresses]
        assert len(set(ports)) == 2
        for fields in ((), ("Cookie: a=1",)):
            target = f"/leased?{len(fields)}"
            first = {port: body(server, target, *fields, port=port) for port in ports}
            for port in ports * 3:
                found = body(server, target, *fields, port=port)
                assert found == first[port]
                assert found.endswith(b" %d" % port)


def test_what_a_lease_may_not_be_for_is_said_and_not_repeated(tmp_path):
    refused = {
        "/leased?field=Vary:Accept": "Vary: Accept",
        "/leased?field=Vary:*&names=accept": "Vary: *",
        "/leased?status=500%20No": "500",
        "/leased?field=Cache-Control:private": "private",
        "/leased?field=Set-Cookie:a": "cookie",
    }
    with serving(tmp_path, "story:app") as server:
        for target in refused:
            assert len({body(server, target) for _ in range(3)}) == 3
        assert len({body(server, "/leased", "Authorization: Basic YTpi") for _ in range(3)}) == 3
        assert len({body(server, "/leased?public=1", "Authorization: Basic YTpi") for _ in range(3)}) == 1
        assert len({body(server, "/leased?names=authorization", f"Authorization: {n}") for n in "aba"}) == 2
        for why in (*refused.values(), "Authorization"):
            server.until_logged(f"lease.*{re.escape(why)}")
        for why in ("Vary: Accept", "cookie"):
            assert sum(why in line for line in server.log().splitlines()) == 1, "it is said once"


def test_nothing_of_the_old_code_is_repeated_after_a_reload(tmp_path):
    def code(version: int) -> None:
        (tmp_path / "versioned.py").write_text(
            "def app(environ, start_response):\n"
            "    environ['halfsync.lease'](60)\n"
            "    start_response('200 OK', [])\n"
            f"    return [b'{version}']\n"
        )

    code(1)
    with serving(tmp_path, "versioned:app") as server, server.client() as client:
        for _ in range(3):
            assert client.ask("/").body == b"1"
        code(2)
        old = server.workers("versioned:app")
        server.signal(signal.SIGHUP)
        server.until_gone(old)
        for _ in range(3):
            assert client.ask("/").body == b"2"


def test_files_are_the_same_whoever_asks(tmp_path):
    """So who says who he is, as browsers do behind a proxy that asks them, gets them from leases, too. A
    lease is told by what it is: it answers when the worker that would look is frozen."""
    (tmp_path / "public").mkdir()
    (tmp_path / "public/file").write_bytes(b"file")
    with serving(tmp_path, "./public", "--lease", "60") as server, server.client() as client:
        for target, status in (("/file", 200), ("/missing", 404)):
            assert client.ask(target, "Authorization: Basic YTpi").status == status
        (worker,) = server.workers("built-in")
        with frozen(worker):
            for fields in ((), ("Authorization: Basic YTpi",), ("Authorization: Basic eDp5", "Cookie: a=b")):
                assert client.ask("/file", *fields).body == b"file"
        assert "lease" not in server.log()
