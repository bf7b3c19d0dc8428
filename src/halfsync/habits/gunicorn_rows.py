"""gunicorn's options, in the order of its own documentation, and its hooks."""

from __future__ import annotations

from halfsync.habits.rows import (
    ASGI,
    DIRTY,
    GUNICORN,
    LOGGING,
    PREFIX,
    STATSD,
    STRICT,
    SYSLOG,
    TLS_VERSION,
    Effect,
    Foreign,
    at_most,
    cert_reqs,
    every_address,
    http_protocols,
    level,
    nothing,
    off_only,
    refused,
    same,
)

HOOKS = {
    "on_starting": "do it in a script that starts halfsync, or in ExecStartPre= of the service.",
    "on_reload": "a reload imports the application again; do it there.",
    "when_ready": "wait for the server by requesting a page, as a load balancer does.",
    "pre_fork": "there is no code of the application in the parent; do it where the module is imported.",
    "post_fork": "each worker imports the application itself, so what belongs here can stand in its module. "
    "With preload, use os.register_at_fork.",
    "post_worker_init": "do it where the application's module is imported: once in each worker.",
    "worker_int": "workers leave stopping to the parent; atexit functions run when they end.",
    "worker_abort": "at handler_timeout the stack of the thread is logged by itself.",
    "pre_exec": "nothing is executed again; restart the server for a new version of it.",
    "pre_request": "wrap the application (WSGI middleware).",
    "post_request": "wrap the application (WSGI middleware), or use the access log.",
    "child_exit": "use atexit in the application; the parent logs how each worker ended.",
    "worker_exit": "use atexit in the application: it runs when a worker ends.",
    "nworkers_changed": "the log says when TTIN and TTOU change the number of workers.",
    "on_exit": "do it behind the command that starts halfsync, or in ExecStopPost= of the service.",
    "ssl_context": "certfile, keyfile, ca_certs, cert_reqs, minimum_version and ciphers do that.",
    "on_dirty_starting": DIRTY,
    "dirty_post_fork": DIRTY,
    "dirty_worker_init": DIRTY,
    "dirty_worker_exit": DIRTY,
}

ROWS: tuple[Foreign, ...] = (
    same("print_config", "--print-config", "", "it prints all settings as TOML, with where each came from."),
    same("check_config", "--check-config", "", "the same, and the application is imported."),
    same("config", "-c --config", "", "TOML; a gunicorn.conf.py is read for what has a counterpart."),
    same("reload", "--reload", "reload"),
    nothing(GUNICORN, "reload_engine", "--reload-engine", "there is one way."),
    same("reload_extra_files", "--reload-extra-file", "reload_include", "patterns, files and folders."),
    nothing(GUNICORN, "spew", "--spew", "there is no tracing of every line.", is_switch=True),
    same("accesslog", "--access-logfile", "access_logfile"),
    nothing(
        GUNICORN,
        "disable_redirect_access_to_syslog",
        "--disable-redirect-access-to-syslog",
        SYSLOG,
        is_switch=True,
    ),
    same("access_log_format", "--access-logformat", "access_logformat", "both ways of writing it are known."),
    same("errorlog", "--error-logfile --log-file --errorlog --error-log", "error_logfile"),
    same("loglevel", "--log-level", "log_level", translated=level),
    nothing(
        GUNICORN,
        "capture_output",
        "--capture-output",
        "the error log has what applications write to standard error always; standard output stays.",
        is_switch=True,
    ),
    nothing(GUNICORN, "logger_class", "--logger-class", LOGGING),
    nothing(GUNICORN, "logconfig", "--log-config", LOGGING),
    nothing(GUNICORN, "logconfig_dict", "", LOGGING),
    nothing(GUNICORN, "logconfig_json", "--log-config-json", LOGGING),
    nothing(GUNICORN, "syslog_addr", "--log-syslog-to", SYSLOG),
    nothing(GUNICORN, "syslog", "--log-syslog", SYSLOG, is_switch=True),
    nothing(GUNICORN, "syslog_prefix", "--log-syslog-prefix", SYSLOG),
    nothing(GUNICORN, "syslog_facility", "--log-syslog-facility", SYSLOG),
    nothing(
        GUNICORN,
        "enable_stdio_inheritance",
        "-R --enable-stdio-inheritance",
        "workers have the standard streams always; PYTHONUNBUFFERED=1 has them written at once.",
        is_switch=True,
    ),
    nothing(GUNICORN, "statsd_host", "--statsd-host", STATSD),
    nothing(GUNICORN, "dogstatsd_tags", "--dogstatsd-tags", STATSD),
    nothing(GUNICORN, "statsd_prefix", "--statsd-prefix", STATSD),
    nothing(GUNICORN, "enable_backlog_metric", "--enable-backlog-metric", STATSD, is_switch=True),
    same("proc_name", "-n --name", "name"),
    nothing(GUNICORN, "default_proc_name", "", "name is what ps and top show."),
    same("keyfile", "--keyfile", "keyfile"),
    same("certfile", "--certfile", "certfile"),
    nothing(GUNICORN, "ssl_version", "--ssl-version", TLS_VERSION),
    same(
        "cert_reqs",
        "--cert-reqs",
        "cert_reqs",
        "none, optional, required; 0, 1, 2 too.",
        translated=cert_reqs,
    ),
    same("ca_certs", "--ca-certs", "ca_certs"),
    nothing(
        GUNICORN,
        "suppress_ragged_eofs",
        "--suppress-ragged-eofs",
        "a client that ends without a close_notify counts as any other that disconnects.",
        is_switch=True,
    ),
    nothing(
        GUNICORN,
        "do_handshake_on_connect",
        "--do-handshake-on-connect",
        "handshakes hold no thread; handshake_timeout is their limit.",
        is_switch=True,
    ),
    same("ciphers", "--ciphers", "ciphers", "those of TLS 1.2; the default is Mozilla's intermediate list."),
    same(
        "limit_request_line",
        "--limit-request-line",
        "limit_request_line",
        "65536 at most, which 0 means, too.",
        translated=at_most("limit_request_line"),
    ),
    same(
        "limit_request_fields",
        "--limit-request-fields",
        "limit_request_fields",
        "10000 at most.",
        translated=at_most("limit_request_fields"),
    ),
    same(
        "limit_request_field_size",
        "--limit-request-field_size --limit-request-field-size",
        "limit_request_field_size",
        "spelt with hyphens; both are known. 65536 at most, which 0 means, too.",
        translated=at_most("limit_request_field_size"),
    ),
    same("preload_app", "--preload", "preload", "the parent still never imports the application."),
    nothing(GUNICORN, "sendfile", "--no-sendfile", "files are always sent by sendfile(2).", is_switch=True),
    same("reuse_port", "--reuse-port", "reuse_port"),
    same("chdir", "--chdir", "chdir"),
    refused(
        GUNICORN,
        "daemon",
        "-D --daemon",
        "halfsync stays in the foreground: run it as a service (docs/how-to/systemd.md), or put & behind it.",
        is_switch=True,
    ),
    same("raw_env", "-e --env", "env"),
    same("pidfile", "-p --pid", "pid"),
    nothing(
        GUNICORN,
        "worker_tmp_dir",
        "--worker-tmp-dir",
        "there are no heartbeat files that would need a fast folder; that of large bodies is spool_dir.",
    ),
    same("user", "-u --user", "user"),
    same("group", "-g --group", "group"),
    same("umask", "-m --umask", "umask"),
    nothing(
        GUNICORN, "initgroups", "--initgroups", "user brings all groups of that user always.", is_switch=True
    ),
    same("tmp_upload_dir", "", "spool_dir"),
    nothing(
        GUNICORN,
        "secure_scheme_headers",
        "",
        "X-Forwarded-Proto from forwarded_allow_ips says the scheme, and no other header; let the proxy set "
        "it.",
    ),
    same("forwarded_allow_ips", "--forwarded-allow-ips", "forwarded_allow_ips"),
    same("pythonpath", "--pythonpath", "pythonpath"),
    refused(
        GUNICORN,
        "paste",
        "--paste --paster",
        "write a module that calls paste.deploy.loadapp('config:/path/to/file.ini'), and name that.",
    ),
    same(
        "proxy_protocol",
        "--proxy-protocol",
        "proxy_protocol",
        "`*` is for all addresses of bind; it can also name some of them.",
        translated=every_address,
    ),
    same("proxy_allow_ips", "--proxy-allow-from", "forwarded_allow_ips", "one list for both."),
    nothing(GUNICORN, "raw_paste_global_conf", "--paste-global", "there is no --paste."),
    Foreign(
        GUNICORN,
        ("--protocol",),
        Effect.REFUSED,
        name="protocol",
        sentence="halfsync speaks HTTP only; let the proxy use proxy_pass.",
        translated=off_only("halfsync speaks HTTP only; let the proxy use proxy_pass."),
    ),
    nothing(GUNICORN, "uwsgi_allow_ips", "--uwsgi-allow-from", "the uwsgi protocol is not known."),
    Foreign(
        GUNICORN,
        ("--http-protocols",),
        Effect.MEANS,
        "http2",
        "http_protocols",
        "a list with h2 in it, or without: h1 is always spoken.",
        translated=http_protocols,
    ),
    nothing(
        GUNICORN, "http2_cleartext", "--http2-cleartext", "http2 holds for cleartext too.", is_switch=True
    ),
    same("http2_max_concurrent_streams", "--http2-max-concurrent-streams", "http2_max_concurrent_streams"),
    *(
        nothing(GUNICORN, name, "--" + name.replace("_", "-"), "it is as the protocol has it.")
        for name in ("http2_initial_window_size", "http2_max_frame_size")
    ),
    nothing(
        GUNICORN,
        "http2_max_header_list_size",
        "--http2-max-header-list-size",
        "limit_request_head says it for all versions.",
    ),
    nothing(GUNICORN, "http_parser", "--http-parser", "there is one parser, llhttp."),
    *(
        nothing(GUNICORN, name, "--" + name.replace("_", "-"), STRICT, is_switch=True)
        for name in (
            "permit_obsolete_folding",
            "strip_header_spaces",
            "permit_unconventional_http_method",
            "permit_unconventional_http_version",
            "casefold_http_method",
        )
    ),
    nothing(
        GUNICORN,
        "forwarder_headers",
        "--forwarder-headers",
        "no request header becomes SCRIPT_NAME or PATH_INFO; mount under a path instead: /path=module:app.",
    ),
    nothing(
        GUNICORN, "header_map", "--header-map", "header fields with an underscore are always left out (drop)."
    ),
    refused(GUNICORN, "root_path", "--root-path", PREFIX),
    same("bind", "-b --bind", "bind"),
    same("backlog", "--backlog", "backlog"),
    same("workers", "-w --workers", "workers"),
    Foreign(
        GUNICORN,
        ("-k", "--worker-class"),
        Effect.MEANS,
        name="worker_class",
        setting="threads",
        sentence="sync is --threads 1, unless they are given: who names it may rely on one request at a time "
        "in a process. gthread is what there is; others are refused.",
    ),
    same("threads", "--threads", "threads", "the default is 8, not 1."),
    nothing(
        GUNICORN,
        "worker_connections",
        "--worker-connections",
        "idle and slow clients hold no thread; --threads says how many requests are worked on at once.",
    ),
    same("max_requests", "--max-requests", "max_requests"),
    same("max_requests_jitter", "--max-requests-jitter", "max_requests_jitter"),
    same(
        "timeout",
        "-t --timeout",
        "handler_timeout",
        "off by default; the client gets a 504, and the worker's other requests finish.",
    ),
    same("graceful_timeout", "--graceful-timeout", "graceful_timeout"),
    same("keepalive", "--keep-alive", "keep_alive", "the default is 75: idle connections hold no thread."),
    *(
        nothing(GUNICORN, name, "--" + name.replace("_", "-"), ASGI)
        for name in (
            "asgi_loop",
            "asgi_lifespan",
            "asgi_disconnect_grace_period",
            "websocket_max_message_size",
        )
    ),
    refused(GUNICORN, "dirty_apps", "--dirty-app", DIRTY),
    *(
        nothing(GUNICORN, name, "--" + name.replace("_", "-"), DIRTY)
        for name in ("dirty_workers", "dirty_timeout", "dirty_threads", "dirty_graceful_timeout")
    ),
    nothing(
        GUNICORN, "control_socket", "--control-socket", "signals control it (docs/reference/signals.md)."
    ),
    nothing(GUNICORN, "control_socket_mode", "--control-socket-mode", "there is no control socket."),
    nothing(
        GUNICORN,
        "control_socket_disable",
        "--no-control-socket",
        "there is no control socket.",
        is_switch=True,
    ),
    same("wsgi_app", "", "", "the target: halfsync app:app, or in TOML under [routes]."),
    *(
        Foreign(GUNICORN, (), Effect.HOOK, name=name, sentence=f"there are no hooks: {sentence}")
        for name, sentence in HOOKS.items()
    ),
)
