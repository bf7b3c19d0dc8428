"""Tunnels: a client that is connected to a socket, both ways, until both have ended."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable

import pytest

from halfsync.objects import Memory, SimpleObject, Tunnel
from halfsync.pump.states import ConnectionState
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import Ending
from tests.pump.harness import TIMEOUT, Stage, get, no_descriptor_left
from tests.pump.tls_ends import TLSSocket, certificates

UPGRADE = get("/", "Connection: Upgrade", "Upgrade: echo")
DATA = random.Random(5).randbytes(3_000_000)


class Pair:
    """A client in a tunnel, and the tunnel's other end."""

    def __init__(self, stage: Stage, *, behind: bytes = b"") -> None:
        self.stage = stage
        self.client = stage.client()
        hand = stage.hand()
        self.client.send(UPGRADE + behind)
        self.peer, theirs = socket.socketpair()
        self.peer.setblocking(False)
        stage._undo.callback(self.peer.close)
        task = hand.take()
        hand.reply(
            task,
            status=101,
            fields=b"Upgrade: echo\r\n",
            objects=[Tunnel(0)],
            fds=(theirs.detach(),),
            length=-1,
        )
        found = self.client.interim()
        assert (found.status, found.fields) == (101, {"upgrade": "echo"})
        hand.die()  # the tunnel needs it no more

    def from_peer(self, size: int) -> bytes:
        """So much of what the tunnel's other end gets; less at its end."""
        return self._collect(self.peer, size)

    def from_client(self, size: int) -> bytes:
        self.client.sock.setblocking(False)
        return self._collect(self.client.sock, size)

    def _collect(self, sock: socket.socket, size: int) -> bytes:
        found = b""
        give_up = time.monotonic() + TIMEOUT
        while len(found) < size:
            try:
                data = sock.recv(size - len(found))
            except BlockingIOError:
                assert time.monotonic() < give_up, f"{len(found)} of {size} bytes came"
                if isinstance(self.client.sock, TLSSocket):
                    self.client.sock.flush()  # what it has taken, and the network had no room for
                self.stage.settle()
                continue
            if not data:
                break
            found += data
        return found

    def push(self, sock: socket.socket, data: bytes) -> int:
        """As much as goes in while nobody reads at the other end; how much that was."""
        sent = 0
        while sent < len(data):
            try:
                sent += sock.send(data[sent : sent + 100_000])
            except BlockingIOError:
                if not self.stage.turn():
                    break
        self.stage.settle()
        return sent


def test_bytes_go_both_ways():
    """Those that came right behind the request, too."""
    with Stage() as stage:
        pair = Pair(stage, behind=b"first")
        assert pair.from_peer(5) == b"first"
        pair.client.send(b"abc")
        assert pair.from_peer(3) == b"abc"
        pair.peer.send(b"HTTP/1.1 200 OK\r\n\r\n")  # whatever they look like
        assert pair.from_client(19) == b"HTTP/1.1 200 OK\r\n\r\n"
        [conn] = stage.pump.connections.values()
        assert conn.state is ConnectionState.TUNNEL


@pytest.mark.parametrize("way", ["to the client", "to the peer"])
def test_who_does_not_read_stops_who_sends(way: str):
    """With no more in the pump than a read; and every byte comes when it is read again."""
    with Stage() as stage:
        pair = Pair(stage)
        pair.client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        one, collect = (
            (pair.peer, pair.from_client) if way == "to the client" else (pair.client.sock, pair.from_peer)
        )
        data = DATA * 8
        sent = pair.push(one, data)
        assert sent < len(data)
        [conn] = stage.pump.connections.values()
        assert conn.exchange is not None
        assert conn.exchange.tunnel is not None
        assert len(conn.inbox) + len(conn.exchange.tunnel.to_client) <= 128 * 1024
        assert collect(sent) == data[:sent]


def test_each_way_ends_by_itself():
    with Stage(access_logfile="-") as stage:
        pair = Pair(stage)
        pair.client.send(b"question")
        pair.client.finish()
        assert pair.from_peer(100) == b"question"
        pair.push(pair.peer, b"answer")
        assert pair.from_client(6) == b"answer"
        pair.peer.shutdown(socket.SHUT_WR)
        assert pair.from_client(1) == b""
        stage.until(lambda: not stage.pump.connections)
        assert stage.reasons() == [CloseReason.TUNNEL_ENDED]
        [record] = stage.pump.access.records
        assert record[3] == 101
        assert record[4] == 6
        assert record[5] > 6


def test_the_other_way_round():
    with Stage() as stage:
        pair = Pair(stage)
        pair.peer.send(b"hello")
        pair.peer.shutdown(socket.SHUT_WR)
        assert pair.from_client(100) == b"hello"
        pair.client.send(b"goodbye")
        assert pair.from_peer(7) == b"goodbye"
        pair.client.finish()
        assert pair.from_peer(1) == b""
        stage.until(lambda: not stage.pump.connections)


def test_what_a_client_sends_over_tls_comes_whole_behind_the_peers_end():
    """Some of it was read by the pump, and is not decrypted, when the client is told that nothing more comes
    from there."""
    with Stage(tls=certificates()) as stage:
        pair = Pair(stage)
        sent = pair.push(pair.client.sock, DATA)
        pair.peer.shutdown(socket.SHUT_WR)
        stage.settle()
        assert pair.from_peer(sent) == DATA[:sent]
        assert pair.from_client(1) == b""
        pair.client.send(b"goodbye")
        assert pair.from_peer(7) == b"goodbye"
        pair.client.finish()
        assert pair.from_peer(1) == b""
        stage.until(lambda: not stage.pump.connections)


def test_a_peer_that_closes_is_the_end():
    """All that it gave reaches the client, and then the end; also if the client goes on talking."""
    with Stage(access_logfile="-") as stage:
        pair = Pair(stage)
        sent = pair.push(pair.peer, DATA)
        pair.peer.close()
        assert pair.from_client(len(DATA)) == DATA[:sent]
        pair.client.send(b"too late")
        pair.client.finish()
        stage.until(lambda: not stage.pump.connections)
        assert stage.reasons() == [CloseReason.TUNNEL_ENDED]


def test_a_client_that_resets_closes_the_other_end():
    with Stage(access_logfile="-") as stage, no_descriptor_left(stage):
        pair = Pair(stage)
        pair.client.leave()
        stage.until(lambda: not stage.pump.connections)
        assert pair.from_peer(1) == b""
        assert stage.reasons() == [CloseReason.CLIENT_DISCONNECTED]
        pair.peer.close()


def test_a_tunnel_through_which_nothing_goes():
    with Stage(tunnel_timeout=100, access_logfile="-", keep_alive=5, send_timeout=5) as stage:
        pair = Pair(stage)
        stage.later(90)
        pair.peer.send(b"a")
        assert pair.from_client(1) == b"a"
        stage.later(90)
        pair.client.send(b"b")
        assert pair.from_peer(1) == b"b"
        stage.later(99)
        assert stage.pump.connections
        stage.later(2)
        assert not stage.pump.connections
        assert stage.reasons() == [CloseReason.TUNNEL_TIMEOUT]


def test_a_stop_tells_the_other_end():
    """What the client had said reaches it, and it may say goodbye."""
    with Stage() as stage:
        pair = Pair(stage)
        pair.client.send(b"last words")
        stage.pump.draining.begin(30)
        assert pair.from_peer(100) == b"last words"
        pair.push(pair.peer, b"goodbye")
        pair.peer.close()
        assert pair.from_client(100) == b"goodbye"
        pair.client.finish()
        stage.until(stage.pump.draining.is_over)


def test_what_is_open_at_the_end_of_a_stop_is_cut_off():
    with Stage(access_logfile="-") as stage:
        pair = Pair(stage)
        stage.pump.draining.begin(10)
        stage.later(11)
        stage.pump.draining.is_over()
        assert not stage.pump.connections
        pair.client.rest()
        assert pair.client.reset
        assert stage.reasons() == [CloseReason.CUT_OFF]


def test_others_are_served_meanwhile():
    with Stage() as stage:
        pair = Pair(stage)
        stage.hand(answers=True)
        pair.push(pair.peer, DATA)
        assert stage.client().ask("/other").status == 200
        pair.client.leave()


# --- what can't be one ------------------------------------------------------------------------------


def a_file() -> int:
    return os.open(os.devnull, os.O_RDWR)


def a_socket_of_packets() -> int:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    other.close()
    return one.detach()


def a_socket_that_is_not_connected() -> int:
    return socket.socket().detach()


def a_socket() -> int:
    one, other = socket.socketpair()
    other.close()
    return one.detach()


@pytest.mark.parametrize("make", [a_file, a_socket_of_packets, a_socket_that_is_not_connected])
def test_only_a_connected_stream_socket_will_do(make: Callable[[], int]):
    refused(UPGRADE, [Tunnel(0)], make)


def test_only_a_101_leads_to_one():
    refused(UPGRADE, [Tunnel(0)], a_socket, status=200)


def test_it_is_all_of_a_response():
    refused(UPGRADE, [Tunnel(0), Memory(b"a")], a_socket)
    refused(UPGRADE, [Tunnel(0)], a_socket, ending=Ending.UNFINISHED)


def test_http_1_0_has_none():
    refused(get("/", "Connection: Upgrade", "Upgrade: echo", version="1.0"), [Tunnel(0)], a_socket)


def test_a_body_has_to_come_first():
    head = get("/", "Connection: Upgrade", "Upgrade: echo", "Content-Length: 5", method="POST")
    refused(head, [Tunnel(0)], a_socket, stream_body=True)


def refused(
    head: bytes,
    objects: list[SimpleObject],
    make: Callable[[], int],
    status: int = 101,
    ending: Ending = Ending.DONE,
    *,
    stream_body: bool = False,
) -> None:
    """It costs the request, and nobody else anything."""
    with Stage(stream_body=stream_body) as stage, no_descriptor_left(stage):
        hand, client = stage.hand(), stage.client()
        client.send(head)
        task = hand.take()
        hand.reply(task, status=status, objects=objects, fds=(make(),), length=-1, ending=ending)
        assert client.answer().status == 500
        assert hand.open
        client.leave()
        hand.die()
        stage.settle()


def test_a_request_to_upgrade_may_be_answered_like_any_other():
    with Stage() as stage:
        hand, client = stage.hand(), stage.client()
        client.send(UPGRADE + get("/next"))
        hand.reply(hand.take(), b"no")
        hand.reply(hand.take(), b"next")
        assert [client.answer().body, client.answer().body] == [b"no", b"next"]
