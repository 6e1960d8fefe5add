# SPDX-License-Identifier: Apache-2.0
"""A TCP relay on loopback that is late by a fixed time and counts round trips."""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self
from urllib.parse import urlsplit, urlunsplit

Note = Callable[[], None]
#: Bytes and when they are due; none at the end of the stream.
_Late = queue.Queue[tuple[float, bytes]]


class _Link:
    """One client's connection through the relay."""

    def __init__(self, client: socket.socket, server: socket.socket, delay: float) -> None:
        self.client_port = int(client.getpeername()[1])
        self.round_trips = 0
        #: Whether the client's next bytes begin a new round trip: it has had an answer, or
        #: has not asked yet. What it sends without waiting belongs to the same one.
        self._answered = True
        self._lock = threading.Lock()
        self._delay = delay
        self._sockets = (client, server)
        for one in self._sockets:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._start(client, server, self._asked, lambda: None)
        self._start(server, client, lambda: None, self._delivered)

    def _start(
        self, source: socket.socket, target: socket.socket, arrived: Note, out: Note
    ) -> None:
        late: _Late = queue.Queue()
        for work in (
            lambda: self._receive(source, late, arrived),
            lambda: self._deliver(target, late, out),
        ):
            threading.Thread(target=work, daemon=True).start()

    def _asked(self) -> None:
        with self._lock:
            self.round_trips += self._answered
            self._answered = False

    def _delivered(self) -> None:
        with self._lock:
            self._answered = True

    def _receive(self, source: socket.socket, late: _Late, noted: Note) -> None:
        while True:
            try:
                data = source.recv(65536)
            except OSError:
                data = b""
            if data:
                noted()
            late.put((time.monotonic() + self._delay, data))
            if not data:
                return

    def _deliver(self, target: socket.socket, late: _Late, noted: Note) -> None:
        while True:
            due, data = late.get()
            time.sleep(max(0.0, due - time.monotonic()))
            noted()
            try:
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(data)
            except OSError:
                return

    def close(self) -> None:
        """End it for both sides."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class CountingRelay:
    """Listens on a free port and passes on to *port*, each way *delay* seconds late."""

    def __init__(self, port: int, *, delay: float) -> None:
        self._target = ("127.0.0.1", port)
        self._delay = delay
        self._links: list[_Link] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # A blocked accept() does not notice close() alone.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self._links:
            link.close()

    def reroute(self, url: str) -> str:
        """Return *url* with this relay in the server's place."""
        parts = urlsplit(url)
        login = parts.netloc.rpartition("@")[0]
        return urlunsplit(
            (parts.scheme, f"{login}@127.0.0.1:{self.port}", parts.path, parts.query, "")
        )

    def round_trips(self) -> dict[int, int]:
        """Return the round trips so far of each connection, by its client's port."""
        return {one.client_port: one.round_trips for one in list(self._links)}

    def _accept(self) -> None:
        for client in self._clients():
            try:
                server = socket.create_connection(self._target, timeout=10)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            self._links.append(_Link(client, server, self._delay))

    def _clients(self) -> Iterator[socket.socket]:
        while True:
            try:
                yield self._listener.accept()[0]
            except OSError:  # closed
                return
