# SPDX-License-Identifier: Apache-2.0
"""Facts that were copied into the file from the journal: they leave it after RETENTION, too.

What was captured is known by its rows in the outbox; a copy has none. The entry that it is of may
have left the journal before: what is sent again of it is lost no longer.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from edgepaas.database.reserved_names import COPIES
from edgepaas.outbox import capture, tables
from edgepaas.outbox.layout import Layout, registered, stored_layouts
from edgepaas.outbox.tables import quoted, width_of

_COLUMNS_OF = "SELECT name FROM pragma_table_info(?)"


class CopiedEntry(NamedTuple):
    """An entry of the journal: when it was written (seconds since 1970), and its place."""

    at: int
    order: int
    stream_id: str
    mark: int


_ENTRY = ("at", "ord", "stream_id", "mark")


def remember(
    connection: sqlite3.Connection, layout: Layout, key: tuple[Any, ...], entry: CopiedEntry
) -> None:
    """Note that the fact *key* is a copy of a row of *entry*.

    *layout* is one of the journal's. Inside the caller's transaction.
    """
    (stored,) = registered(connection, [layout])
    _create(connection, len(key))
    names = (*_ENTRY, *_names(len(key)))
    connection.execute(
        f"INSERT INTO {COPIES} (layout, {', '.join(names)}) "  # noqa: S608
        f"VALUES (?{', ?' * len(names)})",
        (stored.id, *entry, *key),
    )


def entries_of(
    connection: sqlite3.Connection, layout: Layout, keys: Sequence[tuple[Any, ...]]
) -> dict[CopiedEntry, int]:
    """Return the entries of which the facts *keys* of *layout*'s table are copies: how many each.

    Copies that an earlier build made are of no entry. Raises sqlite3.Error.
    """
    if not keys or not _exists(connection) or "ord" not in _columns(connection):
        return {}
    layouts = [
        identity
        for identity, one in stored_layouts(connection).items()
        if one.table == layout.table and len(one.key) == len(layout.key)
    ]
    names = _names(len(layout.key))
    found: dict[CopiedEntry, int] = {}
    wanted = set(keys)
    for *entry, of_copy in _copies(connection, layouts, names):
        if of_copy in wanted:
            one = CopiedEntry(*entry)
            found[one] = found.get(one, 0) + 1
    return found


def reclaim(connection: sqlite3.Connection, *, older_than: float, limit: int = 10_000) -> int:
    """Delete copies that were written more than *older_than* seconds ago; return how many went.

    One to which another row points stays. In one transaction, with capture off. Raises
    sqlite3.Error.
    """
    if not _exists(connection):
        return 0
    moment = int(datetime.now(UTC).timestamp() - older_than)
    names = _names(width_of(_columns(connection)))
    rows = connection.execute(
        f"SELECT id, layout, {', '.join(names)} FROM {COPIES} "  # noqa: S608
        "WHERE at < ? ORDER BY id LIMIT ?",
        (moment, limit),
    ).fetchall()
    if not rows:
        return 0
    layouts = stored_layouts(connection)
    deleted = 0
    with tables.transaction(connection), capture.paused(connection):
        for identity, layout_id, *values in rows:
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
        "at INTEGER NOT NULL, ord INTEGER, stream_id TEXT, mark INTEGER)"
    )
    present = _columns(connection)
    for name in (*_ENTRY, *_names(width)):
        if name not in present:
            connection.execute(f"ALTER TABLE {COPIES} ADD COLUMN {name}")


def _copies(
    connection: sqlite3.Connection, layouts: Sequence[int], names: Sequence[str]
) -> Iterator[tuple[Any, ...]]:
    """Give the entry and the key of each copy."""
    rows = connection.execute(
        f"SELECT {', '.join((*_ENTRY, *names))} FROM {COPIES} "  # noqa: S608
        f"WHERE ord IS NOT NULL AND layout IN ({', '.join(map(str, layouts)) or 'NULL'})"
    )
    for row in rows:
        yield (*row[: len(_ENTRY)], tuple(row[len(_ENTRY) :]))


def _names(width: int) -> list[str]:
    return [f"v{position}" for position in range(width)]


def _columns(connection: sqlite3.Connection) -> set[str]:
    return {str(row[0]) for row in connection.execute(_COLUMNS_OF, (COPIES,))}


def _exists(connection: sqlite3.Connection) -> bool:
    found = connection.execute(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (COPIES,)
    )
    return found.fetchone() is not None
