# SPDX-License-Identifier: Apache-2.0
"""What the rows of the file may take, asked inside each transaction before it is committed.

A look every few seconds, at what was committed meanwhile, would be passed by whatever can be
written in between: a small budget several times over.
"""

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edgepaas.errors import DatabaseFull
from edgepaas.files.sqlite_file import wal_of

#: The -wal file comes on top of the limit, up to this; what it takes beyond counts as rows.
WAL_ALLOWANCE = 16 * 1024 * 1024


class SizeLimit:
    """The limit of one file; a transaction that would exceed it is refused with DatabaseFull."""

    def __init__(self, path: Path) -> None:
        """There is none until :meth:`set` is called."""
        self._wal = wal_of(path)
        self._page_size = 0
        self._most = 0
        self._crowded_from = 0
        self._used = 0
        #: Called in the writer's thread when *crowded_from* is reached, at each such commit.
        self.on_crowded: Callable[[], None] = lambda: None

    def set(self, most: int, *, crowded_from: int, used: int) -> None:
        """Take *most* bytes as the limit; *used*: what is used now, which may be more."""
        self._most, self._crowded_from, self._used = most, crowded_from, used

    def require_room(self, connection: sqlite3.Connection) -> None:
        """Raise DatabaseFull where the open transaction brings the file beyond the limit.

        One that does not make it larger is not refused. Raises sqlite3.Error.
        """
        if not self._most:
            return
        used = self._measured(connection)
        if used >= self._crowded_from:
            self.on_crowded()
        if used > self._most and used > self._used:
            raise DatabaseFull(
                f"with this write {used / 1024**2:.1f} MiB would be used, of "
                f"{self._most / 1024**2:.1f} that the disk budget leaves to it"
            )
        self._used = used

    def _measured(self, connection: sqlite3.Connection) -> int:
        if not self._page_size:
            self._page_size = int(connection.execute("PRAGMA page_size").fetchone()[0])
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        return (int(pages) - int(free)) * self._page_size + wal_excess(self._wal)


def wal_excess(wal: Path) -> int:
    """Return the bytes of the -wal file beyond what it may take; 0 without one."""
    with suppress(FileNotFoundError):
        return max(0, wal.stat().st_size - WAL_ALLOWANCE)
    return 0
