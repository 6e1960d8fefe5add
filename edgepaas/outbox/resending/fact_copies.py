# SPDX-License-Identifier: Apache-2.0
"""Facts that were copied into the file from the journal: they leave it after RETENTION, too.

What was captured is known by its rows in the outbox; a copy has none.
"""

import sqlite3
from datetime import UTC, datetime
from typing import Any

from edgepaas.database.reserved_names import COPIES
from edgepaas.outbox import capture, tables
from edgepaas.outbox.layout import Layout, registered, stored_layouts
from edgepaas.outbox.tables import quoted, width_of

_COLUMNS_OF = "SELECT name FROM pragma_table_info(?)"


def remember(connection: sqlite3.Connection, layout: Layout, key: tuple[Any, ...], at: int) -> None:
    """Note that the fact *key* is a copy, written at the moment *at* (seconds since 1970).

    *layout* is one of the journal's. Inside the caller's transaction.
    """
    (stored,) = registered(connection, [layout])
    _create(connection, len(key))
    names = "".join(f", v{position}" for position in range(len(key)))
    connection.execute(
        f"INSERT INTO {COPIES} (layout, at{names}) VALUES (?, ?{', ?' * len(key)})",  # noqa: S608
        (stored.id, at, *key),
    )


def reclaim(connection: sqlite3.Connection, *, older_than: float, limit: int = 10_000) -> int:
    """Delete copies that were written more than *older_than* seconds ago; return how many went.

    One to which another row points stays. In one transaction, with capture off. Raises
    sqlite3.Error.
    """
    if not _exists(connection):
        return 0
    moment = int(datetime.now(UTC).timestamp() - older_than)
    rows = connection.execute(
        f"SELECT * FROM {COPIES} WHERE at < ? ORDER BY id LIMIT ?",  # noqa: S608
        (moment, limit),
    ).fetchall()
    if not rows:
        return 0
    layouts = stored_layouts(connection)
    deleted = 0
    with tables.transaction(connection), capture.paused(connection):
        for identity, layout_id, _, *values in rows:
            layout = layouts[layout_id]
            key = values[: len(layout.key)]
            where = " AND ".join(f"{quoted(name)} IS ?" for name in layout.key)
            try:
                deleted += connection.execute(
                    f"DELETE FROM {quoted(layout.table)} WHERE {where}",  # noqa: S608
                    key,
                ).rowcount
            except sqlite3.IntegrityError:  # a row points to it
                continue
            connection.execute(f"DELETE FROM {COPIES} WHERE id = ?", (identity,))  # noqa: S608
    return deleted


def _create(connection: sqlite3.Connection, width: int) -> None:
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {COPIES} (id INTEGER PRIMARY KEY, layout INTEGER NOT NULL, "
        "at INTEGER NOT NULL)"
    )
    present = width_of(str(row[0]) for row in connection.execute(_COLUMNS_OF, (COPIES,)))
    for position in range(present, width):
        connection.execute(f"ALTER TABLE {COPIES} ADD COLUMN v{position}")


def _exists(connection: sqlite3.Connection) -> bool:
    found = connection.execute(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (COPIES,)
    )
    return found.fetchone() is not None
