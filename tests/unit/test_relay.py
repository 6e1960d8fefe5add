# SPDX-License-Identifier: Apache-2.0
"""The wire that fails when told, before anything is proved with it."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.relay import Relay, Stream, is_commit

NAMED = b"user\0x\0application_name\0box sync\0\0"
STARTUP = struct.pack("!ii", 8 + len(NAMED), 196608) + NAMED


def message(kind: bytes, body: bytes) -> bytes:
    """One typed message."""
    return kind + struct.pack("!i", len(body) + 4) + body


COMMIT = message(b"Q", b"COMMIT\0")
COMMITTED = message(b"C", b"COMMIT\0") + message(b"Z", b"I")
ROWS = message(b"D", b"x" * 5000)


@pytest.fixture
def server() -> Iterator[int]:
    """The port of a server that answers each COMMIT with rows and the answer to COMMIT."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            sock.recv(len(STARTUP), socket.MSG_WAITALL)
            while sock.recv(len(COMMIT), socket.MSG_WAITALL):
                sock.sendall(ROWS + COMMITTED)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                threading.Thread(target=serve, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield int(listener.getsockname()[1])
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def relay(server: int) -> Iterator[Relay]:
    """A relay before that server."""
    with Relay(server) as started:
        yield started


def client(relay: Relay) -> socket.socket:
    """A client that has said who it is."""
    sock = socket.create_connection(("127.0.0.1", relay.port), timeout=10)
    sock.sendall(STARTUP)
    return sock


def commit(sock: socket.socket) -> bytes:
    """Ask for COMMIT and return all that comes back up to its answer, or up to the end."""
    got = b""
    with contextlib.suppress(ConnectionError):
        sock.sendall(COMMIT)
        while not got.endswith(COMMITTED):
            data = sock.recv(65536)
            if not data:
                break
            got += data
    return got


@pytest.mark.parametrize("size", [1, 3, 7, 100_000])
def test_a_stream_is_cut_into_its_messages_however_it_arrives(size: int) -> None:
    sent = STARTUP + COMMIT + message(b"d", b"y" * 900) + message(b"H", b"")
    stream = Stream(startup=True)
    pieces, kinds = b"", []
    for start in range(0, len(sent), size):
        for piece, kind, body in stream.feed(sent[start : start + size]):
            pieces += piece
            kinds += [(kind, is_commit(kind, body))] if kind else []
    assert pieces == sent
    assert kinds == [(b"startup", False), (b"Q", True), (b"d", False), (b"H", False)]


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        (b"Q", b"COMMIT\0", True),
        (b"Q", b"commit;\0", True),
        (b"P", b"name\0COMMIT\0\0\0", True),
        (b"Q", b"SELECT 'COMMIT'\0", False),
        (b"C", b"COMMIT\0", False),
    ],
)
def test_it_knows_who_asks_for_commit(kind: bytes, body: bytes, expected: bool) -> None:
    assert is_commit(kind, body) is expected


def test_what_is_not_to_fail_passes_unchanged(relay: Relay) -> None:
    with client(relay) as sock:
        assert [commit(sock) for _ in range(3)] == [ROWS + COMMITTED] * 3
    assert (relay.connections, relay.commits, relay.cuts) == (1, 3, 0)
    assert relay.names == ["box sync"]


@pytest.mark.parametrize("end", ["reset", "close"])
def test_the_answer_to_commit_is_cut_and_the_server_has_committed(relay: Relay, end: str) -> None:
    relay.commit_cut, relay.ends = 1.0, (end,)  # type: ignore[assignment]
    with client(relay) as sock:
        assert not commit(sock).endswith(COMMITTED)
    assert (relay.commits, relay.cuts) == (1, 1)


def test_half_of_the_answers_to_commit_are_half_of_them(relay: Relay) -> None:
    relay.commit_cut = 0.5
    for _ in range(40):
        with client(relay) as sock:
            commit(sock)
    assert relay.commits == 40
    assert 8 < relay.cuts < 32


def test_a_commit_that_is_cut_before_it_arrives_is_none(relay: Relay) -> None:
    relay.request_cut = 1.0
    with client(relay) as sock:
        assert commit(sock) == b""
    assert (relay.commits, relay.cuts) == (0, 1)


def test_a_silent_end_leaves_the_client_with_an_open_connection(relay: Relay) -> None:
    relay.commit_cut, relay.ends = 1.0, ("silence",)
    with client(relay) as sock:
        sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            commit(sock)


def test_only_the_named_are_cut(relay: Relay) -> None:
    relay.commit_cut, relay.only = 1.0, "somebody else"
    with client(relay) as sock:
        assert commit(sock) == ROWS + COMMITTED


def test_bytes_run_out_anywhere(relay: Relay) -> None:
    relay.byte_cut = 3000.0
    for _ in range(5):
        with client(relay) as sock:
            commit(sock)
            commit(sock)
    assert relay.cuts > 0


def test_a_cut_resets_and_refuses_until_it_is_healed(relay: Relay) -> None:
    with client(relay) as sock:
        commit(sock)
        relay.cut()
        assert commit(sock) == b""
    with pytest.raises(ConnectionRefusedError):
        client(relay)
    relay.heal()
    with client(relay) as sock:
        assert commit(sock) == ROWS + COMMITTED


def test_a_pause_loses_nothing(relay: Relay) -> None:
    with client(relay) as sock:
        commit(sock)
        relay.pause()
        sock.sendall(COMMIT)
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(10)
        relay.heal()
        assert sock.recv(len(ROWS + COMMITTED), socket.MSG_WAITALL) == ROWS + COMMITTED


def test_what_is_in_a_black_hole_stays_there(relay: Relay) -> None:
    with client(relay) as sock:
        commit(sock)
        relay.black_hole()
        relay.heal()
        sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            commit(sock)
    with client(relay) as sock:
        assert commit(sock) == ROWS + COMMITTED


def test_latency_is_added_to_each_direction(relay: Relay) -> None:
    relay.latency = 0.1
    with client(relay) as sock:
        began = time.monotonic()
        assert commit(sock) == ROWS + COMMITTED
        assert time.monotonic() - began >= 0.2


def test_flapping_goes_on_until_it_is_healed(relay: Relay) -> None:
    relay.flap(0.05)
    refused = served = 0
    deadline = time.monotonic() + 20
    while (refused < 3 or served < 3) and time.monotonic() < deadline:
        try:
            with client(relay) as sock:
                served += commit(sock).endswith(COMMITTED)
        except OSError:
            refused += 1
    relay.heal()
    assert refused >= 3
    assert served >= 3
    with client(relay) as sock:
        assert commit(sock) == ROWS + COMMITTED
