"""The control socket: a unix socket of the parent's, to which clients send requests, a line each.

Who may connect, the permissions of the socket and of its folder say. All the same nothing that a client does
may stop the parent: nothing here waits, what is kept for a client is bounded, and who is silent is sent away.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator

from halfsync.parent import listeners
from halfsync.parent.privileges import Identity
from halfsync.plan.plan import Listener
from halfsync.settings.errors import SettingError
from halfsync.wire.control import MAX_LINE, encode_response, failed

MOST_CLIENTS = 16
SILENT = 60.0
"""Seconds for which a client may neither say nor take anything."""
CROWDED = 2.0
"""The same while there are as many as there may be: then others wait, perhaps."""
DEAF = 1.0
"""Seconds until the next try, when a client could not be accepted."""
MOST_UNREAD = 64 * 1024
"""Bytes of responses that wait for a client; beyond that his next request waits until he has read."""
_RECV = 64 * 1024


class ControlClient:
    def __init__(self, sock: socket.socket, now: float) -> None:
        self.socket = sock
        self.inbox = b""
        self.outbox = b""
        self.is_waiting = False  # a command of his is being carried out
        self.ended = False  # he says no more
        self.heard_at = now

    @property
    def may_say_more(self) -> bool:
        """What he has said and is not yet carried out is bounded."""
        return not self.ended and len(self.inbox) <= MAX_LINE

    @property
    def has_request(self) -> bool:
        """One that can be carried out now."""
        return not self.is_waiting and len(self.outbox) <= MOST_UNREAD and b"\n" in self.inbox

    def say(self, said: dict[str, object]) -> None:
        self.outbox += encode_response(said)


class ControlSocket:
    def __init__(
        self,
        path: str,
        mode: int,
        identity: Identity | None = None,
        *,
        inherited: socket.socket | None = None,
    ) -> None:
        """`inherited`: the very socket, from a server whose place this one will take, and which has it until
        `take_over`. Raises SettingError if it can't be made."""
        self.path = os.path.abspath(path)
        self.is_ours = inherited is None
        if inherited is not None:
            self.listener = Listener(f"unix:{self.path}", "", 0, inherited)
        else:
            try:
                self.listener = listeners.bind_unix(self.path, MOST_CLIENTS, mode, identity)
            except OSError as error:
                why = listeners.why_not(error, path)
                raise SettingError(f"control_socket {path!r}: {why}.") from None
        self.clients: list[ControlClient] = []
        self._deaf_until = 0.0

    def take_over(self) -> None:
        """The server before has let go of it."""
        self.is_ours = True

    def let_go(self) -> None:
        """Another server takes it over: those who have connected by now are ours, and nobody else."""
        self.is_ours = False
        listeners.disown(self.listener.address)

    def close(self) -> None:
        """What is left to say is said as far as there is room for it."""
        for client in self.clients:
            self._send(client)
            client.socket.close()
        self.clients.clear()
        listeners.close([self.listener])

    def forget_in_child(self) -> None:
        """In a forked process: the descriptors are closed already."""
        for client in self.clients:
            client.socket.detach()
        self.listener.socket.detach()

    def register(self, poller: select.poll, now: float) -> None:
        if self.is_ours and now >= self._deaf_until and len(self.clients) < MOST_CLIENTS:
            poller.register(self.listener.socket, select.POLLIN)
        for client in self.clients:
            wanted = select.POLLIN if client.may_say_more else 0
            if client.outbox or client.has_request:  # the latter: since the last turn
                wanted |= select.POLLOUT
            if wanted:  # else poll(2) would tell, again and again, that he has gone
                poller.register(client.socket, wanted)

    def receive(self, now: float) -> None:
        """Accept who has come, and read what they say."""
        self._accept(now)
        for client in self.clients:
            if client.may_say_more:
                self._read(client, now)

    def requests(self) -> Iterator[tuple[ControlClient, bytes]]:
        """Lines of clients that wait for no earlier one's response, and have read most of what was said."""
        for client in list(self.clients):
            while client.has_request:
                line, _, client.inbox = client.inbox.partition(b"\n")
                if line.strip():
                    yield client, line

    def flush(self, now: float) -> None:
        """Send what there is room for, and let go of who has ended."""
        silent = SILENT if len(self.clients) < MOST_CLIENTS else CROWDED
        for client in list(self.clients):
            if client.outbox and self._send(client):
                client.heard_at = now
            is_silent = not client.is_waiting and now - client.heard_at > silent
            is_done = client.ended and not (client.outbox or client.is_waiting or b"\n" in client.inbox)
            if is_done or is_silent:
                client.socket.close()
                self.clients.remove(client)

    def _accept(self, now: float) -> None:
        while self.is_ours and len(self.clients) < MOST_CLIENTS and now >= self._deaf_until:
            try:
                sock, _ = self.listener.socket.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptor for it
                self._deaf_until = now + DEAF
                return
            sock.setblocking(False)
            self.clients.append(ControlClient(sock, now))

    @staticmethod
    def _read(client: ControlClient, now: float) -> None:
        try:
            data = client.socket.recv(_RECV)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        client.heard_at = now
        client.inbox += data
        client.ended = not data
        if client.ended and client.inbox:
            client.inbox += b"\n"  # (an empty line is nothing)
        if len(client.inbox) > MAX_LINE and b"\n" not in client.inbox[: MAX_LINE + 1]:
            client.inbox, client.ended = b"", True
            client.say(failed(f"A request has {MAX_LINE} bytes at most."))

    @staticmethod
    def _send(client: ControlClient) -> bool:
        """Whether something was taken."""
        try:
            sent = client.socket.send(client.outbox, socket.MSG_NOSIGNAL) if client.outbox else 0
        except BlockingIOError:
            return False
        except OSError:
            client.inbox = client.outbox = b""
            client.ended = True
            return False
        client.outbox = client.outbox[sent:]
        return sent > 0
