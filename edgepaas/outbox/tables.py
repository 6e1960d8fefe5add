# SPDX-License-Identifier: Apache-2.0
"""The outbox's own tables, and the transactions in which they change."""

import contextlib
import itertools
import sqlite3
from collections.abc import Iterable, Iterator

from edgepaas.database.reserved_names import (
    BATCHES,
    LAYOUTS,
    LEDGER,
    OUTBOX,
    SEQUENCE_GAPS,
    STATE,
    TRANSACTIONS,
)
from edgepaas.database.sqlite.transaction_stamp import LAST_SEQ

#: How these tables are made; what becomes of a file of another version: ``outbox.versions``.
VERSION = 1
#: These tables.
NAMES = (OUTBOX, LAYOUTS, TRANSACTIONS, STATE, BATCHES, LEDGER, SEQUENCE_GAPS)

_COLUMNS_OF = "SELECT name FROM pragma_table_info(?, ?)"
_TABLES = (
    # Values lie in untyped columns v0, v1, …, as SQLite itself holds them: to the last bit.
    # AUTOINCREMENT: no number is ever given out twice, and a rolled-back transaction takes
    # its numbers back with it, so that there are no gaps (https://sqlite.org/autoinc.html).
    f"""CREATE TABLE IF NOT EXISTS {OUTBOX} (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        layout INTEGER NOT NULL,
        op TEXT NOT NULL,
        resent INTEGER NOT NULL DEFAULT 0)""",
    f"CREATE INDEX IF NOT EXISTS outbox_gaps ON {OUTBOX} (seq) WHERE op = 'G'",
    f"""CREATE TABLE IF NOT EXISTS {LAYOUTS} (
        id INTEGER PRIMARY KEY, tbl TEXT NOT NULL, revision TEXT NOT NULL,
        definition TEXT NOT NULL)""",
    f"""CREATE TABLE IF NOT EXISTS {TRANSACTIONS} (
        first INTEGER PRIMARY KEY, last INTEGER NOT NULL)""",
    f"""CREATE TABLE IF NOT EXISTS {STATE} (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        version INTEGER NOT NULL,
        capture INTEGER NOT NULL,
        fence TEXT,
        node_id TEXT NOT NULL,
        stream_id TEXT NOT NULL,
        forked_from TEXT NOT NULL DEFAULT '',
        base_seq INTEGER NOT NULL DEFAULT 0,
        confirmed_seq INTEGER NOT NULL DEFAULT 0,
        confirmed_batch TEXT NOT NULL DEFAULT '',
        inflight_batch TEXT NOT NULL DEFAULT '',
        inflight_seq INTEGER NOT NULL DEFAULT 0,
        reclaimed_seq INTEGER NOT NULL DEFAULT 0,
        triggers TEXT NOT NULL DEFAULT '',
        baseline TEXT NOT NULL DEFAULT '',
        covered TEXT NOT NULL DEFAULT '[]')""",
    f"""CREATE TABLE IF NOT EXISTS {BATCHES} (
        batch TEXT PRIMARY KEY, last_seq INTEGER NOT NULL, rows INTEGER NOT NULL,
        dead INTEGER NOT NULL DEFAULT 0, conflicts INTEGER NOT NULL DEFAULT 0,
        confirmed_at TEXT NOT NULL)""",
    f"CREATE INDEX IF NOT EXISTS outbox_batches_by_seq ON {BATCHES} (last_seq)",
    f"""CREATE TABLE IF NOT EXISTS {LEDGER} (
        name TEXT PRIMARY KEY, value INTEGER NOT NULL)""",
    f"""CREATE TABLE IF NOT EXISTS {SEQUENCE_GAPS} (
        first INTEGER PRIMARY KEY, last INTEGER NOT NULL, lost INTEGER NOT NULL)""",
)


def create(connection: sqlite3.Connection) -> None:
    """Make what is missing, inside the caller's transaction; raises sqlite3.Error."""
    for statement in _TABLES:
        connection.execute(statement)


def exist(connection: sqlite3.Connection) -> bool:
    """Whether the file has an outbox."""
    found = connection.execute(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN (?, ?)",
        (OUTBOX, STATE),
    ).fetchone()
    return bool(found[0] == 2)


def widen(connection: sqlite3.Connection, columns: int) -> None:
    """Give the outbox at least *columns* columns of values; inside the caller's transaction."""
    for position in range(width(connection), columns):
        connection.execute(f"ALTER TABLE {OUTBOX} ADD COLUMN v{position}")


def width(connection: sqlite3.Connection) -> int:
    """Return how many columns of values the outbox has."""
    return width_of(row[0] for row in connection.execute(_COLUMNS_OF, (OUTBOX, "main")))


def width_of(names: Iterable[str]) -> int:
    """Return how many columns of values, v0, v1, … without a gap, are among *names*."""
    present = set(names)
    return next(n for n in itertools.count() if f"v{n}" not in present)


def last_seq(connection: sqlite3.Connection) -> int:
    """Return the greatest sequence number that was ever given out; 0: none."""
    return int(connection.execute(f"SELECT {LAST_SEQ}").fetchone()[0])


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Do the block in one transaction that begins IMMEDIATE: all of it, durably, or nothing.

    Inside a transaction that is open already the block is a part of that one.
    """
    if _is_open(connection):
        yield
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if _is_open(connection):  # a full disk may have ended it already
            connection.execute("ROLLBACK")
        raise


def quoted(name: str) -> str:
    """Return *name* as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _is_open(connection: sqlite3.Connection) -> bool:
    return connection.in_transaction
