"""What the protocols of connections in HANDSHAKE have in common."""

from __future__ import annotations

from halfsync.pump.connection import WireProtocol


class BeforeHttp:
    """There is no exchange yet, so the calls of a response are never made."""

    def __init__(self, http1: WireProtocol) -> None:
        self.refuse = http1.refuse
        self.repeat = http1.repeat
        self.respond_small = http1.respond_small
        self.accept = http1.accept
        self.begin = http1.begin
        self.add = http1.add
        self.end = http1.end
        self.abort = http1.abort
        self.framed = http1.framed
        self.exchange_ended = http1.exchange_ended
        self.grant = http1.grant
        self.hint = http1.hint
        self.trailers = http1.trailers
