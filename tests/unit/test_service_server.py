# SPDX-License-Identifier: Apache-2.0
"""The server in this process: limits, draining, what it refuses."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edgepaas.httpd.server import HTTPServer
from tests.support.service_process import get, reset_on_close, until

Serve = Callable[..., "Running"]


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Echo the path; /body reads the request's body."""
    body = environ["PATH_INFO"].encode()
    if environ["PATH_INFO"] == "/fails":
        raise RuntimeError("in the application")
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


class Running:
    """A server whose loop runs in a thread until ``end``."""

    def __init__(self, sock: socket.socket, **options: Any) -> None:
        self.address: tuple[str, int] = sock.getsockname()
        limits: dict[str, Any] = {
            "threads": 2,
            "connection_limit": 20,
            "connections_per_client": 20,
            "request_max_bytes": 10_000,
        } | options
        self.server = HTTPServer(application, [sock], **limits)
        self.server.dispatcher.open()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.server.run(self._over.is_set)
        self.server.drain(lambda: False, accept_waiting=True)

    def end(self) -> None:
        """Drain and close."""
        if not self._over.is_set():
            self._over.set()
            self.server.wake()
            self._thread.join(30)
            assert not self._thread.is_alive()
            self.server.close()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers on free ports and ends them after the test."""
    started: list[Running] = []

    def start(sock: socket.socket | None = None, **options: Any) -> Running:
        if sock is None:
            sock = socket.socket()
            sock.bind(("127.0.0.1", 0))
            sock.listen()
        started.append(Running(sock, **options))
        return started[-1]

    yield start
    for running in started:
        running.end()


def test_a_kept_alive_connection_is_told_to_close_while_draining(serve: Serve) -> None:
    """Its next request is answered with Connection: close, not cut off."""
    running = serve()
    connection = http.client.HTTPConnection(*running.address, timeout=30)
    connection.request("GET", "/one")
    assert connection.getresponse().read() == b"/one"
    ended = threading.Thread(target=running.end)
    ended.start()
    connection.request("GET", "/two")
    answer = connection.getresponse()
    assert answer.read() == b"/two"
    assert answer.headers["Connection"] == "close"
    ended.join(30)


def test_callers_in_the_queue_are_served_before_the_socket_is_closed(serve: Serve) -> None:
    """Nobody else would take them in when the socket is ours alone."""
    running = serve()
    callers = [socket.create_connection(running.address) for _ in range(10)]
    for caller in callers:
        caller.sendall(b"GET /waited HTTP/1.1\r\nHost: x\r\n\r\n")
    running.end()
    for caller in callers:
        assert b"/waited" in caller.makefile("rb").read()
        caller.close()


def test_requests_sent_ahead_on_one_connection_are_all_answered_while_draining(
    serve: Serve,
) -> None:
    """The last of them closes the connection."""
    running = serve()
    with socket.create_connection(running.address) as caller:
        caller.sendall(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(5)))
        running.end()
        answers = caller.makefile("rb").read()
    assert [b"/%d" % n in answers for n in range(5)] == [True] * 5
    assert answers.count(b"Connection: close") <= 1


def test_an_exception_of_the_application_is_the_one_error_body(serve: Serve) -> None:
    """Without a word of what went wrong inside."""
    status, body = get(serve().address[1], "/fails")
    assert status == 500
    assert json.loads(body)["error"] == "internal_error"
    assert b"in the application" not in body


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400),
        (b"\x00\x01\x02\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 300_000 + b"\r\n\r\n", 431),
    ],
)
def test_what_is_no_request_gets_4xx_as_the_one_error_body(
    serve: Serve, request_line: bytes, status: int
) -> None:
    """Also where Waitress refuses before the application sees anything."""
    with socket.create_connection(serve().address) as caller:
        caller.sendall(request_line)
        head, _, body = caller.makefile("rb").read().partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    document = json.loads(body)
    assert set(document) == {"error", "message", "request_id", "details"}
    assert f"X-Request-Id: {document['request_id']}".encode() in head


def test_a_client_that_resets_its_connection_harms_nobody(serve: Serve) -> None:
    """In the middle of a request, and of an answer."""
    running = serve()
    for sent in (b"GET /", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
        for _ in range(20):
            sock = socket.create_connection(running.address)
            reset_on_close(sock)
            sock.sendall(sent)
            sock.close()
    assert get(running.address[1], "/after") == (200, b"/after")
    until(lambda: running.server.connections == 0, "every connection to be closed")


def test_it_serves_a_unix_socket(serve: Serve, tmp_path: Any) -> None:
    """As a candidate does before it gets the port."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "s"))
    sock.listen()
    serve(sock)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(tmp_path / "s"))
        caller.sendall(b"GET /unix HTTP/1.0\r\n\r\n")
        assert b"/unix" in caller.makefile("rb").read()


def test_the_probe_needs_the_loop_to_run(serve: Serve) -> None:
    """A loop that stands still is a hang, whatever the workers do."""
    running = serve()
    assert running.server.probe(10)
    running.end()
    began = time.monotonic()
    assert not running.server.dispatcher.probe(0.1)
    assert time.monotonic() - began < 10
