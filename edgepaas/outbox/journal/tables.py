# SPDX-License-Identifier: Apache-2.0
"""The journal's tables, in a file of its own: how they are made, and which version they are.

A file of its own, beside the SQLite file: that one is migrated on a copy, swapped, set aside
when it is damaged, and locked for as long as the mirror applies a pass. None of this may hold
up, or lose, what PostgreSQL acknowledges meanwhile.
"""

import sqlite3
from pathlib import Path
from typing import Final

from edgepaas.database.reserved_names import LAYOUTS
from edgepaas.outbox.tables import width_of

#: ``PRAGMA user_version`` of the file.
VERSION: Final = 1

JOURNAL: Final = "journal"
STREAMS: Final = "journal_streams"
STATE: Final = "journal_state"

#: States of an entry: its COMMIT is under way, or what came of it is not written yet; the hub
#: acknowledged it; it was handed to the outbox, which sends it again.
IN_FLIGHT: Final = 0
CONFIRMED: Final = 1
RESENT: Final = 2
#: COMMIT was not answered, and who had asked for it was told so.
UNANSWERED: Final = 3
#: Its process was killed, and the hub does not have it: a client may have been told that it was
#: stored. It is sent again, in doubt.
DOUBTFUL: Final = 4
#: For SQL: of these the hub's marks are still to tell; and with those of which they may yet.
UNSETTLED: Final = f"({IN_FLIGHT}, {UNANSWERED})"
UNCERTAIN: Final = f"({IN_FLIGHT}, {UNANSWERED}, {DOUBTFUL})"
#: The operation of a row that was written ahead and turned out to be no change.
VOID: Final = "-"

#: For SQL: of the rows that the index has.
IS_CHANGE: Final = "op IN ('U', 'D')"

_TABLES: Final = (
    # An entry is a run of rows: the first one also says which transaction it was. So a write of
    # one row changes one page of the file. Values lie in columns v0, v1, … as in the outbox.
    f"""CREATE TABLE IF NOT EXISTS {JOURNAL} (
        number INTEGER PRIMARY KEY,
        ord INTEGER, stream INTEGER, mark INTEGER, state INTEGER, rows INTEGER, at INTEGER,
        layout INTEGER NOT NULL,
        op TEXT NOT NULL)""",
    # joined_*: the stream of the hub that this one was, or is being, joined to, and the mark
    # from which on that one holds all of it (edgepaas.marks.keeper).
    f"""CREATE TABLE IF NOT EXISTS {STREAMS} (
        id INTEGER PRIMARY KEY, stream_id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,
        joined_to TEXT NOT NULL DEFAULT '', joined_mark INTEGER NOT NULL DEFAULT 0)""",
    # order_base: the order of an entry is this and the clock that runs since boot. unsettled: no
    # entry before this number is in flight. dropped_*: what left by age and budget.
    f"""CREATE TABLE IF NOT EXISTS {STATE} (
        id INTEGER PRIMARY KEY CHECK (id = 1), node_id TEXT NOT NULL,
        order_base INTEGER NOT NULL, unsettled INTEGER NOT NULL DEFAULT 0,
        dropped_ord INTEGER NOT NULL DEFAULT 0, dropped_rows INTEGER NOT NULL DEFAULT 0)""",
    f"""CREATE TABLE IF NOT EXISTS {LAYOUTS} (
        id INTEGER PRIMARY KEY, tbl TEXT NOT NULL, revision TEXT NOT NULL,
        definition TEXT NOT NULL)""",
)
_CHANGES: Final = "journal_changes"
# The audit asks for changes of facts, which are few: an insert costs nothing for it.
_INDEX: Final = f"CREATE INDEX IF NOT EXISTS {_CHANGES} ON {JOURNAL} (layout) WHERE {IS_CHANGE}"


def journal_path(sqlite_path: Path) -> Path:
    """Return where the journal of the box with the SQLite file *sqlite_path* lies: beside it."""
    return sqlite_path.with_name(f"{sqlite_path.name}.journal")


def lock_of(path: Path) -> Path:
    """Return the lock of the journal *path*: shared by its users, exclusive to set it aside."""
    return path.with_name(f"{path.name}.lock")


def create(connection: sqlite3.Connection, node_id: str) -> None:
    """Make what is missing, inside the caller's transaction; raises sqlite3.Error."""
    for statement in _TABLES:
        connection.execute(statement)
    create_index(connection)
    connection.execute(
        f"INSERT OR IGNORE INTO {STATE} (id, node_id, order_base) VALUES (1, ?, 0)",  # noqa: S608
        (node_id,),
    )
    connection.execute(f"PRAGMA user_version={VERSION}")


def has_index(connection: sqlite3.Connection) -> bool:
    """Whether the file has the index; one that an earlier build made has none."""
    found = connection.execute(
        "SELECT 1 FROM sqlite_schema WHERE type = 'index' AND name = ?", (_CHANGES,)
    )
    return found.fetchone() is not None


def create_index(connection: sqlite3.Connection) -> None:
    """Make it, inside the caller's transaction; raises sqlite3.Error."""
    connection.execute(_INDEX)


def version(connection: sqlite3.Connection) -> int:
    """Return the version of the file's tables; 0: it has none."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def widen(connection: sqlite3.Connection, columns: int) -> None:
    """Give the journal at least *columns* columns of values; inside the caller's transaction."""
    for position in range(width(connection), columns):
        connection.execute(f"ALTER TABLE {JOURNAL} ADD COLUMN v{position}")


def width(connection: sqlite3.Connection) -> int:
    """Return how many columns of values the journal has."""
    rows = connection.execute("SELECT name FROM pragma_table_info(?)", (JOURNAL,))
    return width_of(row[0] for row in rows)
