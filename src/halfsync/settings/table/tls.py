"""TLS, certificates, and what goes with https."""

from typing import Annotated, Literal

from halfsync.settings.table.about import about
from halfsync.settings.table.serving import Serving


class Tls(Serving, frozen=True, kw_only=True):
    certfile: Annotated[
        list[str],
        about(
            "TLS",
            "The server's certificate and those between it and the authority (PEM). Read before root's "
            "rights are given up, and again at a reload. May be given several times, for keys of different "
            "kinds.",
            metavar="FILE",
            of_sites=True,
        ),
    ] = []
    keyfile: Annotated[
        list[str],
        about(
            "TLS",
            "The private key of the certificate (PEM), one for each certfile. Without it the key is in the "
            "same file.",
            metavar="FILE",
            of_sites=True,
        ),
    ] = []
    keyfile_password: Annotated[
        str | None,
        about("TLS", "Password of an encrypted keyfile.", metavar="TEXT", of_sites=True),
    ] = None
    ca_certs: Annotated[
        str | None,
        about(
            "TLS",
            "Authorities whose client certificates are accepted (PEM).",
            metavar="FILE",
            of_sites=True,
        ),
    ] = None
    cert_reqs: Annotated[
        Literal["none", "optional", "required"],
        about(
            "TLS",
            "Whether clients are asked for a certificate of one of the `ca_certs`, and refused without one. "
            "Applications find it in their environ (SSL_CLIENT_S_DN and others).",
            metavar="MODE",
            of_sites=True,
        ),
    ] = "none"
    minimum_version: Annotated[
        Literal["1.2", "1.3"],
        about("TLS", "The oldest version of TLS that is spoken.", metavar="VERSION", of_sites=True),
    ] = "1.2"
    ciphers: Annotated[
        str,
        about(
            "TLS",
            "Cipher suites of TLS 1.2, in OpenSSL's words. The default is Mozilla's intermediate list. "
            "Those of TLS 1.3 are all good, and always on. If one is named with which HTTP/2 must not be "
            "spoken (RFC 9113, appendix A: those without ECDHE or DHE, and CBC), clients that speak no "
            "TLS 1.3 get HTTP/1.1.",
            metavar="LIST",
            of_sites=True,
        ),
    ] = ""

    max_handshakes: Annotated[
        int,
        about(
            "TLS",
            "Most handshakes that may be under way, at 45 KiB each. If there are as many, the client that "
            "has left its own half open for longest is disconnected, if that is more than a second; else the "
            "next one waits.",
            unit="handshakes",
            least=1,
        ),
    ] = 1000

    acme: Annotated[
        bool,
        about(
            "TLS",
            "Get a certificate from an authority by ACME, and renew it: for the hosts of a site in its "
            "table, at the top for `acme_hosts`. Means that you agree to the authority's terms of service. "
            "Needs packages: pip install 'halfsync[acme]'.",
            of_sites=True,
        ),
    ] = False
    acme_hosts: Annotated[
        list[str],
        about("TLS", "Hosts of the default site, for its certificate by `acme`.", metavar="HOST"),
    ] = []
    acme_email: Annotated[
        str | None,
        about("TLS", "Where the authority can write to; it need not be told.", metavar="ADDRESS"),
    ] = None
    acme_eab_kid: Annotated[
        str,
        about(
            "TLS",
            "The key identifier that an authority gives you whose accounts are bound to accounts at its site "
            "(external account binding, RFC 8555 7.3.4).",
            metavar="TEXT",
        ),
    ] = ""
    acme_eab_hmac_key: Annotated[
        str,
        about("TLS", "The key that it gives you with `acme_eab_kid`, in base64url.", metavar="TEXT"),
    ] = ""
    acme_directory: Annotated[
        str,
        about("TLS", "The authority's ACME directory. The default is Let's Encrypt's.", metavar="URL"),
    ] = "https://acme-v02.api.letsencrypt.org/directory"
    acme_challenge: Annotated[
        Literal["tls-alpn-01", "http-01"],
        about(
            "TLS",
            "How the authority sees that the hosts are yours: it connects to port 443 (tls-alpn-01) or to "
            "port 80 (http-01).",
            metavar="NAME",
        ),
    ] = "tls-alpn-01"
    acme_folder: Annotated[
        str,
        about(
            "TLS",
            "Folder for what comes from the authority, with keys that only the user may read who starts the "
            "server.",
            metavar="FOLDER",
        ),
    ] = "acme"

    redirect_http: Annotated[
        bool,
        about(
            "TLS",
            "Requests at addresses without TLS are redirected to https: with 301, or 308 if they are neither "
            "GET nor HEAD. Those of unix sockets are not.",
        ),
    ] = False
    redirect_http_port: Annotated[
        int,
        about(
            "TLS",
            "Port that `redirect_http` redirects to, where clients see another one than the server has: one "
            "that is mapped, as in a container. 0: that of the first address with TLS.",
            least=0,
            most=65535,
        ),
    ] = 0
    alt_svc: Annotated[
        str,
        about(
            "TLS",
            "Alt-Svc of all responses over TLS, such as 'h3=\":443\"; ma=86400': where else clients find "
            "the same, here at something in front that speaks HTTP/3.",
            metavar="TEXT",
            of_routes="all",
        ),
    ] = ""
    hsts: Annotated[
        str,
        about(
            "TLS",
            "Strict-Transport-Security of all responses over TLS, such as 'max-age=63072000; "
            "includeSubDomains': browsers then use nothing but https for so many seconds.",
            metavar="TEXT",
            of_routes="all",
        ),
    ] = ""
