# SPDX-License-Identifier: Apache-2.0
"""The box's SQLite file as the drainer holds it: open, under the shared lock of all its users."""

import logging
import os
from pathlib import Path

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.database.sqlite.file_identity import OpenFiles
from edgepaas.errors import EdgePaaSError
from edgepaas.files.locks import acquire
from edgepaas.files.paths import Paths
from edgepaas.files.sqlite_file import forget_use, not_to_be_opened, note_use
from edgepaas.outbox import capture
from edgepaas.sync.wakeups import ForeignWriteDetector

#: Seconds to wait for whoever swaps the file, and for another writer's transaction.
_LOCK_TIMEOUT = 2.0
_BUSY_TIMEOUT = 5.0
#: 2 MiB of cache for a connection are SQLite's default; the drainer reads each row once.
_CACHE_KIB = 512

logger = logging.getLogger("edgepaas.sync")


class FileGone(EdgePaaSError):
    """The file was replaced or deleted while it was open; it is to be opened again."""


class BoxFile:
    """The open file; ``close`` gives the lock back."""

    def __init__(self, path: Path, paths: Paths) -> None:
        """Raises LockHeld, OSError, sqlite3.Error, DatabaseUnavailable."""
        self.path = path
        self._lock = acquire(paths.database_lock, shared=True, timeout=_LOCK_TIMEOUT)
        try:
            self.connection = open_sqlite(path, busy_timeout=_BUSY_TIMEOUT)
            try:
                self.connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
                self.captures = capture.is_installed(self.connection)
                self._foreign = ForeignWriteDetector(self.connection)
                self._files = OpenFiles(path)
                self._use = note_use(path)
            except BaseException:
                self.connection.close()
                raise
        except BaseException:
            os.close(self._lock)
            raise

    def changed(self) -> bool:
        """Whether somebody else has committed since the last call; raises FileGone."""
        if lost := self._files.lost():
            raise FileGone(lost)
        return self._foreign.changed()

    def close(self) -> None:
        """Close it; work in progress is rolled back."""
        self.connection.close()
        forget_use(self._use)
        os.close(self._lock)


def open_box_file(path: Path, paths: Paths) -> BoxFile | None:
    """Open the file *path*; None while there is none that could be opened.

    Raises what BoxFile raises.
    """
    problem = not_to_be_opened(path)
    if problem or not path.exists():
        if problem:
            logger.warning("%s is not opened: %s", path, problem)
        return None
    return BoxFile(path, paths)
