# SPDX-License-Identifier: Apache-2.0
"""The one function that opens the embedded database, so that every process opens it alike."""

import sqlite3
from pathlib import Path
from urllib.parse import quote

from edgepaas.database.sqlite import numeric_order
from edgepaas.errors import DatabaseUnavailable

#: Seconds that a writer waits for another process's transaction before SQLITE_BUSY.
BUSY_TIMEOUT = 5.0

#: A -wal file that one large transaction blew up is cut back to this at its next reset.
_WAL_BYTES = 16 * 1024 * 1024


def open_sqlite(
    path: Path, *, read_only: bool = False, create: bool = False, busy_timeout: float = BUSY_TIMEOUT
) -> sqlite3.Connection:
    """Open the database file *path* the way that every process opens it.

    WAL with ``synchronous=FULL`` (NORMAL may roll a committed transaction back after a
    power cut), foreign keys, recursive triggers (without them INSERT OR REPLACE fires no
    DELETE trigger), and no implicit transactions: a writer begins with BEGIN
    IMMEDIATE, since a transaction that reads first fails at once under contention.
    *read_only* refuses writes; *create* makes a missing file. Several threads may use
    the connection, one at a time.

    Raises sqlite3.OperationalError (``unable to open database file`` when it is not
    there), sqlite3.DatabaseError when the file is none, DatabaseUnavailable where the
    file system cannot carry WAL (a network share).
    """
    mode = "rwc" if create else "rw"
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode={mode}",
        uri=True,
        timeout=busy_timeout,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        numeric_order.register(connection)
        journal = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if journal != "wal":
            raise DatabaseUnavailable(
                f"{path} is on a file system that cannot carry SQLite's WAL (its journal mode "
                f"stayed '{journal}'): DATABASE_URL_SQLITE must name a file on a local disk"
            )
        connection.executescript(
            f"""
            PRAGMA synchronous=FULL;
            PRAGMA foreign_keys=ON;
            PRAGMA recursive_triggers=ON;
            PRAGMA temp_store=MEMORY;
            PRAGMA journal_size_limit={_WAL_BYTES};
            PRAGMA query_only={"ON" if read_only else "OFF"};
            """
        )
    except BaseException:
        connection.close()
        raise
    return connection
