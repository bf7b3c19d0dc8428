"""Real frameworks, side by side in one server."""

from __future__ import annotations

import json

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.e2e.harness import APPS, pattern, request, serving

NAMES = ("fastapi", "starlette", "quart", "litestar", "django")
FILE = APPS / "frameworks.py"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frameworks")
    targets = [f"/{name}=frameworks:{name}()" for name in (*NAMES, "guarded")]
    with serving(folder, *targets, seconds=120) as server:
        yield server


@pytest.mark.parametrize("name", NAMES)
def test_a_body_comes_back(site, name):
    data = pattern(200_000)
    answer = site.get(f"/{name}/echo", "Content-Type: application/octet-stream", method="POST", body=data)
    assert (answer.status, answer.body) == (200, data)


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_is_whole(site, name):
    answer = site.get(f"/{name}/stream")
    assert (answer.body, answer["Transfer-Encoding"], answer.whole) == (b"one two three", "chunked", True)


@pytest.mark.parametrize("name", ["fastapi", "starlette", "django"])
def test_a_file_is_sent(site, name):
    assert site.get(f"/{name}/file").body == FILE.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_websocket_echoes(site, name):
    with connect(f"ws://127.0.0.1:{site.port}/{name}/socket", compression=None, open_timeout=60) as client:
        for message in ("hello", "", "x" * 100_000):
            client.send(message)
            assert client.recv(timeout=60) == message


@pytest.mark.parametrize("name", ["fastapi", "starlette", "quart", "litestar"])
def test_a_websocket_that_is_not_there_is_rejected(site, name):
    with (
        pytest.raises(InvalidStatus) as caught,
        connect(f"ws://127.0.0.1:{site.port}/{name}/nothing", compression=None, open_timeout=60),
    ):
        pass
    assert caught.value.response.status_code in (403, 404)


def test_consumers_of_channels_talk_through_their_layer(site):
    url = f"ws://127.0.0.1:{site.port}/django/rooms/blue"
    with (
        connect(url, compression=None, open_timeout=60, subprotocols=["chat"]) as one,  # type: ignore[list-item]
        connect(url, compression=None, open_timeout=60) as two,
    ):
        assert (one.subprotocol, two.subprotocol) == ("chat", None)
        one.send(json.dumps({"text": "hello"}))
        assert [json.loads(each.recv(timeout=60)) for each in (one, two)] == [{"text": "hello"}] * 2
        one.send('"bye"')
        assert json.loads(two.recv(timeout=60)) == "left: 4001"
        with pytest.raises(ConnectionClosed) as caught:
            one.recv(timeout=60)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 4001
        two.close(1000)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_there_is_not_found(site, name):
    assert site.get(f"/{name}/nothing").status == 404


def test_fastapi_reads_parameters_and_the_lifespans_state(site):
    assert json.loads(site.get("/fastapi/?name=me").body) == {"hello": "me", "state": "lifespan"}
    assert json.loads(site.get("/fastapi/threaded").body) == {"a": 1}


def test_fastapi_takes_an_upload(site):
    data = pattern(300_000)
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + data + b"\r\n--x--\r\n"
    )
    field = "Content-Type: multipart/form-data; boundary=x"
    answer = site.get("/fastapi/upload", field, method="POST", body=body)
    assert json.loads(answer.body) == {"name": "a", "size": 300_000}


def test_fastapi_runs_background_tasks(site):
    assert site.get("/fastapi/later?name=done-later", method="POST").status == 200
    site.until((site.folder / "done-later").exists)


def test_a_stream_of_events_ends_when_its_client_leaves(site):
    with site.client() as client:
        client.send(request("/fastapi/endless?name=left"))
        client.until(b"data: 1")
    site.until((site.folder / "left").exists)


def test_a_response_that_nobody_wants_any_more_is_no_exception(site):
    """Whoever watches over exceptions sees none, and what was to be done behind it is done."""
    with site.client() as client:
        client.send(request("/guarded/left"))
        site.until((site.folder / "called").exists)
    site.until((site.folder / "background").exists)
    assert not (site.folder / "failed").exists()


def test_starlette_makes_urls_below_its_prefix(site):
    assert site.get("/starlette/").body == b"/starlette/file"
    assert site.get("/starlette/mounted/file").body == FILE.read_bytes()


def test_django_knows_its_prefix(site):
    assert site.get("/django/").body == b"http://story.test/django/ /"
