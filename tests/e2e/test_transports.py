"""HTTP/1.1 over other transports than a plain socket, in real processes: one that gives single bytes, and one
that gives records of 16 KiB, as TLS does. Clients see no difference.

These are tests of other files, run again. With HALFSYNC_TEST_TRANSPORT=bytes or =records all servers of the
end-to-end tests run so (`make transports`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.e2e.harness import Server, serving, serving_by_command
from tests.e2e.test_http import *  # noqa: F403 (each is run here with every transport)
from tests.e2e.test_http import serving_site
from tests.e2e.test_pipelining import serving_leased, test_leased_and_unleased_ones_mixed_on_many_connections
from tests.e2e.test_reconfigure import test_listeners_come_and_go
from tests.pump.transports import TRANSPORTS, is_installed

__all__ = ["test_leased_and_unleased_ones_mixed_on_many_connections", "test_listeners_come_and_go"]


@pytest.fixture(scope="module", autouse=True, params=["bytes", "records"])
def _transport(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HALFSYNC_TEST_TRANSPORT", request.param)
        yield


@pytest.fixture(scope="module")  # type: ignore[no-redef]
def site(_transport: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving_site(tmp_path_factory.mktemp("site")) as server:
        yield server


@pytest.fixture(scope="module")
def server(_transport: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving_leased(tmp_path_factory.mktemp("pipelining")) as server:
        yield server


@pytest.mark.parametrize("start", [serving, serving_by_command], ids=["forked", "by command"])
def test_the_server_was_started_with_it(tmp_path, start):
    with start(tmp_path, "story:app") as server:
        has = [name for name in TRANSPORTS if is_installed(name, server.pump)]
        assert has == [os.environ["HALFSYNC_TEST_TRANSPORT"]]
