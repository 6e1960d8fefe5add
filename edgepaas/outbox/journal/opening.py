# SPDX-License-Identifier: Apache-2.0
"""Opening the journal's file: made where it is missing, set aside where it cannot be used."""

import contextlib
import errno
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from edgepaas.database.sqlite.connection import BUSY_TIMEOUT, open_sqlite
from edgepaas.database.sqlite.file_identity import OpenFiles
from edgepaas.errors import EdgePaaSError
from edgepaas.files.locks import LockHeld, acquire, held
from edgepaas.files.sqlite_file import (
    damage_noted,
    forget_damage,
    open_refusal_reason,
    sidecars,
)
from edgepaas.outbox import tables as outbox_tables
from edgepaas.outbox.journal import tables
from edgepaas.outbox.space import vacuum

logger = logging.getLogger("edgepaas.outbox")

#: Seconds to wait for another process that opens, or sets aside, the file.
LOCK_TIMEOUT = 5.0
#: SQLite's default is 2 MiB of cache a connection; the journal is written at its end.
_CACHE_KIB = 512
#: Primary result codes of a file that is damaged, or none (https://sqlite.org/rescode.html).
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class JournalUnusable(EdgePaaSError):
    """The journal's file can neither be used nor be set aside."""


class JournalDamaged(JournalUnusable):
    """The file that was open is to be set aside, which whoever opens the journal next does."""


class JournalFile:
    """The open file *path*; :meth:`close` releases its lock. Made for the box *node_id*.

    A file that is damaged, that is of a newer release, or that came with another box's card
    is renamed beside its place and kept; *set_aside* is called with the line that says so.
    """

    def __init__(
        self, path: Path, node_id: str, *, set_aside: Callable[[str], None] = lambda _line: None
    ) -> None:
        """Raises JournalUnusable, sqlite3.Error, OSError, LockHeld."""
        self.path = path
        self._node_id = node_id
        self._lock = self._wal = -1
        #: Once commits are synced by :meth:`sync`: the file and its -wal.
        self._files: OpenFiles | None = None
        lock = tables.lock_of(path)
        for attempt in (1, 2):
            self._lock = acquire(lock, shared=True, timeout=LOCK_TIMEOUT)
            try:
                self._open()
            except _NotOurs as error:
                os.close(self._lock)
                if attempt == 2:
                    raise JournalUnusable(f"{path}: {error}") from error
                set_aside(_move_away(path, lock, str(error), node_id))
            except BaseException:
                os.close(self._lock)
                raise
            else:
                return

    def sync(self) -> None:
        """Have all that was committed on the disk; raises OSError.

        FileNotFoundError: the file has lost its name, and what is written into it is gone.
        """
        if self._files is None:
            return  # SQLite has synced each commit
        if lost := self._files.lost():
            raise FileNotFoundError(errno.ENOENT, lost)
        os.fdatasync(self._wal)

    def sync_by_itself(self) -> None:
        """From here on a commit is on the disk with the next :meth:`sync` alone.

        Not from the start: most who open the file write nothing. Raises sqlite3.Error, OSError.
        """
        if self._files is not None:
            return
        # The -wal is there, and synced with its folder, after the first commit that syncs.
        with outbox_tables.transaction(self.connection):
            self.connection.execute(f"UPDATE {tables.STATE} SET order_base = order_base")  # noqa: S608
        files = OpenFiles(self.path)
        # No lock of SQLite's is on this file, so closing it drops none.
        self._wal = os.open(f"{self.path}-wal", os.O_RDWR | os.O_CLOEXEC)
        self.connection.execute("PRAGMA synchronous=NORMAL")
        self._files = files

    def reopen(self) -> None:
        """Open the file anew: after a failed commit or sync nothing that is open is trusted.

        What the -wal holds is brought into the file: pages of it that could not be synced count
        as synced from then on (fsync(2)). Raises sqlite3.Error, OSError, JournalUnusable, of
        which JournalDamaged does not pass by itself.
        """
        self._close()
        try:
            self._open()
            busy, *_ = self.connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
        except _NotOurs as error:
            raise JournalDamaged(f"{self.path}: {error}") from error
        if busy:
            raise JournalUnusable(f"{self.path}: what it holds is not synced yet")

    def close(self) -> None:
        """Close it; an open transaction is rolled back."""
        self._close()
        os.close(self._lock)

    def _open(self) -> None:
        self.connection = _opened(self.path, self._node_id)

    def _close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self.connection.close()
        self._files = None
        descriptor, self._wal = self._wal, -1
        if descriptor >= 0:
            os.close(descriptor)


def says_damaged(error: BaseException) -> bool:
    """Whether *error* is SQLite's word that the file is damaged, or none of its own."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGED


class _NotOurs(Exception):
    """The file is to be set aside."""


def _opened(path: Path, node_id: str) -> sqlite3.Connection:
    if reason := open_refusal_reason(path):
        raise _NotOurs(reason)
    try:
        connection = connected(path, create=True)
    except sqlite3.DatabaseError as error:
        if says_damaged(error):
            raise _NotOurs(f"it is damaged ({error})") from error
        raise
    try:
        if damage_noted(path):
            _check(connection)
            forget_damage(path)
        _prepare(connection, node_id)
    except sqlite3.DatabaseError as error:
        connection.close()
        if says_damaged(error):
            raise _NotOurs(f"it is damaged ({error})") from error
        raise
    except BaseException:
        connection.close()
        raise
    return connection


def connected(
    path: Path, *, create: bool = False, busy_timeout: float | None = None
) -> sqlite3.Connection:
    """Return a connection to the file *path*; raises what open_sqlite raises."""
    wait = BUSY_TIMEOUT if busy_timeout is None else busy_timeout
    connection = open_sqlite(path, create=create, busy_timeout=wait)
    connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    return connection


def _check(connection: sqlite3.Connection) -> None:
    """Look at all pages: a torn one shows where it is used, and not when the file is opened."""
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise _NotOurs(f"it is damaged ({' '.join(str(found).split())})")


def _prepare(connection: sqlite3.Connection, node_id: str) -> None:
    found = tables.version(connection)
    if found > tables.VERSION:
        raise _NotOurs(f"it is of a newer release (version {found})")
    if found == tables.VERSION and not tables.has_index(connection):
        with outbox_tables.transaction(connection):
            tables.create_index(connection)
    if found < tables.VERSION:
        vacuum.prepare(connection)
        with outbox_tables.transaction(connection):
            tables.create(connection, node_id)
    (owner,) = connection.execute(f"SELECT node_id FROM {tables.STATE}").fetchone()  # noqa: S608
    if owner != node_id:
        raise _NotOurs(f"it is of the box {owner}")


def _move_away(path: Path, lock: Path, why: str, node_id: str) -> str:
    """Rename the file and those beside it; return what was done, for a person."""
    try:
        with held(lock, timeout=LOCK_TIMEOUT):
            try:
                _opened(path, node_id).close()
            except _NotOurs:
                pass
            else:
                return f"{path} was set aside by another process ({why})"
            aside = path.with_name(f"{path.name}.{int(time.time())}.{os.urandom(2).hex()}")
            # The sidecars first: a database without its -wal is whole as of its last checkpoint,
            # and a -wal must never meet another database.
            for old in (*sidecars(path), path):
                if old.exists():
                    old.rename(aside.with_name(old.name.replace(path.name, aside.name, 1)))
            forget_damage(path)
    except LockHeld as error:
        raise JournalUnusable(f"{path}: {why}, and another process has it open") from error
    line = f"{path} is set aside as {aside.name}: {why}"
    logger.error("%s", line)
    return line
