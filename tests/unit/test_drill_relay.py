# SPDX-License-Identifier: Apache-2.0
"""The drill's relay: passes bytes, refuses like a crashed server, falls silent like a cut cable."""

import socket
import threading
from collections.abc import Iterator

import pytest

from edgepaas.drill.relay import Relay, dialer

LIMIT = 10.0


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(sock: socket.socket) -> None:
        with sock:
            try:
                while data := sock.recv(1000):
                    sock.sendall(data)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield int(listener.getsockname()[1])
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def relay(echo: int) -> Iterator[Relay]:
    found = Relay(dialer("127.0.0.1", echo))
    yield found
    found.close()


def connected(relay: Relay) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", relay.port), timeout=LIMIT)
    sock.settimeout(LIMIT)
    return sock


def said_back(sock: socket.socket, data: bytes) -> bytes:
    sock.sendall(data)
    return sock.recv(1000)


def test_bytes_pass_in_both_directions(relay: Relay) -> None:
    with connected(relay) as sock:
        assert said_back(sock, b"hello") == b"hello"
        assert relay.connections == 2


def test_a_refusing_server_resets_what_is_open_and_refuses_what_is_new(relay: Relay) -> None:
    """On the same port, which nobody can take meanwhile."""
    with connected(relay) as sock:
        assert said_back(sock, b"a") == b"a"
        relay.cut("refuse")
        with pytest.raises(OSError):
            assert said_back(sock, b"b") == b""
            raise ConnectionError("closed")
    with pytest.raises(ConnectionRefusedError):
        connected(relay)
    relay.heal()
    with connected(relay) as sock:
        assert said_back(sock, b"c") == b"c"


def test_a_silent_server_says_nothing_and_its_connections_die_when_it_is_back(
    relay: Relay,
) -> None:
    """Old and new ones alike."""
    with connected(relay) as old:
        assert said_back(old, b"a") == b"a"
        relay.cut("silent")
        new = connected(relay)
        for sock in (old, new):
            sock.settimeout(0.2)
            sock.sendall(b"b")
            with pytest.raises(TimeoutError):
                sock.recv(10)
        relay.heal()
        old.settimeout(LIMIT)
        with pytest.raises(OSError):
            assert old.recv(10) == b""
            raise ConnectionError("closed")
        new.close()
    with connected(relay) as sock:
        assert said_back(sock, b"c") == b"c"


def test_one_cut_follows_another_and_healing_twice_is_harmless(relay: Relay) -> None:
    relay.cut("silent")
    relay.cut("refuse")
    with pytest.raises(ConnectionRefusedError):
        connected(relay)
    relay.cut("silent")
    relay.heal()
    relay.heal()
    with connected(relay) as sock:
        assert said_back(sock, b"c") == b"c"
