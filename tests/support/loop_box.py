# SPDX-License-Identifier: Apache-2.0
"""A box in this process behind the server that the service runs: appends go through the loop."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flask import Flask

from edgepaas.httpd.server import HTTPServer
from edgepaas.httpd.startup_responder import NotReady, StartupResponder
from edgepaas.web.app import entrance, plain_appends

#: Seconds that nothing here needs.
LIMIT = 60.0
PATH = "/api/v1/readings"


@dataclass
class Answered:
    """One answer, as it came over the wire."""

    status: str
    headers: dict[str, str]
    body: bytes


@dataclass
class LoopBox:
    """A running server; *taken* has each request that the loop kept, by its path."""

    server: HTTPServer
    responder: StartupResponder
    address: tuple[str, int]
    taken: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Run the loop in a thread."""
        self._thread = threading.Thread(target=self._run, name="loop", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.server.run(self._over.is_set)
        self.server.drain(self._hurry, accept_waiting=True)

    def end(self, *, hurry: Callable[[], bool] = lambda: False) -> None:
        """Drain, and close."""
        self._hurry = hurry
        if not self._over.is_set():
            self._over.set()
            self.server.wake()
        assert self._thread is not None
        self._thread.join(LIMIT)
        assert not self._thread.is_alive(), "the server does not drain"
        self.server.close()

    _hurry: Callable[[], bool] = lambda: False

    def connect(self) -> "Client":
        """Open a connection."""
        return Client(self.address)

    def send(self, request: bytes) -> Answered:
        """Send one request on a connection of its own."""
        with self.connect() as client:
            client.send(request)
            return client.receive()


@contextmanager
def serving_in_loop(app: Flask, **options: Any) -> Iterator[LoopBox]:
    """Serve *app* as the service does; *options* are those of HTTPServer."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(128)
    address = sock.getsockname()
    responder = StartupResponder(NotReady("starting", ""))
    settings: dict[str, Any] = {
        "threads": 2,
        "connection_limit": 200,
        "connections_per_client": 200,
        "request_max_bytes": 8 * 1024 * 1024,
    } | options
    server = HTTPServer(responder, [sock], **settings)
    box = LoopBox(server, responder, address)
    responder.open(app)
    server.use_entrance(entrance(app))
    server.take_appends(plain_appends(app), lambda: responder.is_open)
    appends = server.dispatcher.appends
    assert appends is not None
    take = appends.take

    def noting(channel: Any) -> bool:
        path = channel.requests[0].path
        if not take(channel):
            return False
        box.taken.append(path)
        return True

    appends.take = noting  # type: ignore[method-assign]
    server.dispatcher.open()
    box.start()
    try:
        yield box
    finally:
        box.end()


class Client:
    """One connection; reads whole answers."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=LIMIT)
        self._buffer = b""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send *data* as it is."""
        self.socket.sendall(data)

    def receive(self) -> Answered:
        """Read one answer; an answer 100 is passed over."""
        while True:
            answer = self._one()
            if not answer.status.startswith("100"):
                return answer

    def is_closed(self) -> bool:
        """Wait for the server's end of the connection; False: it sent something."""
        return self._buffer == b"" and self.socket.recv(1) == b""

    def _one(self) -> Answered:
        head = self._until(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = dict(line.split(": ", 1) for line in lines)
        length = int(headers.get("Content-Length", "0"))
        while len(self._buffer) < length:
            self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return Answered(first.partition(" ")[2], headers, body)

    def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            self._more()
        at = self._buffer.index(end) + len(end)
        found, self._buffer = self._buffer[:at], self._buffer[at:]
        return found

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError(f"closed in mid-answer, after {self._buffer!r}")
        self._buffer += data


def post(body: bytes, headers: Mapping[str, str] | None = None, *, path: str = PATH) -> bytes:
    """Return a POST of JSON."""
    given = {
        "Host": "127.0.0.1",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for *condition* and return its value."""
    deadline = time.monotonic() + LIMIT
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)
    return value
