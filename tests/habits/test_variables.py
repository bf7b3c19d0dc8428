"""uvicorn's environment variables, and SCRIPT_NAME."""

from __future__ import annotations

import importlib
import importlib.util
import tomllib

import pytest

from halfsync.habits import variables
from tests.habits.test_command_lines import folder, halfsync

__all__ = ["folder"]  # a fixture


@pytest.mark.parametrize(
    ("environment", "means"),
    [
        ({"UVICORN_HOST": "0.0.0.0", "UVICORN_PORT": "9000"}, {"bind": ["0.0.0.0:9000"]}),
        ({"UVICORN_PORT": "9000"}, {"bind": ["127.0.0.1:9000"]}),
        ({"UVICORN_HOST": "::1", "PORT": "7"}, {"bind": ["[::1]:7"]}),
        ({"UVICORN_PORT": "9000", "PORT": "7"}, {"bind": ["127.0.0.1:9000"]}),
        ({"UVICORN_UDS": "shop.sock"}, {"bind": ["unix:shop.sock"]}),
        ({"UVICORN_WORKERS": "3", "WEB_CONCURRENCY": "2"}, {"workers": 3}),
        ({"UVICORN_LOG_LEVEL": "TRACE", "UVICORN_BACKLOG": "64"}, {"log_level": "debug", "backlog": 64}),
        ({"UVICORN_ACCESS_LOG": "true"}, {"access_logfile": "-"}),
        ({"UVICORN_PROXY_HEADERS": "false"}, {"forwarded_allow_ips": []}),
        ({"UVICORN_RELOAD_INCLUDES": "*.html *.yml"}, {"reload_include": ["*.html", "*.yml"]}),
        ({"UVICORN_RELOAD_DIRS": "src:lib"}, {"reload_dir": ["src", "lib"]}),
        ({"UVICORN_RELOAD": "false"}, {"reload": False}),
        ({"UVICORN_LIMIT_MAX_REQUESTS": "9"}, {"max_requests": 9}),
        ({"UVICORN_PORT": "tcp://10.0.0.1:80", "UVICORN_SERVICE_HOST": "x"}, {"bind": ["127.0.0.1:8000"]}),
        ({"UVICORN_WORKERS": "3", "HALFSYNC_WORKERS": "4"}, {"workers": 4}),
        ({"UVICORN_WORKERS": "", "UVICORN_NO_SUCH": "1"}, {"workers": 1}),
    ],
    ids=str,
)  # fmt: skip
def test_what_has_a_counterpart_counts(folder, environment, means):
    found = halfsync(folder, "shop:app", "--print-config", **environment)
    assert found.returncode == 0, found.stderr
    printed = tomllib.loads(found.stdout)
    assert {name: printed[name] for name in means} == means


def test_the_command_line_is_stronger_and_the_origin_is_shown(folder):
    found = halfsync(
        folder, "shop:app", "--workers", "5", "--print-config", UVICORN_WORKERS="3", UVICORN_PORT="9000"
    )
    assert tomllib.loads(found.stdout)["workers"] == 5
    assert "# environment variable UVICORN_PORT\n" in found.stdout


def test_the_application_and_whether_it_is_a_factory(folder):
    for environment, target in (
        ({"UVICORN_APP": "shop:app"}, "shop:app"),
        ({"UVICORN_APP": "shop:create_app", "UVICORN_FACTORY": "1"}, "shop:create_app()"),
    ):
        found = halfsync(folder, "--print-config", **environment)
        assert tomllib.loads(found.stdout)["routes"] == {"/": target}
    found = halfsync(folder, "site_of.wsgi", "--print-config", UVICORN_APP="shop:app")
    assert tomllib.loads(found.stdout)["routes"] == {"/": "site_of.wsgi"}


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"UVICORN_WORKERS": "many"}, "Environment variable UVICORN_WORKERS must be a whole number from 1 "),
        ({"UVICORN_BACKLOG": "x"}, "Environment variable UVICORN_BACKLOG must be a whole number"),
        ({"UVICORN_ENV_FILE": ".env"}, "Environment variable UVICORN_ENV_FILE: name variables with -e "),
        ({"UVICORN_INTERFACE": "cgi"}, "Environment variable UVICORN_INTERFACE must be one of auto, wsgi"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_is_one_sentence_with_the_variables_name(folder, environment, sentence):
    found = halfsync(folder, "shop:app", "--check-config", **environment)
    assert (found.returncode, found.stderr.count("\n")) == (2, 1)
    assert found.stderr.startswith(f"halfsync: {sentence}")


def test_what_has_no_effect_says_so(folder):
    found = halfsync(folder, "shop:app", "--check-config", UVICORN_HTTP="h11")
    assert found.stdout.startswith("Environment variable UVICORN_HTTP has no effect: ")


def test_those_of_asgi_and_websocket_mean_ours(folder):
    found = halfsync(
        folder,
        "shop:app",
        "--print-config",
        UVICORN_LOOP="asyncio",
        UVICORN_LIFESPAN="off",
        UVICORN_LIMIT_CONCURRENCY="70",
        UVICORN_WS_MAX_SIZE="1000",
        UVICORN_WS_PING_INTERVAL="5",
        UVICORN_WS_PING_TIMEOUT="6",
        UVICORN_WS_PER_MESSAGE_DEFLATE="true",
    )
    said = tomllib.loads(found.stdout)
    names = ("loop", "lifespan", "limit_concurrency", "ws_max_size", "ws_ping_interval", "ws_ping_timeout")
    assert [said[name] for name in names] == ["asyncio", "off", 70, 1000, 5, 6]
    assert said["ws_per_message_deflate"] is True
    found = halfsync(folder, "shop:app", "--print-config", UVICORN_WS_PER_MESSAGE_DEFLATE="false")
    assert tomllib.loads(found.stdout)["ws_per_message_deflate"] is False


@pytest.mark.skipif(importlib.util.find_spec("uvicorn") is None, reason="uvicorn is not installed")
def test_each_of_uvicorns_variables_is_known():
    """Of the version that is installed: a newer one may have more."""
    command = importlib.import_module("uvicorn.main").main
    for parameter in command.params:
        if parameter.name not in ("app", "version"):
            assert variables._flag(f"UVICORN_{parameter.name.upper()}") in variables._FLAGS, parameter.name


# --- SCRIPT_NAME ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/shop", "/my/shop/"])
def test_a_path_that_gunicorn_would_serve_under_is_refused_with_what_to_do(folder, path):
    sentence = (
        f"SCRIPT_NAME={path} in the environment has no effect: mount the application under it: "
        f"{path.rstrip('/')}=module:app.\n"
    )
    assert halfsync(folder, "shop:app", "--check-config", SCRIPT_NAME=path).stdout.startswith(sentence)
    found = halfsync(folder, "shop:app", "--check-config", "-e", f"SCRIPT_NAME={path}", SCRIPT_NAME="/other")
    assert found.stdout.startswith(sentence)


@pytest.mark.parametrize("path", ["", "/", "deploy.sh", "/usr/bin/deploy it.sh"])
def test_other_values_of_script_name_are_not_ours_to_speak_of(folder, path):
    found = halfsync(folder, "shop:app", "--check-config", SCRIPT_NAME=path)
    assert found.stdout == "The configuration is fine.\n"
