# SPDX-License-Identifier: Apache-2.0
"""Agreed rows: shared rows as the box and the hub both had them at the last pass of the mirror.

Of each there is a content digest, in a table of its own for each shared table. It tells what no
comparison of the two sides alone can: which of them a difference comes from. A row of the box that
is not as agreed, and of which the outbox has no change since, was changed past capture.

The mirror owns these tables. A digest counts as long as the columns are the same on both sides
(``shape``), the outbox still has all that was captured since the pass, and no other pass of a
mirror that knows nothing of them was made in between (the history mark).
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgepaas.database.reserved_names import AGREED, AGREEMENTS, OUTBOX, STATE
from edgepaas.outbox.layout import Layout, stored_layouts
from edgepaas.outbox.resending.recovery_state import HistoryMark, read_history
from edgepaas.outbox.stream import read_stream
from edgepaas.outbox.tables import quoted

Key = tuple[Any, ...]

_CREATE = f"""CREATE TABLE IF NOT EXISTS {AGREEMENTS} (
    tbl TEXT PRIMARY KEY, shape TEXT NOT NULL, stream_id TEXT NOT NULL, position INTEGER NOT NULL,
    history TEXT NOT NULL)"""


@dataclass(frozen=True)
class Agreement:
    """That the rows of *table* were compared; ``position``: what the hub had confirmed then."""

    table: str
    position: int


def agreed_table(table: str) -> str:
    """Return the name of the table of *table*'s digests, as an SQL identifier."""
    return quoted(f"{AGREED}{table}")


def same_key(layout: Layout, alias: str) -> str:
    """Return the condition that the digest ``a`` is that of the row *alias* of *layout*."""
    return " AND ".join(
        f"a.k{number} = {alias}.{quoted(name)}" for number, name in enumerate(layout.key)
    )


def agreement(connection: sqlite3.Connection, layout: Layout, shape: str) -> Agreement | None:
    """Return the agreement on *layout*'s rows, None where none holds; raises sqlite3.Error."""
    if not _exists(connection):
        return None
    row = connection.execute(
        f"SELECT shape, stream_id, position, history FROM {AGREEMENTS} WHERE tbl = ?",  # noqa: S608
        (layout.table,),
    ).fetchone()
    stream = read_stream(connection)
    if row is None or stream is None:
        return None
    (reclaimed,) = connection.execute(f"SELECT reclaimed_seq FROM {STATE}").fetchone()  # noqa: S608
    history = _text(read_history(connection))
    if (row[0], row[1], row[3]) != (shape, stream.stream_id, history) or reclaimed > row[2]:
        return None
    return Agreement(layout.table, row[2])


def captured_since(connection: sqlite3.Connection, found: Agreement, *, after: int = 0) -> set[Key]:
    """Return the keys of which the outbox has a change since *found*, sent or not.

    *after*: those up to this number are known already.
    """
    keys: set[Key] = set()
    for layout in stored_layouts(connection).values():
        if layout.table == found.table:
            places = ", ".join(f"v{position}" for position in layout.key_positions)
            keys.update(
                connection.execute(
                    f"SELECT {places} FROM {OUTBOX} WHERE seq > ? AND layout = ?",  # noqa: S608
                    (max(found.position, after), layout.id),
                )
            )
    return keys


def digest_of(connection: sqlite3.Connection, layout: Layout, key: Sequence[Any]) -> Any:
    """Return a tuple of the agreed digest of *key*, None where there is none."""
    where = " AND ".join(f"k{number} = ?" for number in range(len(layout.key)))
    return connection.execute(
        f"SELECT digest FROM {agreed_table(layout.table)} WHERE {where}",  # noqa: S608
        tuple(key),
    ).fetchone()


class AgreedWriter:
    """Writes agreements, inside the transaction that applies a pass of the mirror."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def begin(self, layout: Layout, *, anew: bool) -> None:
        """Make the table of *layout*'s digests; *anew*: what it holds counts no more."""
        self._connection.execute(_CREATE)
        name = agreed_table(layout.table)
        if anew:
            self._connection.execute(f"DROP TABLE IF EXISTS {name}")
        keys = ", ".join(f"k{number}" for number in range(len(layout.key)))
        self._connection.execute(
            f"CREATE TABLE IF NOT EXISTS {name} ({keys}, digest INTEGER, PRIMARY KEY ({keys})) "
            "WITHOUT ROWID"
        )

    def agree(self, layout: Layout, rows: Iterable[tuple[Any, ...]]) -> None:
        """Note *rows*: the parts of the key and the digest, None: known, but not as what."""
        marks = ", ".join("?" * (len(layout.key) + 1))
        self._connection.executemany(
            f"INSERT OR REPLACE INTO {agreed_table(layout.table)} VALUES ({marks})",  # noqa: S608
            rows,
        )

    def forget(self, layout: Layout, keys: Iterable[Key]) -> None:
        """Note that neither side has *keys* any more."""
        where = " AND ".join(f"k{number} = ?" for number in range(len(layout.key)))
        self._connection.executemany(
            f"DELETE FROM {agreed_table(layout.table)} WHERE {where}",  # noqa: S608
            keys,
        )

    def compared(self, shapes: Mapping[str, str], position: int) -> None:
        """Note that the tables of *shapes* were compared whole, at *position* of the outbox."""
        stream = read_stream(self._connection)
        if stream is None:
            return
        self._connection.execute(_CREATE)
        self._connection.executemany(
            f"INSERT OR REPLACE INTO {AGREEMENTS} VALUES (?, ?, ?, ?, '')",  # noqa: S608
            [(table, shape, stream.stream_id, position) for table, shape in shapes.items()],
        )

    def moved(self, before: HistoryMark) -> None:
        """Have all agreements that held at the mark *before* hold at the mark that is noted now."""
        if _exists(self._connection):
            self._connection.execute(
                f"UPDATE {AGREEMENTS} SET history = ?1 WHERE history IN (?2, '') "  # noqa: S608
                "AND history IS NOT ?1",
                (_text(read_history(self._connection)), _text(before)),
            )


def make_unknown(connection: sqlite3.Connection, layout: Layout, key: Sequence[Any]) -> None:
    """Note that the row *key* was changed here past the outbox, rightly.

    In the caller's transaction. Raises sqlite3.Error.
    """
    if _exists(connection, f"{AGREED}{layout.table}"):
        AgreedWriter(connection).agree(layout, [(*key, None)])


def forget_all(connection: sqlite3.Connection) -> None:
    """Have no agreement hold any more, in the caller's transaction; raises sqlite3.Error."""
    if _exists(connection):
        tables = connection.execute(f"SELECT tbl FROM {AGREEMENTS}").fetchall()  # noqa: S608
        forget_tables(connection, [table for (table,) in tables])


def forget_tables(connection: sqlite3.Connection, tables: Iterable[str]) -> None:
    """Drop what is kept of *tables*, in the caller's transaction; raises sqlite3.Error."""
    for table in tables:
        connection.execute(f"DELETE FROM {AGREEMENTS} WHERE tbl = ?", (table,))  # noqa: S608
        connection.execute(f"DROP TABLE IF EXISTS {agreed_table(table)}")


def other_tables(connection: sqlite3.Connection, tables: Iterable[str]) -> list[str]:
    """Return the tables with an agreement that are not among *tables*."""
    if not _exists(connection):
        return []
    rows = connection.execute(f"SELECT tbl FROM {AGREEMENTS}").fetchall()  # noqa: S608
    return sorted({table for (table,) in rows} - set(tables))


def _text(mark: HistoryMark) -> str:
    return f"{mark.history_id}/{mark.mark}" + ("/broken" if mark.broken else "")


def _exists(connection: sqlite3.Connection, table: str = AGREEMENTS) -> bool:
    found = connection.execute(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (table,)
    )
    return found.fetchone() is not None
