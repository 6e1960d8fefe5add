# SPDX-License-Identifier: Apache-2.0
"""Noticing new rows: a datagram from the service, polling for every other writer.

The service sends a byte to ``run/sync.wake`` after each commit. Other writers (the sqlite3
shell, a script) are noticed through ``PRAGMA data_version``, which costs one read of shared
memory; so an idle drainer sleeps for a second at a time.
"""

import contextlib
import os
import select
import socket
import sqlite3
from pathlib import Path

from edgepaas.database.sqlite.sync_wakeup import address_of

_MAX_DATAGRAM = 64


class WakeupSocket:
    """The datagram socket at *path*, and a pipe with which other threads interrupt a sleep."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where the socket cannot be made. The caller holds sync.lock."""
        self._path = path
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            with contextlib.suppress(FileNotFoundError):
                path.unlink()  # left by a drainer that was killed
            before = os.umask(0o177)
            try:
                with address_of(path) as address:
                    self._socket.bind(address)
            finally:
                os.umask(before)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the socket and the pipe."""
        self._socket.close()
        os.close(self._read)
        os.close(self._write)

    def interrupt(self) -> None:
        """Interrupt a sleep now, or the next call of :meth:`sleep`; from any thread."""
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._write, b"x")

    def sleep(self, seconds: float, *, ignore_wakeups: bool = False) -> bool:
        """Sleep up to *seconds*; return whether a datagram announced new rows.

        *ignore_wakeups*: sleep on when one comes (there is nowhere to send rows to now) and
        discard it; the queue is read after the sleep anyway.
        """
        sources = [self._read] if ignore_wakeups else [self._read, self._socket.fileno()]
        found, _, _ = select.select(sources, [], [], max(0.0, seconds))
        if self._read in found:
            with contextlib.suppress(BlockingIOError):
                os.read(self._read, 4096)
        return self.drain_wakeups() and not ignore_wakeups

    def drain_wakeups(self) -> bool:
        """Receive the datagrams that have arrived; return whether there were any."""
        received = False
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(_MAX_DATAGRAM)
                received = True
        return received


class ForeignWriteDetector:
    """Tells whether another connection has committed to the file of *connection*."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._seen = self._version()

    def changed(self) -> bool:
        """Whether one has, since the last call; raises sqlite3.Error."""
        version = self._version()
        changed, self._seen = version != self._seen, version
        return changed

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])


def send_wakeup(path: Path) -> bool:
    """Wake the drainer at *path*; False when none listens. Never blocks."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, address_of(path) as address:
        sock.setblocking(False)
        try:
            sock.sendto(b"x", address)
        except BlockingIOError:
            return True  # its buffer is full of wake-ups already
        except OSError:
            return False
    return True
