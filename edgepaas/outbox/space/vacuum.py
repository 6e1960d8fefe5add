# SPDX-License-Identifier: Apache-2.0
"""Giving the space of deleted rows back to the file system."""

import logging
import sqlite3
import time
from typing import Final

logger = logging.getLogger("edgepaas.outbox")

_INCREMENTAL: Final = 2
#: Pages that one step gives back: a step holds the write lock.
_STEP: Final = 256
#: Bytes a second that a slow card surely rewrites: a larger file is not even begun.
_SLOWEST: Final = 8 * 1024 * 1024
#: How many virtual instructions pass between two looks at the clock.
_INSTRUCTIONS: Final = 10_000


def prepare(connection: sqlite3.Connection) -> None:
    """Make a new, empty file one that can give pages back; before its first table.

    SQLite takes the setting of a file that has a page already, as one in WAL mode does,
    only with a VACUUM (https://sqlite.org/pragma.html#pragma_auto_vacuum).
    """
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    if not is_prepared(connection):
        connection.execute("VACUUM")


def is_prepared(connection: sqlite3.Connection) -> bool:
    """Whether the file can give pages back."""
    return bool(connection.execute("PRAGMA auto_vacuum").fetchone()[0] == _INCREMENTAL)


def convert(connection: sqlite3.Connection, *, seconds: float) -> bool:
    """Make an existing file one that can give pages back; whether it is one now.

    It is written anew, which needs its size once more on the disk, and no other process writes
    meanwhile. Not begun where it would hardly end in *seconds*, given up after them or when
    the disk has no room: nothing changed then.
    """
    if is_prepared(connection):
        return True
    (size,) = connection.execute(
        "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    ).fetchone()
    if size > seconds * _SLOWEST:
        return False
    until = time.monotonic() + seconds
    connection.set_progress_handler(lambda: int(time.monotonic() > until), _INSTRUCTIONS)
    try:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("VACUUM")
    except sqlite3.OperationalError as error:
        logger.warning("the database file keeps its free pages for now: %s", error)
        return False
    finally:
        connection.set_progress_handler(None, 0)
    return is_prepared(connection)


def release(connection: sqlite3.Connection, *, limit: int | None = None) -> int:
    """Give free pages back, at most *limit* bytes; return how many bytes the file lost.

    In short steps, so that a writer waits for none of them long. 0 where the file is none
    that can. The file is shorter after the next checkpoint, which is asked for.
    """
    if not is_prepared(connection):
        return 0
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    wanted = None if limit is None else -(-limit // size)
    given = 0
    while wanted is None or given < wanted:
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        step = min(free, _STEP, _STEP if wanted is None else wanted - given)
        if not step:
            break
        connection.execute(f"PRAGMA incremental_vacuum({step})").fetchall()
        (left,) = connection.execute("PRAGMA freelist_count").fetchone()
        if left >= free:
            break  # others fill them as fast
        given += free - left
    if given:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    return given * int(size)
