# SPDX-License-Identifier: Apache-2.0
"""Learning of new rows: a datagram from our own writer, a look for everybody else's commits.

The service sends a byte to ``run/sync.wake`` after each commit. Writers that know nothing of
it (sqlite3's shell, a script) are noticed through ``PRAGMA data_version``, which costs a read
of shared memory; so an idle drainer sleeps for a second at a time.
"""

import contextlib
import os
import select
import socket
import sqlite3
from pathlib import Path

from edgepaas.database.sqlite.sync_wakeup import address_of

_DRAINED = 64


class WakeupSocket:
    """The datagram socket at *path*, and a pipe through which other threads end a sleep."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where the socket cannot be made. Whoever makes it holds sync.lock."""
        self._path = path
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            with contextlib.suppress(FileNotFoundError):
                path.unlink()  # the last drainer's, which was killed
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
        """Close everything; nobody can send any more."""
        self._socket.close()
        os.close(self._read)
        os.close(self._write)

    def interrupt(self) -> None:
        """End a sleep now, and each one to come until :meth:`sleep` has returned once."""
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._write, b"x")

    def sleep(self, seconds: float, *, ignore_wakeups: bool = False) -> bool:
        """Sleep up to *seconds*; whether somebody told of new rows meanwhile.

        *ignore_wakeups*: rows are no reason to get up, since there is nowhere to send them to. What
        was said is forgotten then: whoever gets up later looks at the queue anyway.
        """
        ears = [self._read] if ignore_wakeups else [self._read, self._socket.fileno()]
        found, _, _ = select.select(ears, [], [], max(0.0, seconds))
        if self._read in found:
            with contextlib.suppress(BlockingIOError):
                os.read(self._read, 4096)
        return self.drain_wakeups() and not ignore_wakeups

    def drain_wakeups(self) -> bool:
        """Take in what was said so far; whether anything was."""
        said = False
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(_DRAINED)
                said = True
        return said


class ForeignWriteDetector:
    """Tells whether anybody but *connection* has committed to its file since the last look."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._seen = self._version()

    def changed(self) -> bool:
        """Look; raises sqlite3.Error."""
        version = self._version()
        changed, self._seen = version != self._seen, version
        return changed

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])


def send_wakeup(path: Path) -> bool:
    """Tell the drainer at *path* that rows are there; False when none listens. Never waits."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, address_of(path) as address:
        sock.setblocking(False)
        try:
            sock.sendto(b"x", address)
        except BlockingIOError:
            return True  # its buffer is full of the same news
        except OSError:
            return False
    return True
