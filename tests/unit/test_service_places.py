# SPDX-License-Identifier: Apache-2.0
"""Slow, silent and greedy clients on a real server: who keeps a place and who loses it."""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from edgepaas.httpd import connection_limits as places_module
from edgepaas.httpd.connection_limits import RESERVE, Places
from edgepaas.httpd.server import HTTPServer
from tests.support.service_process import get, until

HEAD = b"POST /slow HTTP/1.1\r\nHost: x\r\nX-Slow: "
BODY = b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n["
REMOTE = "203.0.113.9"

Serve = Callable[..., "Running"]


class Running:
    """A server that says how much it was sent; ``/hold`` waits until it is released."""

    def __init__(self, **options: Any) -> None:
        self.released = threading.Event()
        self.held = threading.Semaphore(0)
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address: tuple[str, int] = listener.getsockname()
        limits: dict[str, Any] = {
            "threads": 4,
            "connection_limit": 100,
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
        body = b"x" * 3_000_000 if environ["PATH_INFO"] == "/big" else b"got %d"
        if b"%d" in body:
            body %= len(environ["wsgi.input"].read())
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


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers and ends them after the test."""
    started: list[Running] = []

    def start(**options: Any) -> Running:
        started.append(Running(**options))
        return started[-1]

    yield start
    for running in started:
        running.end()


@contextlib.contextmanager
def slow_clients(
    running: Running, count: int, first: bytes, more: bytes = b""
) -> Iterator[list[socket.socket]]:
    """Hold *count* connections; each sends *first*, then *more* again and again."""
    over = threading.Event()
    sockets = []
    for _ in range(count):
        sock = socket.socket()
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(running.address)
        sockets.append(sock)

    def trickle() -> None:
        say = dict.fromkeys(sockets, first)
        while not over.wait(0.2):
            for sock in sockets if say or more else ():
                with contextlib.suppress(OSError):
                    sock.send(say.get(sock, more))
                    say.pop(sock, None)

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        yield sockets
    finally:
        over.set()
        thread.join(30)
        for sock in sockets:
            sock.close()


def slowly(running: Running, size: int, *, seconds: float) -> bytes:
    """Post *size* bytes in a hundred parts over *seconds*; returns the answer."""
    with running.connect(
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
    ) as sock:
        for _ in range(100):
            sock.sendall(b"x" * (size // 100))
            time.sleep(seconds / 100)
        return answer_on(sock)


def answer_on(sock: socket.socket) -> bytes:
    """Return the body of the answer, which may come in pieces."""
    answer = http.client.HTTPResponse(sock)
    answer.begin()
    return answer.read()


@pytest.mark.parametrize(
    ("first", "more"),
    [(b"", b""), (HEAD, b"b"), (BODY, b" "), (b"\r\n", b"\r\n")],
    ids=["silent", "slow head", "slow body", "blank lines"],
)
def test_probes_and_posts_are_answered_among_four_hundred_slow_clients(
    serve: Serve, first: bytes, more: bytes
) -> None:
    """Slow clients lose their places to those that get on, a slow honest one does not."""
    running = serve()
    with slow_clients(running, 400, first, more):
        until(lambda: running.server.connections >= 100, "every place to be taken")
        honest: list[bytes] = []
        upload = threading.Thread(
            target=lambda: honest.append(slowly(running, 1_000_000, seconds=2.0))
        )
        upload.start()
        while upload.is_alive():
            assert get(running.address[1], "/health/ready", timeout=5)[0] == 200
            assert running.post(b"12345") == (200, b"got 5")
            assert running.server.connections <= 100 + RESERVE
            time.sleep(0.1)
        assert honest == [b"got 1000000"]


def test_a_client_that_does_not_read_its_answers_loses_its_place(serve: Serve) -> None:
    """It keeps no more than one that does not send."""
    running = serve(connection_limit=4)
    with slow_clients(running, 30, b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n"):
        until(lambda: running.server.connections >= 4, "every place to be taken")
        for _ in range(5):
            assert get(running.address[1], "/health/ready", timeout=10)[0] == 200


@pytest.mark.parametrize(("first", "more"), [(HEAD, b"b"), (BODY, b" ")], ids=["head", "body"])
def test_a_request_that_does_not_arrive_is_408(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, first: bytes, more: bytes
) -> None:
    """Also where there are places enough; each byte more is no reason to wait on."""
    monkeypatch.setattr(places_module, "REQUEST_PATIENCE", 0.5)
    running = serve()
    with running.connect(first) as sock:
        sock.settimeout(0.1)
        answer = b""
        while not answer:
            sock.sendall(more)
            with contextlib.suppress(TimeoutError):
                answer = sock.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in head
    assert set(json.loads(body)) == {"error", "message", "request_id", "details"}
    until(lambda: running.server.connections == 0, "the connection to be closed")


def test_a_steady_upload_may_take_longer_than_any_deadline(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is that it gets on."""
    monkeypatch.setattr(places_module, "REQUEST_PATIENCE", 0.5)
    assert slowly(serve(), 1_000_000, seconds=1.5) == b"got 1000000"


def test_requests_at_work_are_never_closed_and_the_box_gets_a_place_beside_them(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reserve is for programs of the box; a remote caller is told to come again."""
    monkeypatch.setattr("edgepaas.web.access.locality.is_loopback", lambda host: host != REMOTE)
    running = serve(threads=2, connection_limit=4)
    listener = running.server._listeners[0]
    monkeypatch.setattr(listener, "fix_addr", lambda address: (REMOTE, address[1]))
    ask = b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n"
    working = [running.connect(ask) for _ in range(4 + RESERVE // 2)]
    for _ in range(2):
        assert running.held.acquire(timeout=30)
    with running.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") as refused:
        answer = refused.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 2" in answer
    monkeypatch.setattr(listener, "fix_addr", lambda address: address)
    assert get(running.address[1], "/health/live", timeout=10)[0] == 200
    running.released.set()
    for sock in working:
        assert answer_on(sock) == b"got 0"
        sock.close()


def connection(host: str, stalled: float, cut: list[str], *, proven: bool = False) -> Any:
    """A connection from *host* that has been getting nowhere for *stalled* seconds."""
    return SimpleNamespace(
        addr=(host, 1),
        proven=proven,
        stalled_for=lambda now: stalled,
        overdue=lambda now, patience: False,
        something_to_read=lambda: False,
        cut=lambda: cut.append(host),
    )


def test_an_address_with_more_than_its_share_loses_places_before_others_do() -> None:
    """However long the others have been silent; the box itself has no share."""
    cut: list[str] = []
    crowd = [("203.0.113.1", 1.0)] * 3 + [("203.0.113.2", 9.0)] + [("127.0.0.1", 8.0)] * 3
    channels = dict(enumerate(connection(host, stalled, cut) for host, stalled in crowd))
    Places(5, [SimpleNamespace(active_channels=channels)]).tend()
    assert cut == ["203.0.113.1"] * 2


def test_who_never_asked_for_anything_goes_before_who_was_answered() -> None:
    """A device between two requests keeps its connection while others only hold theirs."""
    cut: list[str] = []
    crowd = [
        connection("203.0.113.1", 60.0, cut, proven=True),
        connection("203.0.113.2", places_module.PATIENCE, cut),
        connection("203.0.113.3", 0.0, cut),
    ]
    Places(2, [SimpleNamespace(active_channels=dict(enumerate(crowd)))]).tend()
    assert cut == ["203.0.113.2"]


def test_nobody_is_closed_while_there_are_places() -> None:
    """An idle connection costs nothing then."""
    cut: list[str] = []
    channels = {n: connection("203.0.113.1", 100.0, cut) for n in range(5)}
    Places(5, [SimpleNamespace(active_channels=channels)]).tend()
    assert cut == []
