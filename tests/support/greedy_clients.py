# SPDX-License-Identifier: Apache-2.0
"""A server without a box around it, and clients that take what they can get."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from edgepaas.httpd.server import HTTPServer
from tests.support.service_process import until

#: More of an answer than the server keeps for a client that does not read.
HUGE = 40_000_000
#: Of one answer to ``/big``, with its head.
BIG = 3_001_000


class Running:
    """A server that says how much it was sent; ``/hold`` waits until it is released."""

    def __init__(self, **options: Any) -> None:
        self.released = threading.Event()
        self.held = threading.Semaphore(0)
        self.asked = 0
        #: The most bytes of answers that waited for one client when another was asked for.
        self.most_kept = 0
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address: tuple[str, int] = listener.getsockname()
        limits: dict[str, Any] = {
            "threads": 4,
            "connection_limit": 100,
            "connections_per_client": 25,
            "request_max_bytes": 8_388_608,
        }
        self.server = HTTPServer(self._answer, [listener], **(limits | options))
        self.server.dispatcher.open()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self.server.run, args=(self._over.is_set,))
        self._thread.start()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/hold":
            self.held.release()
            self.released.wait(60)
        self.asked += 1
        kept = [channel.total_outbufs_len for channel in self.server._limits.channels()]
        self.most_kept = max([self.most_kept, *kept])
        body = b"x" * 3_000_000 if environ["PATH_INFO"] == "/big" else b"got %d"
        if b"%d" in body:
            body %= len(environ["wsgi.input"].read())
        if environ["PATH_INFO"] == "/huge":
            # In parts: the worker waits before a part that the server has no room for.
            start_response("200 OK", [("Content-Length", str(HUGE))])
            return [b"x" * 1_000_000] * (HUGE // 1_000_000)
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    def post(self, body: bytes) -> tuple[int, bytes]:
        """Post *body* in one go; returns status and answer."""
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        connection.request("POST", "/", body)
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found

    def connect(self, first: bytes = b"") -> socket.socket:
        """Connect, and send *first*."""
        sock = socket.create_connection(self.address, timeout=30)
        sock.sendall(first)
        return sock

    def end(self) -> None:
        """Let go of what is held, and close everything."""
        self.released.set()
        self._over.set()
        self.server.wake()
        self._thread.join(30)
        self.server.drain(lambda: True, accept_waiting=False)
        self.server.close()


def answer_on(sock: socket.socket) -> bytes:
    """Return the body of the answer, which may come in pieces."""
    answer = http.client.HTTPResponse(sock)
    answer.begin()
    return answer.read()


def from_elsewhere(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a client at 127.0.0.N be one at 203.0.113.N."""
    for listener in running.server._listeners:
        monkeypatch.setattr(
            listener,
            "fix_addr",
            lambda address: (f"203.0.113.{address[0].rpartition('.')[2]}", address[1]),
        )


def ask_from(running: Running, source: str, path: str = "/", timeout: float = 30) -> int:
    """Return the status of the answer to a request from *source*."""
    connection = http.client.HTTPConnection(
        *running.address, timeout=timeout, source_address=(source, 0)
    )
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


#: A request that costs its client nothing.
_ASK = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
#: Connections that the greedy client tries to have: more than any limit here.
GREEDY = 128


@contextlib.contextmanager
def greedy_client(running: Running, source: str) -> Iterator[None]:
    """Ask on GREEDY connections from *source* again and again: each makes progress all the time."""
    over = threading.Event()

    def ask() -> None:
        held: list[socket.socket] = []
        while not over.wait(0.02):
            if len(held) < GREEDY:
                held += [_connecting(running, source) for _ in range(GREEDY - len(held))]
            for sock in list(held):
                try:
                    with contextlib.suppress(BlockingIOError):
                        sock.send(_ASK)
                        if not sock.recv(65536):
                            raise ConnectionResetError
                except OSError:
                    sock.close()
                    held.remove(sock)
        for sock in held:
            sock.close()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        until(lambda: running.asked >= 200, "the greedy client to be at work")
        yield
    finally:
        over.set()
        thread.join(30)


def _connecting(running: Running, source: str) -> socket.socket:
    sock = socket.socket()
    sock.bind((source, 0))
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        sock.connect(running.address)
    return sock


@contextlib.contextmanager
def clients_that_read_nothing(running: Running, count: int) -> Iterator[None]:
    """Send sixty requests ahead on each of *count* connections, and read no answer."""
    ask = b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n" * 60
    sockets = [running.connect(ask) for _ in range(count)]
    try:
        until(lambda: running.asked >= count, "each to be asked for")
        yield
    finally:
        for sock in sockets:
            sock.close()
