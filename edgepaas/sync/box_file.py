# SPDX-License-Identifier: Apache-2.0
"""The box's SQLite file as the drainer uses it: open, under the lock that all its users share."""

import logging
import os
import sqlite3
from pathlib import Path

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.database.sqlite.file_identity import OpenFiles
from edgepaas.errors import EdgePaaSError
from edgepaas.files.locks import acquire
from edgepaas.files.paths import Paths
from edgepaas.files.sqlite_file import forget_use, note_use, open_refusal_reason
from edgepaas.outbox import capture, versions
from edgepaas.outbox.versions import UnknownOutbox
from edgepaas.sync.wakeups import ForeignWriteDetector

#: Seconds to wait for a process that swaps the file, and for another writer's transaction.
_LOCK_TIMEOUT = 2.0
_BUSY_TIMEOUT = 5.0
#: SQLite's default is 2 MiB of cache a connection; the drainer reads each row once.
_CACHE_KIB = 512

logger = logging.getLogger("edgepaas.sync")


class FileGone(EdgePaaSError):
    """The file was replaced or deleted while it was open; it has to be opened again."""


class BoxFile:
    """The open file; :meth:`close` releases the lock.

    ``captures``: whether changes of this file are captured for the hub.
    """

    def __init__(self, path: Path, paths: Paths) -> None:
        """Raises LockHeld, OSError, sqlite3.Error, DatabaseUnavailable, UnknownOutbox."""
        self.path = path
        self._lock = acquire(paths.database_lock, shared=True, timeout=_LOCK_TIMEOUT)
        try:
            self.connection = open_sqlite(path, busy_timeout=_BUSY_TIMEOUT)
            try:
                self.connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
                _migrate(self.connection, path)
                self.captures = capture.is_installed(self.connection)
                self._foreign_writes = ForeignWriteDetector(self.connection)
                self._files = OpenFiles(path)
                self._use = note_use(path)
            except BaseException:
                self.connection.close()
                raise
        except BaseException:
            os.close(self._lock)
            raise

    def changed(self) -> bool:
        """Whether another connection has committed since the last call; raises FileGone."""
        if lost := self._files.lost():
            raise FileGone(lost)
        return self._foreign_writes.changed()

    def close(self) -> None:
        """Close it; an open transaction is rolled back."""
        self.connection.close()
        forget_use(self._use)
        os.close(self._lock)


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the outbox of an older release to this one's; raises UnknownOutbox for a newer one."""
    try:
        migrated = versions.bring_to_current(connection)
    except UnknownOutbox as error:
        raise UnknownOutbox(f"{path}: {error}") from error
    if migrated:
        logger.info("the outbox of %s was brought to this release", path)


def open_box_file(path: Path, paths: Paths) -> BoxFile | None:
    """Open the file *path*; None while there is no file that may be opened.

    Raises what BoxFile raises.
    """
    problem = open_refusal_reason(path)
    if problem or not path.exists():
        if problem:
            logger.warning("%s is not opened: %s", path, problem)
        return None
    return BoxFile(path, paths)
