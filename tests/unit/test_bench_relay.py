# SPDX-License-Identifier: Apache-2.0
"""The relay by which ``make bench`` counts round trips."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

from tests.bench.counting_relay import CountingRelay


@contextlib.contextmanager
def server(length: int) -> Iterator[int]:
    """A server that sends back what it gets, once it has *length* bytes; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=_serve, args=(listener, length))
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        thread.join(60)
        listener.close()


def _serve(listener: socket.socket, length: int) -> None:
    client, _ = listener.accept()
    with client:
        while data := _read(client, length):
            client.sendall(data)


def _read(client: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length and (more := client.recv(length - len(data))):
        data += more
    return data


def test_it_counts_each_question_after_an_answer_as_a_round_trip() -> None:
    """Two questions, the second after the answer to the first: two round trips, and late ones."""
    with (
        server(8) as port,
        CountingRelay(port, delay=0.02) as relay,
        socket.create_connection(("127.0.0.1", relay.port), timeout=60) as client,
    ):
        began = time.monotonic()
        for _ in range(2):
            client.sendall(b"question")
            assert _read(client, 8) == b"question"
        took = time.monotonic() - began
        assert relay.round_trips() == {client.getsockname()[1]: 2}
    assert took >= 0.08  # each way of each


def test_what_is_sent_without_waiting_is_one_round_trip() -> None:
    """Pipelined questions cost one, however many pieces they arrive in."""
    with (
        server(40) as port,
        CountingRelay(port, delay=0.0) as relay,
        socket.create_connection(("127.0.0.1", relay.port), timeout=60) as client,
    ):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(5):
            client.sendall(b"question")
            time.sleep(0.005)  # so that it arrives in pieces
        assert _read(client, 40) == b"question" * 5
        assert relay.round_trips() == {client.getsockname()[1]: 1}
