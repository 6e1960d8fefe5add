# SPDX-License-Identifier: Apache-2.0
"""Waking the drainer when rows wait: one datagram, which never holds up a write."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

#: unix(7): a socket's path has room for 107 characters.
_LONGEST = 107


class Waker:
    """Sends a datagram to the socket *path*; that nothing listens there is no error.

    The drainer polls as well, so a lost datagram only delays it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Wake the drainer; never waits, never raises."""
        with self._lock, contextlib.suppress(OSError):
            if self._socket is None:
                self._socket = socket.socket(
                    socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
                )
                self._socket.setblocking(False)
            with address_of(self._path) as address:
                self._socket.sendto(b"\0", address)

    def close(self) -> None:
        """Close the socket."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None


@contextlib.contextmanager
def address_of(path: Path) -> Iterator[str]:
    """Give an address for the socket *path* that fits into a socket's name, for the block."""
    if len(os.fsencode(path)) <= _LONGEST:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
