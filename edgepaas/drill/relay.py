# SPDX-License-Identifier: Apache-2.0
"""A TCP relay on loopback whose server side can be cut: refusing connections, or silent."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Literal

#: How the server fails: ``refuse`` resets open connections and refuses new ones, like a crashed
#: server; ``silent`` forwards nothing and answers nothing, like a pulled cable.
Cut = Literal["", "refuse", "silent"]

_BLOCK = 256 * 1024
_CONNECT_WITHIN = 5.0


class Relay:
    """Listens on a free port of loopback and forwards bytes to what *dial* connects to."""

    def __init__(self, dial: Callable[[], socket.socket]) -> None:
        self._dial = dial
        self._socket = _bound(0)
        self._socket.listen(64)
        self.port = int(self._socket.getsockname()[1])
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._passing = threading.Event()
        self._passing.set()
        self._closed = False
        self._accept_on(self._socket)

    @property
    def connections(self) -> int:
        """The number of open sockets, two for each relayed connection."""
        with self._lock:
            return len(self._open)

    def cut(self, how: Cut) -> None:
        """Cut the server off; an earlier cut is healed first."""
        self.heal()
        if how == "silent":
            self._passing.clear()
        elif how == "refuse":
            _end(self._socket)
            # Bound but not listening: the port stays reserved, and the kernel refuses connections.
            self._socket = _bound(self.port)
            self._reset_all()

    def heal(self) -> None:
        """Forward again; connections that were silent are reset."""
        if not self._passing.is_set():
            # The server may have closed its side meanwhile: both ends have to notice.
            self._reset_all()
            self._passing.set()
        with contextlib.suppress(OSError):  # it listens already
            if not self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                self._socket.listen(64)
                self._accept_on(self._socket)

    def close(self) -> None:
        """Close all sockets."""
        self._closed = True
        self._passing.set()
        _end(self._socket)
        self._reset_all()

    def _accept_on(self, listener: socket.socket) -> None:
        threading.Thread(
            target=self._accept, args=(listener,), name="relay-accept", daemon=True
        ).start()

    def _accept(self, listener: socket.socket) -> None:
        while not self._closed:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            self._passing.wait()
            threading.Thread(
                target=self._connect, args=(near,), name="relay-connect", daemon=True
            ).start()

    def _connect(self, near: socket.socket) -> None:
        try:
            far = self._dial()
        except OSError:
            _reset(near)
            return
        with self._lock:
            self._open |= {near, far}
        for source, target in ((near, far), (far, near)):
            threading.Thread(
                target=self._pump, args=(source, target), name="relay", daemon=True
            ).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while block := source.recv(_BLOCK):
                self._passing.wait()
                target.sendall(block)
        except OSError:
            pass  # one end is gone; the other is closed below
        with self._lock:
            self._open -= {source, target}
        _end(source)
        _end(target)

    def _reset_all(self) -> None:
        with self._lock:
            found, self._open = self._open, set()
        for sock in found:
            _reset(sock)


def _bound(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def _reset(sock: socket.socket) -> None:
    """Close with RST (SO_LINGER of 0 seconds, socket(7)), as a crashed peer's kernel does."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    _end(sock)


def _end(sock: socket.socket) -> None:
    # shutdown() wakes the thread that waits in recv or accept; close() alone would not.
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def dialer(host: str, port: int, unix_socket: str = "") -> Callable[[], socket.socket]:
    """Return a function that connects to a server by TCP, or by its Unix socket's path."""

    def dial() -> socket.socket:
        if not unix_socket:
            sock = socket.create_connection((host, port), timeout=_CONNECT_WITHIN)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(None)
            return sock
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(unix_socket)
        except BaseException:
            sock.close()
            raise
        return sock

    return dial
