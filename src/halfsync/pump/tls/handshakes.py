"""TLS handshakes: from an accepted socket to a connection that speaks HTTP.

Theory of operation
-------------------
The ClientHello is read first, in clear, and buffered until it is whole; until then there is nothing of
OpenSSL's (a connection that says nothing costs its socket). The name in it selects the context, and only
then does OpenSSL begin: see wire/client_hello.py for the reason.

A step of a handshake takes up to 0.2 ms with an ECDSA key and 0.45 with an RSA one, in one piece. So a turn
of the loop takes STEPS of them, when the established connections have had theirs, and the others wait in
`due`, in the order in which they became ready. (How many may be half open: see half_open.py.)

What begins like a request in clear gets a response in clear, which names https. What is neither goes to
OpenSSL, which knows the right alert."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import NoReturn

from halfsync.logs.error import log
from halfsync.pump.before_http import BeforeHttp
from halfsync.pump.clock import Clock
from halfsync.pump.connection import WAIT, Connection, Outcome, WireProtocol
from halfsync.pump.endings import Endings
from halfsync.pump.internal_errors import InternalErrors
from halfsync.pump.leases.known_heads import KnownHeads
from halfsync.pump.quiet_log import QuietLog
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.states import HANDSHAKE, ConnectionEvent
from halfsync.pump.tls.challenges import PROTOCOL, ShownChallenges
from halfsync.pump.tls.contexts import Contexts
from halfsync.pump.tls.facts import facts_of
from halfsync.pump.tls.half_open import HalfOpen
from halfsync.pump.tls.openssl import (
    HANDSHAKE_FAILURE,
    NO_APPLICATION_PROTOCOL,
    UNRECOGNIZED_NAME,
    TLSError,
    alert,
)
from halfsync.pump.tls.refused import RefusedClients
from halfsync.pump.tls.transport import TLSTransport
from halfsync.tls.facts import MAX_KNOWN, encode
from halfsync.wire.client_hello import MAX_HELLO, MAX_RECORDS, Opening, look_at
from halfsync.wire.closes import CloseReason

STEPS = 4
"""Of handshakes, in one turn of the loop."""
MAX_BUFFERED = MAX_HELLO + 5 * MAX_RECORDS
RECEIVE = 16 * 1024


class Handshakes(BeforeHttp):
    """The protocol of a connection in HANDSHAKE where TLS is spoken."""

    def __init__(
        self,
        clock: Clock,
        run_queue: RunQueue,
        endings: Endings,
        errors: InternalErrors,
        contexts: Contexts,
        protocols: dict[str, WireProtocol],
        http1: WireProtocol,
        in_clear: WireProtocol,
        guarded: WireProtocol,
        challenges: ShownChallenges,
        refused: RefusedClients,
        head_timeout: float,
        max_handshakes: int,
    ) -> None:
        """`protocols`: what is spoken, by its ALPN name, our favourite first. `http1`: with clients that name
        none. `in_clear`: with those that do not know that they should use TLS. `guarded`: HTTP/1.1 where not
        every site admits everybody."""
        super().__init__(http1)
        self._clock = clock
        self._run_queue = run_queue
        self._endings = endings
        self._errors = errors
        self.contexts = contexts
        self._protocols: dict[str, WireProtocol] = {}
        self.speak(protocols)
        self._http1 = http1
        self._in_clear = in_clear
        self._guarded = guarded
        self._challenges = challenges
        self._refused = refused
        self.head_timeout = head_timeout
        self.due: dict[Connection, None] = {}  # (for its order)
        self.half_open = HalfOpen(clock, endings, max_handshakes)
        self.removed: set[int] = set()  # listeners that a reload has taken out of `bind`
        self.close_soon: Callable[[Connection], None] = _nothing  # what is done about a connection of theirs
        self._known_facts: dict[object, bytes] = {}
        self._uncertified = QuietLog()

    def speak(self, protocols: dict[str, WireProtocol]) -> None:
        """From now on, by their ALPN names."""
        self._alpn_names = {name.encode() for name in protocols}
        # A handshake that has begun before may agree upon one of before.
        self._protocols = {**self._protocols, **protocols}

    def step(self, conn: Connection) -> Outcome:
        """Something has come: it is taken in at the end of a turn. (The loop does this by itself, if it is
        told by an event.)"""
        self.due[conn] = None
        return WAIT

    def work(self) -> None:
        """Take this turn's steps."""
        due = self.due
        for conn in list(islice(due, STEPS)):
            del due[conn]
            if conn.state is not HANDSHAKE:
                continue
            try:
                self._step(conn)
            except Exception:  # noqa: BLE001 (nothing that one client does may stop the others)
                self._errors.report(f"in a TLS handshake with {conn.origin}:\n{traceback.format_exc()}")
                self.half_open.ended(conn)
                self._endings.abandon(conn, self._errors)
        if self.half_open.waiting:
            self.admit()

    def sweep(self) -> None:
        self.half_open.sweep()
        self.admit()

    def admit(self) -> None:
        """Clients that have waited for others' handshakes go on, if there is room."""
        for conn in self.half_open.admit():
            self.due[conn] = None

    def _step(self, conn: Connection) -> None:
        transport: TLSTransport = conn.transport  # type: ignore[assignment]  # where this is the protocol
        try:
            data = transport.plain.recv(RECEIVE)
            has_ended = not data
        except BlockingIOError:
            if not conn.inbox:
                return
            data, has_ended = b"", False  # it has waited, here or in the server before an upgrade
        except OSError:
            has_ended = True
        if has_ended:
            self.half_open.ended(conn)
            self._endings.close(conn, CloseReason.CLIENT_DISCONNECTED)
            return
        drained = len(data) < RECEIVE
        if not drained:
            self.due[conn] = None  # edge-triggered: what is left will not be told
        try:
            if transport.inner is not None:
                done = transport.shake(data)
            else:
                conn.inbox = conn.inbox + data if conn.inbox else data
                done = self._look(conn, transport)
            if done:
                self._finished(conn, transport, transport.look_further(RECEIVE, emptied=drained))
        except OSError as error:
            self._say_failed(conn, transport, error)
            self.half_open.ended(conn)
            terms = transport.terms
            if terms is not None and terms.wants_certificate and transport.has_begun:
                self._refused.take(conn, transport)
            else:  # the client waits for what we say
                self._endings.close(conn, CloseReason.HANDSHAKE_FAILED)

    def _say_failed(self, conn: Connection, transport: TLSTransport, error: OSError) -> None:
        """Where a client certificate is asked for, whoever has issued one wants to know why it is refused."""
        terms = transport.terms
        if terms is None or not terms.wants_certificate:
            log("debug", f"{conn.origin}: the TLS handshake failed: {error}")
            return
        self._uncertified.say(
            "info",
            f"{conn.origin}: the TLS handshake failed: {error}. (Client certificates are "
            f"{terms.rules.cert_reqs} here: cert_reqs, ca_certs.)",
            self._clock.now,
        )

    def _look(self, conn: Connection, transport: TLSTransport) -> bool:
        """At what has come before OpenSSL has begun. Whether the handshake is done. Raises OSError."""
        if conn in self.half_open.waiting:
            if len(conn.inbox) > MAX_BUFFERED:
                raise TLSError("the client goes on, and did not wait for us")
            return False
        kind, hello = look_at(conn.inbox)
        if kind is Opening.PART and len(conn.inbox) <= MAX_BUFFERED:
            return False
        if kind is Opening.HTTP:
            self._speak_in_clear(conn, transport)
            return False
        if kind is Opening.TOO_LONG:  # OpenSSL may find in it what was not looked at here
            transport.say(alert(HANDSHAKE_FAILURE))
            raise TLSError(f"its ClientHello has more than {MAX_HELLO} bytes, or {MAX_RECORDS} records")
        shown = self._challenges
        challenge = shown.context(hello.server_name, hello.protocols) if shown.contexts else None
        if challenge is not None:
            if not self.half_open.may_begin(conn):
                return False
            data, conn.inbox = conn.inbox, b""
            transport.begin(challenge)
            return transport.shake(data)
        terms = self.contexts.choose(conn.origin.listener, hello.server_name)
        context, names = terms.context, self._alpn_names
        if context is None:
            transport.say(alert(UNRECOGNIZED_NAME))
            raise TLSError(f"there is no certificate for {hello.server_name or 'clients that name no host'}")
        transport.terms = terms
        if terms.without_http2 is not None and not terms.may_speak_http2(conn.inbox):
            context, names = terms.without_http2, names - {b"h2"}
        if hello.protocols is not None and names.isdisjoint(hello.protocols):
            self._refuse_protocols(transport, hello.protocols)
        if not self.half_open.may_begin(conn):
            return False
        data, conn.inbox = conn.inbox, b""
        transport.server_name = hello.server_name
        transport.begin(context)
        return transport.shake(data)

    def _refuse_protocols(self, transport: TLSTransport, protocols: tuple[bytes, ...]) -> NoReturn:
        """Raises TLSError. (OpenSSL would go on without a protocol; RFC 7301 3.2.)"""
        transport.say(alert(NO_APPLICATION_PROTOCOL))
        names = ", ".join(repr(name)[1:] for name in protocols[:8])
        raise TLSError(f"the client speaks none of our protocols, but {names[:200]}")

    def _finished(self, conn: Connection, transport: TLSTransport, drained: bool) -> None:
        """`drained`: the kernel has nothing more that came. Raises OSError."""
        self.half_open.ended(conn)
        name = transport.inner.selected_alpn_protocol()
        if name == PROTOCOL:  # the handshake was all that is wanted
            self._endings.close(conn, CloseReason.CLIENT_CLOSED)
            return
        conn.origin.tls = self._facts(conn, transport)
        protocol = self._http1 if name is None else self._protocols.get(name, self._http1)
        transport.more = partial(self._read_more, conn)
        if self.contexts.has_guarded and protocol is self._http1:
            conn.known = KnownHeads(read_at_once=False)  # each request is looked at
            protocol = self._guarded
        conn.readable = not drained
        conn.inbox = transport.take_along(RECEIVE, emptied=drained)
        self._speak(conn, protocol)
        if conn.origin.listener in self.removed:
            self.close_soon(conn)

    def _facts(self, conn: Connection, transport: TLSTransport) -> bytes:
        """As they are passed on; most connections' are alike. Raises TLSError."""
        name, terms = transport.server_name, transport.terms
        shown_name = "" if terms is None else terms.shown_name
        if terms is not None and terms.wants_certificate and transport.inner.getpeercert(True) is not None:
            conn.origin.has_certificate = True
            conn.known = KnownHeads(read_at_once=False)  # what a lease repeats may be for others
            return encode(facts_of(transport.inner, name, shown_name))
        key = (transport.inner.cipher(), transport.is_newest, name, shown_name)
        found = self._known_facts.get(key)
        if found is None:
            if len(self._known_facts) >= MAX_KNOWN:
                self._known_facts.clear()
            self._known_facts[key] = found = encode(facts_of(transport.inner, name, shown_name))
        return found

    def _speak_in_clear(self, conn: Connection, transport: TLSTransport) -> None:
        conn.transport = transport.plain
        if transport.full is not None:
            transport.full(conn.fd)
        conn.known = KnownHeads(read_at_once=False)
        conn.readable = True
        self._speak(conn, self._in_clear)

    def _speak(self, conn: Connection, protocol: WireProtocol) -> None:
        """`conn.readable` and its inbox have what may have come, and nobody will tell of that again."""
        conn.protocol = protocol
        conn.move(ConnectionEvent.PREPARED)
        conn.deadline = self._clock.now + self.head_timeout
        if conn.readable or conn.inbox or protocol is not self._http1:
            self._run_queue.ready(conn)

    def _read_more(self, conn: Connection) -> None:
        """A read has left something."""
        conn.readable = True
        self._run_queue.ready(conn)


def _nothing(_conn: Connection) -> None:
    pass
