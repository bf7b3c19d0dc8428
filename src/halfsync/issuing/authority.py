"""An order of a certificate, from the account to the chain (RFC 8555)."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from halfsync import __version__
from halfsync.issuing import files
from halfsync.tls.acme_plan import AcmePlan

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from acme import challenges, client, errors, messages
    from josepy import json_util
    from josepy.errors import Error as JoseError
    from josepy.jwa import ES256
    from josepy.jwk import JWK, JWKEC
    from requests.exceptions import RequestException

NETWORK_TIMEOUT = 30
"""Seconds for one request to the authority."""
VALIDATION_TIMEOUT = timedelta(seconds=180)
"""For all of an order, from the first challenge to the chain."""

ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
"""Of the extension by which a certificate is the answer to a challenge (RFC 8737 3)."""


NONCE_TRIES = 5
"""How often a request is sent whose nonce the authority does not accept: each response brings a new one. (The
library's own `post` sends it twice, so that is doubled.)"""


ASK_AGAIN = 6 * 3600.0
"""Seconds until an authority that could not be asked when to renew is asked again (RFC 9773 4.3.3)."""

_UNUSUAL = (errors.Error, JoseError, ValueError, TypeError, AttributeError, LookupError)
"""What the library raises for a response that is not as it should be: it trusts that all is there."""


class OrderError(Exception):
    """There is no certificate; `str()` says why: the end of a sentence."""


@challenges.ChallengeResponse.register
class TLSALPN01Response(challenges.KeyAuthorizationChallengeResponse):
    typ = "tls-alpn-01"


@challenges.Challenge.register
class TLSALPN01(challenges.KeyAuthorizationChallenge):
    """RFC 8737. (The library has it no more.)"""

    response_cls = TLSALPN01Response
    typ = response_cls.typ

    def validation(self, account_key: Any, **_: Any) -> str:
        return str(self.key_authorization(account_key))


class ReplacingOrder(messages.NewOrder):
    """RFC 9773 5: it names the certificate that is replaced. (The library does not have it.)"""

    replaces: str = json_util.field("replaces", omitempty=True)


NOT_REPLACED = ("alreadyReplaced", "malformed", "unauthorized")
"""What an authority says of an order whose `replaces` it does not like: it gets the order without it."""


Publish = Callable[[Mapping[str, str], Mapping[str, bytes]], None]
"""Is called with what is to be shown now: by token what stands at its path (http-01), and by host a key with
a certificate (tls-alpn-01). Returns when clients see it."""


class Network(client.ClientNetwork):
    replaces = ""  # the certificate that the next order replaces, by its identifier

    def post(self, url: str, obj: Any, *arguments: Any, **options: Any) -> Any:
        if not isinstance(obj, messages.NewOrder) or not self.replaces:
            return self._post_often(url, obj, *arguments, **options)
        replacing = ReplacingOrder(identifiers=obj.identifiers, profile=obj.profile, replaces=self.replaces)
        try:
            return self._post_often(url, replacing, *arguments, **options)
        except errors.ConflictError:  # what the library makes of any 409: it is replaced already
            pass
        except messages.Error as error:
            if error.code not in NOT_REPLACED:
                raise
        return self._post_often(url, obj, *arguments, **options)

    def _post_often(self, *arguments: Any, **options: Any) -> Any:
        for _ in range(NONCE_TRIES - 1):
            try:
                return super().post(*arguments, **options)
            except messages.Error as error:
                if error.code != "badNonce":
                    raise
        return super().post(*arguments, **options)


def order(plan: AcmePlan, hosts: tuple[str, ...], publish: Publish, replaces: str = "") -> bytes:
    """A key with a chain of certificates for these hosts, PEM. `replaces`: the identifier of the certificate
    that there is. Raises OrderError."""
    try:
        return _order(plan, hosts, publish, replaces)
    except errors.ValidationError as error:
        raise OrderError(_of_validation(error)) from None
    except errors.TimeoutError:
        raise OrderError(f"the authority was not done within {VALIDATION_TIMEOUT.seconds} s") from None
    except messages.Error as error:
        raise OrderError(_of_problem(error)) from None
    except RequestException as error:
        why = _short(error).rpartition(": ")[2].rstrip("\"')")
        raise OrderError(f"{plan.directory} can't be reached: {why}") from None
    except OSError as error:
        raise OrderError(_short(error)) from None
    except _UNUSUAL as error:
        what = f"{type(error).__name__}: {_short(error)}"
        raise OrderError(f"the authority's response is not as it should be: {what}") from None


def renewal_time(plan: AcmePlan, certificate: bytes) -> tuple[float | None, float]:
    """When the authority wants this certificate (PEM) to be renewed (RFC 9773), and when to ask it again:
    both in seconds since 1970. None: it says nothing of that, or can't be reached."""
    try:
        wanted, again = _connect(plan, None).renewal_time(certificate)
    except (*_UNUSUAL, RequestException, OSError):
        return None, time.time() + ASK_AGAIN
    return None if wanted is None else wanted.timestamp(), again.timestamp()


def _connect(plan: AcmePlan, account_key: JWK | None) -> client.ClientV2:
    network = Network(account_key, alg=ES256, user_agent=f"halfsync/{__version__}", timeout=NETWORK_TIMEOUT)
    return client.ClientV2(client.ClientV2.get_directory(plan.directory, network), network)


def _order(plan: AcmePlan, hosts: tuple[str, ...], publish: Publish, replaces: str) -> bytes:
    account_key = JWKEC(key=files.account_key(plan.account_path))
    authority = _connect(plan, account_key)
    _log_in(authority, account_key, plan)
    key = files.new_key()
    if "renewalInfo" in authority.directory.to_partial_json():  # it knows what that is
        assert isinstance(authority.net, Network)
        authority.net.replaces = replaces
    pending = authority.new_order(_request_of(key, hosts))
    deadline = datetime.now() + VALIDATION_TIMEOUT  # noqa: DTZ005 (the library compares it with such)
    try:
        _respond(authority, account_key, pending, plan.challenge, publish)
        done = authority.poll_and_finalize(pending, deadline)
    finally:
        publish({}, {})
    return files.pem_of(key) + done.fullchain_pem.encode()


def _log_in(authority: client.ClientV2, account_key: JWK, plan: AcmePlan) -> None:
    """Register, or find the account that there is of this key."""
    binding = None
    if plan.eab_kid:
        binding = messages.ExternalAccountBinding.from_data(
            account_key.public_key(), plan.eab_kid, plan.eab_hmac_key, authority.directory
        )
    elif authority.external_account_required():
        raise OrderError(
            "the authority wants an account that is bound to one at its site: acme_eab_kid, acme_eab_hmac_key"
        )
    terms = messages.NewRegistration.from_data(
        email=plan.email or None, terms_of_service_agreed=True, external_account_binding=binding
    )
    try:
        authority.new_account(terms)
    except errors.ConflictError as error:
        authority.net.account = messages.RegistrationResource(body=terms, uri=error.location)


def _request_of(key: Any, hosts: tuple[str, ...]) -> bytes:
    names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.add_extension(names, critical=False).sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _respond(authority: client.ClientV2, account_key: JWK, pending: Any, kind: str, publish: Publish) -> None:
    """To the challenge of each host that the authority has not seen yet."""
    tokens: dict[str, str] = {}
    shown: dict[str, bytes] = {}
    found: list[Any] = []
    for authorization in pending.authorizations:
        if authorization.body.status == messages.STATUS_VALID:
            continue
        host = authorization.body.identifier.value
        chosen = next((one for one in authorization.body.challenges if one.chall.typ == kind), None)
        if chosen is None:
            raise OrderError(f"the authority offers no {kind} for {host} (acme_challenge)")
        text = str(chosen.chall.key_authorization(account_key))
        if kind == "http-01":
            tokens[chosen.chall.encode("token")] = text
        else:
            digest = b"\x04\x20" + hashlib.sha256(text.encode()).digest()
            shown[host] = files.self_signed([host], x509.UnrecognizedExtension(ACME_IDENTIFIER, digest))
        found.append(chosen)
    publish(tokens, shown)
    for chosen in found:
        authority.answer_challenge(chosen, chosen.chall.response(account_key))


def _of_validation(error: errors.ValidationError) -> str:
    reasons = [
        f"{one.body.identifier.value}: {_of_problem(challenge.error)}"
        for one in error.failed_authzrs
        for challenge in one.body.challenges
        if challenge.error is not None
    ]
    return "; ".join(reasons) or "the authority could not validate the hosts"


def _of_problem(error: messages.Error) -> str:
    detail = " ".join(str(error.detail or error.title or "").split())
    return f"the authority says {detail or 'no more'} ({error.code or error.typ})"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
