"""Options of uvicorn, waitress and hypercorn that gunicorn does not have."""

from __future__ import annotations

from halfsync.habits.rows import (
    HYPERCORN,
    PREFIX,
    UVICORN,
    WAITRESS,
    Effect,
    Foreign,
    cert_reqs,
    listen,
    means,
    nothing,
    off_only,
    refused,
)

ROWS: tuple[Foreign, ...] = (
    # --- uvicorn
    means(UVICORN, "--host", "bind", "together with --port: --bind HOST:PORT."),
    means(UVICORN, "--port", "bind", "together with --host: --bind HOST:PORT."),
    means(UVICORN, "--uds --unix-socket", "bind", translated=lambda text: f"unix:{text}"),
    means(UVICORN, "--http2", "http2", "on by default.", is_switch=True, means="true"),
    refused(UVICORN, "", "--fd", "a socket that somebody else opened can't be taken over by number."),
    nothing(UVICORN, "", "--reload-delay", "changes are noticed by the kernel, not looked for."),
    refused(
        UVICORN,
        "",
        "--env-file",
        "name variables with -e NAME=VALUE, or the file in EnvironmentFile= of the service.",
    ),
    means(UVICORN, "--access-log", "access_logfile", "there is none by default.", is_switch=True, means="-"),
    nothing(UVICORN, "", "--no-access-log", "there is no access log by default.", is_switch=True),
    nothing(UVICORN, "", "--use-colors", "on a terminal it has colours.", is_switch=True),
    nothing(UVICORN, "", "--no-use-colors", "NO_COLOR=1 in the environment turns them off.", is_switch=True),
    nothing(
        UVICORN,
        "",
        "--ws",
        "the pump speaks WebSocket by itself, and the application accepts or rejects each.",
    ),
    nothing(UVICORN, "", "--ws-max-queue", "messages wait up to 256 KiB; then the client is not read."),
    nothing(UVICORN, "", "--http", "the pump reads requests with httptools."),
    nothing(
        UVICORN,
        "",
        "--proxy-headers",
        "X-Forwarded-For and -Proto are believed from forwarded_allow_ips.",
        is_switch=True,
    ),
    means(UVICORN, "--no-proxy-headers", "forwarded_allow_ips", is_switch=True, means=""),
    nothing(UVICORN, "", "--server-header", "halfsync adds no Server header.", is_switch=True),
    nothing(UVICORN, "", "--no-server-header", "halfsync adds no Server header.", is_switch=True),
    nothing(UVICORN, "", "--date-header", "responses have a Date always.", is_switch=True),
    nothing(UVICORN, "", "--no-date-header", "responses have a Date always.", is_switch=True),
    refused(
        UVICORN,
        "",
        "--header",
        "write it in the settings file (set, under headers), or set it in the application.",
    ),
    means(UVICORN, "--limit-max-requests", "max_requests"),
    means(UVICORN, "--limit-max-requests-jitter", "max_requests_jitter"),
    means(UVICORN, "--timeout-keep-alive", "keep_alive"),
    means(UVICORN, "--timeout-graceful-shutdown", "graceful_timeout"),
    nothing(UVICORN, "", "--timeout-worker-healthcheck", "the parent sees at once when a worker ends."),
    means(UVICORN, "--ssl-keyfile", "keyfile"),
    means(UVICORN, "--ssl-certfile", "certfile"),
    means(UVICORN, "--ssl-keyfile-password", "keyfile_password"),
    means(UVICORN, "--ssl-cert-reqs", "cert_reqs", translated=cert_reqs),
    means(UVICORN, "--ssl-ca-certs", "ca_certs"),
    means(
        UVICORN,
        "--ssl-ciphers",
        "ciphers",
        "the default is Mozilla's intermediate list, which TLSv1 (uvicorn's default) means too.",
        translated=lambda text: "" if text == "TLSv1" else text,
    ),
    means(UVICORN, "--app-dir", "pythonpath"),
    means(
        UVICORN, "--factory --call", "", "write the brackets: app:create_app().", is_switch=True, means="()"
    ),
    nothing(
        UVICORN,
        "",
        "--h11-max-incomplete-event-size",
        "limit_request_head and limit_request_field_size are the limits.",
    ),
    nothing(UVICORN, "", "--reset-contextvars", "each request has a context of its own.", is_switch=True),
    # --- waitress
    means(WAITRESS, "--listen", "bind", translated=listen),
    means(WAITRESS, "--unix-socket-perms", "unix_mode"),
    Foreign(
        WAITRESS,
        ("--url-scheme",),
        Effect.REFUSED,
        sentence="let the proxy send X-Forwarded-Proto, and name it in forwarded_allow_ips.",
        translated=off_only("let the proxy send X-Forwarded-Proto, and name it in forwarded_allow_ips."),
    ),
    refused(WAITRESS, "", "--url-prefix", PREFIX),
    means(WAITRESS, "--trusted-proxy", "forwarded_allow_ips"),
    means(
        WAITRESS,
        "--trusted-proxy-headers",
        "forwarded_headers",
        translated=lambda text: ",".join(text.split()),
    ),
    nothing(
        WAITRESS,
        "",
        "--trusted-proxy-count",
        "name the proxies in forwarded_allow_ips; the client is the last address that is none of them.",
    ),
    *(
        nothing(
            WAITRESS,
            "",
            flag,
            "headers of those that are not in forwarded_allow_ips are not believed.",
            is_switch=True,
        )
        for flag in (
            *("--log-untrusted-proxy-headers", "--no-log-untrusted-proxy-headers"),
            *("--clear-untrusted-proxy-headers", "--no-clear-untrusted-proxy-headers"),
        )
    ),
    nothing(WAITRESS, "", "--connection-limit", "connections are limited by open files alone (LimitNOFILE)."),
    means(WAITRESS, "--channel-timeout", "keep_alive"),
    means(WAITRESS, "--max-request-header-size", "limit_request_head"),
    means(WAITRESS, "--max-request-body-size", "limit_request_body"),
    nothing(
        WAITRESS,
        "",
        "--expose-tracebacks",
        "tracebacks go to the error log, never to clients.",
        is_switch=True,
    ),
    nothing(WAITRESS, "", "--no-expose-tracebacks", "tracebacks never go to clients.", is_switch=True),
    nothing(WAITRESS, "", "--ident", "halfsync adds no Server header."),
    *(
        nothing(WAITRESS, "", flag, "buffers are bounded by body_memory, reply_memory and reply_spool.")
        for flag in (
            *(
                "--outbuf-overflow",
                "--outbuf-high-watermark",
                "--inbuf-overflow",
                "--recv-bytes",
                "--send-bytes",
            ),
            *("--cleanup-interval", "--channel-request-lookahead"),
        )
    ),
    # --- hypercorn
    refused(
        HYPERCORN, "", "--insecure-bind", "name the address with --bind: nothing else is served than HTTP."
    ),
    refused(HYPERCORN, "", "--quic-bind", "halfsync speaks HTTP/1.1 and HTTP/2."),
    nothing(HYPERCORN, "", "--read-timeout", "head_timeout and body_timeout are the limits."),
    means(HYPERCORN, "--websocket-ping-interval", "ws_ping_interval"),
    nothing(HYPERCORN, "", "--server-name", "every Host is served."),
    nothing(HYPERCORN, "", "--debug", "--log-level debug says more.", is_switch=True),
)
